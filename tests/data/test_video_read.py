"""Video in: counts and times of every container, files that are cut short or change in mid-stream, constant memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from jdm_fast.data.video_files import (
    ConstantRate,
    FrameSource,
    TimedFrame,
    count_frames,
    open_frames,
    read_frames,
)
from jdm_fast.errors import UserError
from tests.data.test_video_files import barcode, clip, read_barcode

HIDDEN = {
    "auto-alt-ref": "1",
    "lag-in-frames": "16",
    "deadline": "realtime",
}  # the encoder makes frames not to be shown


def encode(
    path: Path,
    frames: Sequence[np.ndarray] | Iterator[np.ndarray],
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    stamps: Sequence[int] | None = None,
    base: Fraction = Fraction(1, 1000),
    rate: Fraction = Fraction(25),
) -> Path:
    """Write a video in any format; ``stamps`` are the frames' times in units of ``base``."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.pix_fmt = pixel_format
        if stamps is not None:
            stream.codec_context.time_base = base
        for number, pixels in enumerate(frames):
            if number == 0:
                stream.height, stream.width = pixels.shape[:2]
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if stamps is not None:
                frame.pts, frame.time_base = stamps[number], base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


# ---- counts and times -----------------------------------------------------------------------------------------------

FORMATS = {
    "h264.mp4": ("libx264", "yuv420p", {"bf": "3"}),
    "h264.mkv": ("libx264", "yuv420p", {"bf": "3"}),
    "h264.ts": ("libx264", "yuv420p", {"bf": "3"}),
    "raw.h264": ("libx264", "yuv420p", {"bf": "3"}),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", {}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {"bf": "2"}),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}),
    "vp8.webm": ("libvpx", "yuv420p", HIDDEN),
    "vp9.webm": ("libvpx-vp9", "yuv420p", HIDDEN),
    "ffv1.mkv": ("ffv1", "bgr0", {}),
    "moving.gif": ("gif", "rgb8", {}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_counted_and_timed(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / name, clip(24), *FORMATS[name])
    assert [read_barcode(frame) for frame in read_frames(path)] == list(range(24))
    assert count_frames(path) == 24
    source = open_frames(path)
    assert source.count in (24, None) and source.fps == 25
    times = [frame.time for frame in source.timed()]
    assert times == [Fraction(number, 25) for number in range(24)]
    assert [frame.shape[0] for frame in source.chunks(10)] == [10, 10, 4]


def test_odd_size_is_kept(tmp_path: Path) -> None:
    path = encode(tmp_path / "odd.mkv", [barcode(5, 47, 63)], "ffv1", "bgr0")
    (frame,) = read_frames(path)
    np.testing.assert_array_equal(frame, barcode(5, 47, 63))


STAMPS = [0, 40, 80, 400, 440, 1200]  # milliseconds


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "vp9.webm", "moving.gif"])
def test_variable_rate(tmp_path: Path, name: str) -> None:
    base = Fraction(1, 100) if name.endswith("gif") else Fraction(1, 1000)
    stamps = [int(stamp * base.denominator / 1000) for stamp in STAMPS]
    path = encode(tmp_path / name, clip(6), *FORMATS[name], stamps=stamps, base=base)
    assert [read_barcode(frame) for frame in open_frames(path)] == list(range(6)), "each that is stored, once"
    assert [frame.time for frame in open_frames(path).timed()] == [Fraction(stamp, 1000) for stamp in STAMPS]
    source = open_frames(path, fps=25)
    shown = [read_barcode(frame) for frame in source]
    assert shown[:30] == [0, 1] + [2] * 8 + [3] + [4] * 19 and set(shown[30:]) == {5}
    assert (source.fps, source.size, source.count) == (25, (48, 64), None)
    assert [read_barcode(frame) for frame in open_frames(path, fps=5)][:6] == [2, 2, 4, 4, 4, 4]


class Stub(FrameSource):
    """Frames that are their numbers, shown from the given times on; the last for ``last``."""

    name, size = "stub", (1, 1)

    def __init__(self, times: Sequence[Fraction], last: Fraction) -> None:
        self.fps, self._times, self._last = Fraction(25), times, last

    def __iter__(self) -> Iterator[np.ndarray]:
        return (frame.pixels for frame in self.timed())

    def timed(self, start: int = 0) -> Iterator[TimedFrame]:
        for number, time in enumerate(self._times):
            yield TimedFrame(time, self._last, np.full((1, 1, 3), number, np.uint8))


def steady(count: int, rate: Fraction | int) -> tuple[list[Fraction], Fraction]:
    return [Fraction(number) / rate for number in range(count)], 1 / Fraction(rate)


NTSC = Fraction(30000, 1001)
RATES = {
    "the same": (steady(5, 25), 25, [0, 1, 2, 3, 4]),
    "twice": (steady(3, 25), 50, [0, 0, 1, 1, 2, 2]),
    "half": (steady(6, 50), 25, [0, 2, 4]),
    "film to video": (steady(4, 24), 30, [0, 1, 1, 2, 3]),
    "rounded to milliseconds": (
        ([Fraction(round(1000 * k / NTSC), 1000) for k in range(60)], 1 / NTSC),
        NTSC,
        range(60),
    ),
    "one frame": (steady(1, 25), 1, [0]),
    "equal times": (([Fraction(0), Fraction(0), Fraction(1, 25)], Fraction(1, 25)), 25, [1, 2]),
    "a still": (([Fraction(0), Fraction(2)], Fraction(1)), 2, [0, 0, 0, 0, 1, 1]),
}


