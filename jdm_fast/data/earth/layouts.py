"""Earth pictures in the layouts that training reads: unpaired, paired, tuples, and pairs that share a domain.

=============  =====================================================================================================
layout         what is written for the domains a, b, c
=============  =====================================================================================================
``cyclegan``   ``trainA trainB`` show disjoint places, ``testA testB testMask`` the same; two domains
``ab``         ``train val test`` of files with a left and b right; two domains
``aligned``    ``train/a train/b train/c``, and so for ``val`` and ``test``: the same name is the same place; with
               ``unpaired``, the training places of the domains are disjoint
``tuples``     ``a_b/train b_c/train`` (and ``val``, ``test``) of files with one domain left and one right: the pairs
               (a, b) and (b, c) come from disjoint places, so that no training place is known in a and c; and
               ``test/a test/b test/c``, the places of the pairs' ``test`` in all domains
=============  =====================================================================================================

``test`` shows the same places in all layouts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jdm_fast.data.earth.domains import known_domain
from jdm_fast.data.earth.split import (
    LATITUDES,
    SNOW,
    Box,
    Part,
    Split,
    count_disjoint,
    cut_tiles,
    describe_region,
    draw_map,
)
from jdm_fast.data.earth.write import (
    LAND,
    Folder,
    PictureSet,
    Written,
    is_written,
    whole_folder,
    write_folders,
    write_record,
)
from jdm_fast.errors import UserError

if TYPE_CHECKING:
    from jdm_fast.data.earth.planet import Earth

#: The layouts and how many domains each may have.
LAYOUTS = {"cyclegan": (2, 2), "ab": (2, 2), "aligned": (2, 4), "tuples": (3, 4)}

ENOUGH = 1000  #: training pictures of a set, beyond which no overlapping ones are cut unless asked for
_VERSION = 1  # raise when equal settings would give other pictures


def write_layout(
    earth: Earth,
    out: str | os.PathLike[str],
    layout: str = "cyclegan",
    domains: Sequence[str] = ("satellite", "topographic"),
    size: int = 64,
    *,
    train_size: int | None = None,
    stride: int | None = None,
    land: tuple[float, float] | None = None,
    count: int | None = None,
    held_out: int | None = None,
    unpaired: bool = False,
    compress_level: int = 1,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> Written:
    """Write pictures of the planet as a data set in one of :data:`LAYOUTS`, PNG files.

    Pictures of ``val`` and ``test`` do not overlap. Names are ``row-column`` of the upper left pixel, so that a place
    has one name everywhere. ``earth.json`` says what was asked for and what came of it: the split, its regions, and how
    many pictures are disjoint.

    The folder appears whole or not at all. If it is there from an equal call it is kept as it is.

    Args:
        earth: with all ``domains`` loaded. out: the folder. layout, domains: see the module. size: of a picture, which
            also sets the scale of the split; a model tested on pictures of one size must be trained on that size.
        train_size: of training pictures, ``size`` (default) to ``2 * size``: room for the trainer's random crop.
        stride: between training pictures, which overlap within their own set if it is less than their size. By default
            the largest of size, size/2, size/4 and size/8 with which each set has ``count``, else :data:`ENOUGH`.
        land: smallest and largest share of land in a picture. By default 0.1 to 1, with the domain mask to 0.97: a
            mask of nothing but land is no picture.
        count: at most so many training pictures of each set, spread evenly; held_out: the same of val and of test.
        unpaired: ``aligned`` only: the training places of the domains are disjoint.
        compress_level: of the PNG files, 0 to 9. on_progress: told how many pictures are written, and of how many.

    Raises:
        UserError: an argument makes no sense, nothing is left to cut, the folder holds something else, or the disk is
            full.
    """
    root, domains, train_size = Path(out), tuple(domains), train_size or size
    _check(layout, domains, size, train_size, count, held_out, stride, unpaired)
    land = land or (0.1, 0.97 if "mask" in domains else 1.0)
    sets = _sets(layout, domains, unpaired)
    split = earth.split(size, len(sets), val=layout != "cyclegan")
    train, stride = _training_tiles(earth, split, size, train_size, stride, land, count)
    held = {part: _spread(earth.tiles(boxes, size, land=land), held_out) for part, boxes in _held_out(split).items()}
    places = [*zip(["train"] * len(sets), train, strict=True), *held.items()]
    if not all(tiles for _, tiles in places):
        empty = next(part for part, tiles in places if not tiles)
        raise UserError(
            f"no {empty} tile of {size} pixels has a land share within {land}: widen land, change size, or "
            f"use a larger width than {earth.width}"
        )
    folders = _folders(layout, domains, sets, train, held)
    settings: dict[str, object] = {
        "layout": layout,
        "width": earth.width,
        "domains": list(domains),
        "size": size,
        "train_size": train_size,
        "stride": stride,
        "land": list(land),
        "latitudes": [LATITUDES[0], SNOW],
        "version": _VERSION,
    }
    asked = {"count": count, "held_out": held_out, "unpaired": unpaired or None}
    settings |= {name: value for name, value in asked.items() if value is not None}
    report = tuple(_describe(split, part, tiles, folders) for part, tiles in places)
    shown = {"train": [tile for tiles in train for tile in tiles], **held}
    written = Written(root, {f.name: len(f.tiles) for f in folders}, report, draw_map(split, shown))
    if is_written(root, settings):
        return written
    with whole_folder(root) as scratch:
        write_folders(earth, scratch, folders, compress_level, on_progress)
        write_record(scratch, {"settings": settings, **_record(earth, split, written, shown)})
    return written


def _check(
    layout: str,
    domains: tuple[str, ...],
    size: int,
    train_size: int,
    count: int | None,
    held_out: int | None,
    stride: int | None,
    unpaired: bool,
) -> None:
    if layout not in LAYOUTS:
        raise UserError(f"no layout of Earth pictures is called {layout!r}; there are: {', '.join(LAYOUTS)}")
    least, most = LAYOUTS[layout]
    for domain in domains:
        known_domain(domain)
    if not least <= len(domains) <= most or len(set(domains)) != len(domains):
        number = ("", "", "two", "three", "four")
        wanted = number[least] if least == most else f"{number[least]} to {number[most]}"
        other = " (aligned takes two to four)" if most == 2 and len(domains) > 2 else ""
        raise UserError(
            f"{wanted} different domains are needed for layout {layout}{other}, got {', '.join(domains) or 'none'}"
        )
    if unpaired and layout != "aligned":
        raise UserError(f"unpaired goes with layout aligned: {layout} says by itself what is paired")
    if size < 2:
        raise UserError(f"size must be at least 2 pixels, got {size}")
    if not size <= train_size <= 2 * size:
        raise UserError(f"train_size must be from size to twice size, {size} to {2 * size}, got {train_size}")
    for name, value in (("stride", stride), ("count", count), ("held_out", held_out)):
        if value is not None and value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")


def _sets(layout: str, domains: tuple[str, ...], unpaired: bool) -> list[tuple[str, ...]]:
    """The domains that each set of training places is shown in."""
    if layout == "tuples":
        return list(zip(domains[:-1], domains[1:], strict=True))
    if layout == "cyclegan" or unpaired:
        return [(domain,) for domain in domains]
    return [domains]


def _held_out(split: Split) -> dict[Part, list[Box]]:
    return {"val": split.val, "test": split.test} if split.val else {"test": split.test}


def _training_tiles(
    earth: Earth,
    split: Split,
    size: int,
    train_size: int,
    stride: int | None,
    land: tuple[float, float],
    count: int | None,
) -> tuple[list[list[Box]], int]:
    """The tiles of each set, and how far they are apart."""
    strides = [stride] if stride else [size // part for part in (1, 2, 4, 8) if size >= part]
    for stride in strides:
        sets = [cut_tiles(earth.land, boxes, train_size, stride, land) for boxes in split.train]
        if min(map(len, sets)) >= (count or ENOUGH):
            break
    return [_spread(tiles, count) for tiles in sets], stride


def _spread(tiles: list[Box], count: int | None) -> list[Box]:
    """``count`` of the tiles, spread evenly over their row."""
    if count is None or count >= len(tiles):
        return tiles
    return [tiles[k] for k in (np.arange(count) * len(tiles) // count).tolist()]


def _folders(
    layout: str,
    domains: tuple[str, ...],
    sets: list[tuple[str, ...]],
    train: list[list[Box]],
    held: dict[Part, list[Box]],
) -> list[Folder]:
    if layout == "cyclegan":
        named = list(zip("AB", domains, strict=True))
        folders = [
            Folder(f"train{letter}", "train", (domain,), tiles)
            for (letter, domain), tiles in zip(named, train, strict=True)
        ]
        folders += [Folder(f"test{letter}", "test", (domain,), held["test"]) for letter, domain in named]
        return [*folders, Folder("testMask", "test", (LAND,), held["test"])]
    if layout == "ab":
        parts = {"train": train[0], **held}
        return [Folder(part, part, domains, tiles) for part, tiles in parts.items()]
    if layout == "tuples":
        pairs = [("_".join(pair), pair) for pair in sets]
        folders = [
            Folder(f"{name}/train", "train", pair, tiles) for (name, pair), tiles in zip(pairs, train, strict=True)
        ]
        folders += [Folder(f"{name}/{part}", part, pair, held[part]) for part in held for name, pair in pairs]
        return folders + [Folder(f"test/{domain}", "test", (domain,), held["test"]) for domain in domains]
    by_domain = zip(domains, train if len(sets) > 1 else train * len(domains), strict=True)
    folders = [Folder(f"train/{domain}", "train", (domain,), tiles) for domain, tiles in by_domain]
    return folders + [Folder(f"{part}/{domain}", part, (domain,), held[part]) for part in held for domain in domains]


def _describe(split: Split, part: Part, tiles: list[Box], folders: list[Folder]) -> PictureSet:
    names = tuple(folder.name for folder in folders if folder.tiles is tiles)
    regions = {split.region_of(tile) for tile in tiles}
    return PictureSet(names, part, len(tiles), count_disjoint(tiles), len(regions))


def _record(earth: Earth, split: Split, written: Written, places: dict[Part, list[Box]]) -> dict[str, object]:
    """What ``earth.json`` says besides the settings."""
    regions: dict[str, list[str]] = {}
    side = 4 * split.size
    for part, tiles in places.items():
        corners = sorted({split.region_of(tile) for tile in tiles})
        boxes = [Box(split.first_row + row * side, column * side, side) for row, column in corners]
        regions[part] = [describe_region(box, earth.width, earth.height) for box in boxes]
    return {
        "sets": [
            {
                "folders": list(of.folders),
                "part": of.part,
                "crops": of.crops,
                "disjoint": of.disjoint,
                "regions": of.regions,
            }
            for of in written.sets
        ],
        "rule": (
            "regions of 4x4 tiles, row r from the north and column c from the date line: test if (c + 2 r) mod 5 = 4, "
            "val (where there is one) if (c + 2 r) mod 10 = 1, else train"
        ),
        "map": written.map.split("\n"),
        "regions": regions,
    }
