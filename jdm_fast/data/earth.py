"""Earth: pixel-aligned pictures of the planet in four domains, cut into a truly unpaired data set with known truth.

=============  ==========================================================
domain         what it is
=============  ==========================================================
satellite      Blue Marble, the planet as seen from space
relief         shaded relief with natural colours, sea in one flat blue
topographic    ETOPO1, heights and depths as colours, with relief shading
mask           land in one colour, water (sea and lakes) in another
=============  ==========================================================

All share one equirectangular grid: row 0 is the north pole, column 0 the date line.

**The split.** The planet between 60 degrees south and 77 north is cut into *blocks* of two by two tiles, and those into
*regions* of two by two blocks. Region (r, c) is a test region if (c + 2 r) mod 5 = 4, a knight's-move pattern. In all
other regions the blocks alternate, like the fields of a chessboard, between X and Y: block (r, c) is X if r + c is
even. So every role sees every kind of place, no pixel has two roles, and no training picture of X has a counterpart in
Y.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from jdm_fast._files import make_folder, write_atomically
from jdm_fast.data.earth_source import EARTH_PACKAGE, cache_folder, earth_files
from jdm_fast.errors import UserError

DOMAINS = ("satellite", "relief", "topographic", "mask")
LAND_COLOUR = (216, 192, 136)
WATER_COLOUR = (40, 80, 160)
LATITUDES = (-60.0, 77.0)
#: North of the polar circle the satellite sees snow where the map shows land: no picture is cut there.
SNOW = 66.5

_SOURCES = {"satellite": "bmng.jpg", "relief": "shadedrelief.jpg", "topographic": "etopo1.jpg"}
_MASK_SOURCE, _MASK_SHAPE, _LAND = "lsmask_1.25min_f.bin", (8640, 17280), 1
_CACHE_VERSION = 1  # raise when the stored arrays change meaning


@dataclass(frozen=True)
class Box:
    """A square of the grid: rows ``top .. top+size``, columns ``left .. left+size``, in pixels."""

    top: int
    left: int
    size: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.size), slice(self.left, self.left + self.size)

    def boxes(self, size: int, stride: int) -> Iterator[Box]:
        """All boxes of ``size`` inside this one, ``stride`` apart."""
        steps = range(0, self.size - size + 1, stride)
        return (Box(self.top + down, self.left + right, size) for down in steps for right in steps)


@dataclass(frozen=True)
class Split:
    """Disjoint squares of the planet: ``x`` and ``y`` hold blocks of 2x2 tiles, ``test`` regions of 4x4 tiles."""

    x: list[Box]
    y: list[Box]
    test: list[Box]


@dataclass(frozen=True)
class Written:
    """What :meth:`Earth.write_unpaired` made: the root folder and the number of pictures in each of its sub-folders."""

    root: Path
    counts: dict[str, int]


class Earth:
    """The planet at a working resolution.

    ``width`` pixels round the equator, ``height = width / 2``. ``picture(domain)`` is uint8 [height, width, 3],
    ``land`` bool [height, width] (False on sea and lakes).
    """

    def __init__(self, land: np.ndarray, pictures: dict[str, np.ndarray]) -> None:
        self.land = land
        self._pictures = pictures
        self.height, self.width = land.shape

    @classmethod
    def load(cls, width: int = 2700, domains: Sequence[str] = DOMAINS) -> Earth:
        """The planet ``width`` pixels wide (even, 64 to 5400), box-filtered from the sources.

        The first call fetches the package and filters (seconds); the arrays are kept in the cache folder and
        memory-mapped from then on. Raises UserError for an impossible width or an unknown domain, or if the package
        cannot be fetched.
        """
        if width % 2 or not 64 <= width <= 5400:
            raise UserError(f"Earth's width must be an even number from 64 to 5400 (the sources' own), got {width}")
        for domain in domains:
            _known(domain)
        folder = cache_folder() / f"{EARTH_PACKAGE.name}-{EARTH_PACKAGE.version}" / f"width-{width}-v{_CACHE_VERSION}"
        size = (width, width // 2)
        land = _cached(folder / "land.npy", lambda: _read_land(earth_files()[_MASK_SOURCE], size))
        pictures = {}
        for domain in dict.fromkeys(domains):
            if domain == "mask":
                pictures[domain] = mask_picture(land)
            else:
                source = _SOURCES[domain]
                pictures[domain] = _cached(
                    folder / f"{domain}.npy", lambda source=source: _read_picture(earth_files()[source], size)
                )
        return cls(land, pictures)

    def picture(self, domain: str) -> np.ndarray:
        """uint8 [height, width, 3]."""
        if domain not in self._pictures:
            raise UserError(f"domain {_known(domain)!r} was not loaded; loaded: {', '.join(self._pictures)}")
        return self._pictures[domain]

    def crop(self, domain: str, box: Box) -> np.ndarray:
        """uint8 [box.size, box.size, 3] of one domain."""
        return self.picture(domain)[box.slices]

    def land_share(self, box: Box) -> float:
        """Share of the box that is land, 0..1."""
        return float(self.land[box.slices].mean())

    def split(self, size: int) -> Split:
        """The disjoint places of every role for tiles of ``size`` pixels (the rule is in the module's docstring)."""
        south, north = LATITUDES
        block = 2 * size
        first_row = round((90 - north) / 180 * self.height)
        rows = int((north - south) / 180 * self.height) // block
        columns = self.width // block
        if rows < 2 or columns < 10:  # ten columns hold five regions, the least that always has a test region
            raise UserError(
                f"tiles of {size} pixels are too large for an Earth {self.width} pixels wide: "
                f"use tiles of at most {self.width // 20} pixels, or a larger width"
            )
        split = Split([], [], [])
        for r in range(rows):
            for c in range(columns):
                if _is_test(r // 2, c // 2):
                    continue
                (split.y if (r + c) % 2 else split.x).append(Box(first_row + r * block, c * block, block))
        for r in range(rows // 2):  # a region cut off by the edge of the map would be no square: left out
            for c in range(columns // 2):
                if _is_test(r, c):
                    split.test.append(Box(first_row + 2 * r * block, 2 * c * block, 2 * block))
        return split

    def tiles(
        self, boxes: Sequence[Box], size: int, stride: int | None = None, land: tuple[float, float] = (0.30, 0.97)
    ) -> list[Box]:
        """Squares of ``size`` in ``boxes``, ``stride`` apart (default ``size``), whose land share is in ``land``.

        None has its centre north of :data:`SNOW`.
        """
        first_row = (90 - SNOW) / 180 * self.height
        inside = (tile for box in boxes for tile in box.boxes(size, stride or size))
        seen = (tile for tile in inside if tile.top + tile.size / 2 >= first_row)
        return [tile for tile in seen if land[0] <= self.land_share(tile) <= land[1]]

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
        """Write CycleGAN's layout: ``trainA trainB testA testB`` and ``testMask``, PNG files.

        ``domains`` are A and B. Training pictures are ``train_size`` pixels wide (``size`` to ``2 * size``, default
        ``size``), cut ``stride`` apart (default ``size // 4``) inside the blocks of X for A and of Y for B; ones larger
        than ``size`` leave room for the trainer's random crop. Test pictures are ``size`` wide, do not overlap, and
        show the same place under the same name in ``testA``, ``testB`` (the truth of each other) and ``testMask`` (255
        land, 0 water). All have a land share within ``land``. Names are ``row-column`` of the top left pixel.

        The folder appears whole or not at all. If it is there from an equal call it is kept as it is; if it holds
        anything else, UserError.
        """
        root, train_size, stride = Path(out), train_size or size, stride or max(1, size // 4)
        if not size <= train_size <= 2 * size:
            raise UserError(f"train_size must be from size to twice size, {size} to {2 * size}, got {train_size}")
        if len(domains) != 2 or domains[0] == domains[1]:
            raise UserError(f"two different domains are needed, got {domains}")
        split = self.split(size)
        test = self.tiles(split.test, size, land=land)
        plan = {
            "trainA": (domains[0], self.tiles(split.x, train_size, stride, land)),
            "trainB": (domains[1], self.tiles(split.y, train_size, stride, land)),
            "testA": (domains[0], test),
            "testB": (domains[1], test),
            "testMask": (None, test),
        }
        counts = {name: len(tiles) for name, (_, tiles) in plan.items()}
        if min(counts.values()) == 0:
            raise UserError(f"no tile of {size} pixels has a land share within {land}: widen land, or change size")
        settings = {
            "width": self.width,
            "domains": list(domains),
            "size": size,
            "train_size": train_size,
            "stride": stride,
        }
        settings |= {"land": list(land), "latitudes": [LATITUDES[0], SNOW], "version": _CACHE_VERSION}
        if root.exists() and not root.is_dir():
            raise UserError(f"{root} is a file: expected a folder to write, choose another path")
        if root.exists() and any(root.iterdir()):
            _refuse_other_settings(root, settings)
            return Written(root, counts)
        try:
            root.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}-"))
            try:
                for name, (domain, tiles) in plan.items():
                    (scratch / name).mkdir()
                    for tile in tiles:
                        array = self.land[tile.slices] * np.uint8(255) if domain is None else self.crop(domain, tile)
                        Image.fromarray(np.ascontiguousarray(array)).save(
                            scratch / name / f"{tile.top:04d}-{tile.left:04d}.png"
                        )
                record = {"settings": settings, "split": asdict(split)}
                (scratch / "earth.json").write_text(json.dumps(record, indent=1) + "\n")
                scratch.chmod(0o755)  # mkdtemp makes private folders
                os.replace(scratch, root)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        except OSError as error:
            raise UserError(
                f"{root}: the Earth pictures could not be written ({error}): free some space or choose another folder"
            ) from error
        return Written(root, counts)


def mask_picture(land: np.ndarray) -> np.ndarray:
    """Land or water, bool [..., H, W], as a picture in two colours, uint8 [..., H, W, 3]."""
    return np.where(land[..., None], np.uint8(LAND_COLOUR), np.uint8(WATER_COLOUR))


def _is_test(region_row: int, region_column: int) -> bool:
    return (region_column + 2 * region_row) % 5 == 4


def _known(domain: str) -> str:
    if domain not in DOMAINS:
        raise UserError(f"no Earth domain is called {domain!r}; there are: {', '.join(DOMAINS)}")
    return domain


def _refuse_other_settings(root: Path, settings: dict[str, object]) -> None:
    record = root / "earth.json"
    if not record.is_file():
        raise UserError(f"{root} is not empty and was not written by this command: choose another folder")
    there = json.loads(record.read_text())["settings"]
    differing = sorted(key for key in settings if settings[key] != there.get(key))
    if differing:
        raise UserError(
            f"{root} holds Earth tiles with another {', '.join(differing)}: choose another folder or delete it"
        )


def _cached(path: Path, make) -> np.ndarray:
    """The array stored at ``path``, memory-mapped; made and stored first if it is not there or cannot be read."""
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        array = make()
        make_folder(path.parent)
        write_atomically(path, lambda file: np.save(file, array))
        return array


def _read_picture(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The source's picture reduced to ``size`` (width, height) by averaging over each pixel's area."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BOX))


def _read_land(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Pixels at least half of which is land. The source starts in the south: 0 sea, 1 land, 2 lake."""
    source = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8).reshape(_MASK_SHAPE)[::-1]
    image = Image.fromarray((source == _LAND).astype(np.uint8) * np.uint8(255))
    return np.asarray(image.resize(size, Image.Resampling.BOX)) >= 128
