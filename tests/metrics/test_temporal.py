"""Flicker against the plain formula in float64 and against clips whose value is known."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from jdm_fast.metrics.temporal import Flicker, flicker, ratio


def noise(seed: int, count: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 5, 7, 3), np.uint8)


def plain(frames: np.ndarray) -> float:
    values = frames.astype(np.float64)
    if frames.dtype == np.uint8:
        values = values / 127.5 - 1
    return float(np.abs(values[:-2] - 2 * values[1:-1] + values[2:]).mean())


@pytest.mark.parametrize("parts", [[9], [1] * 9, [2, 7], [4, 0, 5]])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_against_the_plain_formula_in_whatever_parts(kind: type, parts: list[int]) -> None:
    clip = noise(1) if kind is np.uint8 else (noise(1) / 127.5 - 1).astype(kind)
    measure, start = Flicker(), 0
    for count in parts:
        measure.add(clip[start : start + count])
        start += count
    tolerance = 1e-12 if kind is np.uint8 else 1e-6
    assert measure.value() == pytest.approx(plain(clip), rel=tolerance) and measure.frames == 9
    assert measure.value() == flicker(clip) if parts == [9] else flicker(clip) == pytest.approx(measure.value())


def test_known_values() -> None:
    picture = noise(2, 1)[0]
    assert flicker(np.repeat(picture[None], 6, 0)) == 0
    ramp = np.arange(9, dtype=np.uint8)[:, None, None, None] * np.ones((1, 5, 7, 3), np.uint8)
    assert flicker(7 * ramp + 3) == 0
    fade = np.linspace(-1, 1, 9)[:, None, None, None] * np.random.default_rng(0).uniform(-1, 1, (1, 5, 7, 3))
    assert flicker(fade) < 1e-6
    black_and_white = np.zeros((6, 2, 2, 3), np.uint8)
    black_and_white[::2] = 255
    assert flicker(black_and_white) == pytest.approx(4)
    sigma = 0.1
    white = np.random.default_rng(0).normal(0, sigma, (60, 40, 40, 3))
    assert flicker(white) == pytest.approx(2 * math.sqrt(3 / math.pi) * sigma, rel=0.01)
    ends = np.random.default_rng(0).uniform(0, 255, (2, 40, 40, 3))
    fade = ends[0] + np.linspace(0, 1, 60)[:, None, None, None] * (ends[1] - ends[0])
    assert flicker(np.rint(fade).astype(np.uint8)) == pytest.approx(0.004, rel=0.05)  # what 8 bits alone give


def test_fewer_than_three_frames_have_none() -> None:
    for count in range(3):
        assert flicker(noise(0, count)) is None
    assert flicker(noise(0, 3)) is not None


def test_memory_does_not_grow_with_the_length() -> None:
    def peak(count: int) -> int:
        measure = Flicker()
        tracemalloc.start()
        for number in range(count):
            measure.add(np.full((1, 40, 50, 3), number % 256, np.uint8))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(9)  # what is imported and kept at first use is no part of it
    assert peak(161) < 1.5 * peak(17)


@pytest.mark.parametrize(
    "frames, message",
    [
        (noise(1)[0], "expected a clip"),
        (noise(1).astype(np.int64), "int64"),
        (noise(1)[:, :4], "shape of those before"),
        (noise(1).astype(np.float32), "in all parts of a clip or in none"),
    ],
)
def test_unfit_frames_are_refused_and_not_counted(frames: np.ndarray, message: str) -> None:
    measure = Flicker()
    measure.add(noise(1))
    before = measure.value()
    with pytest.raises(ValueError, match=message):
        measure.add(frames)
    assert measure.value() == before and measure.frames == 9


@pytest.mark.parametrize(
    "made, real, expected", [(0.2, 0.1, 2.0), (0.0, 0.1, 0.0), (0.1, 0.0, None), (None, 0.1, None), (0.1, None, None)]
)
def test_ratio(made: float | None, real: float | None, expected: float | None) -> None:
    assert ratio(made, real) == expected
