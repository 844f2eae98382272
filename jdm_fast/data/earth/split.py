"""Which places train and which test: the split of the planet by region, and the pictures that are cut from it.

The planet between 60 degrees south and 77 north is cut into *blocks* of two by two tiles, and those into *regions* of
two by two blocks.

- Region (r, c) is a **test** region if (c + 2 r) mod 5 = 4, a knight's-move pattern: one region in five. It is the same
  in every layout, so that scores on the test places may be compared.
- In layouts with a **val** split, region (r, c) is one if (c + 2 r) mod 10 = 1: one region in ten.
- All other blocks **train**. Where n sets of places must be disjoint (two unpaired domains, or the pairs of three),
  block (r, c) belongs to set (r + c) mod n, like the fields of a chessboard; of four sets, to (2 r + c) mod 4.

So every set sees every kind of place, and no pixel is in two of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jdm_fast.errors import UserError

LATITUDES = (-60.0, 77.0)
#: North of the polar circle the satellite sees snow where the map shows land: no picture is cut there.
SNOW = 66.5

Part = Literal["train", "val", "test"]


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
    """Disjoint squares of the planet for tiles of ``size`` pixels.

    Attributes:
        train: the blocks (2x2 tiles) of each set of training places.
        val, test: regions (4x4 tiles); ``val`` is empty where the layout has no such split.
        train_regions: the whole regions that train, for films, which need more room than a block has.
        size: of a tile. first_row: of the grid, where the split begins in the north. rows, columns: of whole regions.
    """

    train: tuple[list[Box], ...]
    val: list[Box]
    test: list[Box]
    train_regions: list[Box]
    size: int
    first_row: int
    rows: int
    columns: int

    @property
    def x(self) -> list[Box]:
        """The blocks of the first set: domain X of unpaired data."""
        return self.train[0]

    @property
    def y(self) -> list[Box]:
        """The blocks of the second set: domain Y of unpaired data."""
        return self.train[1]

    def region_of(self, box: Box) -> tuple[int, int]:
        """Row and column of the region that a box lies in."""
        return (box.top - self.first_row) // (4 * self.size), box.left // (4 * self.size)


def split_planet(width: int, height: int, size: int, sets: int = 2, val: bool = False) -> Split:
    """The places of every part for tiles of ``size`` pixels (the rule is in the module's docstring).

    Args:
        width, height: of the grid. sets: of training places, 1 to 4. val: whether some regions validate.

    Raises:
        UserError: the tiles are too large for the rule to give every part its places.
    """
    south, north = LATITUDES
    block, region = 2 * size, 4 * size
    first_row = round((90 - north) / 180 * height)
    rows = int((north - south) / 180 * height) // block
    columns = width // block
    if rows < 2 or columns < 10:  # ten columns hold five regions, the least that always has a test region
        raise UserError(
            f"tiles of {size} pixels are too large for an Earth {width} pixels wide: "
            f"use tiles of at most {width // 20} pixels, or a larger width"
        )
    train: tuple[list[Box], ...] = tuple([] for _ in range(sets))
    for r in range(rows):
        for c in range(columns):
            if _part(r // 2, c // 2, val) == "train":
                train[_set(r, c, sets)].append(Box(first_row + r * block, c * block, block))
    whole: dict[Part, list[Box]] = {"train": [], "val": [], "test": []}
    for r in range(rows // 2):  # a region cut off by the edge of the map would be no square: left out
        for c in range(columns // 2):
            whole[_part(r, c, val)].append(Box(first_row + r * region, c * region, region))
    return Split(train, whole["val"], whole["test"], whole["train"], size, first_row, rows // 2, columns // 2)


def cut_tiles(land: np.ndarray, boxes: Sequence[Box], size: int, stride: int, share: tuple[float, float]) -> list[Box]:
    """Squares of ``size`` in ``boxes``, ``stride`` apart, whose share of land is in ``share``; none is in the snow.

    Args:
        land: bool [height, width], the whole grid.
    """
    first_row = (90 - SNOW) / 180 * len(land)
    tiles = []
    for box in boxes:
        if box.top + box.size < first_row or size > box.size:
            continue
        shares = _land_shares(land[box.slices], size, stride)
        for down, right in np.argwhere((share[0] <= shares) & (shares <= share[1])).tolist():
            tile = Box(box.top + down * stride, box.left + right * stride, size)
            if tile.top + tile.size / 2 >= first_row:
                tiles.append(tile)
    return tiles


def count_disjoint(tiles: Sequence[Box]) -> int:
    """How many of ``tiles``, all of one size, share no pixel with each other, taking them in their order.

    Other choices could keep a few more; the number is one of tiles that are there.
    """
    if not tiles:
        return 0
    size = tiles[0].size
    kept: dict[tuple[int, int], Box] = {}  # by field of a grid of ``size``: two in one field would overlap
    for tile in tiles:
        row, column = tile.top // size, tile.left // size
        near = (kept.get((row + down, column + right)) for down in (-1, 0, 1) for right in (-1, 0, 1))
        if not any(box and abs(box.top - tile.top) < size and abs(box.left - tile.left) < size for box in near):
            kept[row, column] = tile
    return len(kept)


def describe_region(region: Box, width: int, height: int) -> str:
    """Where a region lies, such as ``12N 54W to 7S 36W``: its upper left and lower right corner, whole degrees."""

    def corner(row: int, column: int) -> str:
        latitude, longitude = round(90 - row / height * 180), round(column / width * 360 - 180)
        return f"{abs(latitude)}{'NS'[latitude < 0]} {abs(longitude)}{'EW'[longitude < 0]}"

    return f"{corner(region.top, region.left)} to {corner(region.top + region.size, region.left + region.size)}"


def draw_map(split: Split, places: dict[Part, Sequence[Box]]) -> str:
    """The split as text, a character a region: ``T`` test, ``v`` val, ``.`` train, a blank where nothing is cut.

    Args:
        places: the tiles of each part.
    """
    field = [[" "] * split.columns for _ in range(split.rows)]
    for part, mark in (("train", "."), ("val", "v"), ("test", "T")):
        for tile in places.get(part, ()):
            row, column = split.region_of(tile)
            if row < split.rows and column < split.columns:
                field[row][column] = mark
    return "\n".join("".join(row).rstrip() for row in field)


def _part(region_row: int, region_column: int, val: bool) -> Part:
    position = region_column + 2 * region_row
    if position % 5 == 4:
        return "test"
    return "val" if val and position % 10 == 1 else "train"


def _set(row: int, column: int, sets: int) -> int:
    return ((2 if sets == 4 else 1) * row + column) % sets


def _land_shares(land: np.ndarray, size: int, stride: int) -> np.ndarray:
    """Share of land, 0..1, of every square of ``size`` in ``land`` [S, S] whose corner is a multiple of ``stride``."""
    sums = np.zeros((len(land) + 1, len(land) + 1), np.int64)
    np.cumsum(land, axis=0, dtype=np.int64, out=sums[1:, 1:])
    np.cumsum(sums[1:, 1:], axis=1, out=sums[1:, 1:])
    near = np.arange(0, len(land) - size + 1, stride)
    far = near + size
    return (sums[np.ix_(far, far)] - sums[np.ix_(near, far)] - sums[np.ix_(far, near)] + sums[np.ix_(near, near)]) / (
        size * size
    )
