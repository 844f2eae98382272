"""``jdm-fast sample RUN OUT -n 64``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro
from rich.console import Console

from jdm_fast import synthesis
from jdm_fast.cli._progress import counting
from jdm_fast.errors import UserError

Interpolate = Literal["corners", "fixed"]


@dataclass
class Sample:
    """Draw tuples of all domains: from nothing, or the other domains of what is given.

    Writes OUT/x/00000.png, OUT/y/00000.png and so on, what is given among them, vectors as OUT/y.npy, and OUT/grid.png
    with the first tuples, one a row.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a training run of jointgan; with --marginals, of pix2pix or cyclegan."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """A new or empty folder."""
    n: Annotated[int | None, tyro.conf.arg(aliases=["-n"])] = None
    """How many tuples; 16 unless something is given, each item of which gets one."""
    given: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="x=FOLDER")] = ()
    """What is observed, such as x=photos: a folder of pictures or, for vectors, a .npy file. Several go together by the
    names of their pictures."""
    draws: int | None = None
    """Draws for each item of what is given; files are then called NAME-0.png, NAME-1.png, ..."""
    only: str | None = None
    """This domain alone, its marginal or, with --given, its conditional."""
    order: str | None = None
    """Order in which the domains are drawn, such as zyx; what is given comes first. By default one that was trained."""
    interpolate: Interpolate | None = None
    """Move the noise in equal steps: corners (or nothing behind --interpolate), that of the first two domains down and
    across (Figure 4); fixed, that of the next domain, while the first or what is given stays in each row (Figure 3)."""
    steps: int = 8
    """Of --interpolate: pictures from one end to the other."""
    rows: int = 4
    """Of --interpolate fixed with nothing given: rows."""
    seed: int = 0
    """Of the noise: the same seed gives the same tuples, however many are drawn."""
    size: tuple[int, ...] = ()
    """Side, or height and width, of the pictures; by default that of what is given, else of the training."""
    resize: bool = False
    """Resize what is given to --size, or to the size of the training, instead of refusing what does not fit."""
    batch_size: int | None = None
    """Tuples drawn at once; by default as many as fit a sensible amount of memory."""
    step: str | None = None
    """Which checkpoint: a step, or best; by default the newest."""
    marginals: Path | None = None
    """A run of wgan-gp: sample the two-step baseline, marginals from there and conditionals from RUN."""
    device: str | None = None
    """cpu or cuda; by default the GPU if there is one."""


def run(arguments: list[str]) -> int:
    """Draw and write; nothing is written before all that is given has been checked."""
    options = tyro.cli(Sample, args=_with_mode(arguments), prog="jdm-fast sample")
    if len(options.size) > 2:
        raise UserError(f"--size: expected a side, or height and width, got {' '.join(map(str, options.size))}")
    console = Console()
    model = _model(options)
    shared: dict[str, Any] = {
        "given": _given(options.given),
        "order": options.order,
        "size": (*options.size, *options.size)[:2] or None,
        "seed": options.seed,
        "batch_size": options.batch_size,
        "resize": options.resize,
    }
    begin = time.perf_counter()
    with counting(console, "sampling", "pictures") as on_progress:
        if options.interpolate is None:
            done = synthesis.sample_files(
                model,
                options.output,
                options.n,
                draws=options.draws,
                only=options.only,
                on_progress=on_progress,
                **shared,
            )
        else:
            for name in ("n", "draws", "only"):
                if getattr(options, name) is not None:
                    raise UserError(f"--{name} says what to draw, --interpolate what to draw instead: use one of them")
            done = synthesis.interpolate_files(
                model,
                options.output,
                options.interpolate,
                steps=options.steps,
                rows=options.rows,
                on_progress=on_progress,
                **shared,
            )
    rate = done.pictures / max(time.perf_counter() - begin, 1e-9)
    what = f"{done.tuples} tuples" if done.tuples != 1 else "1 tuple"
    console.print(
        f"{what}, {done.pictures} pictures in {options.output} ({rate:.1f} pictures/s)", markup=False, soft_wrap=True
    )
    for grid in done.grids:
        console.print(f"  {grid}", markup=False, soft_wrap=True)
    return 0


def _model(options: Sample) -> synthesis.Model:
    if options.marginals is not None:
        if options.step is not None:
            raise UserError("--step chooses a checkpoint of one run, --marginals makes it two: leave --step out")
        return synthesis.load_two_step(options.run, options.marginals, device=options.device)
    step: int | Literal["best"] | None = None
    if options.step == "best":
        step = "best"
    elif options.step is not None:
        if not options.step.isdecimal():
            raise UserError(f"--step: expected a number or best, got {options.step!r}")
        step = int(options.step)
    return synthesis.load(options.run, device=options.device, step=step)


def _given(entries: tuple[tuple[str, ...], ...]) -> dict[str, Path]:
    """``x=FOLDER`` by domain."""
    given: dict[str, Path] = {}
    for entry in (entry for some in entries for entry in some):
        domain, equals, path = entry.partition("=")
        if not (domain and equals and path):
            raise UserError(f"--given: expected DOMAIN=FOLDER, such as x=photos, got {entry!r}")
        if domain in given:
            raise UserError(f"--given: {domain} is there twice, {given[domain]} and {path}")
        given[domain] = Path(path)
    return given


def _with_mode(arguments: list[str]) -> list[str]:
    """``--interpolate`` alone is ``--interpolate corners``."""
    out: list[str] = []
    for argument, behind in zip(arguments, [*arguments[1:], ""], strict=True):
        out.append(argument)
        if argument == "--interpolate" and behind not in get_args(Interpolate) and behind[:1] in ("", "-"):
            out.append("corners")
    return out
