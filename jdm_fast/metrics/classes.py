"""Pictures that show classes by colours: which pixel is of which class, and the mean intersection over union (mIoU)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from jdm_fast.data.earth import LAND_COLOUR, WATER_COLOUR
from jdm_fast.data.layouts.cityscapes import PALETTE as CITYSCAPES_COLOURS
from jdm_fast.errors import UserError


@dataclass(frozen=True)
class Palette:
    """Classes and the colour of each.

    ``names`` and ``colours`` (red, green, blue, 0 to 255) go together: at least two, none twice. Pixels whose truth is
    one of the ``ignored`` classes are not counted; a picture that shows one elsewhere is wrong there. ValueError for
    what does not fit.
    """

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    ignored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colours) or len(self.names) < 2:
            raise ValueError(
                f"a palette needs two or more names and a colour for each, got {len(self.names)} names and "
                f"{len(self.colours)} colours"
            )
        if len(set(self.names)) != len(self.names) or len(set(self.colours)) != len(self.colours):
            raise ValueError("a palette needs different names and different colours, got one of them twice")
        if not set(self.ignored) < set(self.names):
            raise ValueError(f"some, not all, classes of a palette can be ignored, got {self.ignored}")
        for name, colour in zip(self.names, self.colours, strict=True):
            if len(colour) != 3 or not all(isinstance(value, int) and 0 <= value <= 255 for value in colour):
                raise ValueError(f"the colour of {name!r} must be three whole numbers from 0 to 255, got {colour}")

    def classes(self, pictures: Tensor) -> Tensor:
        """The class of each pixel of uint8 [..., 3], int64 [...]: that of the nearest colour, the first of equals.

        Near is meant in red, green and blue. So a picture softened by resizing or by a network has classes too.
        """
        pixels = pictures.to(torch.int32)
        distance = _squared_distance(pixels, self.colours[0])
        nearest = torch.zeros_like(distance, dtype=torch.int64)
        for number, colour in enumerate(self.colours[1:], 1):  # one class at a time: no array of [..., classes]
            other = _squared_distance(pixels, colour)
            nearest[other < distance] = number
            distance = torch.minimum(distance, other)
        return nearest


#: The Earth's domain ``mask``.
EARTH_MASK = Palette(("land", "water"), (LAND_COLOUR, WATER_COLOUR))

# the 19 classes that Cityscapes is judged by, and their label numbers
_CITYSCAPES_CLASSES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}


def _cityscapes() -> Palette:
    judged = {CITYSCAPES_COLOURS[number]: name for name, number in _CITYSCAPES_CLASSES.items()}
    colours = tuple(dict.fromkeys(CITYSCAPES_COLOURS))
    names = tuple(judged.get(colour, f"label {CITYSCAPES_COLOURS.index(colour)}") for colour in colours)
    return Palette(names, colours, tuple(name for name in names if name not in _CITYSCAPES_CLASSES))


#: Cityscapes' labels as colours: the 19 classes of its benchmark, all others ignored. Poles and groups of poles have
#: one colour there, and both count as poles.
CITYSCAPES = _cityscapes()

PALETTES = {"mask": EARTH_MASK, "cityscapes": CITYSCAPES}
"""Palettes that are known by name."""


class ClassCounts:
    """How many pixels of each true class were taken for which class, over any number of pictures."""

    def __init__(self, palette: Palette) -> None:
        self.palette = palette
        self.counts = torch.zeros((len(palette.names),) * 2, dtype=torch.int64)  # [true class, class of the picture]

    def add(self, pictures: Tensor, truth: Tensor) -> None:
        """Count the pixels of uint8 [..., 3] against those of the truth, of the same shape."""
        size = len(self.palette.names)
        both = self.palette.classes(truth) * size + self.palette.classes(pictures)
        self.counts += torch.bincount(both.flatten(), minlength=size**2).reshape(size, size).cpu()

    def iou(self) -> dict[str, float]:
        """Intersection over union of each class that occurs in the truth or in the pictures, but the ignored ones."""
        is_counted = torch.tensor([name not in self.palette.ignored for name in self.palette.names])
        counts = self.counts * is_counted[:, None]
        same = counts.diagonal()
        union = (counts.sum(0) + counts.sum(1) - same) * is_counted
        rows = zip(self.palette.names, same.tolist(), union.tolist(), strict=True)
        return {name: hits / pixels for name, hits, pixels in rows if pixels}

    def mean_iou(self) -> float | None:
        """The mean of :meth:`iou`: each class that occurs counts the same, however large it is. None if only ignored
        ones occur."""
        values = self.iou().values()
        return sum(values) / len(values) if values else None


def _squared_distance(pixels: Tensor, colour: tuple[int, int, int]) -> Tensor:
    return (pixels - pixels.new_tensor(colour)).square_().sum(-1, dtype=torch.int32)


def find_palette(name: str | os.PathLike[str]) -> Palette:
    """One of :data:`PALETTES`, or one from a JSON file such as ``{"road": [128, 64, 128], "car": [0, 0, 142]}``.

    Raises:
        UserError: there is neither, or the file holds no palette.
    """
    if name in PALETTES:
        return PALETTES[str(name)]
    path = Path(name)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return Palette(tuple(entries), tuple(tuple(colour) for colour in entries.values()))
    except OSError as error:
        raise UserError(
            f"{path}: the palette cannot be read: {error.strerror or error}; expected {', '.join(PALETTES)} or the "
            "name of a JSON file"
        ) from error
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path}: not a palette ({error}); expected JSON such as "
            '{"land": [216, 192, 136], "water": [40, 80, 160]}'
        ) from error
