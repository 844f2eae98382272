"""``jdm-fast bench kernels``."""

from __future__ import annotations

import itertools
import os
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from jdm_fast import _extension
from jdm_fast.bench.clock import LONG_CALL, Times
from jdm_fast.bench.contenders import COMPILE, EAGER, OURS, UNFUSED
from jdm_fast.bench.machine import machine, revision
from jdm_fast.bench.matrix import DIRECTIONS, LAYOUTS, Cell, select
from jdm_fast.bench.measure import SECONDS, Result, copy_times, measure_cells
from jdm_fast.bench.report import write_results
from jdm_fast.errors import UserError

_RIVALS = (EAGER, COMPILE, UNFUSED)
_WIDE = 160  # columns of output that goes to a file
_DTYPE = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_LAYOUT = {"nchw": "nchw", "channels_last": "nhwc"}
_NOISY = 0.25  # of the interquartile range over the median, from which on a run is said to be disturbed
_LEGEND = """IQR: interquartile range of the rounds over their median. GB/s: of the least bytes that the op must move.
of copy: that over a copy of as many bytes, in the same rounds. ratio: time over that of jdm_fast."""
_MOST = 12  # cells that are listed under the tables
_QUICK = 4  # times less time a cell


@dataclass
class KernelOptions:
    """Measure every op of jdm_fast against PyTorch's own operators, in the shapes of JWDM's networks and hard ones.

    Before it is timed, a contender's result is compared with float64, gradients included. Contenders take turns in
    rounds, inputs rotate through more than the cache, a copy of as many bytes runs in the same rounds. By default: on a
    CPU the core shapes in float32, a few minutes; on a GPU all shapes in float32 and bfloat16. Lists are separated by
    spaces or commas. The exit status is 1 if jdm_fast computes something wrong.
    """

    ops: tuple[str, ...] = ()
    """Of instance_norm, softmax_critic_loss, interpolate_latents, interpolate_instance_norm, frames_to_uint8, or
    one variant: instance_norm/relu, instance_norm/relu+residual, interpolate_latents/lerp or /slerp, ...
    By default all."""
    shapes: tuple[str, ...] = ()
    """core: a list short enough for a CPU. all. quick: one an op. jwdm: 256x256 and 256x512, batch 1 and 16.
    small: 64x64. hard: odd sides, few and many channels, large planes.
    Or shapes of the input, such as 8x64x100x100. By default core on a CPU and with compile, else all."""
    dtypes: tuple[str, ...] = ()
    """Of float32, bfloat16, float16. By default float32, on a GPU bfloat16 too."""
    layouts: tuple[str, ...] = LAYOUTS
    """Of nchw, channels_last (nhwc in a table's column)."""
    directions: tuple[str, ...] = DIRECTIONS
    """Of forward (without gradients), backward (alone), both (a forward and a backward)."""
    contenders: tuple[str, ...] = (EAGER,)
    """Who runs against jdm_fast.
    eager: PyTorch's operators. compile: torch.compile of that, seconds to minutes for each shape.
    unfused: our own op with activation, residual or tanh beside it."""
    quick: bool = False
    """One small shape an op, and less time for each: a quarter of a minute on a CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run; auto is the GPU if there is one."""
    out: Path | None = None
    """Write all that was measured as JSON to this file, for benchmarks/compare.py."""


def run(arguments: Sequence[str]) -> int:
    """Measure, print a table for each op, write what was asked for. 1 if jdm_fast was wrong somewhere, else 0."""
    options = tyro.cli(KernelOptions, args=list(arguments), prog="jdm-fast bench kernels")
    device = _device(options.device)
    rivals = _split(options.contenders)
    unknown = [name for name in rivals if name not in (*_RIVALS, OURS)]
    if unknown:
        raise UserError(f"contenders: expected some of {', '.join(_RIVALS)}, got {unknown[0]!r}")
    cells = select(
        ops=_split(options.ops),
        shapes=_shapes(options, device, rivals),
        dtypes=_split(options.dtypes) or (("float32", "bfloat16") if device.type == "cuda" else ("float32",)),
        layouts=_split(options.layouts),
        directions=_split(options.directions),
    )
    if options.out is not None:
        _check_writable(options.out)
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=_WIDE)
    return _measure(cells, list(dict.fromkeys((OURS, *rivals))), device, options, arguments, console)


