"""What a trained run is for: translated pictures and two-domain video."""

from __future__ import annotations

from jdm_fast.synthesis.model import Model, load
from jdm_fast.synthesis.translate import Translated, translate_files
from jdm_fast.synthesis.video import VideoResult, synthesize_video

__all__ = ["Model", "Translated", "VideoResult", "load", "synthesize_video", "translate_files"]