@pytest.mark.parametrize("case", RATES)
def test_constant_rate(case: str) -> None:
    (times, last), fps, expected = RATES[case]
    assert [int(frame[0, 0, 0]) for frame in ConstantRate(Stub(times, last), fps)] == list(expected)


@pytest.mark.parametrize("times", [[0, 1, Fraction(1, 2)], [0, 100_000]])
def test_impossible_times_are_refused(times: list[Fraction]) -> None:
    with pytest.raises(UserError, match="stub: the time stamps go from .* read it without fps"):
        list(ConstantRate(Stub([Fraction(time) for time in times], Fraction(1)), 25))


def test_pictures_are_taken_to_have_the_rate(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(barcode(number)).save(tmp_path / f"{number}.png")
    source = open_frames(tmp_path, fps=12)
    assert (source.fps, source.count) == (12, 3)
    assert [read_barcode(frame) for frame in source] == [0, 1, 2]
    assert [frame.time for frame in source.timed()] == [0, Fraction(1, 12), Fraction(1, 6)]
    with pytest.raises(UserError, match="fps: expected a number above 0"):
        open_frames(tmp_path, fps=0)


# ---- bad files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.6, 0.97])
@pytest.mark.parametrize("name", ["h264.mkv", "vp9.webm", "mjpeg.avi", "faststart.mp4"])
def test_file_cut_short(tmp_path: Path, name: str, keep: float) -> None:
    rng = np.random.default_rng(0)
    noise = list(rng.integers(0, 256, (12, 48, 64, 3), np.uint8))
    if name == "faststart.mp4":
        with av.open(str(tmp_path / name), "w", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.height, stream.width = 48, 64
            for pixels in noise:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
    else:
        encode(tmp_path / name, noise, *FORMATS[name])
    path = tmp_path / name
    assert count_frames(path) == 12
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    for read in (lambda: list(open_frames(path)), lambda: count_frames(path)):
        with pytest.raises(UserError, match=f"{name}.*cut short"):
            read()


def make_stream_of_two_sizes(path: Path) -> None:
    parts = [encode(path.with_name(f"{width}.ts"), clip(5, 48, width), "mpeg2video") for width in (64, 96)]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))


def make_damaged(path: Path) -> None:
    rng = np.random.default_rng(0)
    encode(path, list(rng.integers(0, 256, (30, 64, 64, 3), np.uint8)))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    path.write_bytes(data)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "two-sizes.ts": (make_stream_of_two_sizes, "this frame is 96x48 pixels, those before are 64x48"),
    "damaged.mp4": (make_damaged, r"damaged or cut short after frame \d+"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_shows_in_mid_stream_is_named(tmp_path: Path, name: str) -> None:
    make, message = BAD[name]
    make(tmp_path / name)
    frames = read_frames(tmp_path / name)
    next(frames)  # the beginning is good
    with pytest.raises(UserError, match=f"{name}: {message}"):
        list(frames)


def test_bad_arguments(tmp_path: Path) -> None:
    for call in (read_frames, count_frames, open_frames):
        with pytest.raises(UserError, match=r"none\.mp4: no such file"):
            call(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("not a video " * 99)
    with pytest.raises(UserError, match=r"text\.mp4: not a video"):
        count_frames(tmp_path / "text.mp4")
    with pytest.raises(UserError, match="decoder: expected auto, pyav or dali, got 'vlc'"):
        open_frames(tmp_path / "text.mp4", decoder="vlc")


# ---- a long film ----------------------------------------------------------------------------------------------------

MEASURE = """
import resource, sys
from jdm_fast.data.video_files import open_frames

def peak(path):
    source = open_frames(path, fps=50)
    count = sum(1 for _ in source)
    return count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; it can only grow

print(*peak(sys.argv[1]), *peak(sys.argv[2]), "nvidia.dali" in sys.modules)
"""


def make_long(path: Path, count: int) -> Path:
    """A film of nothing, quickly: the same frame again and again."""
    frame = av.VideoFrame.from_ndarray(np.full((160, 240, 3), 90, np.uint8), format="rgb24").reformat(format="yuv420p")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = frame.height, frame.width, "yuv420p"
        for number in range(count):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    paths = [make_long(tmp_path / f"{count}.mp4", count) for count in (200, 2000)]
    command = [sys.executable, "-c", MEASURE, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    short_count, short, long_count, long, dali = done.stdout.split()
    assert (short_count, long_count) == ("400", "4000")
    megabytes = (int(long) - int(short)) / 1024
    assert megabytes < 20, f"2000 frames, 220 MiB in all, took {megabytes:.0f} MiB more than 200"
    assert dali == "False", "reading does not load what it does not use"
