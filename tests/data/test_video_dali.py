"""DALI's video reader against PyAV's: the same frames, times and colours; and what it must not be used for."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from jdm_fast.data import video_dali
from jdm_fast.data.real_files import real_video
from jdm_fast.data.video_dali import DaliSource, suits
from jdm_fast.data.video_files import FrameSource, open_frames, write_video
from jdm_fast.data.video_read import PyAVSource
from jdm_fast.errors import UserError

COUNT = 21  # no multiple of a sequence's length
ITU_709, ITU_601 = 1, 6


def scene(number: int, height: int = 48, width: int = 80) -> np.ndarray:
    """Strong colours that change slowly from point to point, so that it matters little how chroma is spread."""
    rows, columns = np.mgrid[:height, :width]
    phase = 2 * np.pi * number / COUNT
    waves = [np.sin(columns / 13 + phase), np.sin(rows / 11 - phase + 2), np.sin((rows + columns) / 17 + 4)]
    return np.stack([127.5 + 100 * wave for wave in waves], axis=-1).astype(np.uint8)


def make_vp9(path: Path, colorspace: int | None = None, pixel_format: str = "yuv420p", count: int = COUNT) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=25, options={"deadline": "realtime", "crf": "12", "b:v": "0"})
        stream.height, stream.width = scene(0).shape[:2]
        stream.pix_fmt = pixel_format
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(scene(number), format="rgb24")
            matrix = {ITU_709: "ITU709", ITU_601: "ITU601", None: None}[colorspace]
            container.mux(stream.encode(frame.reformat(format=pixel_format, dst_colorspace=matrix)))
        container.mux(stream.encode(None))
    return path


def patch(path: Path, box: bytes, offset: int, *values: int) -> None:
    """Overwrite 32-bit numbers in a box of an MP4 file, ``offset`` bytes after its type."""
    data = bytearray(path.read_bytes())
    start = data.index(box) + 4 + offset
    data[start : start + 4 * len(values)] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path.write_bytes(data)


def assert_same_frames(ours: FrameSource, reference: FrameSource, mean: float = 1) -> None:
    assert (ours.size, ours.fps, ours.name) == (reference.size, reference.fps, reference.name)
    errors = [np.abs(a.astype(int) - b) for a, b in zip(ours, reference, strict=True)]
    assert max(error.mean() for error in errors) < mean
    assert (
        max(np.percentile(error, 99) for error in errors) <= 4 * mean
    )  # what is cut off at 0 or 255 cannot be corrected


@pytest.mark.parametrize("colorspace", [None, ITU_601, ITU_709])
def test_frames_and_colours_are_those_of_pyav(tmp_path: Path, colorspace: int | None) -> None:
    path = make_vp9(tmp_path / "clip.webm", colorspace)
    ours = open_frames(path, decoder="dali", device="cpu")
    assert isinstance(ours, DaliSource)
    assert_same_frames(ours, open_frames(path))
    assert np.abs(next(iter(ours)).astype(int) - scene(0)).mean() < 1.2, "and both are right"
    assert len(list(ours)) == COUNT, "a second pass starts at the first frame"


def test_chunks_and_times(tmp_path: Path) -> None:
    path = make_vp9(tmp_path / "clip.webm")
    source = open_frames(path, decoder="dali", device="cpu")
    chunks = list(source.chunks(8))
    assert [tuple(chunk.shape) for chunk in chunks] == [(8, 48, 80, 3), (8, 48, 80, 3), (5, 48, 80, 3)]
    assert all(chunk.dtype == torch.uint8 and chunk.is_contiguous() for chunk in chunks)
    np.testing.assert_array_equal(torch.cat(chunks), np.stack(list(source)), "each owns its memory")
    assert [frame.time for frame in source.timed()] == [Fraction(number, 25) for number in range(COUNT)]
    assert {frame.duration for frame in source.timed()} == {Fraction(1, 25)}
    assert len(list(open_frames(path, decoder="dali", device="cpu", fps=50))) == 2 * COUNT


def test_rotation_of_phones_is_applied(tmp_path: Path) -> None:
    path = make_vp9(tmp_path / "clip.mp4", count=3)
    patch(path, b"tkhd", 40, 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    source = open_frames(path, decoder="dali", device="cpu")
    assert source.size == (80, 48)
    assert_same_frames(source, open_frames(path))


def make_hidden(path: Path) -> Path:
    make_vp9(path)
    with av.open(str(path)) as container:
        ticks = int(4 / 25 / container.streams.video[0].time_base)
    patch(path, b"elst", 12, ticks)  # the film begins four frames after what is stored
    return path


REFUSED = {
    "h264.mp4": (lambda path: write_video(path, map(scene, range(3)), 25), "vp8, vp9, mjpeg on cpu, not h264"),
    "fine.webm": (lambda path: make_vp9(path, pixel_format="yuv444p", count=3), "not yuv444p"),
    "hidden.mp4": (make_hidden, "frames that are not to be shown"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_dali_would_get_wrong_is_refused(tmp_path: Path, name: str) -> None:
    make, message = REFUSED[name]
    make(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: .*{message}.*use decoder='pyav'"):
        open_frames(tmp_path / name, decoder="dali", device="cpu")
    assert isinstance(open_frames(tmp_path / name, decoder="auto", device="cpu"), PyAVSource)


def test_damaged_video(tmp_path: Path) -> None:
    path = make_vp9(tmp_path / "clip.mp4")
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 3 * 2] = bytes(len(data) // 3)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"clip\.mp4: DALI cannot decode it.*use decoder='pyav'"):
        list(open_frames(path, decoder="dali", device="cpu"))


def test_a_gpu_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = make_vp9(tmp_path / "clip.webm", count=2)
    with pytest.raises(UserError, match=r"clip\.webm on cuda, but there is no GPU"):
        open_frames(path, decoder="dali", device="cuda")
    assert isinstance(open_frames(path, decoder="auto"), PyAVSource)


def test_when_auto_means_dali(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h264 = PyAVSource(write_video(tmp_path / "h264.mp4", map(scene, range(2)), 25))
    fine = PyAVSource(make_vp9(tmp_path / "fine.webm", pixel_format="yuv444p", count=2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert suits(h264) and suits(h264, "cuda:1")
    assert not suits(h264, "cpu") and not suits(fine)
    monkeypatch.setattr(video_dali, "_is_installed", lambda: False)
    assert not suits(h264)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["bikes", "carphone", "own"])
def test_gpu_decodes_h264(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / "own.mp4", map(scene, range(COUNT)), 25) if name == "own" else real_video(name)
    source = open_frames(path, decoder="auto")
    assert isinstance(source, DaliSource) and source.device.type == "cuda"
    # The GPU gives pixels that share a colour sample that sample, swscale a mean of neighbours: what changes as much
    # from pixel to pixel as in our own clip differs more.
    assert_same_frames(source, open_frames(path), mean=2 if name == "own" else 1)
    chunks = list(source.chunks(16))
    assert all(chunk.is_cuda and chunk.dtype == torch.uint8 for chunk in chunks)
    np.testing.assert_array_equal(torch.cat(chunks).cpu(), np.stack(list(source)))
