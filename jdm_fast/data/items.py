"""The pictures of a domain, one by one, in the form in which the DALI pipeline takes them.

DALI is given encoded files and decodes them itself. What it would read otherwise than
:func:`jdm_fast.data.images.read_image`, and what is no file of its own, is handed over as an uncompressed PPM or PGM.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from jdm_fast.data.dataset import Arrays, Domain, Features, ImageFiles, VideoFrames
from jdm_fast.data.images import inspect_image, read_image
from jdm_fast.data.video_files import read_frames
from jdm_fast.errors import UserError


class Pictures(ABC):
    """The pictures of a domain.

    Attributes:
        sizes: int64 [N, 2], (height, width) of each.
        columns: int64 [N], the column of the encoded picture at which this one begins: pictures may be half of a file.
        labels: colours are classes, to be resized by nearest neighbour.
        cut: whether some encoded picture is wider than the picture itself.
    """

    sizes: np.ndarray
    columns: np.ndarray
    labels: bool = False
    cut: bool = False

    def __len__(self) -> int:
        return len(self.sizes)

    @abstractmethod
    def name(self, item: int) -> str:
        """What to call an item in an error: its file, above all."""

    @abstractmethod
    def encoded(self, item: int) -> np.ndarray:
        """uint8 [bytes]: an encoded image. Raises UserError naming the file if it cannot be read."""

    @abstractmethod
    def check(self, item: int) -> None:
        """Read an item without DALI. Raises UserError saying what is wrong with it, if anything is."""

    @abstractmethod
    def identity(self) -> Iterable[str]:
        """One line for each item that does not depend on where the data set lies; for fingerprints."""

    @abstractmethod
    def state(self) -> Iterable[str]:
        """Lines that change whenever the pictures may have; for keys of caches."""

    def decoded(self, item: int) -> np.ndarray | None:
        """uint8 [H, W, C] if the picture lies decoded in memory, else None."""
        return None

    def encoded_in_order(self, count: int) -> Iterator[np.ndarray]:
        """:meth:`encoded` of the first ``count`` items."""
        return (self.encoded(item) for item in range(count))


class _FilePictures(Pictures):
    """Each is a file, or half of one. Every header is read at once, so that bad files are found at the start."""

    def __init__(self, domain: ImageFiles) -> None:
        self._domain = domain
        infos = [inspect_image(path) for path in domain.paths]
        sizes = np.array([info.size for info in infos], dtype=np.int64)
        self._odd = np.array([info.needs_conversion or domain.palette is not None for info in infos])
        self.labels, self.cut = domain.labels, domain.region != "whole"
        self.columns = np.zeros(len(sizes), dtype=np.int64)
        if self.cut:
            if sizes[:, 1].min() < 2:
                raise UserError(f"{domain.paths[int(sizes[:, 1].argmin())]}: too narrow to be cut into two halves")
            halves = sizes[:, 1] // 2  # of an odd width the column in the middle belongs to neither
            if domain.region == "right":
                self.columns = sizes[:, 1] - halves
            sizes[:, 1] = halves
        self.sizes = sizes

    def name(self, item: int) -> str:
        return str(self._domain.paths[item])

    def encoded(self, item: int) -> np.ndarray:
        path = self._domain.paths[item]
        if self._odd[item]:
            return as_pnm(read_image(path, self._domain.palette))
        try:
            return np.fromfile(path, dtype=np.uint8)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error

    def check(self, item: int) -> None:
        height, width = read_image(self._domain.paths[item], self._domain.palette).shape[:2]
        expected = tuple(self.sizes[item])
        found = (height, width // 2) if self.cut else (height, width)
        if found != expected:
            raise UserError(f"{self.name(item)}: the image has changed since it was opened: its size is another")

    def identity(self) -> Iterable[str]:
        # Whole files have no third part, as in the first version of this format: their runs can be continued.
        region = "" if self._domain.region == "whole" else f"\0{self._domain.region}"
        return (f"{_relative(path, self._domain.root)}\0{_stat(path).st_size}{region}\n" for path in self._domain.paths)

    def state(self) -> Iterable[str]:
        domain = self._domain
        yield f"files {domain.region} {domain.labels} {domain.palette}\n"
        yield from _files_state(domain.paths, domain.root)


class _ArrayPictures(Pictures):
    """They lie decoded in memory."""

    def __init__(self, domain: Arrays) -> None:
        if domain.pixels.dtype != np.uint8 or domain.pixels.ndim != 4 or domain.pixels.shape[3] not in (1, 3):
            raise UserError(
                f"{domain.source}: expected pictures as uint8 [N, H, W, 1 or 3], got {domain.pixels.dtype} "
                f"{list(domain.pixels.shape)}"
            )
        self._domain = domain
        height, width = domain.pixels.shape[1:3]
        size = (width, height) if domain.quarter_turns % 2 else (height, width)
        self.sizes = np.tile(np.array(size, dtype=np.int64), (len(domain), 1))
        self.columns = np.zeros(len(domain), dtype=np.int64)

    def name(self, item: int) -> str:
        return f"{self._domain.source} (picture {item})"

    def decoded(self, item: int) -> np.ndarray:
        return np.ascontiguousarray(np.rot90(self._domain.pixels[item], -self._domain.quarter_turns))

    def encoded(self, item: int) -> np.ndarray:
        return as_pnm(self.decoded(item))

    def check(self, item: int) -> None:
        """There is nothing in an array that could be wrong."""

    def identity(self) -> Iterable[str]:
        pixels = hashlib.sha256(np.ascontiguousarray(self._domain.pixels)).hexdigest()
        yield f"{self._domain.source.name}\0{self._domain.pixels.shape}\0{self._domain.quarter_turns}\0{pixels}\n"

    state = identity


class _FramePictures(Pictures):
    """Frames of videos. They are meant to be read in order, once: to get at one, those before it must be decoded."""

    def __init__(self, domain: VideoFrames) -> None:
        self._domain = domain
        shapes = {path: next(read_frames(path)).shape[:2] for path in dict.fromkeys(path for path, _ in domain.frames)}
        self.sizes = np.array([shapes[path] for path, _ in domain.frames], dtype=np.int64)
        self.columns = np.zeros(len(domain), dtype=np.int64)

    def name(self, item: int) -> str:
        path, number = self._domain.frames[item]
        return f"{path} (frame {number})"

    def encoded(self, item: int) -> np.ndarray:
        path, number = self._domain.frames[item]
        return as_pnm(next(_chosen_frames(path, [number])))

    def check(self, item: int) -> None:
        self.encoded(item)

    def encoded_in_order(self, count: int) -> Iterator[np.ndarray]:
        for path, frames in groupby(self._domain.frames[:count], key=lambda frame: frame[0]):
            for pixels in _chosen_frames(path, [number for _, number in frames]):
                yield as_pnm(pixels)

    def identity(self) -> Iterable[str]:
        sizes = {path: _stat(path).st_size for path in dict.fromkeys(path for path, _ in self._domain.frames)}
        root = self._domain.root
        return (f"{_relative(path, root)}\0{number}\0{sizes[path]}\n" for path, number in self._domain.frames)

    def state(self) -> Iterable[str]:
        yield "frames\n"
        yield from _files_state(dict.fromkeys(path for path, _ in self._domain.frames), self._domain.root)
        yield from (f"{_relative(path, self._domain.root)}\0{number}\n" for path, number in self._domain.frames)


def open_pictures(domain: Domain) -> Pictures:
    """The pictures of a domain, every header read.

    Raises:
        UserError: a file is missing, damaged or of a kind that cannot be read. It names the file.
    """
    if isinstance(domain, ImageFiles):
        return _FilePictures(domain)
    if isinstance(domain, Arrays):
        return _ArrayPictures(domain)
    if isinstance(domain, VideoFrames):
        return _FramePictures(domain)
    raise TypeError(f"expected a domain of pictures, got {type(domain).__name__}")


def check_features(domain: Features) -> np.ndarray:
    """The vectors of a domain as float32 [N, K, D]. Raises UserError if they are not finite, or not of that shape."""
    values = domain.values
    if values.ndim != 3 or values.shape[1] < 1 or not np.issubdtype(values.dtype, np.floating):
        raise UserError(
            f"{domain.source}: expected floating-point features [N, K, D], got {values.dtype} {list(values.shape)}"
        )
    if not np.isfinite(values).all():
        raise UserError(f"{domain.source}: the features have values that are infinite or not a number")
    return values.astype(np.float32, copy=False)


def features_identity(domain: Features) -> Iterable[str]:
    """As :meth:`Pictures.identity`, of feature vectors."""
    digest = hashlib.sha256(np.ascontiguousarray(domain.values)).hexdigest()
    return [f"{domain.source.name}\0{domain.values.shape}\0{digest}\n"]


def as_pnm(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] as the bytes of a PPM file, [H, W, 1] as those of a PGM: uint8 [bytes]."""
    height, width, channels = pixels.shape
    kind = {1: "P5", 3: "P6"}[channels]
    header = np.frombuffer(f"{kind} {width} {height} 255\n".encode(), dtype=np.uint8)
    return np.concatenate([header, pixels.reshape(-1)])


def _chosen_frames(path: Path, numbers: list[int]) -> Iterator[np.ndarray]:
    """The frames of a video with these ascending numbers."""
    wanted = iter(numbers)
    number = next(wanted)
    for position, frame in enumerate(read_frames(path)):
        while position == number:
            yield frame
            number = next(wanted, -1)
        if number < 0:
            return
    raise UserError(f"{path}: the video ends before frame {number}; it may have been cut short since it was opened")


def _relative(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def _files_state(paths: Iterable[Path], root: Path) -> Iterator[str]:
    for path in paths:
        stat = _stat(path)
        yield f"{_relative(path, root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
