"""Frames into files: video by PyAV, folders of pictures. What is written appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import av.error
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from jdm_fast.data.video_codec import DEFAULT_CODEC, bit_rate, encoder_options, pixel_format, require_encoder
from jdm_fast.errors import UserError, first_line

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv")  #: containers that are written
_ITU_709 = 1  # its code in the H.264 standard, annex E


class FrameWriter(ABC):
    """Takes frames and puts them under ``path`` when all are there.

    As a context manager: on leaving normally the output appears under its name, on an exception it is discarded.
    Several outputs that belong together are ``finish``-ed first and ``publish``-ed after, so that all appear or none.
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
    """Video (H.264 by libx264, unless said) in the container that ``path``'s suffix names, one of ``VIDEO_SUFFIXES``.

    ``crf`` is the quality of encoders that have one, 0 (largest file) to 51, ``preset`` how long x264, x265, SVT-AV1
    and NVIDIA's take to make the file smaller, in their own words. Pixels are yuv420p of ITU-R 709 where the encoder
    takes them. That format knows even sizes only: a frame of odd width or height gets its last column or row repeated
    once. Nothing is ever cut off.

    UserError: no such encoder or preset (the message lists what there is), or the container does not take what the
    encoder makes.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: Fraction | float,
        crf: int | None = None,
        codec: str = DEFAULT_CODEC,
        preset: str | None = None,
    ) -> None:
        if Path(path).suffix.lower() not in VIDEO_SUFFIXES:
            raise UserError(f"{path}: videos are written as {', '.join(VIDEO_SUFFIXES)}")
        if not fps > 0:
            raise UserError(f"fps must be above 0, got {fps}")
        if crf is not None and not 0 <= crf <= 51:
            raise UserError(f"crf must be from 0 to 51, got {crf}")
        self._encoder = require_encoder(codec, crf, preset)
        super().__init__(path)
        self._fps, self._codec = Fraction(fps).limit_denominator(65535), codec
        self._options = encoder_options(codec, crf, preset)
        self._reformatter = VideoReformatter()  # one for all frames: making one takes as long as using it
        self._container: av.container.OutputContainer | None = None

    def _begin(self, size: tuple[int, int]) -> None:
        self._container = av.open(os.fspath(self._part), "w")
        try:
            self._stream = stream = self._container.add_stream(self._codec, rate=self._fps)
            stream.height, stream.width = (side + side % 2 for side in size)
            stream.pix_fmt, stream.options = pixel_format(self._encoder), self._options
            rate = bit_rate(self._codec, size, self._fps)
            if rate is not None:
                stream.bit_rate = rate
            # Untagged files are taken for 601 by some players and 709 by others, which shifts greens and reds.
            context = stream.codec_context
            self._is_yuv = stream.pix_fmt.startswith("yuv")
            if self._is_yuv:
                context.colorspace = context.color_primaries = context.color_trc = _ITU_709
            self._container.start_encoding()
        except (ValueError, av.error.FFmpegError) as error:
            suffix = self.path.suffix
            raise UserError(
                f"cannot write {self.path}: {self._codec} does not start for {size[1]}x{size[0]} pixels in a {suffix} "
                f"file: {first_line(error)}; choose another codec or container (.mkv takes most)"
            ) from error

    def _append(self, frame: np.ndarray) -> None:
        height, width = frame.shape[:2]
        even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        colours = {"dst_colorspace": "ITU709", "dst_color_range": "MPEG"} if self._is_yuv else {}
        picture = self._reformatter.reformat(picture, format=self._stream.pix_fmt, **colours)
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
    path: str | os.PathLike[str], frames: Iterable[np.ndarray], fps: Fraction | float, crf: int | None = None
) -> Path:
    """Write frames, uint8 [H, W, 3] each, as a video (see :class:`VideoWriter`) and return its path."""
    with VideoWriter(path, fps, crf) as writer:
        for frame in frames:
            writer.write(frame)
    return writer.path
