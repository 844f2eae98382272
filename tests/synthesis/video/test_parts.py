"""Segments that are made alone, in any order, by several: reading begins where they begin, and the film is the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jdm_fast.data import video_index, video_read
from jdm_fast.data.video_files import open_frames
from jdm_fast.synthesis import Model, synthesize_video
from jdm_fast.synthesis.video.job import VideoJob
from jdm_fast.synthesis.video.options import VideoOptions
from tests.synthesis.video.films import frame, write_film
from tests.synthesis.video.test_job import stop_after

COUNT, KEYS = 120, 10  # of the film, of a segment
OPTIONS = {"factor": 2, "segment_frames": 2 * KEYS, "crf": 1, "domains": ["y"]}


@pytest.fixture(params=[".mp4", ".mkv"])  # the second does not say how many frames it has
def film(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return write_film(tmp_path / f"in{request.param}", map(frame, range(COUNT)), options={"g": "8", "bf": "2"})


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Time stamps of the frames of which pictures are made, where nothing is near."""
    monkeypatch.setattr(video_index, "FAR", 1)
    made: list[int] = []
    upright = video_read._upright
    monkeypatch.setattr(video_read, "_upright", lambda frame: made.append(frame.pts) or upright(frame))
    return made


def shown(path: Path) -> np.ndarray:
    return np.stack(list(open_frames(path)))


@pytest.mark.parametrize("missing", [{3, 4}, {0, 5, 11}])
def test_what_is_missing_is_made_and_no_more_read(
    negative: Model, film: Path, tmp_path: Path, pictures: list[int], missing: set[int]
) -> None:
    whole = synthesize_video(negative, film, tmp_path / "whole.mp4", **OPTIONS)
    with pytest.raises(KeyboardInterrupt):  # when all are there, before they are joined
        synthesize_video(negative, film, tmp_path / "out.mp4", on_progress=stop_after(2 * COUNT - 1), **OPTIONS)
    store = tmp_path / ".out.mp4.segments"
    markers = sorted(store.glob("[0-9]*.json"))
    assert len(markers) >= 11
    for number in missing:
        (store / f"{number:05d}.json").unlink(missing_ok=True)
    missing |= set(range(len(markers), 12))
    pictures.clear()
    progress: list[int] = []
    result = synthesize_video(
        negative, film, tmp_path / "out.mp4", resume=True, on_progress=lambda done, _: progress.append(done), **OPTIONS
    )
    runs = sum(1 for number in missing if number - 1 not in missing)
    ahead = 10  # the key frame at a segment's end, and what is read ahead of it
    assert len(pictures) <= len(missing) * KEYS + runs * ahead + 2, "two to open the film"
    assert progress == sorted(progress) and progress[0] > min(missing) * 2 * KEYS
    assert (result.frames, result.key_frames) == (whole.frames, whole.key_frames) == (2 * COUNT - 1, COUNT)
    np.testing.assert_array_equal(shown(tmp_path / "out.mp4"), shown(tmp_path / "whole.mp4"))


@pytest.mark.parametrize("count", [5, 16])
def test_shares_make_the_whole(negative: Model, film: Path, tmp_path: Path, pictures: list[int], count: int) -> None:
    synthesize_video(negative, film, tmp_path / "whole.mp4", **OPTIONS)
    job = VideoJob(negative, film, tmp_path / "out.mp4", VideoOptions(**OPTIONS))
    job.begin(resume=False)
    for rank in reversed(range(count)):
        job.make(lambda number, rank=rank: number % count == rank)
    assert job.publish().frames == 2 * COUNT - 1
    np.testing.assert_array_equal(shown(tmp_path / "out.mp4"), shown(tmp_path / "whole.mp4"))
