from __future__ import annotations

import numpy as np
import pytest

from jdm_fast.data.sheet import contact_sheet


def flat(value: int, height: int = 4, width: int = 6) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_places_of_pictures() -> None:
    """Two rows, the second shorter, with a gap of 3 and twofold enlargement."""
    sheet = contact_sheet([np.stack([flat(10), flat(20)]), [flat(30)]], scale=2, gap=3)
    assert sheet.shape == (2 * 8 + 3, 2 * 12 + 3, 3) and sheet.dtype == np.uint8
    assert (sheet[:8, :12] == 10).all() and (sheet[:8, 15:] == 20).all() and (sheet[11:, :12] == 30).all()
    sheet[:8, :12] = sheet[:8, 15:] = sheet[11:, :12] = 255
    assert (sheet == 255).all(), "everything else is white"


def test_captions_and_titles_leave_the_pictures_whole() -> None:
    rows = [[flat(10, 20, 60), flat(20, 20, 60)], [flat(30, 20, 60), flat(40, 20, 60)]]
    plain = contact_sheet(rows)
    sheet = contact_sheet(rows, captions=["x", "a long caption"], titles=["left", "a title too wide for its column"])
    assert np.array_equal(sheet[-plain.shape[0] :, -plain.shape[1] :], plain)
    top, left = sheet.shape[0] - plain.shape[0], sheet.shape[1] - plain.shape[1]
    assert (sheet[:top] < 128).any() and (sheet[top:, :left] < 128).any(), "text is written"
    assert (sheet[:top, :left] == 255).all()
    assert (sheet[:, left - 2 : left] == 255).all(), "captions stop before the pictures"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"rows": []}, "rows: expected pictures of one size, got none"),
        ({"rows": [[flat(1), flat(1, 5)]]}, r"one size, got \(4, 6\), \(5, 6\)"),
        ({"rows": [[flat(1)]], "captions": ["a", "b"]}, "captions: expected one for each of the 1 rows, got 2"),
        ({"rows": [[flat(1)]], "titles": ["a", "b"]}, "titles: expected one for each of the 1 columns, got 2"),
    ],
)
def test_what_cannot_be_drawn(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contact_sheet(**arguments)
