"""Translated pictures against the true ones.

Pictures are uint8 [N, H, W, 3]. L1 is in units of the networks' range [-1, 1], as the losses of training are: 0 is
perfect, 2 is black for white. PSNR is that of the 8-bit pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

#: Water is where blue exceeds red by more than this. One threshold for each Earth domain, where the rule agrees best
#: with the mask on the places of the training sets at 2700 pixels round the equator; a test holds the agreement on the
#: test places over 0.95.
WATER_BLUE_OVER_RED = {"satellite": 17, "relief": 30, "topographic": 26, "mask": 0}

_CHUNK = 256  # pictures taken at once: bounds memory, changes no result


@dataclass(frozen=True)
class Score:
    """``l1`` in [0, 2], ``psnr`` in dB, ``land_sea`` the share of pixels with the right one of the two (or None)."""

    l1: float
    psnr: float
    land_sea: float | None = None


def l1(pictures: np.ndarray, truth: np.ndarray) -> float:
    """Mean absolute difference in units of [-1, 1]."""
    total = sum(float(np.abs(difference).sum(dtype=np.float64)) for difference in _differences(pictures, truth))
    return total / pictures.size / 127.5


def psnr(pictures: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, of each picture by itself, averaged; a perfect picture counts as 100 dB."""
    values = []
    for difference in _differences(pictures, truth):
        mse = np.square(difference, dtype=np.float32).mean(axis=(1, 2, 3), dtype=np.float64)
        values.append(np.minimum(100.0, 10 * np.log10(255.0**2 / np.maximum(mse, 1e-12))))
    return float(np.concatenate(values).mean())


def read_sea(pictures: np.ndarray, domain: str) -> np.ndarray:
    """Where an Earth picture [..., 3] shows water, bool [...], by its colours: blue over red by the domain's threshold.

    Sea floors and lakes are blue in all four domains; forests, deserts, rock and ice are not.
    """
    if domain not in WATER_BLUE_OVER_RED:
        raise ValueError(f"domain must be one of {', '.join(WATER_BLUE_OVER_RED)}, got {domain!r}")
    pictures = pictures.astype(np.int16)
    return pictures[..., 2] - pictures[..., 0] > WATER_BLUE_OVER_RED[domain]


def land_sea_agreement(pictures: np.ndarray, domain: str, land: np.ndarray) -> float:
    """Share of pixels whose land or water, read off the colours, agrees with the true ``land``, bool [N, H, W]."""
    if land.dtype != bool or land.shape != pictures.shape[:-1]:
        raise ValueError(f"land must be bool {list(pictures.shape[:-1])}, got {land.dtype} {list(land.shape)}")
    return float(np.mean(read_sea(pictures, domain) != land))


def score(pictures: np.ndarray, truth: np.ndarray, domain: str | None = None, land: np.ndarray | None = None) -> Score:
    """All scores of ``pictures``; land and sea only if the Earth ``domain`` of ``truth`` and ``land`` are given."""
    agreement = None if domain is None or land is None else land_sea_agreement(pictures, domain, land)
    return Score(l1(pictures, truth), psnr(pictures, truth), agreement)


def score_translation(
    translated: np.ndarray,
    truth: np.ndarray,
    inputs: np.ndarray,
    train_pictures: np.ndarray,
    domain: str | None = None,
    land: np.ndarray | None = None,
) -> dict[str, Score]:
    """The translation's score beside those of trivial answers and of the truth itself (what the colour rule can reach).

    Args:
        translated, truth, inputs: uint8 [N, H, W, 3]; ``inputs`` are the pictures that were translated.
        train_pictures: uint8 [M, H', W', 3], the target domain's training pictures; their mean colour is one trivial
            answer.
        domain, land: the Earth domain of ``truth`` and bool [N, H, W], for the land/sea agreement.

    Returns:
        Scores by name: ``translated``, ``input copied``, ``mean picture``, ``truth``.
    """
    colour = train_pictures.mean(axis=(0, 1, 2), dtype=np.float64)
    mean_picture = np.broadcast_to(np.rint(colour).astype(np.uint8), truth.shape)
    answers = {"translated": translated, "input copied": inputs, "mean picture": mean_picture, "truth": truth}
    return {name: score(pictures, truth, domain, land) for name, pictures in answers.items()}


def _differences(pictures: np.ndarray, truth: np.ndarray) -> Iterator[np.ndarray]:
    """int16 differences, some pictures at a time."""
    for name, value in (("pictures", pictures), ("truth", truth)):
        if value.dtype != np.uint8 or value.ndim != 4 or value.shape[-1] != 3 or value.size == 0:
            raise ValueError(f"{name} must be uint8 [N, H, W, 3], not empty, got {value.dtype} {list(value.shape)}")
    if pictures.shape != truth.shape:
        raise ValueError(f"pictures must have the shape of the truth {list(truth.shape)}, got {list(pictures.shape)}")
    for start in range(0, len(truth), _CHUNK):
        yield pictures[start : start + _CHUNK].astype(np.int16) - truth[start : start + _CHUNK]
