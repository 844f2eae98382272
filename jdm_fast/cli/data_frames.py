"""``jdm-fast data frames VIDEO OUT``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from jdm_fast.cli._progress import counting
from jdm_fast.data.layouts import find_layout, find_sequence
from jdm_fast.data.video_files import Decoder, FolderWriter, open_frames
from jdm_fast.errors import UserError


@dataclass
class FramesOptions:
    """Write the frames of a video as PNG pictures, to train on: a domain can be a film.

    Or those of a sequence in a data set (Cityscapes, SYNTHIA), to make a video of.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """The video; with --sequence the root of the data set."""
    output: Annotated[Path, tyro.conf.Positional]
    """A new or empty folder."""
    every: int = 1
    """Keep every n-th frame."""
    fps: float | None = None
    """Take the video at this constant rate, each frame at its true time; for videos of variable rate."""
    sequence: str | None = None
    """Name of a sequence of the data set, as `jdm-fast data check ROOT` lists them."""
    decoder: Decoder = "pyav"
    """Who decodes the video: pyav on the CPU, dali on the GPU, or auto: dali where it can."""


def run(arguments: list[str]) -> int:
    """Write the frames and say how many."""
    options = tyro.cli(FramesOptions, args=arguments, prog="jdm-fast data frames")
    if options.every < 1:
        raise UserError(f"every: expected an integer of at least 1, got {options.every}")
    console = Console()
    what = options.source if options.sequence is None else find_sequence(find_layout(options.source), options.sequence)
    source = open_frames(what, fps=options.fps, decoder=options.decoder)
    count = 0
    with FolderWriter(options.output) as writer, counting(console, "reading", "frames") as on_progress:
        for number, frame in enumerate(source):
            if number % options.every == 0:
                writer.write(frame)
                count += 1
            on_progress(number + 1, source.count)
    console.print(f"  {count:6} pictures in {options.output}", markup=False)
    return 0
