"""Scores of pictures, against arithmetic written plainly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jdm_fast.data.earth import mask_picture
from jdm_fast.metrics import l1, land_sea_agreement, psnr, read_sea, score, score_translation


def pictures(seed: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 5, 7, 3), np.uint8)


def filled(value: int, count: int = 2) -> np.ndarray:
    return np.full((count, 4, 4, 3), value, np.uint8)


@pytest.mark.parametrize("a, b, expected", [(0, 255, 2.0), (255, 0, 2.0), (9, 9, 0.0), (100, 151, 51 / 127.5)])
def test_l1_is_in_units_of_the_networks_range(a: int, b: int, expected: float) -> None:
    assert l1(filled(a), filled(b)) == pytest.approx(expected, abs=1e-12)


def test_l1_and_psnr_against_plain_loops() -> None:
    a, b = pictures(0), pictures(1)
    total, decibels = 0.0, []
    for p, q in zip(a.tolist(), b.tolist(), strict=True):
        values = [x - y for rows in zip(p, q, strict=True) for pixel in zip(*rows, strict=True) for x, y in zip(*pixel)]  # noqa: B905
        total += sum(abs(v) / 127.5 for v in values) / len(values)
        decibels.append(10 * math.log10(255**2 / (sum(v * v for v in values) / len(values))))
    assert l1(a, b) == pytest.approx(total / 3, rel=1e-6)
    assert psnr(a, b) == pytest.approx(sum(decibels) / 3, rel=1e-6)


def test_perfect_pictures() -> None:
    assert psnr(pictures(0), pictures(0)) == 100.0
    mixed = np.concatenate([pictures(0, 1), pictures(1, 1)])
    truth = np.concatenate([pictures(0, 1), pictures(2, 1)])
    assert psnr(mixed, truth) == pytest.approx((100 + psnr(mixed[1:], truth[1:])) / 2)


def test_many_pictures_are_scored_as_few() -> None:
    a, b = pictures(3, 700), pictures(4, 700)
    assert l1(a, b) == pytest.approx(np.mean([l1(a[k : k + 1], b[k : k + 1]) for k in range(700)]))
    assert psnr(a, b) == pytest.approx(np.mean([psnr(a[k : k + 1], b[k : k + 1]) for k in range(700)]))


@pytest.mark.parametrize(
    "a, b",
    [
        (pictures(0), pictures(0)[:2]),
        (pictures(0).astype(np.float32), pictures(0)),
        (pictures(0), pictures(0)[..., 0]),
        (pictures(0)[:0], pictures(0)[:0]),
    ],
)
def test_unfit_arrays_are_refused(a: np.ndarray, b: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must"):
        l1(a, b)


@pytest.mark.parametrize(
    "domain, water, land",
    [
        ("satellite", [(5, 17, 69), (20, 60, 120), (1, 6, 27)], [(36, 44, 20), (200, 170, 140), (250, 250, 250)]),
        ("relief", [(166, 205, 238), (118, 166, 210)], [(169, 180, 168), (215, 205, 190)]),
        ("topographic", [(2, 68, 165), (147, 216, 245)], [(56, 160, 60), (186, 150, 60), (235, 235, 240)]),
    ],
)
def test_colours_of_land_and_water(domain: str, water: list, land: list) -> None:
    assert read_sea(np.uint8(water), domain).all()
    assert not read_sea(np.uint8(land), domain).any()


def test_agreement_counts_pixels() -> None:
    land = np.zeros((1, 4, 5), bool)
    land[:, :, :2] = True
    picture = mask_picture(land)
    assert land_sea_agreement(picture, "mask", land) == 1.0
    assert land_sea_agreement(picture, "mask", ~land) == 0.0
    picture[0, 0, 0] = picture[0, 0, 4]  # one of 20 pixels wrong
    assert land_sea_agreement(picture, "mask", land) == pytest.approx(0.95)
    with pytest.raises(ValueError, match="domain"):
        read_sea(picture, "weather")
    with pytest.raises(ValueError, match="land must be bool"):
        land_sea_agreement(picture, "mask", land[:, :3])


def test_score_translation_names_every_answer() -> None:
    land = np.random.default_rng(0).random((3, 6, 6)) < 0.7
    truth, inputs = mask_picture(land), mask_picture(~land)
    scores = score_translation(truth, truth, inputs, truth, "mask", land)
    assert scores["translated"] == scores["truth"] == score(truth, truth, "mask", land)
    assert scores["truth"].l1 == 0 and scores["truth"].land_sea == 1
    assert scores["input copied"].land_sea == 0 and scores["input copied"].l1 > 0.5
    mean = np.broadcast_to(np.rint(truth.reshape(-1, 3).mean(0)).astype(np.uint8), truth.shape)
    assert scores["mean picture"] == score(mean, truth, "mask", land)
    assert score_translation(truth, truth, inputs, truth)["translated"].land_sea is None
