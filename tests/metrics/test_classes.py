"""Classes shown by colours, against plain numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from jdm_fast.data.earth import LAND_COLOUR, WATER_COLOUR
from jdm_fast.errors import UserError
from jdm_fast.metrics import CITYSCAPES, EARTH_MASK, PALETTES, Palette, TruthScores, find_palette, score

FOUR = Palette(("road", "car", "sky", "tree"), ((128, 64, 128), (0, 0, 142), (70, 130, 180), (107, 142, 35)))


def pictures(seed: int, count: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 9, 13, 3), np.uint8)


def plain_classes(picture: np.ndarray, palette: Palette) -> np.ndarray:
    difference = picture[..., None, :].astype(np.int64) - np.array(palette.colours)
    return np.square(difference).sum(-1).argmin(-1)


def plain_miou(picture: np.ndarray, truth: np.ndarray, palette: Palette) -> float:
    ours, true = plain_classes(picture, palette), plain_classes(truth, palette)
    shares = []
    for number in range(len(palette.names)):
        union = ((ours == number) | (true == number)).sum()
        if union:
            shares.append(((ours == number) & (true == number)).sum() / union)
    return float(np.mean(shares))


@pytest.mark.parametrize("palette", [FOUR, EARTH_MASK])
def test_nearest_colour_and_mean_iou(palette: Palette) -> None:
    made, truth = pictures(0), pictures(1)
    made[:, :4] = truth[:, :4]
    np.testing.assert_array_equal(palette.classes(torch.from_numpy(made)).numpy(), plain_classes(made, palette))
    assert score(made, truth, palette=palette).miou == pytest.approx(plain_miou(made, truth, palette), rel=1e-12)


def test_every_colour_is_its_own_class_and_the_first_of_equals_wins() -> None:
    assert FOUR.classes(torch.tensor(FOUR.colours, dtype=torch.uint8)).tolist() == [0, 1, 2, 3]
    middle = Palette(("a", "b"), ((0, 0, 0), (0, 0, 200)))
    assert middle.classes(torch.tensor([[0, 0, 100], [0, 0, 101]], dtype=torch.uint8)).tolist() == [0, 1]


def test_the_mask_of_the_earth_has_its_palette() -> None:
    truth = np.uint8([LAND_COLOUR, WATER_COLOUR])[np.random.default_rng(0).integers(0, 2, (2, 9, 9))]
    made = truth.copy()
    made[0, 0] = np.uint8(LAND_COLOUR) - 20  # a shade of land
    assert score(made, truth, "mask").miou == plain_miou(made, truth, EARTH_MASK) < 1
    assert score(made, truth, "satellite").miou is None and score(made, truth).miou is None


def test_iou_is_of_the_whole_set_and_of_classes_that_occur() -> None:
    """The second picture holds one pixel of a class that the first has everywhere: the mean of the two pictures' own
    scores would be far lower."""
    colours = np.uint8(FOUR.colours)
    truth = np.stack([np.broadcast_to(colours[0], (9, 13, 3)), np.broadcast_to(colours[1], (9, 13, 3))])
    made = truth.copy()
    made[1, 0, 0] = colours[0]
    scores = TruthScores(palette=FOUR)
    for k in range(2):
        scores.add(made[k : k + 1], truth[k : k + 1])
    assert scores.iou() == {"road": 117 / 118, "car": 116 / 117}
    assert scores.result().miou == pytest.approx((117 / 118 + 116 / 117) / 2) == plain_miou(made, truth, FOUR)
    assert TruthScores().iou() is None


@pytest.mark.parametrize(
    "names, colours, message",
    [
        (("a",), ((1, 2, 3),), "two or more"),
        (("a", "b"), ((1, 2, 3),), "a colour for each"),
        (("a", "a"), ((1, 2, 3), (1, 2, 4)), "twice"),
        (("a", "b"), ((1, 2, 3), (1, 2, 3)), "twice"),
        (("a", "b"), ((1, 2, 3), (1, 2, 256)), "from 0 to 255"),
        (("a", "b"), ((1, 2, 3), (1, 2)), "three whole numbers"),
    ],
)
def test_unfit_palettes(names: tuple, colours: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Palette(names, colours)


def test_ignored_classes_are_not_counted() -> None:
    """Where the truth is ignored nothing counts; showing an ignored class elsewhere is wrong."""
    palette = Palette(FOUR.names, FOUR.colours, ignored=("sky",))
    made, truth = pictures(0), pictures(1)
    made[:, :4] = truth[:, :4]
    ours, true = plain_classes(made, FOUR), plain_classes(truth, FOUR)
    valid = true != FOUR.names.index("sky")
    expected = {}
    for number, name in enumerate(FOUR.names):
        if name != "sky":
            union = valid & ((ours == number) | (true == number))
            expected[name] = (union & (ours == true)).sum() / union.sum()
    scores = TruthScores(palette=palette)
    scores.add(made, truth)
    assert scores.iou() == pytest.approx(expected, rel=1e-12)
    assert scores.result().miou == pytest.approx(np.mean(list(expected.values())), rel=1e-12)
    sky = np.broadcast_to(np.uint8(FOUR.colours[2]), truth.shape)
    assert score(made, sky, palette=palette).miou is None, "nothing is left to count"
    for ignored in (("sea",), FOUR.names):
        with pytest.raises(ValueError, match="ignored"):
            Palette(FOUR.names, FOUR.colours, ignored)


def test_cityscapes_is_judged_by_nineteen_classes() -> None:
    assert len(set(CITYSCAPES.names) - set(CITYSCAPES.ignored)) == 19
    colour = dict(zip(CITYSCAPES.names, CITYSCAPES.colours, strict=True))
    assert (colour["road"], colour["car"], colour["train"]) == ((128, 64, 128), (0, 0, 142), (0, 80, 100))
    assert (0, 0, 0) in [colour[name] for name in CITYSCAPES.ignored]


def test_palette_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "palette.json"
    path.write_text('{"road": [128, 64, 128], "car": [0, 0, 142]}')
    assert find_palette(path) == Palette(("road", "car"), ((128, 64, 128), (0, 0, 142)))
    for text in ("", "[1, 2]", '{"road": 3}', '{"road": [1, 2, 3]}', '{"a": [1, 2, 3], "b": [0.5, 1, 1]}'):
        path.write_text(text)
        with pytest.raises(UserError, match="not a palette"):
            find_palette(path)
    with pytest.raises(UserError, match="cannot be read"):
        find_palette(tmp_path / "gone.json")
    assert all(find_palette(name) is palette for name, palette in PALETTES.items())
