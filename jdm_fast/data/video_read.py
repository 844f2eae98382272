"""Frames out of files: video by PyAV or DALI, folders of pictures, loose pictures; uint8 RGB, one at a time.

Nothing here holds a whole video: reading takes the same memory for a minute and for an hour.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import av
import av.error
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Interpolation

from jdm_fast.data import video_index
from jdm_fast.data.images import find_images, read_image
from jdm_fast.data.video_container import is_cut_short
from jdm_fast.data.video_index import FrameIndex, Place, index_frames
from jdm_fast.data.video_source import ConstantRate, FrameSource, TimedFrame, require_size
from jdm_fast.errors import UserError

if TYPE_CHECKING:
    import torch

Decoder = Literal["auto", "pyav", "dali"]
# FFmpeg's quick way from YUV to RGB rounds down and gives four pixels one colour: one level too dark on the average.
_EXACTLY = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
_HIDING_CODECS = ("vp8",)  # their packets may hold frames that are never shown


def open_frames(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    fps: Fraction | float | None = None,
    decoder: Decoder = "pyav",
    device: str | torch.device | None = None,
) -> FrameSource:
    """A video file, a folder of pictures (in natural order: 2 before 10), or a list of pictures.

    Args:
        fps: by default every frame that is stored comes once, and where the rate varies (phones, screen recordings) the
            source's ``fps`` is the average. With a number, frames are repeated or left out so that they come at this
            constant rate and each is seen at its true time (:class:`ConstantRate`). Pictures are taken to have it.
        decoder: of video files. ``pyav`` decodes on the CPU, the same on every machine. ``dali`` decodes on a GPU (and,
            VP8, VP9 and MJPEG only, on the CPU); its colours differ a little where pixels share a colour sample.
            ``auto`` is ``dali`` where there is a GPU that decodes this kind of video, else ``pyav``.
        device: where ``dali`` decodes, ``cuda``, ``cuda:1`` or ``cpu``; by default the GPU if there is one.

    Raises UserError, naming the file, if it is missing, empty, cut short, not a video, or has sound only. What shows
    only further on (a damaged frame, a picture of another size) is raised by the iteration.
    """
    opened = _open(source, decoder, device)
    return opened if fps is None else ConstantRate(opened, fps)


def read_frames(path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """The frames of a video file, uint8 [H, W, 3], each that is stored once. Errors as :func:`open_frames`."""
    return iter(PyAVSource(_existing(path)))


def count_frames(path: str | os.PathLike[str]) -> int:
    """The number of frames that :func:`read_frames` gives, without decoding them.

    It is in the index of MP4, MOV and AVI files. Other containers are read through, which takes as long as copying
    them; VP8 in them is decoded.

    Raises:
        UserError: as :func:`open_frames`, or there are no frames.
    """
    path = _existing(path)
    with _video(path) as (container, stream):
        _require_whole(path, stream)
        count = _indexed(stream)
        if count is None and _codec(stream) in _HIDING_CODECS:
            count = sum(1 for _ in container.decode(stream))
        elif count is None:
            count = sum(1 for packet in container.demux(stream) if packet.size and not packet.is_discard)
    if not count:
        raise UserError(f"{path}: the video has no frames")
    return count


def _open(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    decoder: Decoder,
    device: str | torch.device | None,
) -> FrameSource:
    if decoder not in ("auto", "pyav", "dali"):
        raise UserError(f"decoder: expected auto, pyav or dali, got {decoder!r}")
    if not isinstance(source, (str, os.PathLike)):
        paths = [Path(path) for path in source]
        if not paths:
            raise UserError("expected at least one picture, got an empty list")
        return _PictureSource(", ".join(path.name for path in paths[:2]), paths)
    path = _existing(source)
    if path.is_dir():
        return _PictureSource(path.name or str(path), sorted(find_images(path, recursive=False), key=_natural))
    video = PyAVSource(path)
    if decoder == "pyav":
        return video
    from jdm_fast.data import video_dali  # here, so that nothing loads DALI that does not ask for it

    if decoder == "auto":
        return video_dali.DaliSource(video, device) if video_dali.suits(video, device) else video
    return video_dali.DaliSource(video, device)


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    return path


class _PictureSource(FrameSource):
    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        self.name, self._paths, self.count = name, list(paths), len(paths)
        self.size = read_image(self._paths[0]).shape[:2]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (frame.pixels for frame in self.timed())

    def timed(self, start: int = 0) -> Iterator[TimedFrame]:
        for number, path in enumerate(self._paths[start:], start):
            pixels = read_image(path)
            require_size(path, pixels, self.size)
            yield TimedFrame(Fraction(number), Fraction(1), pixels)


class PyAVSource(FrameSource):
    """A video file, decoded on the CPU.

    Attributes beside those of every source: ``path``, ``codec``; ``pixel_format``, ``colorspace`` (a number of the
    H.264 standard, annex E) and ``rotation`` (degrees anticlockwise) of its first frame; ``hidden``: whether frames are
    stored that are not to be shown.
    """

    def __init__(self, path: Path) -> None:
        self.name, self.path = path.name, path
        with _video(path) as (container, stream):
            _require_whole(path, stream)
            self.fps, self.count = stream.average_rate or stream.guessed_rate, _indexed(stream)
            self.codec = _codec(stream)
            self.hidden = self.count is not None and self.count != stream.frames
            frame = next(container.decode(stream), None)
        if frame is None:  # the header alone knows neither the rotation nor whether the data are there
            raise UserError(f"{path}: the video has no frames")
        self._first = frame.pts
        self._index: FrameIndex | None | Literal["unread"] = "unread"
        self.pixel_format, self.colorspace, self.rotation = frame.format.name, int(frame.colorspace), frame.rotation
        self.size = _upright(frame).shape[:2]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (frame.pixels for frame in self.timed())

    def timed(self, start: int = 0) -> Iterator[TimedFrame]:
        usual = 1 / self.fps if self.fps else Fraction(1)
        end = start * usual
        for frame in self._decoded(start):
            if frame.pts is None or not frame.time_base:  # raw streams have no time stamps
                time, duration = end, usual
            else:
                time = (frame.pts - (self._first or 0)) * frame.time_base
                duration = frame.duration * frame.time_base or usual
            end = time + duration
            pixels = _upright(frame)
            require_size(self.path, pixels, self.size)
            yield TimedFrame(time, duration, pixels)

    def _decoded(self, start: int) -> Iterator[av.VideoFrame]:
        """From frame ``start`` on; found by the index if that is far, else passed over without making pictures."""
        place = self._place(start)
        if isinstance(self._index, FrameIndex) and start >= len(self._index.shown):
            return
        done = start
        with _video(self.path) as (container, stream):
            stream.thread_type = "AUTO"
            frames: Iterator[av.VideoFrame] = container.decode(stream)
            try:
                if place is None:
                    found: av.VideoFrame | None = next(islice(frames, start, None), None)
                else:
                    container.seek(place.seek, stream=stream)
                    found = next(
                        (frame for frame in frames if frame.pts is not None and frame.pts >= place.shown), None
                    )
                if place is None or (found is not None and found.pts == place.shown):
                    for frame in chain([] if found is None else [found], frames):
                        yield frame
                        done += 1
                    return
            except av.error.FFmpegError as error:
                if done == 0:
                    raise
                raise UserError(f"{self.path}: damaged or cut short after frame {done}: {error.strerror}") from error
        self._index = None  # the container does not find what its packets say
        yield from self._decoded(start)

    def _place(self, start: int) -> Place | None:
        if start < video_index.FAR or self.hidden or self.codec in _HIDING_CODECS:
            return None
        if self._index == "unread":
            with _video(self.path) as (container, stream):
                self._index = index_frames(container, stream, self._first)
        return None if self._index is None else self._index.place(start)


@contextmanager
def _video(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """An open video file and its first stream of moving pictures. Reading of them must end before it is closed."""
    try:
        with av.open(os.fspath(path)) as container:
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                there = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
                raise UserError(f"{path}: no video in this file, it holds {there}")
            yield container, streams[0]
    except av.error.FFmpegError as error:
        raise UserError(f"{path}: not a video that can be read, or cut short: {error.strerror}") from error


def _codec(stream: av.VideoStream) -> str:
    """The codec's name, also where another program's decoder is used for it."""
    name = stream.codec_context.name
    return {"libdav1d": "av1", "libvpx": "vp8", "libvpx-vp9": "vp9"}.get(name, name)


def _require_whole(path: Path, stream: av.VideoStream) -> None:
    """UserError if the file is shorter than its index or its outermost frame says. FFmpeg would read what is there."""
    end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if end > path.stat().st_size or is_cut_short(path):
        promised = f"{stream.frames} frames" if stream.frames else "a longer file"
        raise UserError(f"{path}: cut short: the header promises {promised}, not all is there; get the whole file")


def _indexed(stream: av.VideoStream) -> int | None:
    """The number of frames that are to be shown by the file's own index; None where it has none."""
    entries = stream.index_entries
    if not stream.frames or len(entries) != stream.frames:
        return None
    return sum(1 for entry in entries if entry.size and not entry.is_discard)


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """RGB as it is to be seen: phones store pictures lying on their side, with a note how to turn them."""
    pixels = frame.reformat(format="rgb24", interpolation=_EXACTLY).to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorting key by which frame2 comes before frame10."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
