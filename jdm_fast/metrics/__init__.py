"""Scores against a known truth: single pictures in :mod:`.truth`, videos in :mod:`.video`.

:mod:`.held_out` scores a model in training, :mod:`.files` what is translated from files to files.
"""

from __future__ import annotations

from jdm_fast.metrics.classes import CITYSCAPES, EARTH_MASK, PALETTES, Palette, find_palette
from jdm_fast.metrics.held_out import as_numbers, mean_colours, score_held_out
from jdm_fast.metrics.sea import land_sea_agreement, read_sea
from jdm_fast.metrics.truth import Score, TruthScores, l1, psnr, score, score_translation, ssim
from jdm_fast.metrics.video import DomainVideoScore, DomainVideoScores, VideoScore, cross_fade, score_video

__all__ = [
    "CITYSCAPES",
    "EARTH_MASK",
    "PALETTES",
    "DomainVideoScore",
    "DomainVideoScores",
    "Palette",
    "Score",
    "TruthScores",
    "VideoScore",
    "as_numbers",
    "cross_fade",
    "find_palette",
    "l1",
    "land_sea_agreement",
    "mean_colours",
    "psnr",
    "read_sea",
    "score",
    "score_held_out",
    "score_translation",
    "score_video",
    "ssim",
]
