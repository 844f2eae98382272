"""``jdm-fast data earth OUT`` and ``jdm-fast data frames VIDEO OUT``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from jdm_fast.cli._progress import counting
from jdm_fast.data.earth import Earth
from jdm_fast.data.video_files import FolderWriter, open_frames
from jdm_fast.errors import UserError

Domain = Literal["satellite", "relief", "topographic", "mask"]


@dataclass
class EarthOptions:
    """Write real pictures of the Earth in two domains as a CycleGAN data root with known truth.

    trainA and trainB show different places, so that training is truly unpaired; testA, testB and testMask the same.
    """

    output: Annotated[Path, tyro.conf.Positional]
    """The folder to write."""
    domains: tuple[Domain, Domain] = ("satellite", "topographic")
    """Domains A and B."""
    size: int = 64
    """Side of the pictures in pixels."""
    width: int = 2700
    """Pixels round the equator: the scale of the pictures (at most 5400)."""
    stride: int | None = None
    """Pixels between training pictures, which may overlap within their own domain; by default a quarter of the size."""
    land: tuple[float, float] = (0.30, 0.97)
    """Smallest and largest share of land in a picture."""


@dataclass
class FramesOptions:
    """Write the frames of a video as PNG pictures, to train on: a domain can be a film."""

    video: Annotated[Path, tyro.conf.Positional]
    """The video."""
    output: Annotated[Path, tyro.conf.Positional]
    """A new or empty folder."""
    every: int = 1
    """Keep every n-th frame."""


_SETS = {
    "earth": "satellite, relief, topographic and land/sea pictures of the Earth, with known truth",
    "frames": "the frames of a video",
}


def run(arguments: list[str]) -> int:
    """Dispatch to what is to be written: ``earth`` or ``frames``."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: jdm-fast data WHAT ... OUT [OPTIONS]    (jdm-fast data WHAT --help for its options)\n")
        print("\n".join(f"  {name:8} {text}" for name, text in _SETS.items()))
        return 0 if arguments else 2
    if arguments[0] not in _SETS:
        raise UserError(f"no data set is called {arguments[0]!r}; there are: {', '.join(_SETS)}")
    return {"earth": _earth, "frames": _frames}[arguments[0]](arguments[1:], Console())


def _earth(arguments: list[str], console: Console) -> int:
    options = tyro.cli(EarthOptions, args=arguments, prog="jdm-fast data earth")
    with console.status("fetching and reading the Earth"):
        earth = Earth.load(options.width, options.domains)
        written = earth.write_unpaired(
            options.output, options.domains, options.size, stride=options.stride, land=options.land
        )
    for name, count in written.counts.items():
        console.print(f"  {count:6} pictures in {written.root / name}", markup=False)
    return 0


def _frames(arguments: list[str], console: Console) -> int:
    options = tyro.cli(FramesOptions, args=arguments, prog="jdm-fast data frames")
    if options.every < 1:
        raise UserError(f"every: expected an integer of at least 1, got {options.every}")
    source = open_frames(options.video)
    count = 0
    with FolderWriter(options.output) as writer, counting(console, "reading", "frames") as on_progress:
        for number, frame in enumerate(source):
            if number % options.every == 0:
                writer.write(frame)
                count += 1
            on_progress(number + 1, source.count)
    console.print(f"  {count:6} pictures in {options.output}", markup=False)
    return 0
