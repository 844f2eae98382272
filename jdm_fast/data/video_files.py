"""Frames in and out of files: H.264 video by PyAV, folders of pictures, loose pictures; uint8 RGB, one at a time.

Nothing here holds a whole video: reading and writing take the same memory for a minute and for an hour.
"""

from __future__ import annotations

import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import av.error
import numpy as np
from av.stream import Disposition
from PIL import Image

from jdm_fast.data.images import find_images, read_image
from jdm_fast.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv")  #: containers that are written
_ITU_709 = 1  # its code in the H.264 standard, annex E


# ---- reading --------------------------------------------------------------------------------------------------------


class FrameSource(ABC):
    """A sequence of frames of one size. Iterating yields uint8 [H, W, 3]; every iteration starts from the first frame.

    ``name`` for messages, ``size`` (H, W), ``fps`` (None for pictures, which have no rate; the average where it
    varies), ``count`` (None if only reading to the end can tell).
    """

    name: str
    size: tuple[int, int]
    fps: Fraction | None = None
    count: int | None = None

    @abstractmethod
    def __iter__(self) -> Iterator[np.ndarray]: ...


def open_frames(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> FrameSource:
    """A video file, a folder of pictures (in natural order: 2 before 10), or a list of pictures.

    Raises UserError, naming the file, if it is missing, empty, cut short, not a video, or has sound only. What shows
    only further on (a damaged frame, a picture of another size) is raised by the iteration.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_dir():
            return _PictureSource(path.name or str(path), sorted(find_images(path, recursive=False), key=_natural))
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        return _VideoSource(path)
    paths = [Path(path) for path in source]
    if not paths:
        raise UserError("expected at least one picture, got an empty list")
    return _PictureSource(", ".join(path.name for path in paths[:2]), paths)


class _PictureSource(FrameSource):
    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        self.name, self._paths, self.count = name, list(paths), len(paths)
        self.size = read_image(self._paths[0]).shape[:2]

    def __iter__(self) -> Iterator[np.ndarray]:
        for path in self._paths:
            frame = read_image(path)
            _require_size(path, frame, self.size)
            yield frame


class _VideoSource(FrameSource):
    def __init__(self, path: Path) -> None:
        self.name, self._path = path.name, path
        first = next(self._decode(), None)  # the header alone knows neither the rotation nor whether the data are there
        if first is None:
            raise UserError(f"{path}: the video has no frames")
        self.size = first.shape[:2]

    def __iter__(self) -> Iterator[np.ndarray]:
        for frame in self._decode():
            _require_size(self._path, frame, self.size)
            yield frame

    def _decode(self) -> Iterator[np.ndarray]:
        done = 0
        try:
            with av.open(os.fspath(self._path)) as container:
                stream = self._video_stream(container)
                self.fps, self.count = stream.average_rate or stream.guessed_rate, stream.frames or None
                stream.thread_type = "AUTO"
                for frame in container.decode(stream):
                    yield _upright(frame)
                    done += 1
        except av.error.FFmpegError as error:
            if done:
                raise UserError(f"{self._path}: damaged or cut short after frame {done}: {error.strerror}") from error
            raise UserError(f"{self._path}: not a video that can be read, or cut short: {error.strerror}") from error
        if self.count and done < self.count and _is_cut_short(self._path):
            raise UserError(f"{self._path}: cut short: the header promises {self.count} frames, {done} are there")

    def _video_stream(self, container: av.container.InputContainer) -> av.VideoStream:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            there = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise UserError(f"{self._path}: no video in this file, it holds {there}")
        return streams[0]


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """RGB as it is to be seen: phones store pictures lying on their side, with a note how to turn them."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


def _is_cut_short(path: Path) -> bool:
    """Whether an MP4's last box is longer than what is left of the file (edit lists may hide frames of whole files)."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = 0
        while start + 8 <= size:
            file.seek(start)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:  # the real length follows in 64 bits
                length = int.from_bytes(head[8:16], "big")
            if length < 8:  # 0: the box goes to the end of the file; else this is no MP4
                return False
            start += length
    return start != size


def _require_size(path: Path, frame: np.ndarray, size: tuple[int, int]) -> None:
    if frame.shape[:2] != size:
        raise UserError(
            f"{path}: this frame is {frame.shape[1]}x{frame.shape[0]} pixels, those before are {size[1]}x{size[0]}; "
            "all frames of a video must have one size"
        )


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorting key by which frame2 comes before frame10."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


# ---- writing --------------------------------------------------------------------------------------------------------


class FrameWriter(ABC):
    """Takes frames and puts them under ``path`` when all are there.

    As a context manager: on leaving normally the output appears under its name, on an exception it is discarded.
        Several outputs
    that belong together are ``finish``-ed first and ``publish``-ed after, so that all appear or none.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._part = self.path.with_name(f".{self.path.stem}.{os.getpid()}.part{self.path.suffix}")
        self._size: tuple[int, int] | None = None
        self.frames = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {self.path.parent}: {error.strerror}") from error

    def write(self, frames: np.ndarray) -> None:
        """Append uint8 [H, W, 3] or [N, H, W, 3]; all of one size. Raises ValueError for anything else."""
        if frames.dtype != np.uint8 or frames.ndim not in (3, 4) or frames.shape[-1] != 3:
            raise ValueError(f"frames must be uint8 [H, W, 3] or [N, H, W, 3], got {frames.dtype} {list(frames.shape)}")
        for frame in frames if frames.ndim == 4 else frames[None]:
            size = frame.shape[:2]
            if self._size not in (None, size):
                raise ValueError(f"frames must all have one size, got {size} after {self._size} for {self.path.name}")
            try:
                if self._size is None:
                    self._begin(size)
                    self._size = size
                self._append(frame)
            except OSError as error:  # av's own errors are among them
                raise UserError(f"cannot write {self.path}: {error.strerror or error}") from error
            self.frames += 1

    def finish(self) -> None:
        """Complete the output under its temporary name. UserError if no frame was written."""
        if not self.frames:
            raise UserError(f"no frames to write to {self.path}")
        try:
            self._end()
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror or error}") from error

    def publish(self) -> None:
        """Give the finished output its name."""
        try:
            os.replace(self._part, self.path)
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error

    def discard(self) -> None:
        """Remove what is there under the temporary name, if anything."""
        self._abandon()
        if self._part.is_dir():
            shutil.rmtree(self._part, ignore_errors=True)
        else:
            self._part.unlink(missing_ok=True)

    def __enter__(self) -> FrameWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
                self.publish()
        finally:
            self.discard()

    @abstractmethod
    def _begin(self, size: tuple[int, int]) -> None: ...

    @abstractmethod
    def _append(self, frame: np.ndarray) -> None: ...

    @abstractmethod
    def _end(self) -> None: ...

    @abstractmethod
    def _abandon(self) -> None: ...


