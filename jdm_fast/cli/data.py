"""``jdm-fast data earth OUT``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from jdm_fast.data.earth import Earth
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


def run(arguments: list[str]) -> int:
    """Dispatch to the data set's name; ``earth`` is the one there is."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            "usage: jdm-fast data earth OUT [OPTIONS]\n\n  earth   satellite, relief, topographic and land/sea pictures"
        )
        return 0 if arguments else 2
    if arguments[0] != "earth":
        raise UserError(f"no data set is called {arguments[0]!r}; there is: earth")
    options = tyro.cli(EarthOptions, args=arguments[1:], prog="jdm-fast data earth")
    console = Console()
    with console.status("fetching and reading the Earth"):
        earth = Earth.load(options.width, options.domains)
        written = earth.write_unpaired(
            options.output, options.domains, options.size, stride=options.stride, land=options.land
        )
    for name, count in written.counts.items():
        console.print(f"  {count:6} pictures in {written.root / name}", markup=False)
    return 0