def _measure(
    cells: list[Cell],
    contenders: list[str],
    device: torch.device,
    options: KernelOptions,
    arguments: Sequence[str],
    console: Console,
) -> int:
    if not _extension.available:
        console.print(f"[yellow]jdm_fast runs without its kernels here: {escape(str(_extension.reason))}[/]")
    load = os.getloadavg()[0]
    with console.status("measuring a copy"):
        moved, copy = copy_times(device)
    about = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["jdm-fast", "bench", "kernels", *arguments]),
        "revision": revision(),
        "device": device.type,
        "machine": machine(),
        "load_before": round(load, 2),
        "copy": {"bytes": moved, "gigabytes_per_second": round(moved / copy.median / 1e9, 2)},
    }
    console.print(_machine_line(device, about, len(cells)), markup=False, soft_wrap=True)
    if device.type == "cpu" and load > (os.cpu_count() or 1) / 2:
        console.print(
            f"[yellow]This machine is busy: {load:.1f} programs run on its {os.cpu_count()} processors. Times of"
            " several threads mean little then; OMP_NUM_THREADS=1 is disturbed less.[/]",
            soft_wrap=True,
        )
    console.print(_LEGEND + "\n", soft_wrap=True)
    results: list[Result] = []
    seconds = SECONDS[device.type] / (_QUICK if options.quick else 1)
    with console.status("") as status:

        def tell(cell: Cell) -> None:
            status.update(f"{len(results)} of {len(cells)}: {escape(cell.title.replace(f' {cell.direction}', ''))}")

        for (op, variant), group in itertools.groupby(cells, key=lambda cell: (cell.op, cell.variant)):
            some: list[Result] = []
            for result in measure_cells(list(group), contenders, device, seconds=seconds, on_case=tell):
                some.append(result)
                results.append(result)
            table = kernel_table(op, variant, some)
            if Measurement.get(console, console.options.update(max_width=_WIDE), table).maximum > console.width:
                table = kernel_table(op, variant, some, narrow=True)
            console.print(table)
            for line in _problems(some):
                console.print(line, style="red", markup=False, soft_wrap=True)
            if options.out is not None:
                write_results(options.out, results, about)
    _summarise(results, [name for name in contenders if name != OURS], console)
    if options.out is not None:
        console.print(f"written to {options.out}", markup=False, soft_wrap=True)
    return 1 if any(OURS in result.problems for result in results) else 0


def kernel_table(op: str, variant: str, results: Sequence[Result], *, narrow: bool = False) -> Table:
    """The cells of one variant, a row each; what is the same in all of them stands in the title. ``narrow``: without
    the spread, and of the rivals the ratio alone."""
    columns = {
        "shape": ["x".join(map(str, result.cell.shape)) for result in results],
        "dtype": [result.cell.dtype for result in results],
        "layout": [result.cell.layout for result in results],
        "direction": [result.cell.direction for result in results],
    }
    same = [values[0] for name, values in columns.items() if name != "shape" and len(set(values)) == 1]
    for name, short in (("dtype", _DTYPE), ("layout", _LAYOUT)):
        columns[name] = [short[value] for value in columns[name]]
    title = f"{op}, {variant}" + (f"; {', '.join(same)}" if same else "")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=0)
    shown = [name for name, values in columns.items() if name == "shape" or len(set(values)) > 1]
    for name in shown:
        table.add_column(name, no_wrap=True)
    names = list(dict.fromkeys(name for result in results for name in (*result.times, *result.problems)))
    rivals = [name for name in _RIVALS if name in names]
    own = (OURS, "GB/s", "of copy") if narrow else (OURS, "IQR", "GB/s", "of copy")
    for name in (*own, *itertools.chain(*((rival,) if narrow else (rival, "ratio") for rival in rivals))):
        table.add_column(name, justify="right", no_wrap=True)
    last: list[str] = []
    for row, result in enumerate(results):
        head = [columns[name][row] for name in shown]
        # A value stands where it begins to hold.
        begins = next((i for i, (a, b) in enumerate(itertools.zip_longest(last, head)) if a != b), 0)
        faded = ["" if i < begins else value for i, value in enumerate(head)]
        figures = _own(result, narrow) + [figure for rival in rivals for figure in _rival(result, rival, narrow)]
        if begins == 0 and row and len(shown) > 1:
            table.add_section()
        table.add_row(*faded, *figures)
        last = head
    return table


def _own(result: Result, narrow: bool) -> list[str]:
    if OURS not in result.times:
        return [f"[red]{_why(result.problems.get(OURS, ''))}[/]", *[""] * (2 if narrow else 3)]
    times = result.times[OURS]
    return [
        f"[bold]{duration(times.median)}[/]",
        *(() if narrow else (f"{_spread(times):.0%}",)),
        f"{result.gigabytes_per_second(OURS):.3g}",
        f"{result.of_copy(OURS):.2f}",
    ]


def _spread(times: Times) -> float:
    first, third = times.quartiles
    return (third - first) / times.median


def _rival(result: Result, name: str, narrow: bool) -> list[str]:
    if name not in result.times:
        return [_why(result.problems[name]) if name in result.problems else "", *(() if narrow else ("",))]
    ratio = result.ratio(name)
    shown = "" if ratio is None else times_as_long(ratio)
    return [shown] if narrow else [duration(result.times[name].median), shown]


