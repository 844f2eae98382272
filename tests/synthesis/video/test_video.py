"""Video files in, two-domain video files out."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jdm_fast.data.video_files import open_frames, write_video
from jdm_fast.errors import UserError
from jdm_fast.synthesis import Model, synthesize_video

COUNT = 9


def frame(number: int, height: int = 30, width: int = 44) -> np.ndarray:
    """A bright square on a ramp, that moves to the right."""
    image = np.repeat(np.linspace(40, 120, width, dtype=np.uint8)[None], height, 0)
    image[8:20, 3 * number : 3 * number + 12] = 220
    return np.repeat(image[..., None], 3, -1)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "in.mp4", (frame(k) for k in range(COUNT)), Fraction(30000, 1001), crf=5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "frames").mkdir()
    for k in range(COUNT):
        Image.fromarray(frame(k)).save(tmp_path / "frames" / f"{k}.png")
    return tmp_path / "frames"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_files_are_the_model_on_the_frames(jwdm: Model, folder: Path, tmp_path: Path) -> None:
    expected = jwdm.video(np.stack([frame(k) for k in range(COUNT)]), factor=4)
    result = synthesize_video(jwdm, folder, tmp_path / "out", factor=4)
    assert (result.frames, result.key_frames) == (33, COUNT)
    assert names(tmp_path / "out") == {"both", "x", "y"}
    made = {name: np.stack(list(open_frames(path))) for name, path in result.files.items()}
    for domain in ("x", "y"):
        np.testing.assert_array_equal(made[domain], expected[domain])
    np.testing.assert_array_equal(made["both"], np.concatenate([made["x"], made["y"]], axis=2))


def test_video_file_gives_three_videos_as_long_as_the_input(negative: Model, clip: Path, tmp_path: Path) -> None:
    progress = []
    out = tmp_path / "new" / "out.mp4"
    result = synthesize_video(negative, clip, out, factor=4, crf=5, on_progress=lambda *done: progress.append(done))
    assert names(out.parent) == {"out.mp4", "out.x.mp4", "out.y.mp4"}
    assert result.files == {"both": out, "x": out.with_name("out.x.mp4"), "y": out.with_name("out.y.mp4")}
    assert progress[-1] == (33, 33)
    made = {name: open_frames(path) for name, path in result.files.items()}
    for source in made.values():
        assert source.fps == result.fps == 4 * Fraction(30000, 1001) and source.count == 33
    assert made["both"].size == (30, 88) and made["x"].size == (30, 44)
    for k, (x, y, both) in enumerate(zip(made["x"], made["y"], made["both"], strict=True)):
        assert np.abs(x.astype(int) - (255 - y.astype(int))).mean() < 4
        assert np.abs(both.astype(int) - np.concatenate([x, y], axis=1)).mean() < 4
        if k % 4 == 0:
            assert np.abs(x.astype(int) - frame(k // 4)).mean() < 4


@pytest.mark.parametrize(
    "arguments, count, fps",
    [
        ({"factor": 8, "every": 8}, 9, Fraction(30000, 1001)),  # what truth is compared with
        ({"factor": 3, "every": 4}, 7, Fraction(30000, 1001) * 3 / 4),
        ({"factor": 2, "every": 3}, 5, Fraction(30000, 1001) * 2 / 3),  # frames 0, 3, 6: 7 and 8 are not used
        ({"factor": 2, "fps": 24}, 17, Fraction(24)),
        ({"factor": 1}, 9, Fraction(30000, 1001)),
    ],
)
def test_key_frames_and_rate(
    negative: Model, clip: Path, tmp_path: Path, arguments: dict, count: int, fps: Fraction
) -> None:
    result = synthesize_video(negative, clip, tmp_path / "out.mp4", **arguments)
    assert (result.frames, result.fps) == (count, fps)
    frames = list(open_frames(result.files["x"]))
    assert len(frames) == count
    factor, every = arguments["factor"], arguments.get("every", 1)
    for k in range(0, count, factor):
        assert np.abs(frames[k].astype(int) - frame(k // factor * every)).mean() < 5


def test_two_pictures(negative: Model, folder: Path, tmp_path: Path) -> None:
    result = synthesize_video(negative, [folder / "6.png", folder / "2.png"], tmp_path / "out", factor=8, source="y")
    assert (result.frames, result.key_frames, result.fps) == (9, 2, 24)
    frames = list(open_frames(result.files["y"]))
    np.testing.assert_array_equal(frames[0], frame(6))
    np.testing.assert_array_equal(frames[-1], frame(2))
    np.testing.assert_array_equal(next(iter(open_frames(result.files["x"]))), 255 - frame(6))


def test_frames_can_be_asked_for_under_any_name(negative: Model, clip: Path, tmp_path: Path) -> None:
    result = synthesize_video(negative, clip, tmp_path / "out.mp4", factor=2, as_frames=True)
    assert len(names(tmp_path / "out.mp4" / "x")) == result.frames == 17


def test_odd_sizes_are_exact_as_frames_and_padded_in_video(negative: Model, tmp_path: Path) -> None:
    for k in range(2):
        Image.fromarray(frame(k, 31, 45)).save(tmp_path / f"{k}.png")
    pictures = [tmp_path / "0.png", tmp_path / "1.png"]
    exact = synthesize_video(negative, pictures, tmp_path / "out", factor=2)
    assert open_frames(exact.files["x"]).size == (31, 45) and open_frames(exact.files["both"]).size == (31, 90)
    padded = synthesize_video(negative, pictures, tmp_path / "out.mp4", factor=2)
    assert open_frames(padded.files["x"]).size == (32, 46) and open_frames(padded.files["both"]).size == (32, 90)


@pytest.mark.parametrize("out", ["out.mp4", "out"])
def test_failure_half_way_leaves_what_was_there(negative: Model, folder: Path, tmp_path: Path, out: str) -> None:
    Image.fromarray(frame(0, 20, 20)).save(folder / "5.png")  # found out when it is read
    if out == "out.mp4":
        (tmp_path / "out.mp4").write_bytes(b"earlier")
        (tmp_path / "out.x.mp4").write_bytes(b"earlier")
    before = names(tmp_path)
    with pytest.raises(UserError, match=r"5\.png"):
        synthesize_video(negative, folder, tmp_path / out, batch_size=4, factor=4)
    assert names(tmp_path) == before
    if out == "out.mp4":
        assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "out.x.mp4").read_bytes() == b"earlier"


def test_impossible_requests(negative: Model, clip: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    before = names(tmp_path)
    for input, output, arguments, message in (
        (tmp_path / "none.mp4", "out.mp4", {}, "no such file"),
        (tmp_path / "empty", "out.mp4", {}, "empty"),
        ([folder / "0.png"], "out.mp4", {}, "0.png: has one frame"),
        (clip, "out.mp4", {"every": 9}, "in.mp4: has one key frame at every=9"),
        (clip, "out.mp4", {"every": 0}, "every"),
        (clip, "out.mp4", {"factor": 0}, "factor"),
        (clip, "out.mp4", {"mode": "cubic"}, "mode"),
        (clip, "out.mp4", {"fps": 0}, "fps"),
        (clip, "out.avi", {}, "videos are written as .mp4"),
        (clip, "in.mp4", {}, "replace the input"),
        (clip, "frames", {}, "not empty"),
        (clip, "in.mp4/out.mp4", {}, "cannot make the folder"),
    ):
        with pytest.raises(UserError, match=message):
            synthesize_video(negative, input, tmp_path / output, **arguments)
    assert names(tmp_path) == before
