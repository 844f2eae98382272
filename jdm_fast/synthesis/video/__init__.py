"""Two-domain video from files, in constant memory: rates and scene cuts, segments that survive a kill, sound.

``timeline`` says when frames are shown, ``job`` makes one input into its outputs, ``api`` is what is public.
"""

from __future__ import annotations

from jdm_fast.synthesis.video.api import (
    FolderResult,
    find_videos,
    folder_outputs,
    plan_video,
    synthesize_folder,
    synthesize_video,
)
from jdm_fast.synthesis.video.job import VideoPlan, VideoResult
from jdm_fast.synthesis.video.options import DEFAULT_FPS

__all__ = [
    "DEFAULT_FPS",
    "FolderResult",
    "VideoPlan",
    "VideoResult",
    "find_videos",
    "folder_outputs",
    "plan_video",
    "synthesize_folder",
    "synthesize_video",
]
