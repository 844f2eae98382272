"""Many small pictures as one: rows and columns with captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_LINE = 16  # pixels of a line of text in Pillow's own font
_MARGIN = 4


def contact_sheet(
    rows: Sequence[np.ndarray | Sequence[np.ndarray]],
    *,
    captions: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    scale: int = 1,
    gap: int = 2,
) -> np.ndarray:
    """Rows of pictures as one picture, on white.

    Args:
        rows: each uint8 [N, H, W, 3], or a sequence of uint8 [H, W, 3]; all of one size. A row may be shorter than
            others, and grey pictures [H, W, 1] are fine too.
        captions: a text for each row, at its left.
        titles: a text for each column, above it. A text too wide for its column is cut.
        scale: whole number that pictures are enlarged by, without smoothing.
        gap: white pixels between pictures.

    Returns:
        uint8 [height, width, 3].

    Raises:
        ValueError: there is no picture, their sizes differ, or there are not as many captions as rows, or more or
            fewer titles than columns.
    """
    shapes = sorted({picture.shape[:2] for row in rows for picture in row})
    if len(shapes) != 1:
        raise ValueError(f"rows: expected pictures of one size, got {', '.join(map(str, shapes)) or 'none'}")
    columns = max(len(row) for row in rows)
    if captions is not None and len(captions) != len(rows):
        raise ValueError(f"captions: expected one for each of the {len(rows)} rows, got {len(captions)}")
    if titles is not None and len(titles) != columns:
        raise ValueError(f"titles: expected one for each of the {columns} columns, got {len(titles)}")
    height, width = shapes[0][0] * scale, shapes[0][1] * scale
    font = ImageFont.load_default()
    left = max((2 * _MARGIN + round(font.getlength(text)) for text in captions or ()), default=-gap) + gap
    top = _LINE if titles else 0
    sheet = np.full((top + len(rows) * (height + gap) - gap, left + columns * (width + gap) - gap, 3), 255, np.uint8)
    for down, row in enumerate(rows):
        for right, picture in enumerate(row):
            enlarged = picture.repeat(scale, 0).repeat(scale, 1)
            above, beside = top + down * (height + gap), left + right * (width + gap)
            sheet[above : above + height, beside : beside + width] = enlarged
    for right, text in enumerate(titles or ()):
        beside = left + right * (width + gap)
        sheet[:top, beside : beside + width] = _text(text, top, width)
    for down, text in enumerate(captions or ()):
        above = top + down * (height + gap)
        sheet[above : above + height, : left - gap] = _text(text, height, left - gap)
    return sheet


def _text(text: str, height: int, width: int) -> np.ndarray:
    """A line of black text on white in the middle of uint8 [height, width, 3]."""
    picture = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(picture).text(
        (_MARGIN // 2, height // 2), text, fill="black", font=ImageFont.load_default(), anchor="lm"
    )
    return np.asarray(picture)
