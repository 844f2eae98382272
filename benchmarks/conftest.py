"""What all benchmarks share: the machine in the JSON, and a table of ratios at the end. The method: README.md here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from jdm_fast.bench.machine import machine

OURS = "jdm_fast"


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Everything a number depends on goes into the JSON beside it (pytest-benchmark adds the git revision itself)."""
    machine_info["jdm_fast"] = machine()


Row = tuple[str, str, float, float | None, float | None, float | None]


def ratio_rows(benchmarks: Iterable[dict[str, Any]]) -> list[Row]:
    """(group, implementation, median seconds, median over that of jdm_fast, GB/s, share of the copy bandwidth) of every
    benchmark, group by group.

    Takes benchmarks as pytest-benchmark's JSON has them. The ratio is None in a group without jdm_fast, the GB/s where
    no ``extra_info["bytes"]`` was given, the share where no ``extra_info["of_copy"]`` was.
    """
    groups: dict[str, list[tuple[str, float, float | None, float | None]]] = {}
    for benchmark in benchmarks:
        info = benchmark["extra_info"]
        median = benchmark["stats"]["median"]
        rate = info["bytes"] / median / 1e9 if "bytes" in info else None
        name = info.get("implementation", benchmark["name"])
        contenders = groups.setdefault(benchmark["group"] or benchmark["name"], [])
        contenders.append((name, median, rate, info.get("of_copy")))
    rows = []
    for group, contenders in groups.items():
        ours = next((contender[1] for contender in contenders if contender[0] == OURS), None)
        for name, median, rate, of_copy in sorted(contenders, key=lambda contender: contender[1]):
            rows.append((group, name, median, median / ours if ours else None, rate, of_copy))
    return rows


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints each group's contenders, the fastest first."""
    session = getattr(terminalreporter.config, "_benchmarksession", None)
    finished = [benchmark for benchmark in session.benchmarks if not benchmark.has_error] if session else []
    if not finished:
        return
    table = Table(title="Medians; ratio = time over that of jdm_fast, above 1 is slower", box=SIMPLE_HEAD)
    for column in ("race", "implementation", "median", "ratio", "GB/s", "of copy"):
        table.add_column(column, justify="left" if column in ("race", "implementation") else "right")
    last = None
    for group, name, median, ratio, rate, of_copy in ratio_rows(
        [benchmark.as_dict(include_data=False, flat=False, stats=True) for benchmark in finished]
    ):
        table.add_row(
            group if group != last else "",
            f"[bold]{name}[/]" if name == OURS else name,
            f"{median * 1e3:.3f} ms",
            f"{ratio:.2f}" if ratio else "",
            f"{rate:.1f}" if rate else "",
            f"{of_copy:.2f}" if of_copy else "",
        )
        last = group
    Console(width=140).print(table)
