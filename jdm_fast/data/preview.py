"""A look at a data set: some pictures of each domain, those that belong together one above the other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby, islice
from pathlib import Path

import numpy as np
from PIL import Image

from jdm_fast.data.check import item_files
from jdm_fast.data.dataset import Arrays, Domain, Features, Group, ImageFiles, Layout, VideoFrames
from jdm_fast.data.images import read_image, resize_image
from jdm_fast.data.sheet import contact_sheet
from jdm_fast.data.video_files import read_frames
from jdm_fast.errors import UserError


def preview(
    layout: Layout, split: str = "train", count: int = 6, side: int = 84, leave_out: Collection[Path] = ()
) -> np.ndarray:
    """One picture of a data set: a row for each domain of each group, ``count`` items, evenly spaced, in columns.

    Items of a group that belong together are in one column. Pictures are fitted into cells ``side`` pixels high;
    vectors are shown as grey values. Items of files to ``leave_out``, such as bad ones, are not shown.

    Returns:
        uint8 [H, W, 3].

    Raises:
        UserError: a picture cannot be read, or none is left.
    """
    rows, captions = [], []
    for group in layout.splits[split]:
        for name, pictures in _items(group, count, leave_out).items():
            rows.append(pictures)
            captions.append(name)
    shapes = [picture.shape for row in rows for picture in row]
    if not shapes:
        raise UserError(f"{layout.root}: no picture of {split} can be shown")
    aspect = np.median([width / height for height, width, _ in shapes])
    cell = (side, max(1, round(side * min(max(aspect, 0.5), 2.0))))
    return contact_sheet([[_fit(picture, cell) for picture in row] for row in rows], captions=captions, gap=4)


def read_items(domain: Domain, items: Sequence[int]) -> list[np.ndarray]:
    """Items of a domain, by ascending number, as pictures, uint8 [H, W, 3]; vectors [K, D] as grey values, wrapped to a
    square.

    Raises:
        UserError: a file cannot be read.
    """
    if isinstance(domain, VideoFrames):
        return _frames([domain.frames[item] for item in items])
    return [read_item(domain, item) for item in items]


def read_item(domain: Domain, item: int) -> np.ndarray:
    """One item; see :func:`read_items`."""
    if isinstance(domain, ImageFiles):
        image = read_image(domain.paths[item], domain.palette)
        half = image.shape[1] // 2
        return {"whole": image, "left": image[:, :half], "right": image[:, image.shape[1] - half :]}[domain.region]
    if isinstance(domain, Arrays):
        image = np.rot90(domain.pixels[item], -domain.quarter_turns)
        return image if image.shape[2] == 3 else image.repeat(3, axis=2)
    if isinstance(domain, Features):
        return _values_as_picture(domain.values[item])
    return _frames([domain.frames[item]])[0]


def _frames(places: Sequence[tuple[Path, int]]) -> list[np.ndarray]:
    """Frames of films, each film read once and no further than needed."""
    found = []
    for path, some in groupby(places, key=lambda place: place[0]):
        numbers = [number for _, number in some]
        first = islice(read_frames(path), numbers[-1] + 1)
        found += [frame for number, frame in enumerate(first) if number in numbers]
    if len(found) != len(places):
        raise UserError(f"{places[0][0].parent}: a video in it ends before the frame that was to be shown")
    return found


def _items(group: Group, count: int, leave_out: Collection[Path]) -> dict[str, list[np.ndarray]]:
    files = [item_files(domain) for domain in group.domains.values()]
    good = [item for item in range(len(group)) if not any(paths and paths[item] in leave_out for paths in files)]
    chosen = [good[round(place)] for place in np.linspace(0, len(good) - 1, min(count, len(good)))]
    return {name: read_items(domain, chosen) for name, domain in group.domains.items()}


def _values_as_picture(values: np.ndarray) -> np.ndarray:
    values = values.ravel()
    side = int(np.ceil(np.sqrt(values.size)))
    low, high = float(values.min()), float(values.max())
    grey = np.full(side * side, 255, np.uint8)
    grey[: values.size] = (values - low) / max(high - low, 1e-12) * 255
    return grey.reshape(side, side, 1).repeat(3, axis=2)


def _fit(picture: np.ndarray, cell: tuple[int, int]) -> np.ndarray:
    """The whole picture in the middle of a white cell; small ones are enlarged by whole pixels, not blurred."""
    height, width = picture.shape[:2]
    factor = min(cell[0] / height, cell[1] / width)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    if factor > 1:
        size = (height * int(factor), width * int(factor))
        fitted = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.NEAREST))
    else:
        fitted = resize_image(np.ascontiguousarray(picture), size)
    top, left = (cell[0] - size[0]) // 2, (cell[1] - size[1]) // 2
    canvas = np.full((*cell, 3), 255, np.uint8)
    canvas[top : top + size[0], left : left + size[1]] = fitted
    return canvas
