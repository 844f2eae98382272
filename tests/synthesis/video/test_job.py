"""What users of video ask for: rates, cuts, sound, codecs, parts of a job that can be gone on with."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from jdm_fast.data.video_files import open_frames, read_frames
from jdm_fast.errors import UserError
from jdm_fast.synthesis import Model, plan_video, synthesize_folder, synthesize_video
from tests.synthesis.video.films import duration, frame, sound_of, write_film


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def near(made: np.ndarray, expected: np.ndarray, mean: float = 4) -> bool:
    return np.abs(made.astype(int) - expected.astype(int)).mean() < mean


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_film(tmp_path / "in.mp4", map(frame, range(10)))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("segment_frames", [1, 7, 1000])
def test_the_number_of_segments_changes_nothing(
    negative: Model, film: Path, tmp_path: Path, suffix: str, segment_frames: int
) -> None:
    result = synthesize_video(
        negative, film, tmp_path / f"out/o{suffix}", factor=3, crf=1, segment_frames=segment_frames
    )
    assert (result.frames, result.key_frames, result.fps) == (28, 10, 75)
    for name, path in result.files.items():
        assert duration(path) == pytest.approx(28 / 75, abs=2e-3), name
        assert open_frames(path).count in (28, None)
    x, y = (list(read_frames(result.files[name])) for name in "xy")
    assert len(x) == 28
    for k in range(10):
        assert near(x[3 * k], frame(k)) and near(y[3 * k], 255 - frame(k))
    assert len(list((tmp_path / "out").iterdir())) == 3, "no segments are left"


@pytest.mark.parametrize("fps", [10, 24, 29.97, 60])
def test_fps_keeps_the_duration(negative: Model, film: Path, tmp_path: Path, fps: float) -> None:
    result = synthesize_video(negative, film, tmp_path / "out.mp4", fps=fps)
    assert abs(duration(result.files["x"]) - 0.4) <= 0.5 / fps + 1e-6
    assert result.frames == plan_video(negative, film, tmp_path / "out.mp4", fps=fps).frames


def test_slow_motion_is_factor_at_the_inputs_rate(negative: Model, film: Path, tmp_path: Path) -> None:
    result = synthesize_video(negative, film, tmp_path / "out.mp4", factor=4, fps=25)
    assert (result.frames, result.fps) == (37, 25)
    assert duration(result.files["both"]) == pytest.approx(37 / 25)


def test_variable_rate_shows_frames_at_their_times(negative: Model, tmp_path: Path) -> None:
    times = [0, 40, 200, 240]
    levels = [40, 60, 80, 100]
    pictures = (np.full((32, 48, 3), level, np.uint8) for level in levels)
    film = write_film(tmp_path / "phone.mkv", pictures, times=times)
    result = synthesize_video(negative, film, tmp_path / "out", fps=100, as_frames=True)
    shown = [int(picture.mean()) for picture in open_frames(result.files["x"])]
    expected = np.interp(np.arange(len(shown)) * 10, times, levels)
    assert len(shown) >= 25 and np.abs(np.array(shown) - expected).max() <= 2


def test_scenes_are_not_mixed(negative: Model, tmp_path: Path) -> None:
    pictures = [np.full((32, 48, 3), level, np.uint8) for level in (20, 20, 220, 220)]
    film = write_film(tmp_path / "cut.mp4", pictures)
    result = synthesize_video(negative, film, tmp_path / "out", factor=4, as_frames=True)
    assert result.scene_cuts == 1
    shown = [round(picture.mean() / 100) for picture in open_frames(result.files["x"])]
    assert shown == [0] * 6 + [2] * 7
    mixed = synthesize_video(negative, film, tmp_path / "mixed", factor=4, as_frames=True, scene_cut="off")
    shown = [picture.mean() for picture in open_frames(mixed.files["x"])]
    assert mixed.scene_cuts == 0 and shown[4:9] == pytest.approx([20, 70, 120, 170, 220], abs=2)


# ---- sound ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_is_copied(negative: Model, tmp_path: Path, suffix: str) -> None:
    film = write_film(tmp_path / "loud.mp4", map(frame, range(25)), sound=1.0)
    result = synthesize_video(negative, film, tmp_path / f"out{suffix}", factor=2, keep_audio=True, segment_frames=10)
    assert result.sound
    given = sound_of(film)
    for path in result.files.values():
        kept = sound_of(path)
        assert len(given) - 2048 <= len(kept) <= len(given)
        # Matroska has no place for what a decoder needs before 0, so it begins with silence.
        begin = 1024 if suffix == ".mkv" else 0
        np.testing.assert_array_equal(kept[begin:4096], given[begin:4096])
        assert duration(path) == pytest.approx(49 / 50, abs=2e-3)
        assert sum(1 for _ in read_frames(path)) == 49
    silent = synthesize_video(negative, film, tmp_path / f"silent{suffix}", factor=2)
    assert not silent.sound and not len(sound_of(silent.files["x"]))


def test_a_silent_film_stays_silent(negative: Model, film: Path, tmp_path: Path) -> None:
    assert not synthesize_video(negative, film, tmp_path / "out.mp4", factor=2, keep_audio=True).sound


# ---- codecs, domains, translation -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "codec, suffix, name",
    [
        ("libx265", ".mp4", "hevc"),
        ("libsvtav1", ".mp4", "libdav1d"),
        ("libvpx-vp9", ".mkv", "vp9"),
        ("ffv1", ".mkv", "ffv1"),
        ("mpeg4", ".mp4", "mpeg4"),
    ],
)
def test_other_codecs(negative: Model, tmp_path: Path, codec: str, suffix: str, name: str) -> None:
    film = write_film(tmp_path / "in.mp4", (frame(k, 64, 96) for k in range(6)))
    result = synthesize_video(negative, film, tmp_path / f"out{suffix}", factor=2, codec=codec, segment_frames=4)
    with av.open(str(result.files["y"])) as container:
        assert container.streams.video[0].codec_context.name == name
    shown = list(read_frames(result.files["y"]))
    assert len(shown) == 11 and all(near(shown[2 * k], 255 - frame(k, 64, 96), 6) for k in range(6))


@pytest.mark.parametrize("codec, presets", [("libx264", ("ultrafast", "slow")), ("libsvtav1", ("12", "8"))])
def test_presets_reach_the_encoder(negative: Model, tmp_path: Path, codec: str, presets: tuple[str, ...]) -> None:
    film = write_film(tmp_path / "in.mp4", (frame(k, 64, 96) for k in range(6)))
    made = set()
    for preset in presets:
        result = synthesize_video(
            negative, film, tmp_path / f"{preset}.mp4", factor=2, codec=codec, preset=preset, domains=["y"]
        )
        shown = list(read_frames(result.files["y"]))
        assert len(shown) == 11 and all(near(shown[2 * k], 255 - frame(k, 64, 96), 6) for k in range(6))
        made.add(result.files["y"].read_bytes())
    assert len(made) == 2


def test_one_domain_takes_the_name(negative: Model, film: Path, tmp_path: Path) -> None:
    result = synthesize_video(negative, film, tmp_path / "out.mp4", factor=2, domains=["y"])
    assert result.files == {"y": tmp_path / "out.mp4"} and not (tmp_path / "out.y.mp4").exists()
    assert near(next(read_frames(tmp_path / "out.mp4")), 255 - frame(0))


def test_domains_are_side_by_side_in_the_order_given(negative: Model, film: Path, tmp_path: Path) -> None:
    result = synthesize_video(negative, film, tmp_path / "out.mp4", factor=2, domains=["y", "x"])
    both = next(read_frames(result.files["both"]))
    assert near(both, np.concatenate([255 - frame(0), frame(0)], axis=1))


def test_to_translates_every_frame(negative: Model, film: Path, tmp_path: Path) -> None:
    result = synthesize_video(negative, film, tmp_path / "out.mp4", to="y", batch_size=4, segment_frames=4)
    assert (result.frames, result.fps, result.files) == (10, 25, {"y": tmp_path / "out.mp4"})
    shown = list(read_frames(tmp_path / "out.mp4"))
    assert all(near(made, 255 - frame(k)) for k, made in enumerate(shown)) and len(shown) == 10
    assert sum(negative.method.encoded) == 10, "each once, also those at which segments end"


# ---- parts of a job -------------------------------------------------------------------------------------------------


def stop_after(count: int) -> Callable[[int, int | None], None]:
    """What ends a job as Ctrl-C does when so many frames are made."""

    def on_progress(done: int, total: int | None) -> None:
        if done >= count:
            raise KeyboardInterrupt

    return on_progress


@pytest.mark.parametrize("out, more", [("out.mp4", {}), ("out", {})])
def test_gone_on_with_after_an_interruption(negative: Model, film: Path, tmp_path: Path, out: str, more: dict) -> None:
    options = {"factor": 3, "segment_frames": 6, **more}
    whole = synthesize_video(negative, film, tmp_path / "whole" / out, **options)
    with pytest.raises(KeyboardInterrupt):
        synthesize_video(negative, film, tmp_path / out, on_progress=stop_after(14), **options)
    assert not (tmp_path / out).exists()
    negative.method.decoded.clear()
    result = synthesize_video(negative, film, tmp_path / out, resume=True, **options)
    assert result.reused == 2 and sum(negative.method.decoded) == 2 * (28 - 12)
    assert (result.frames, result.key_frames) == (whole.frames, whole.key_frames)
    for name, path in result.files.items():
        expected = np.stack(list(open_frames(whole.files[name])))
        np.testing.assert_array_equal(np.stack(list(open_frames(path))), expected)
    assert not list(tmp_path.glob(".*")), "nothing is left over"


@pytest.mark.parametrize("change", ["factor", "input", "weights"])
def test_segments_of_another_job_are_not_taken(negative: Model, film: Path, tmp_path: Path, change: str) -> None:
    options = {"factor": 3, "segment_frames": 6}
    with pytest.raises(KeyboardInterrupt):
        synthesize_video(negative, film, tmp_path / "out.mp4", on_progress=stop_after(14), **options)
    if change == "factor":
        options["factor"] = 2
    elif change == "input":
        os.utime(film, (1, 1))
    else:
        negative.method.register_buffer("trained_more", torch.ones(2))
    with pytest.raises(UserError, match="cannot go on: the segments there were made otherwise"):
        synthesize_video(negative, film, tmp_path / "out.mp4", resume=True, **options)
    assert synthesize_video(negative, film, tmp_path / "out.mp4", **options).reused == 0, "starts over"


def test_a_failure_keeps_segments_only_for_resume(negative: Model, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for k in range(8):
        Image.fromarray(frame(k) if k < 7 else frame(k, 20, 20)).save(tmp_path / f"in/{k}.png")
    for resume in (False, True):
        with pytest.raises(UserError, match=r"7\.png"):
            synthesize_video(negative, tmp_path / "in", tmp_path / "o.mp4", factor=2, segment_frames=4, resume=resume)
        assert (tmp_path / ".o.mp4.segments/00000.json").exists() == resume
    assert not (tmp_path / "o.mp4").exists()


def test_folder_of_videos(negative: Model, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, count in (("a.mp4", 4), ("b.mkv", 3)):
        write_film(tmp_path / "in" / name, map(frame, range(count)))
    write_film(tmp_path / "in/c.avi", map(frame, range(5)), codec="mpeg4")
    (tmp_path / "in/bad.mp4").write_bytes(b"not a film")
    (tmp_path / "in/notes.txt").write_text("not looked at")
    done = synthesize_folder(negative, tmp_path / "in", tmp_path / "out", factor=2, domains=["x"])
    assert {name: result.frames for name, result in done.results.items()} == {"a.mp4": 7, "b.mkv": 5, "c.avi": 9}
    assert list(done.failed) == ["bad.mp4"] and "bad.mp4" in done.failed["bad.mp4"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mp4", "b.mkv", "c.mp4"]
    (tmp_path / "out/b.mkv").unlink()
    again = synthesize_folder(negative, tmp_path / "in", tmp_path / "out", factor=2, domains=["x"], resume=True)
    assert list(again.results) == ["b.mkv"]
    write_film(tmp_path / "in/a.avi", map(frame, range(5)), codec="mpeg4")
    with pytest.raises(UserError, match="would both become"):
        synthesize_folder(negative, tmp_path / "in", tmp_path / "new", factor=2)


def test_plan_writes_nothing(negative: Model, film: Path, tmp_path: Path) -> None:
    before = files(tmp_path)
    plan = plan_video(negative, film, tmp_path / "new/out.mp4", factor=4, segment_frames=8)
    assert files(tmp_path) == before and not (tmp_path / "new").exists()
    assert (plan.frames, plan.fps, plan.size, plan.segments, plan.keys_per_segment) == (37, 100, (32, 48), 5, 2)
    assert plan.codec == "libx264" and plan.picture_bytes == plan.batch_size * 32 * 48 * 3 * 17
    result = synthesize_video(negative, film, tmp_path / "new/out.mp4", factor=4, segment_frames=8)
    assert (result.frames, result.files) == (plan.frames, plan.files)
