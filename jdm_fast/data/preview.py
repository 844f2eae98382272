"""A look at a data set: some pictures of each domain, those that belong together one above the other."""

from __future__ import annotations

from itertools import islice

import numpy as np
from PIL import Image

from jdm_fast.data.dataset import Arrays, Domain, Features, Group, ImageFiles, Layout
from jdm_fast.data.images import read_image, resize_image
from jdm_fast.data.sheet import contact_sheet
from jdm_fast.data.video_files import read_frames


def preview(layout: Layout, split: str = "train", count: int = 6, side: int = 128) -> np.ndarray:
    """One picture of a data set: a row for each domain of each group, ``count`` items, evenly spaced, in columns.

    Items of a group that belong together are in one column. Pictures are fitted into cells ``side`` pixels high;
    vectors are shown as grey values.

    Returns:
        uint8 [H, W, 3].

    Raises:
        UserError: a picture cannot be read.
    """
    rows, captions = [], []
    for group in layout.splits[split]:
        for name, pictures in _items(group, count).items():
            rows.append(pictures)
            captions.append(name)
    shapes = [picture.shape for row in rows for picture in row]
    aspect = np.median([width / height for height, width, _ in shapes])
    cell = (side, max(1, round(side * min(max(aspect, 0.5), 2.0))))
    return contact_sheet([[_fit(picture, cell) for picture in row] for row in rows], captions=captions, gap=4)


def read_item(domain: Domain, index: int) -> np.ndarray:
    """Item ``index`` of a domain as a picture, uint8 [H, W, 3]; vectors [K, D] as grey values, wrapped to a square.

    Raises:
        UserError: its file cannot be read.
    """
    if isinstance(domain, ImageFiles):
        image = read_image(domain.paths[index], domain.palette)
        half = image.shape[1] // 2
        return {"whole": image, "left": image[:, :half], "right": image[:, image.shape[1] - half :]}[domain.region]
    if isinstance(domain, Arrays):
        image = np.rot90(domain.pixels[index], -domain.quarter_turns)
        return image if image.shape[2] == 3 else image.repeat(3, axis=2)
    if isinstance(domain, Features):
        return _values_as_picture(domain.values[index])
    path, number = domain.frames[index]
    return next(islice(read_frames(path), number, None))


def _items(group: Group, count: int) -> dict[str, list[np.ndarray]]:
    chosen = np.linspace(0, len(group) - 1, min(count, len(group))).round().astype(int)
    return {name: [read_item(domain, int(index)) for index in chosen] for name, domain in group.domains.items()}


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
        fitted = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.NEAREST))
    else:
        fitted = resize_image(np.ascontiguousarray(picture), size)
    top, left = (cell[0] - size[0]) // 2, (cell[1] - size[1]) // 2
    canvas = np.full((*cell, 3), 255, np.uint8)
    canvas[top : top + size[0], left : left + size[1]] = fitted
    return canvas
