"""Summer and winter: aerial textures of FlightGear and their snow-covered twins, a benchmark with known truth.

The pictures are GPL-2+. They are fetched from Debian's ``flightgear-data-base`` (1.3 GB, of which 55 MB are kept).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from jdm_fast._files import make_folder
from jdm_fast.data.debian import DebianPackage, fetch_deb
from jdm_fast.data.season_textures import SHA256, TEXTURES
from jdm_fast.errors import UserError

SEASONS = ("summer", "winter")
SMALLEST = 256  #: pixels; the side of the smallest textures
TEST_TEXTURES = ("countryside4", "deciduous2", "drycrop1", "industrial", "mixedcrop4", "tundra2")
"""Held out of training."""
SUMMER_TEXTURES = (
    "Town1",
    "countryside1",
    "cropgrass1",
    "cropgrass2",
    "cropgrass3",
    "cropwood",
    "deciduous1",
    "herbtundra",
    "irrcrop1",
    "irrcrop2",
    "irrcrop3",
    "mixedforest2",
    "shrub",
    "transport",
)
"""Shown in summer only where training is unpaired; the other training textures are shown in winter only."""
# Between these three parts no two textures correlate by more than 0.2 at any shift, in either season, once their coarse
# brightness is taken off. Within a part some do by 0.8 (irrcrop1 is cropgrass1 in other colours), and most textures
# repeat pieces of themselves, which is why the parts are made of whole textures.

Layout = Literal["cyclegan", "aligned"]

FLIGHTGEAR = DebianPackage(
    name="flightgear-data-base",
    version="1:2020.3.16+dfsg-1",
    root="usr/share/games/flightgear/Textures",
    files=SHA256,
    megabytes=1339,
)


@dataclass(frozen=True, eq=False)
class SeasonPair:
    """One piece of ground in both seasons: ``summer`` and ``winter``, uint8 [H, W, 3] of one size."""

    name: str
    summer: np.ndarray
    winter: np.ndarray

    @property
    def is_test(self) -> bool:
        return self.name in TEST_TEXTURES


def season_files() -> Path:
    """The folder with the textures as they are packed, fetched if need be (1.3 GB).

    Raises:
        UserError: they cannot be had here; it says what to do.
    """
    return fetch_deb(FLIGHTGEAR)


def season_pairs() -> Iterator[SeasonPair]:
    """The texture pairs, sorted by name, fetched if need be. Where one season is larger it is reduced to the other.

    Raises:
        UserError: as :func:`season_files`.
    """
    folder = season_files()
    for name, files in TEXTURES.items():
        # The fourth channel is no transparency: the simulator keeps other things there, so it is dropped.
        summer, winter = (Image.open(folder / file).convert("RGB") for file in files)
        size = min(summer.size, winter.size)
        yield SeasonPair(
            name, *(np.asarray(picture.resize(size, Image.Resampling.BOX)) for picture in (summer, winter))
        )


def write_seasons(
    output: str | os.PathLike[str], layout: Layout = "cyclegan", size: int = 128, stride: int | None = None
) -> dict[str, int]:
    """Cut the textures into pictures to train and test on, and write them as PNG files.

    ``cyclegan``: ``trainA`` shows :data:`SUMMER_TEXTURES` in summer and ``trainB`` the other training textures in
    winter, so that no place is in both; ``testA`` and ``testB`` show the same places of the test textures: a picture's
    counterpart has its name. ``aligned``: ``train/summer``, ``train/winter``, ``test/summer`` and ``test/winter``,
    where both seasons show the same places under the same names. Test pictures are the same in both layouts.

    Args:
        output: a new or empty folder.
        layout: see above.
        size: side of the pictures in pixels, 8 to 256.
        stride: pixels from one training picture to the next; half the size by default, so that they overlap within
            their own domain. Test pictures never overlap.

    Returns:
        The number of pictures by folder.

    Raises:
        UserError: a bad size or stride, ``output`` is in use, or the textures cannot be had. Nothing is left then.
    """
    stride = max(1, size // 2) if stride is None else stride
    if not 8 <= size <= SMALLEST:
        raise UserError(f"size: expected 8 to {SMALLEST} pixels, got {size}")
    if stride < 1:
        raise UserError(f"stride: expected at least 1 pixel, got {stride}")
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output}: already there; choose a new or empty folder")
    counts: dict[str, int] = {}
    make_folder(output.parent)
    scratch = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        for pair in season_pairs():
            for folder, name, picture in _pictures(pair, layout, size, stride):
                if folder not in counts:
                    make_folder(scratch / folder)
                Image.fromarray(picture).save(scratch / folder / f"{name}.png")
                counts[folder] = counts.get(folder, 0) + 1
        os.replace(scratch, output)  # takes the place of an empty folder, never of one with files
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return counts


def _pictures(pair: SeasonPair, layout: Layout, size: int, stride: int) -> Iterator[tuple[str, str, np.ndarray]]:
    """Folder, name and pixels of the pictures that are cut out of a pair."""
    split, step = ("test", size) if pair.is_test else ("train", stride)
    for season, letter, texture in zip(SEASONS, "AB", (pair.summer, pair.winter), strict=True):
        if layout == "aligned":
            folder = f"{split}/{season}"
        elif pair.is_test or (pair.name in SUMMER_TEXTURES) == (season == SEASONS[0]):
            folder = f"{split}{letter}"
        else:
            continue
        height, width = texture.shape[:2]
        for row in range(0, height - size + 1, step):
            for column in range(0, width - size + 1, step):
                yield folder, f"{pair.name}-{row:04d}-{column:04d}", texture[row : row + size, column : column + size]