class VideoWriter(FrameWriter):
    """H.264 (libx264, yuv420p, ITU-R 709) in the container that ``path``'s suffix names, one of ``VIDEO_SUFFIXES``.

    ``crf`` is x264's quality, 0 (largest file) to 51; 18 is hard to tell from the source. This pixel format knows even
    sizes only: a frame of odd width or height gets its last column or row repeated once. Nothing is ever cut off.
    """

    def __init__(self, path: str | os.PathLike[str], fps: Fraction | float, crf: int = 18) -> None:
        if Path(path).suffix.lower() not in VIDEO_SUFFIXES:
            raise UserError(f"{path}: videos are written as {', '.join(VIDEO_SUFFIXES)}")
        if not fps > 0:
            raise UserError(f"fps must be above 0, got {fps}")
        if not 0 <= crf <= 51:
            raise UserError(f"crf must be from 0 to 51, got {crf}")
        super().__init__(path)
        self._fps, self._crf = Fraction(fps).limit_denominator(65535), crf
        self._container: av.container.OutputContainer | None = None

    def _begin(self, size: tuple[int, int]) -> None:
        self._container = av.open(os.fspath(self._part), "w")
        self._stream = stream = self._container.add_stream("libx264", rate=self._fps)
        stream.height, stream.width = (side + side % 2 for side in size)
        stream.pix_fmt, stream.options = "yuv420p", {"crf": str(self._crf)}
        # Untagged files are taken for 601 by some players and 709 by others, which shifts greens and reds.
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _ITU_709

    def _append(self, frame: np.ndarray) -> None:
        height, width = frame.shape[:2]
        even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        self._container.mux(self._stream.encode(picture))

    def _end(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._container = None

    def _abandon(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            try:
                container.close()
            except OSError:
                pass  # the disk may be full; the file is deleted next


class FolderWriter(FrameWriter):
    """Frames as ``000000.png``, ``000001.png``, … in a folder, which must be new or empty (UserError otherwise)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        require_new_folder(Path(path))
        super().__init__(path)

    def _begin(self, size: tuple[int, int]) -> None:
        self._part.mkdir()

    def _append(self, frame: np.ndarray) -> None:
        Image.fromarray(np.ascontiguousarray(frame)).save(self._part / f"{self.frames:06d}.png")

    def _end(self) -> None:
        pass  # every picture is complete

    def _abandon(self) -> None:
        pass


def require_new_folder(path: Path) -> None:
    """UserError unless ``path`` is free for a folder: not there, or an empty folder."""
    if path.is_dir():
        if any(path.iterdir()):
            raise UserError(
                f"{path}: the folder is not empty; frames go to a new or empty folder, so that none are mixed up"
            )
    elif path.exists():
        raise UserError(
            f"{path}: is a file; expected a folder for frames, or a name ending in {', '.join(VIDEO_SUFFIXES)}"
        )


def write_video(
    path: str | os.PathLike[str], frames: Iterable[np.ndarray], fps: Fraction | float, crf: int = 18
) -> Path:
    """Write frames, uint8 [H, W, 3] each, as a video (see :class:`VideoWriter`) and return its path."""
    with VideoWriter(path, fps, crf) as writer:
        for frame in frames:
            writer.write(frame)
    return writer.path
