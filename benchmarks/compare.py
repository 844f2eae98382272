"""What became slower or quicker between two files of results.

    python benchmarks/compare.py OLD.json NEW.json [--threshold 1.1] [--over eager] [--contenders NAME ... | all]

Reads what ``jdm-fast bench kernels --out FILE`` writes and what ``make bench`` writes (benchmarks/results/local/), one
of each too. A cell counts as slower if its median grew by more than the threshold and the quartiles of its rounds do
not overlap. Only jdm_fast is looked at, and benchmarks that race nobody, unless other contenders are named. On a
machine that others use too, or for two machines, compare times --over those of another contender in the same rounds.
The exit status is 1 if something became slower, 2 if the files cannot be compared. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS = "jdm_fast"
KERNELS = "jdm_fast bench kernels"  # jdm_fast.bench.report.KIND


class NotComparable(Exception):
    """The message says what is wrong with which file."""


@dataclass(frozen=True)
class Spread:
    """Seconds: the median of some rounds, and the quartiles."""

    median: float
    q1: float
    q3: float


@dataclass(frozen=True)
class Results:
    """One file. ``cells`` by (what is measured, contender); the contender is "" in a benchmark that races nobody."""

    path: Path
    machine: str
    cells: dict[tuple[str, str], Spread]
    wrong: frozenset[tuple[str, str]]
    """Contenders that computed something wrong, did not compile or raised, and so have no time."""


@dataclass(frozen=True)
class Change:
    """A cell that changed beyond the spread and the threshold. ``ratio`` is new over old: above 1 is slower."""

    cell: str
    contender: str
    old: Spread
    new: Spread

    @property
    def ratio(self) -> float:
        return self.new.median / self.old.median


def read(path: Path) -> Results:
    """Reads either kind of file.

    Raises:
        NotComparable: no such file, or another kind.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotComparable(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise NotComparable(f"{path}: is not JSON: {error}") from error
    try:
        if content.get("kind") == KERNELS:
            return _kernels(path, content)
        if isinstance(content.get("benchmarks"), dict):  # gpu-check.json has pytest-benchmark's file inside
            content = content["benchmarks"]
        if isinstance(content.get("benchmarks"), list):
            return _pytest(path, content)
    except (KeyError, TypeError, AttributeError) as error:
        raise NotComparable(f"{path}: a part of the results is missing: {error}") from error
    raise NotComparable(
        f"{path}: these are no results; expected what `jdm-fast bench kernels --out` or `make bench` writes"
    )


def _kernels(path: Path, content: dict[str, Any]) -> Results:
    cells, wrong = {}, set()
    for entry in content["cells"]:
        title = f"{entry['title']} on {entry['device']}"
        for name, times in entry["contenders"].items():
            if "problem" in times:
                wrong.add((title, name))
            else:
                cells[title, name] = Spread(times["median"], times["q1"], times["q3"])
    return Results(path, _machine(content["machine"]), cells, frozenset(wrong))


def _pytest(path: Path, content: dict[str, Any]) -> Results:
    cells = {}
    for entry in content["benchmarks"]:
        stats = entry["stats"]
        # A group is a race, and its contenders are told apart by name; without one the test is told by its own name.
        name = entry["extra_info"].get("implementation", "")
        title = (entry["group"] or entry["fullname"]) if name else entry["fullname"]
        cells[title, name] = Spread(stats["median"], stats["q1"], stats["q3"])
    return Results(path, _machine(content.get("machine_info", {}).get("jdm_fast", {})), cells, frozenset())


def _machine(of: dict[str, Any]) -> str:
    gpus = ", ".join(of.get("gpus", []))
    return f"{gpus or of.get('cpu', 'unknown')}, {of.get('threads', '?')} threads, torch {of.get('torch', '?')}"


def relative(results: Results, over: str) -> Results:
    """Times over those of the contender ``over`` in the same race; its own spread widens theirs.

    Raises:
        NotComparable: there are none.
    """
    cells = {}
    for (title, name), spread in results.cells.items():
        unit = results.cells.get((title, over))
        if unit is not None and name != over:
            cells[title, name] = Spread(spread.median / unit.median, spread.q1 / unit.q3, spread.q3 / unit.q1)
    if not cells:
        names = sorted({name for _, name in results.cells if name})
        raise NotComparable(f"{results.path}: no times over those of {over!r}; contenders there: {', '.join(names)}")
    return Results(results.path, results.machine, cells, results.wrong)


def changes(old: Results, new: Results, threshold: float, contenders: Sequence[str]) -> list[Change]:
    """The cells that changed, the worst first. ``contenders``: of these names; none for all.

    Raises:
        NotComparable: the files have no such cell in common.
    """
    common = _common(old, new, contenders)
    found = []
    for key in common:
        a, b = old.cells[key], new.cells[key]
        slower = b.median > threshold * a.median and b.q1 > a.q3
        quicker = a.median > threshold * b.median and a.q1 > b.q3
        if slower or quicker:
            found.append(Change(*key, a, b))
    return sorted(found, key=lambda change: -change.ratio)


def _common(old: Results, new: Results, contenders: Sequence[str]) -> list[tuple[str, str]]:
    common = [key for key in old.cells if key in new.cells and (not contenders or key[1] in contenders)]
    if not common:
        of = f" of {', '.join(name or 'single benchmarks' for name in contenders)}" if contenders else ""
        raise NotComparable(
            f"{old.path} and {new.path} have no cell{of} in common: they measured other ops, shapes, dtypes or devices"
            f" ({len(old.cells)} and {len(new.cells)} times)"
        )
    return common


def report(
    old: Results, new: Results, threshold: float, contenders: Sequence[str], over: str | None = None
) -> tuple[str, bool]:
    """(the text to print, whether something became slower or went wrong)."""
    if over is not None:
        old, new = relative(old, over), relative(new, over)
    common = _common(old, new, contenders)
    found = changes(old, new, threshold, contenders)
    broken = sorted(key for key in new.wrong if key in old.cells and (not contenders or key[1] in contenders))
    lines = []
    if old.machine != new.machine and over is None:
        lines.append(f"Other machines or versions, so times differ anyway:\n  old: {old.machine}\n  new: {new.machine}")
    drift = [
        new.cells[key].median / old.cells[key].median for key in old.cells if key in new.cells and key not in common
    ]
    if drift and over is None and not 1 / threshold < statistics.median(drift) < threshold:
        lines.append(
            f"The other contenders took {statistics.median(drift):.2f} times as long as before (median of {len(drift)}"
            " times): the machine itself was not the same, or was busy; see --over"
        )
    for what, some in (
        ("slower", [change for change in found if change.ratio > 1]),
        ("quicker", [change for change in reversed(found) if change.ratio < 1]),
    ):
        if some:
            lines.append(f"{what}: {len(some)} of {len(common)}")
            lines += [_line(change, over) for change in some]
    lines += [f"no time any more: {cell}, {name}" for cell, name in broken]
    if not found and not broken:
        lines.append(f"{len(common)} cells compared, none changed by more than {threshold:g} and its spread")
    missing = sum(1 for key in old.cells if key not in new.cells and key not in new.wrong)
    if missing:
        lines.append(f"{missing} times of {old.path} have no counterpart in {new.path}")
    return "\n".join(lines), bool(broken) or any(change.ratio > 1 for change in found)


def _line(change: Change, over: str | None) -> str:
    who = "" if change.contender in ("", OURS) else f", {change.contender}"
    old, new = (
        _duration(spread.median) if over is None else f"{spread.median:.3g} {over}"
        for spread in (change.old, change.new)
    )
    return f"  {change.ratio:5.2f}x  {old:>8} -> {new:>8}  {change.cell}{who}"


def _duration(seconds: float) -> str:
    return (
        f"{seconds * 1e6:.3g} us"
        if seconds < 1e-3
        else f"{seconds * 1e3:.3g} ms"
        if seconds < 1
        else f"{seconds:.3g} s"
    )


def _threshold(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text!r}")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD")
    parser.add_argument("new", type=Path, metavar="NEW")
    parser.add_argument("--threshold", type=_threshold, default=1.1, help="least ratio of medians that counts (1.1)")
    parser.add_argument("--over", metavar="NAME", help="compare times over this contender's, eager for one")
    parser.add_argument("--contenders", nargs="+", default=[OURS, ""], metavar="NAME", help="whose times, or all")
    options = parser.parse_args(arguments)
    contenders = [] if "all" in options.contenders else options.contenders
    try:
        old, new = read(options.old), read(options.new)
        text, slower = report(old, new, options.threshold, contenders, options.over)
    except NotComparable as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 2
    print(text)
    return 1 if slower else 0


if __name__ == "__main__":
    raise SystemExit(main())
