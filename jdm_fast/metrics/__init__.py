"""Scores against a known truth: single pictures in :mod:`.truth`, videos in :mod:`.video`."""

from __future__ import annotations

from jdm_fast.metrics.truth import Score, l1, land_sea_agreement, psnr, read_sea, score, score_translation
from jdm_fast.metrics.video import DomainVideoScore, VideoScore, cross_fade, score_video

__all__ = [
    "DomainVideoScore",
    "Score",
    "VideoScore",
    "cross_fade",
    "l1",
    "land_sea_agreement",
    "psnr",
    "read_sea",
    "score",
    "score_translation",
    "score_video",
]
