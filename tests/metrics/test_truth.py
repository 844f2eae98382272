"""Scores of pictures, against arithmetic written plainly."""

from __future__ import annotations

import gc
import math
import weakref

import numpy as np
import pytest
import torch

import jdm_fast.metrics.truth
from jdm_fast.data.earth import mask_picture
from jdm_fast.metrics import (
    TruthScores,
    l1,
    land_sea_agreement,
    psnr,
    read_sea,
    score,
    score_translation,
    ssim,
)


def pictures(seed: int, count: int = 3, size: tuple[int, int] = (5, 7), channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, channels), np.uint8)


def filled(value: int, count: int = 2) -> np.ndarray:
    return np.full((count, 4, 4, 3), value, np.uint8)


# ---- L1 and PSNR ----------------------------------------------------------------------------------------------------


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
    assert l1(a, b) == pytest.approx(total / 3, rel=1e-12)
    assert psnr(a, b) == pytest.approx(sum(decibels) / 3, rel=1e-12)


def test_perfect_pictures() -> None:
    assert psnr(pictures(0), pictures(0)) == 100.0
    mixed = np.concatenate([pictures(0, 1), pictures(1, 1)])
    truth = np.concatenate([pictures(0, 1), pictures(2, 1)])
    assert psnr(mixed, truth) == pytest.approx((100 + psnr(mixed[1:], truth[1:])) / 2)


@pytest.mark.parametrize(
    "a, b",
    [
        (pictures(0), pictures(0)[:2]),
        (pictures(0).astype(np.float32), pictures(0)),
        (pictures(0), pictures(0)[..., 0]),
        (pictures(0)[:0], pictures(0)[:0]),
        (pictures(0, channels=4), pictures(0, channels=4)),
    ],
)
def test_unfit_arrays_are_refused(a: np.ndarray, b: np.ndarray) -> None:
    scores = TruthScores()
    for call in (l1, psnr, ssim, score, scores.add):
        with pytest.raises(ValueError, match="must"):
            call(a, b)
    assert scores.pictures == 0


# ---- SSIM -----------------------------------------------------------------------------------------------------------


