"""``jdm-fast data earth OUT``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from jdm_fast.cli._progress import counting
from jdm_fast.data.earth import Earth, Written, suitable_width, write_clips, write_layout
from jdm_fast.data.flyover import named_camera
from jdm_fast.errors import UserError

_ONLY_FRAMES = ("clips", "frames", "camera", "part", "mp4")
_ONLY_PICTURES = ("train_size", "stride", "land", "count", "held_out", "unpaired")


@dataclass
class EarthOptions:
    """Write real pictures of the Earth in two, three or four domains, as a data set whose truth is known.

    The planet is divided by region into places to train on and places to test on. jdm-fast data earth OUT --layout ab
    --domains satellite,mask, for one, writes satellite pictures beside their land/sea masks.
    """

    output: Annotated[Path, tyro.conf.Positional]
    """The folder to write."""
    domains: tuple[str, ...] = ("satellite", "topographic")
    """Of satellite, relief, topographic, mask; with spaces or commas between them."""
    layout: Literal["cyclegan", "ab", "aligned", "tuples", "frames"] = "cyclegan"
    """cyclegan: trainA and trainB of different places, testA and testB of the same.
    ab: two domains side by side in each file.
    aligned: a folder a domain, equal names are one place.
    tuples: of the domains a, b, c only the pairs (a, b) and (b, c).
    frames: fly-over clips."""
    size: int = 64
    """Side of the pictures in pixels."""
    width: int | None = None
    """Pixels round the equator, up to 10800: the scale of the pictures.
    By default 5400, which enlarges no source, and 10800 for pictures of 128 pixels and more."""
    train_size: int | None = None
    """Side of training pictures, up to twice the size: room for random crops."""
    stride: int | None = None
    """Pixels between training pictures, which may overlap within their own set.
    By default the size, or 1/2, 1/4, 1/8 of it if a set has less than --count (or 1000) otherwise."""
    land: tuple[float, float] | None = None
    """Smallest and largest share of land in a picture. By default 0.1 and 1; with masks 0.97."""
    count: int | None = None
    """At most so many training pictures a set."""
    held_out: int | None = None
    """At most so many places to validate on, and to test on."""
    unpaired: bool = False
    """Layout aligned: train each domain on other places."""
    camera: Literal["smooth", "abrupt"] | None = None
    """Layout frames: smooth (default), or abrupt with cuts, a shaking heading and jumps of zoom."""
    clips: int | None = None
    """Layout frames: how many clips (default 4)."""
    frames: int | None = None
    """Layout frames: frames of a clip (default 65)."""
    part: Literal["train", "test"] | None = None
    """Layout frames: fly over the regions to train on, or to test on (default)."""
    mp4: bool = False
    """Layout frames: write videos too."""


def run(arguments: list[str]) -> int:
    """Write the data set and say what is in it."""
    options = tyro.cli(EarthOptions, args=arguments, prog="jdm-fast data earth")
    domains = tuple(name for word in options.domains for name in word.split(",") if name)
    foreign = _ONLY_PICTURES if options.layout == "frames" else _ONLY_FRAMES
    given = [name for name in foreign if getattr(options, name) not in (None, False)]
    if given:
        raise UserError(f"--{given[0].replace('_', '-')} has no meaning with --layout {options.layout}: leave it out")
    console = Console()
    with console.status("fetching and reading the Earth"):
        earth = Earth.load(suitable_width(options.size) if options.width is None else options.width, domains)
    write = _write_clips if options.layout == "frames" else _write_pictures
    write(earth, domains, options, console)
    return 0


def _write_pictures(earth: Earth, domains: tuple[str, ...], options: EarthOptions, console: Console) -> None:
    asked = {name: getattr(options, name) for name in _ONLY_PICTURES if getattr(options, name) is not None}
    with counting(console, "writing", "pictures") as on_progress:
        written = write_layout(
            earth, options.output, options.layout, domains, options.size, on_progress=on_progress, **asked
        )
    console.print(_table(written))
    if max(map(len, written.map.split("\n"))) <= console.width:
        console.print("regions: T test, v val, . train, north above, the date line at both sides", highlight=False)
        console.print(written.map, markup=False, highlight=False)
    crops, disjoint = (sum(getattr(of, name) for of in written.sets) for name in ("crops", "disjoint"))
    console.print(
        f"{crops} crops, {disjoint} of them disjoint, at {earth.width} pixels round the equator, in {options.output}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _table(written: Written) -> Table:
    table = Table("folders", "for", "crops", "disjoint", "regions")
    for name in ("crops", "disjoint", "regions"):
        next(column for column in table.columns if column.header == name).justify = "right"
    for of in written.sets:
        table.add_row(", ".join(of.folders), of.part, str(of.crops), str(of.disjoint), str(of.regions))
    return table


def _write_clips(earth: Earth, domains: tuple[str, ...], options: EarthOptions, console: Console) -> None:
    frames = 65 if options.frames is None else options.frames
    camera = named_camera(options.camera or "smooth", frames, options.size)
    with counting(console, "writing", "frames") as on_progress:
        cuts = write_clips(
            earth,
            options.output,
            domains,
            camera,
            4 if options.clips is None else options.clips,
            tile=options.size,
            part=options.part or "test",
            mp4=options.mp4,
            on_progress=on_progress,
        )
    for name, at in cuts.items():
        cut = f", cuts at {', '.join(map(str, at))}" if at else ""
        console.print(
            f"  {options.output / name}: {camera.frames} frames in {len(domains)} domains{cut}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