def _why(problem: str) -> str:
    return "wrong" if problem.startswith("wrong") else "failed"


def duration(seconds: float) -> str:
    """Three digits and a unit: 12.3 us, 4.56 ms."""
    for unit, factor in (("us", 1e6), ("ms", 1e3)):
        if seconds * factor < 999.5:
            value = seconds * factor
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
    return f"{seconds:.2f} s"


def times_as_long(ratio: float) -> str:
    """1.23x, 12.3x, 123x."""
    return f"{ratio:.{2 if ratio < 9.995 else 1 if ratio < 99.95 else 0}f}x"


def _problems(results: Sequence[Result]) -> list[str]:
    """What went wrong, each once with the first cell that it happened in."""
    seen: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for name, text in result.problems.items():
            seen.setdefault((name, text), []).append(result.cell.title)
    lines = []
    for (name, text), titles in seen.items():
        more = f" and {len(titles) - 1} more" if len(titles) > 1 else ""
        lines.append(f"{name} {text}; in {titles[0]}{more}")
    return lines


def _summarise(results: Sequence[Result], rivals: Sequence[str], console: Console) -> None:
    """Ratios over all cells of a direction, and the cells in which a rival is quicker."""
    rows = []
    for rival in rivals:
        for direction in DIRECTIONS:
            ratios = [
                result.ratio(rival) or 0
                for result in results
                if result.cell.direction == direction and rival in result.times and OURS in result.times
            ]
            if ratios:
                mean = statistics.geometric_mean(ratios)
                figures = (*map(times_as_long, (mean, min(ratios), max(ratios))), str(len(ratios)))
                rows.append((f"{rival}, {direction}", *figures))
    if rows:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("ratios of all cells")
        for name in ("geometric mean", "least", "most", "cells"):
            table.add_column(name, justify="right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for rival in rivals:
        quicker = [
            (result.ratio(rival) or 0, result.cell.title)
            for result in results
            if rival in result.times and OURS in result.times
            # beyond the spread of the rounds
            if result.times[rival].quartiles[1] < result.times[OURS].quartiles[0]
        ]
        _list(
            f"{rival} is quicker in", [f"{title}: {times_as_long(ratio)}" for ratio, title in sorted(quicker)], console
        )
    spreads = [_spread(result.times[OURS]) for result in results if OURS in result.times]
    typical = statistics.median(spreads) if spreads else 0
    if typical > _NOISY:
        console.print(
            f"[yellow]In half of the cells the IQR is over {typical:.0%} of the median: something disturbs this"
            " machine, and small differences mean nothing.[/]",
            soft_wrap=True,
        )
    launched = [
        f"{result.cell.title}: {name}"
        for result in results
        for name, times in result.times.items()
        if times.clock == "events" and times.median < LONG_CALL
    ]
    _list("no CUDA graph could be made of, so the time has launches in it:", launched, console)


def _list(what: str, items: Sequence[str], console: Console) -> None:
    if not items:
        return
    console.print(f"{what} {len(items)} {'cell' if len(items) == 1 else 'cells'}", markup=False, soft_wrap=True)
    for item in items[:_MOST]:
        console.print(f"  {item}", markup=False, soft_wrap=True)
    if len(items) > _MOST:
        console.print("  ...")


def _machine_line(device: torch.device, about: dict[str, Any], cells: int) -> str:
    of = about["machine"]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else of["cpu"]
    where = (
        name if device.type == "cuda" else f"{name}, {of['threads']} {'thread' if of['threads'] == 1 else 'threads'}"
    )
    copy = about["copy"]
    return (
        f"{where}; torch {of['torch']}; revision {about['revision']}; a copy moving {copy['bytes'] >> 20} MiB runs at"
        f" {copy['gigabytes_per_second']:.3g} GB/s; {cells} {'cell' if cells == 1 else 'cells'}"
    )


def _shapes(options: KernelOptions, device: torch.device, rivals: Sequence[str]) -> Sequence[str]:
    given = _split(options.shapes)
    if options.quick and given:
        raise UserError("--quick chooses shapes itself: leave out --shapes, or leave out --quick")
    if options.quick:
        return ("quick",)
    return given or (("all",) if device.type == "cuda" and COMPILE not in rivals else ("core",))


def _split(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for word in words for name in word.split(",") if name)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: no GPU is visible to PyTorch; leave out --device cuda, or see jdm-fast doctor")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def _check_writable(path: Path) -> None:
    """Before minutes of measuring, not after."""
    if path.is_dir():
        raise UserError(f"out: {path} is a folder; name a file, such as {path / 'kernels.json'}")
    if not path.parent.is_dir():
        raise UserError(f"out: the folder {path.parent} does not exist; make it, or choose another")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"out: the folder {path.parent} cannot be written; choose another")