def plain_ssim(picture: np.ndarray, truth: np.ndarray) -> float:
    """Wang's SSIM of two pictures [H, W, C] in float64: every window weighed as its definition says."""
    weights = np.exp(-(np.arange(-5.0, 6.0) ** 2) / (2 * 1.5**2))
    window = np.outer(weights, weights) / weights.sum() ** 2

    def mean(values: np.ndarray) -> np.ndarray:
        padded = np.pad(values, ((5, 5), (5, 5), (0, 0)), mode="reflect")
        return np.einsum("hwcij,ij->hwc", np.lib.stride_tricks.sliding_window_view(padded, (11, 11), (0, 1)), window)

    x, y = picture.astype(np.float64), truth.astype(np.float64)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    return float((((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


def ramp(count: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Smooth pictures, each of another tint."""
    down, right = np.mgrid[0:height, 0:width]
    tints = np.arange(1, count * channels + 1).reshape(count, 1, 1, channels)
    return (127 + 90 * np.sin(down[..., None] / 9 + tints) * np.cos(right[..., None] / 7)).astype(np.uint8)


def noisy(truth: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(7).normal(0, sigma, truth.shape)
    return np.clip(truth + noise, 0, 255).astype(np.uint8)


SSIM_CASES = {  # truth, picture, allowed difference of float32
    "smooth, a little noise": (ramp(3, 24, 31), noisy(ramp(3, 24, 31), 4), 1e-4),
    "smooth, much noise": (ramp(2, 24, 31), noisy(ramp(2, 24, 31), 50), 1e-5),
    "noise against noise": (pictures(0, 2, (20, 20)), pictures(1, 2, (20, 20)), 1e-5),
    "negative": (ramp(2, 24, 31), 255 - ramp(2, 24, 31), 1e-4),
    "equal": (ramp(2, 24, 31), ramp(2, 24, 31), 1e-4),
    "one colour": (ramp(2, 24, 31), np.full((2, 24, 31, 3), 130, np.uint8), 1e-4),
    "bright and nearly flat, the worst": (
        np.full((1, 24, 31, 3), 250, np.uint8),
        np.broadcast_to(np.uint8(250) + (np.arange(31)[:, None] > 9), (1, 24, 31, 3)).astype(np.uint8),
        1e-3,
    ),
    "grey": (ramp(2, 24, 31, 1), noisy(ramp(2, 24, 31, 1), 9), 1e-4),
    "as small as the window": (ramp(2, 11, 11), noisy(ramp(2, 11, 11), 9), 1e-4),
}


@pytest.mark.parametrize("case", SSIM_CASES)
def test_ssim_against_its_definition(case: str) -> None:
    truth, picture, tolerance = SSIM_CASES[case]
    expected = np.mean([plain_ssim(p, t) for p, t in zip(picture, truth, strict=True)])
    assert ssim(picture, truth) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("size", [(10, 40), (40, 10), (1, 1)])
def test_pictures_smaller_than_the_window_have_no_ssim(size: tuple[int, int]) -> None:
    a, b = pictures(0, 2, size), pictures(1, 2, size)
    assert ssim(a, b) is None and score(a, b).ssim is None
    scores = TruthScores()
    scores.add(a, b)
    scores.add(noisy(ramp(2, 24, 31), 9), ramp(2, 24, 31))
    assert scores.result().ssim == ssim(noisy(ramp(2, 24, 31), 9), ramp(2, 24, 31)), "the others have one"


@pytest.mark.gpu
def test_scores_on_a_gpu_are_those_of_a_cpu() -> None:
    truth, picture = ramp(3, 40, 50), noisy(ramp(3, 40, 50), 9)
    on_gpu = score(torch.from_numpy(picture).cuda(), torch.from_numpy(truth).cuda())
    expected = score(picture, truth)
    assert (on_gpu.l1, on_gpu.psnr) == (expected.l1, pytest.approx(expected.psnr, rel=1e-12))
    assert on_gpu.ssim == pytest.approx(np.mean([plain_ssim(p, t) for p, t in zip(picture, truth, strict=True)]), 1e-9)


# ---- pictures as they come ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [[7], [1] * 7, [3, 4], [5, 2]])
@pytest.mark.parametrize("chunk", [2**20, 24 * 31 * 2, 1])
def test_the_same_score_in_whatever_parts(parts: list[int], chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jdm_fast.metrics.truth, "_CHUNK_PIXELS", chunk)
    land = np.random.default_rng(0).random((7, 24, 31)) < 0.6
    truth = mask_picture(land)
    made = noisy(truth, 60)
    scores, start = TruthScores("mask"), 0
    for count in parts:
        part = slice(start, start + count)
        scores.add(made[part], torch.from_numpy(truth[part]), land[part])
        start += count
    got = scores.result()
    assert scores.pictures == 7
    singles = [score(made[k : k + 1], truth[k : k + 1], "mask", land[k : k + 1]) for k in range(7)]
    for kind in ("l1", "psnr", "ssim", "land_sea"):
        assert getattr(got, kind) == pytest.approx(np.mean([getattr(single, kind) for single in singles]), abs=1e-6)
    assert got.miou == score(made, truth, "mask").miou


def test_pictures_of_several_sizes() -> None:
    """L1 is over all pixels, PSNR over pictures."""
    small, large = (pictures(0, 1), pictures(1, 1)), (pictures(2, 1, (10, 14)), pictures(3, 1, (10, 14)))
    scores = TruthScores()
    for made, truth in (small, large):
        scores.add(made, truth)
    assert scores.result().l1 == pytest.approx((l1(*small) + 4 * l1(*large)) / 5)
    assert scores.result().psnr == pytest.approx((psnr(*small) + psnr(*large)) / 2)


def test_no_picture_is_kept() -> None:
    scores, alive = TruthScores("mask"), []
    for seed in range(5):
        land = np.random.default_rng(seed).random((2, 16, 16)) < 0.5
        arrays = [noisy(mask_picture(land), 20), mask_picture(land), land]
        scores.add(*arrays)
        alive += [weakref.ref(array) for array in arrays]
        del land, arrays
    gc.collect()
    assert scores.pictures == 10 and not any(reference() is not None for reference in alive)


def test_what_cannot_be_counted_together() -> None:
    land = np.zeros((3, 5, 7), bool)
    with pytest.raises(ValueError, match="nothing to score"):
        TruthScores().result()
    with pytest.raises(ValueError, match="domain must be one of"):
        TruthScores("weather")
    with pytest.raises(ValueError, match="no Earth domain"):
        TruthScores().add(pictures(0), pictures(1), land)
    with pytest.raises(ValueError, match="3 channels"):
        TruthScores("mask").add(pictures(0, channels=1), pictures(1, channels=1))
    scores = TruthScores("relief")
    with pytest.raises(ValueError, match="land must be bool"):
        scores.add(pictures(0), pictures(1), land[:2])
    scores.add(pictures(0), pictures(1), land)
    with pytest.raises(ValueError, match="for all pictures or for none"):
        scores.add(pictures(0), pictures(1))
    assert scores.pictures == 3


# ---- land and sea ---------------------------------------------------------------------------------------------------


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
    land = np.random.default_rng(0).random((3, 12, 12)) < 0.7
    truth, inputs = mask_picture(land), mask_picture(~land)
    scores = score_translation(truth, truth, inputs, truth, "mask", land)
    assert scores["translated"] == scores["truth"] == score(truth, truth, "mask", land)
    assert scores["truth"].l1 == 0 and scores["truth"].land_sea == scores["truth"].miou == 1
    assert scores["truth"].ssim == pytest.approx(1, abs=1e-4)
    assert scores["input copied"].land_sea == scores["input copied"].miou == 0 and scores["input copied"].l1 > 0.5
    mean = np.broadcast_to(np.rint(truth.reshape(-1, 3).mean(0)).astype(np.uint8), truth.shape)
    assert scores["mean picture"] == score(mean, truth, "mask", land)
    plain = score_translation(truth, truth, inputs, truth)["translated"]
    assert plain.land_sea is None and plain.miou is None
