"""What a video job is asked for, checked; and the rates that follow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

from jdm_fast.data.video_files import Decoder, FrameSource
from jdm_fast.errors import UserError
from jdm_fast.ops.interpolate_latents import MODES
from jdm_fast.synthesis.video.timeline import SCENE_CUT
from jdm_fast.training.engines import EngineName

DEFAULT_FPS = Fraction(24)  #: of a video made from pictures, which have no rate of their own
DEFAULT_FACTOR = 8


@dataclass(frozen=True)
class VideoOptions:
    """See :func:`jdm_fast.synthesis.synthesize_video`, which says what each means.

    Raises:
        UserError: a value out of range, or options that do not go together.
    """

    factor: int | None = None
    source: str = "x"
    every: int = 1
    fps: Fraction | float | None = None
    input_fps: Fraction | float | None = None
    scene_cut: float | Literal["auto", "off"] = "auto"
    decoder: Decoder = "pyav"
    mode: str = "lerp"
    domains: Sequence[str] | None = None
    to: str | None = None
    as_frames: bool = False
    codec: str | None = None
    crf: int | None = None
    preset: str | None = None
    keep_audio: bool = False
    segment_frames: int = 512
    batch_size: int | Literal["auto"] | None = None
    engine: EngineName = "auto"
    precision: str = "auto"
    tile: int | None = None
    residual: bool = False

    def __post_init__(self) -> None:
        for name in ("factor", "every", "segment_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        if self.batch_size not in (None, "auto") and not (isinstance(self.batch_size, int) and self.batch_size >= 1):
            raise UserError(f"batch_size must be auto or at least 1, got {self.batch_size}")
        for name in ("fps", "input_fps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{name} must be above 0, got {value}")
        if self.scene_cut not in ("auto", "off") and not (
            isinstance(self.scene_cut, (int, float)) and 0 < self.scene_cut <= 1
        ):
            raise UserError(f"scene_cut must be auto, off, or a threshold above 0 and at most 1, got {self.scene_cut}")
        if self.mode not in MODES:
            raise UserError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        for name in ("codec", "preset"):
            if self.as_frames and getattr(self, name) is not None:
                raise UserError(f"{name}: frames are written as PNG; leave out --{name} or --frames")
        if self.to is not None and (self.factor is not None or self.domains is not None):
            raise UserError("to: every frame is translated, none made in between: it goes without factor and domains")
        if self.keep_audio and self.factor is not None and self.fps is not None:
            raise UserError(
                "keep_audio: factor and fps together change the duration (slow motion), which sound cannot follow; "
                "leave out one of the three"
            )
        if self.to is not None and self.residual:
            raise UserError("residual: it is for frames in between, and to makes none; leave out one of the two")
        if self.keep_audio and self.as_frames:
            raise UserError("keep_audio: frames have no sound; write a video, or leave it out")

    def cut_for(self, frames: FrameSource) -> float | None:
        """The threshold for scene cuts; by default videos have them, loose pictures do not (they may be far apart)."""
        if self.scene_cut == "off":
            return None
        if self.scene_cut == "auto":
            return None if frames.fps is None else SCENE_CUT
        return float(self.scene_cut)


class Rates(NamedTuple):
    """``sampled``: output frames for a second of input. ``shown``: frames per second of the output."""

    sampled: Fraction
    shown: Fraction
    to_end: bool


def rates(options: VideoOptions, frames: FrameSource) -> Rates:
    """How densely frames are made and how fast they are shown.

    ``fps`` alone is the rate of both, so that the duration is kept. ``factor`` says how many frames are made of one,
    and ``fps`` beside it how fast they are shown.
    """
    fps = None if options.fps is None else Fraction(options.fps).limit_denominator(65535)
    if fps == 0:
        raise UserError(f"fps must be above 0, got {options.fps}: too small to be stored in a video")
    step = Fraction(1, options.every)
    if options.to is not None:
        if frames.fps is None:
            return Rates(step, fps or DEFAULT_FPS, True)
        rate = fps or frames.fps * step
        return Rates(rate, rate, True)
    if frames.fps is None:  # pictures, a second apart: only their order is known
        return Rates((options.factor or DEFAULT_FACTOR) * step, fps or DEFAULT_FPS, False)
    if fps is not None and options.factor is None:
        return Rates(fps, fps, True)
    rate = frames.fps * (options.factor or DEFAULT_FACTOR) * step
    return Rates(rate, fps or rate, False)
