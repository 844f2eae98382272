"""Reading that begins in the middle of a video gives what reading from its beginning gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from jdm_fast.data import video_index, video_read
from jdm_fast.data.video_files import TimedFrame, open_frames
from jdm_fast.data.video_index import FrameIndex, Place
from jdm_fast.errors import UserError
from tests.synthesis.video.films import write_film

COUNT = 90
STARTS = (1, 30, 44, 75, 89, 200)
#: container, codec, its options, whether frames are found by an index.
FILMS = {
    "closed groups": (".mp4", "libx264", {"g": "10", "bf": "2"}, True),
    "open groups": (".mp4", "libx264", {"g": "10", "bf": "3", "x264-params": "open-gop=1"}, True),
    "refresh": (".mp4", "libx264", {"g": "10", "x264-params": "intra-refresh=1"}, True),
    "one group": (".mov", "libx264", {"g": "1000"}, True),
    "hevc, open groups": (".mp4", "libx265", {"g": "10", "x265-params": "log-level=none:open-gop=1"}, True),
    "matroska": (".mkv", "libx264", {"g": "10", "bf": "2"}, True),
    "transport stream": (".ts", "libx264", {"g": "10", "bf": "2"}, True),
    "mpeg-2": (".ts", "mpeg2video", {"g": "10", "bf": "2"}, True),
    "vp9": (".webm", "libvpx-vp9", {"g": "10", "deadline": "realtime"}, True),
    "vp8": (".webm", "libvpx", {"g": "10", "deadline": "realtime"}, False),
    "av1": (".mp4", "libsvtav1", {"g": "10", "preset": "10"}, True),
    "pictures alone": (".mkv", "ffv1", {}, True),
    "jpeg": (".mov", "mjpeg", {}, True),
    "avi": (".avi", "mpeg4", {"g": "10", "bf": "2"}, True),
}


def scene(number: int) -> np.ndarray:
    """Something that no two frames share and no codec can guess."""
    generator = np.random.default_rng(number)
    small = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.kron(small, np.ones((8, 8, 1), np.uint8))


def film(path: Path, codec: str, options: dict[str, str], times: list[int] | None = None) -> Path:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    return write_film(path, map(scene, range(COUNT)), codec=codec, pix_fmt=pix_fmt, options=options, times=times)


def same(one: TimedFrame, other: TimedFrame) -> bool:
    return one[:2] == other[:2] and np.array_equal(one.pixels, other.pixels)


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(video_index, "FAR", 1)
    yield


@pytest.mark.parametrize("name", FILMS)
def test_from_the_middle_as_from_the_beginning(near: None, tmp_path: Path, name: str) -> None:
    suffix, codec, options, indexed = FILMS[name]
    path = film(tmp_path / f"film{suffix}", codec, options)
    source = open_frames(path)
    whole = list(source.timed())
    assert len(whole) == COUNT
    for start in STARTS:
        part = list(source.timed(start))
        assert len(part) == max(0, COUNT - start), start
        assert all(map(same, part, whole[start:])), start
    assert isinstance(source._index, FrameIndex) == indexed
    assert indexed == (source._place(88) is not None) or name in ("one group", "refresh")


def test_a_variable_rate(near: None, tmp_path: Path) -> None:
    times = [40 * k + 17 * (k % 3) for k in range(COUNT)]
    source = open_frames(film(tmp_path / "film.mkv", "libx264", {"g": "10", "bf": "2"}, times))
    whole = list(source.timed())
    assert [round(frame.time * 1000) for frame in whole] == times
    assert all(map(same, source.timed(61), whole[61:]))


def test_no_more_is_decoded_than_two_groups(near: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_frames(film(tmp_path / "film.mp4", "libx264", {"g": "10", "bf": "2"}))
    made = []
    upright = video_read._upright
    monkeypatch.setattr(video_read, "_upright", lambda frame: made.append(frame.pts) or upright(frame))
    place = source._place(85)
    assert place is not None and place.shown == source._index.shown[85]
    assert source._index.shown[70] >= place.seek >= source._index.shown[60], "the last but one of every ten"
    assert len(list(source.timed(85))) == 5 and len(made) == 5, "no pictures are made of what is passed over"


def test_a_container_that_seeks_elsewhere(near: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_frames(film(tmp_path / "film.mp4", "libx264", {"g": "10", "bf": "2"}))
    whole = list(source.timed())
    monkeypatch.setattr(FrameIndex, "place", lambda self, number: Place(0, int(self.shown[number]) + 1))
    assert all(map(same, source.timed(50), whole[50:])) and source._index is None


def test_damage_further_on_is_told(near: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_frames(film(tmp_path / "film.mp4", "libx264", {"g": "10"}))

    def decode(self: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
        for frame in real(self, stream):
            if frame.pts >= source._index.shown[80]:
                raise av.error.InvalidDataError(1, "Invalid data found")
            yield frame

    real = av.container.InputContainer.decode
    monkeypatch.setattr(video_read.av, "open", lambda path: Container(real_open(path), decode))
    with pytest.raises(UserError, match="damaged or cut short after frame 80"):
        list(source.timed(70))


class Container:
    """An open file that decodes otherwise."""

    def __init__(self, container: av.container.InputContainer, decode: object) -> None:
        self._container, self._decode = container, decode

    def __enter__(self) -> Container:
        self._container.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._container.__exit__(*error)

    def decode(self, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
        return self._decode(self._container, stream)

    def __getattr__(self, name: str) -> object:
        return getattr(self._container, name)


real_open = av.open
