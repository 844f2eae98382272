"""``jdm-fast video RUN IN OUT --factor 8``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from jdm_fast import synthesis
from jdm_fast.cli._progress import counting
from jdm_fast.errors import UserError


@dataclass
class Video:
    """Two-domain video (Algorithm 2): the input's frames are key frames; factor - 1 frames are made between two.

    Writes OUT (both domains side by side), and beside it each domain alone.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a training run. It carries its configuration: no option here has to match the training."""
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IN [IN2] OUT")]
    """IN is a video, a folder of frames, or (IN, IN2) two pictures. OUT ends in .mp4, .mkv or .mov, or is a folder."""
    factor: int = 8
    """Frames made of one: T key frames become (T - 1) * factor + 1."""
    source: Literal["x", "y"] = "x"
    """The domain the input belongs to."""
    every: int = 1
    """Use only every n-th frame of the input as a key frame."""
    fps: float | None = None
    """Frames per second of the output; by default the input's duration is kept."""
    mode: Literal["lerp", "slerp"] = "lerp"
    """How latents are interpolated: linearly (the paper) or on the sphere."""
    crf: int = 18
    """H.264 quality: 0 is lossless, larger is smaller and worse."""
    batch_size: int | None = None
    """Frames decoded at once; by default as many as fit a sensible amount of memory."""
    frames: bool = False
    """Write PNG frames into the folder OUT instead of a video."""
    device: str | None = None
    """cpu or cuda; by default the GPU if there is one."""


def run(arguments: list[str]) -> int:
    """Synthesise the video; the files appear under their names only when they are whole."""
    options = tyro.cli(Video, args=arguments, prog="jdm-fast video")
    *inputs, output = options.paths
    if len(inputs) not in (1, 2):
        raise UserError(
            f"expected RUN IN OUT with a video or a folder of frames, or RUN IN IN2 OUT with two pictures, "
            f"got {len(options.paths)} paths after RUN"
        )
    console = Console()
    model = synthesis.load(options.run, device=options.device)
    with counting(console, "synthesising", "frames") as on_progress:
        made = synthesis.synthesize_video(
            model,
            inputs[0] if len(inputs) == 1 else inputs,
            output,
            factor=options.factor,
            source=options.source,
            every=options.every,
            fps=options.fps,
            mode=options.mode,
            crf=options.crf,
            batch_size=options.batch_size,
            as_frames=options.frames,
            on_progress=on_progress,
        )
    console.print(
        f"{made.frames} frames from {made.key_frames} key frames, {float(made.fps):g} frames/s:", markup=False
    )
    for name, path in made.files.items():
        console.print(f"  {name:5} {path}", markup=False)
    return 0
