"""Video in and out of files. Reading is in :mod:`jdm_fast.data.video_read`, writing in
:mod:`jdm_fast.data.video_write`; this is both under one name."""

from __future__ import annotations

from jdm_fast.data.video_read import Decoder, count_frames, open_frames, read_frames
from jdm_fast.data.video_source import ConstantRate, FrameSource, TimedFrame
from jdm_fast.data.video_write import (
    VIDEO_SUFFIXES,
    FolderWriter,
    FrameWriter,
    VideoWriter,
    require_new_folder,
    write_video,
)

__all__ = [
    "VIDEO_SUFFIXES",
    "ConstantRate",
    "Decoder",
    "FolderWriter",
    "FrameSource",
    "FrameWriter",
    "TimedFrame",
    "VideoWriter",
    "count_frames",
    "open_frames",
    "read_frames",
    "require_new_folder",
    "write_video",
]
