"""``jdm-fast data check ROOT``: what a data set is, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from jdm_fast.cli._progress import counting
from jdm_fast.data.check import check
from jdm_fast.data.images import save_image
from jdm_fast.data.layouts import LayoutName, find_layout
from jdm_fast.data.preview import preview
from jdm_fast.data.report import Part, Report

_MOST = 20  # files or sequences that are listed; the report has all


@dataclass
class CheckOptions:
    """Say what data set is in a folder (layout, domains, counts, sizes, channels), and find files that are unreadable
    or odd before training does.

    The exit status is 1 if a file cannot be used.
    """

    root: Annotated[Path, tyro.conf.Positional]
    """The root folder of the data set."""
    layout: LayoutName = "auto"
    """How it lies on the disk; found out by itself where nothing is said."""
    recursive: bool = False
    """Look into the sub-folders of the domains' folders too."""
    decode: bool = True
    """Read all pixels, not only headers: finds damage in the middle of files. Slower."""
    report: Path | None = None
    """Write what was found as JSON to this file."""
    picture: Path | None = None
    """Write some pictures of each domain, one row a domain, as an image file."""


def run(arguments: list[str]) -> int:
    """Check a data set, print a table, write what was asked for."""
    options = tyro.cli(CheckOptions, args=arguments, prog="jdm-fast data check")
    console = Console(highlight=False)
    layout = find_layout(
        options.root, options.layout, recursive=options.recursive, on_choice=lambda text: _say(console, f"note: {text}")
    )
    with counting(Console(stderr=True), "reading", "files") as on_progress:
        report = check(layout, decode=options.decode, on_progress=on_progress)
    _print(report, console)
    if options.report is not None:
        report.write(options.report)
        _say(console, f"report: {options.report}")
    if options.picture is not None:
        save_image(options.picture, preview(layout, leave_out={item.path for item in report.bad}))
        _say(console, f"picture: {options.picture}")
    return 1 if report.bad else 0


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _print(report: Report, console: Console) -> None:
    _say(console, f"{report.root}: layout {report.layout}, domains {', '.join(report.domains)}")
    heads = ["split", "domain", "items", "what", "size", "channels"]
    paired = any(part.partners for part in report.parts)
    table = Table(*heads, *(["item by item"] if paired else []), box=None, pad_edge=False)
    for part in report.parts:
        cells = [part.split, part.domain, str(part.count), part.kind, _sizes(part), _channels(part)]
        table.add_row(*cells, *([f"with {part.partners[0]}" if part.partners else ""] if paired else []))
    console.print(table)
    for domain, runs in report.sequences.items():
        some = ", ".join(f"{name} ({count})" for name, count in list(runs.items())[:3])
        more = f", and {len(runs) - 3} more" if len(runs) > 3 else ""
        _say(console, f"sequences of {domain}: {len(runs)} with {sum(runs.values())} frames: {some}{more}")
    _print_odd(report, console)
    _print_bad(report, console)


def _sizes(part: Part) -> str:
    if not part.sizes:
        return ""
    (height, width), *others = part.sizes
    if not others:
        return f"{width}x{height}"
    if part.sizes[height, width] >= 0.9 * sum(part.sizes.values()):
        return f"{width}x{height} and {len(others)} other size{'s' if len(others) > 1 else ''}"
    smallest, largest = min(part.sizes, key=lambda size: size[0] * size[1]), max(part.sizes, key=lambda s: s[0] * s[1])
    return f"{len(part.sizes)} sizes, {smallest[1]}x{smallest[0]} to {largest[1]}x{largest[0]}"


_CHANNELS = {
    "L": "grey", "1": "black/white", "P": "palette", "L;16": "grey 16 bit", "RGB;16": "RGB 16 bit", "LA": "grey+alpha",
}  # fmt: skip


def _channels(part: Part) -> str:
    """``RGB``, or ``98 RGB, 2 grey`` where kinds are mixed."""
    named = {_CHANNELS.get(mode, mode): count for mode, count in part.modes.items()}
    return ", ".join(f"{count} {mode}" if len(named) > 1 else mode for mode, count in named.items())


def _print_odd(report: Report, console: Console) -> None:
    odd = [(part, item) for part in report.parts for item in part.odd]
    if odd or report.same:
        _say(console, "\nodd, but used:")
    for part, item in odd:
        _say(console, f"  {part.split} {part.domain}: {item.count} {item.what}; first {report.name(item.first)}")
    if report.same:
        first = " = ".join(report.name(path) for path in report.same[0][:2])
        files = sum(len(paths) for paths in report.same)
        _say(console, f"  {files} files have the same bytes as another of them; first {first}")


def _print_bad(report: Report, console: Console) -> None:
    how = "read whole" if report.decoded else "headers read"
    if not report.bad:
        _say(console, f"\nno bad files ({how})")
        return
    _say(console, f"\n{len(report.bad)} bad file{'s' * (len(report.bad) > 1)}, to be replaced or removed ({how}):")
    for item in report.bad[:_MOST]:
        _say(console, f"  {report.name(item.path)}: {item.reason}")
    if len(report.bad) > _MOST:
        _say(console, f"  and {len(report.bad) - _MOST} more; --report FILE.json lists all")
    _say(console, "Training leaves them out with --data.skip-bad; of pairs, the whole pair.")
