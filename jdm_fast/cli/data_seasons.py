"""``jdm-fast data seasons OUT``: summer and winter pictures with known truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from jdm_fast.data.seasons import Layout, season_files, write_seasons


@dataclass
class SeasonsOptions:
    """Write FlightGear's aerial textures in summer and in winter, to train on, with known truth.

    Needs 1.3 GB of download once (jdm-fast data fetch seasons). The pictures are GPL-2+.
    """

    output: Annotated[Path, tyro.conf.Positional]
    """A new or empty folder."""
    layout: Layout = "cyclegan"
    """cyclegan: trainA (summer) and trainB (winter) show different places; testA and testB the same. aligned: all
    pictures are paired: train/summer, train/winter, test/summer, test/winter."""
    size: int = 128
    """Side of the pictures in pixels, up to 256."""
    stride: int | None = None
    """Pixels between training pictures, which may overlap within their own domain; by default half the size."""


def run(arguments: list[str]) -> int:
    """Fetch the textures if need be, cut them, and print how many pictures are where."""
    options = tyro.cli(SeasonsOptions, args=arguments, prog="jdm-fast data seasons")
    console = Console(soft_wrap=True)
    with console.status("fetching the textures (1.3 GB, once)"):
        season_files()
    with console.status("cutting pictures"):
        counts = write_seasons(options.output, options.layout, options.size, options.stride)
    for folder, count in counts.items():
        console.print(f"  {count:6} pictures in {options.output / folder}", markup=False, highlight=False)
    return 0
