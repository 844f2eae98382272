"""Frames in and out of files: counts, order, rate and pixels survive, bad files are named, no half file is left."""

from __future__ import annotations

import subprocess
import sys
import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from jdm_fast.data import video_codec
from jdm_fast.data.real_files import real_video
from jdm_fast.data.video_files import FolderWriter, VideoWriter, count_frames, open_frames, write_video
from jdm_fast.errors import UserError

BITS = 8


def barcode(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A frame that carries its number as black and white stripes, under a coloured band."""
    frame = np.zeros((height, width, 3), np.uint8)
    for bit in range(BITS):
        frame[:, bit * width // BITS : (bit + 1) * width // BITS] = 255 * (number >> bit & 1)
    frame[: height // 3] = (200, 60, 30)
    return frame


def read_barcode(frame: np.ndarray) -> int:
    height, width = frame.shape[:2]
    middles = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    return sum(int(frame[height - 4, x, 1] > 127) << bit for bit, x in enumerate(middles))


def clip(count: int, *size: int) -> Iterator[np.ndarray]:
    return (barcode(number, *size) for number in range(count))


# ---- whole files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30000, 1001), Fraction(240)])
def test_video_keeps_count_order_and_rate(tmp_path: Path, fps: Fraction, suffix: str) -> None:
    path = write_video(tmp_path / f"clip{suffix}", clip(37), fps)
    source = open_frames(path)
    frames = list(source)
    assert [read_barcode(frame) for frame in frames] == list(range(37))
    assert source.size == (48, 64) and frames[0].shape == (48, 64, 3) and frames[0].dtype == np.uint8
    assert float(source.fps) == pytest.approx(float(fps), rel=1e-3)
    assert source.count in (37, None)
    assert [read_barcode(frame) for frame in source] == list(range(37)), "a second pass starts at the first frame"


def test_colours_survive(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", clip(3), 25, crf=10)
    band = next(iter(open_frames(path)))[4:12, 8:56]
    assert np.abs(band.astype(int) - (200, 60, 30)).max() <= 4
    with av.open(str(path)) as container:  # tagged, so that every player decodes the same colours
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.codec_context.colorspace, stream.codec_context.color_range) == (1, 1)


@pytest.mark.parametrize("size", [(47, 64), (48, 63), (47, 63), (17, 2), (1, 33)])
def test_odd_sizes_are_padded_never_cut(tmp_path: Path, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    frame = np.broadcast_to(rng.integers(0, 256, (*size, 1), np.uint8), (*size, 3))  # grey: no chroma subsampling
    path = write_video(tmp_path / "clip.mp4", [frame] * 2, 25, crf=0)
    read = next(iter(open_frames(path)))
    even = np.pad(frame, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), mode="edge")
    assert read.shape == even.shape
    assert np.abs(read.astype(int) - even).max() <= 3


def test_better_quality_is_nearer(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = np.kron(rng.integers(0, 256, (8, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    errors = []
    for crf in (5, 40):
        path = write_video(tmp_path / f"{crf}.mp4", [frame], 25, crf=crf)
        errors.append(np.abs(next(iter(open_frames(path))).astype(int) - frame).mean())
    assert errors[0] < errors[1]


def test_frames_folder_is_exact_and_in_natural_order(tmp_path: Path) -> None:
    with FolderWriter(tmp_path / "frames") as writer:
        writer.write(np.stack(list(clip(3))))
        writer.write(barcode(3))
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == [f"{k:06d}.png" for k in range(4)]
    for name, number in (("frame2.png", 2), ("frame10.png", 10), ("frame1.png", 1)):
        (tmp_path / "named").mkdir(exist_ok=True)
        Image.fromarray(barcode(number)).save(tmp_path / "named" / name)
    for folder, numbers in (("frames", [0, 1, 2, 3]), ("named", [1, 2, 10])):
        source = open_frames(tmp_path / folder)
        assert (source.count, source.fps, source.size) == (len(numbers), None, (48, 64))
        for frame, number in zip(source, numbers, strict=True):
            np.testing.assert_array_equal(frame, barcode(number))


def test_list_of_pictures_keeps_its_order(tmp_path: Path) -> None:
    for number in (1, 2):
        Image.fromarray(barcode(number)).save(tmp_path / f"{number}.png")
    source = open_frames([tmp_path / "2.png", tmp_path / "1.png"])
    assert [read_barcode(frame) for frame in source] == [2, 1]


def test_rotation_of_phones_is_applied(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", clip(3), 25, crf=5)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # after the type: version, times, track, duration, layer, volume
    turn = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)  # to be shown turned clockwise by a quarter
    data[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in turn)
    path.write_bytes(data)
    source = open_frames(path)
    assert source.size == (64, 48)
    for number, frame in enumerate(source):
        assert np.abs(frame.astype(int) - np.rot90(barcode(number), -1)).mean() < 12


def test_whole_video_with_hidden_frames(tmp_path: Path) -> None:
    """An edit list, as cutting programs write it, hides frames that the header counts: no sign of a file cut short."""
    path = write_video(tmp_path / "clip.mp4", clip(20), 25, crf=5)
    with av.open(str(path)) as container:
        ticks = int(4 / 25 / container.streams.video[0].time_base)
    data = bytearray(path.read_bytes())
    start = data.index(b"elst") + 16  # after the type: version, number of entries, duration; here: where to start
    data[start : start + 4] = (int.from_bytes(data[start : start + 4], "big") + ticks).to_bytes(4, "big")
    path.write_bytes(data)
    source = open_frames(path)
    assert [read_barcode(frame) for frame in source] == list(range(4, 20))
    assert source.count == count_frames(path) == 16


@pytest.mark.parametrize("name, size, count", [("bikes", (272, 640), 250), ("carphone", (144, 176), 120)])
def test_real_video(name: str, size: tuple[int, int], count: int) -> None:
    source = open_frames(real_video(name))
    assert (source.size, source.count) == (size, count)
    frames = iter(source)
    first, second = next(frames), next(frames)
    assert first.shape == (*size, 3)
    assert 0 < np.abs(first.astype(int) - second).mean() < 20
    assert 2 + sum(1 for _ in frames) == count


# ---- bad files ------------------------------------------------------------------------------------------------------


def make_audio(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(16000))


def make_cut_short(path: Path, keep: float, faststart: bool) -> None:
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        for _ in range(30):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (64, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


BAD_VIDEOS = {
    "missing.mp4": (lambda path: None, "no such file"),
    "empty.mp4": (lambda path: path.touch(), "cut short"),
    "text.mp4": (lambda path: path.write_text("not a video " * 99), "not a video"),
    "sound.wav": (make_audio, "no video in this file, it holds audio"),
    "no-index.mp4": (lambda path: make_cut_short(path, 0.5, faststart=False), "cut short"),
    "half.mp4": (lambda path: make_cut_short(path, 0.5, faststart=True), "cut short"),
    "nearly.mp4": (lambda path: make_cut_short(path, 0.98, faststart=True), "cut short"),
}


@pytest.mark.parametrize("name", BAD_VIDEOS)
def test_bad_video_is_named(tmp_path: Path, name: str) -> None:
    make, message = BAD_VIDEOS[name]
    make(tmp_path / name)
    with pytest.raises(UserError, match=message) as caught:
        list(open_frames(tmp_path / name))
    assert name in str(caught.value)


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        open_frames(tmp_path)
    for name, size in (("0.png", (48, 64)), ("1.png", (48, 66))):
        Image.fromarray(barcode(0, *size)).save(tmp_path / name)
    with pytest.raises(UserError, match=r"1\.png: this frame is 66x48 pixels, those before are 64x48"):
        list(open_frames(tmp_path))
    (tmp_path / "0.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"0\.png"):
        open_frames(tmp_path)
    with pytest.raises(UserError, match="empty list"):
        open_frames([])


# ---- nothing half-written -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip.mp4", "frames"])
def test_failure_half_way_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "clip.mp4":
        path.write_bytes(b"earlier")
    with (
        pytest.raises(RuntimeError, match="half way"),
        VideoWriter(path, 25) if path.suffix else FolderWriter(path) as writer,
    ):
        for frame in clip(20):
            writer.write(frame)
        raise RuntimeError("half way")
    assert [file.name for file in tmp_path.iterdir()] == (["clip.mp4"] if name == "clip.mp4" else [])
    if name == "clip.mp4":
        assert path.read_bytes() == b"earlier"
        write_video(path, clip(2), 25)
        assert len(list(open_frames(path))) == 2


def test_no_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no frames to write"):
        write_video(tmp_path / "clip.mp4", [], 25)
    assert not list(tmp_path.iterdir())


def test_folder_with_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        FolderWriter(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        FolderWriter(tmp_path / "mine.txt")
    with pytest.raises(UserError, match="cannot make the folder"):
        VideoWriter(tmp_path / "mine.txt" / "clip.mp4", 25)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "path, fps, crf, message",
    [("clip.avi", 25, 18, r"\.mp4"), ("clip.mp4", 0, 18, "fps"), ("clip.mp4", 25, 52, "crf")],
)
def test_bad_writer_arguments(tmp_path: Path, path: str, fps: int, crf: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        VideoWriter(tmp_path / path, fps, crf)


@pytest.mark.parametrize(
    "frame", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 4), np.uint8)]
)
def test_writer_refuses_what_is_no_frame(tmp_path: Path, frame: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"), VideoWriter(tmp_path / "clip.mp4", 25) as writer:
        writer.write(frame)


def test_writer_refuses_another_size(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one size"), FolderWriter(tmp_path / "frames") as writer:
        writer.write(barcode(0))
        writer.write(barcode(0, 50, 64))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("trial", "answer"),
    [("import sys; sys.exit(0)", True), ("raise ValueError", False), ("import time; time.sleep(60)", False)],
    ids=["starts", "fails", "hangs"],
)
def test_encoders_of_a_gpu_are_tried_apart(trial: str, answer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_codec, "_TRIAL", trial)
    monkeypatch.setattr(video_codec, "TRIAL_SECONDS", 3.0)
    assert video_codec.opens("h264_nvenc", (64, 64), Fraction(25)) == answer


def test_a_trial_is_an_encoder_that_starts() -> None:
    """The code of the trial itself, with an encoder that is there and one that is not."""
    for name, works in (("libx264", True), ("no_such_encoder", False)):
        words = [name, "64", "48", "yuv420p", "1/25", "25"]
        done = subprocess.run([sys.executable, "-c", video_codec._TRIAL, *words], capture_output=True, check=False)
        assert (done.returncode == 0) == works, done.stderr
