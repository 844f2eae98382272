"""What a trained run is for: translated pictures, two-domain video, and tuples of all domains."""

from __future__ import annotations

from jdm_fast.synthesis.frame_engine import FrameEngine, Piece
from jdm_fast.synthesis.model import Model, load, load_two_step
from jdm_fast.synthesis.sample_files import Sampled, interpolate_files, sample_files
from jdm_fast.synthesis.translate import Translated, translate_files
from jdm_fast.synthesis.video import VideoPlan, VideoResult, plan_video, synthesize_folder, synthesize_video

__all__ = [
    "FrameEngine",
    "Model",
    "Piece",
    "Sampled",
    "Translated",
    "VideoPlan",
    "VideoResult",
    "interpolate_files",
    "load",
    "load_two_step",
    "plan_video",
    "sample_files",
    "synthesize_folder",
    "synthesize_video",
    "translate_files",
]
