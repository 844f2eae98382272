"""What all benchmarks share: the machine in the JSON, and a table of ratios at the end. The method: README.md here."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from jdm_fast import __version__, _doctor, _extension

OURS = "jdm_fast"


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Everything a number depends on goes into the JSON beside it (pytest-benchmark adds the git revision itself)."""
    machine_info["jdm_fast"] = {
        "version": __version__,
        "extension": _extension.build_config(),
        "cpu": _doctor.cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def ratio_rows(benchmarks: Iterable[dict[str, Any]]) -> list[tuple[str, str, float, float | None, float | None]]:
    """(group, implementation, median seconds, median over that of jdm_fast, GB/s) of every benchmark, group by group.

    Takes benchmarks as pytest-benchmark's JSON has them. The ratio is None in a group without jdm_fast, the GB/s where
    no ``extra_info["bytes"]`` was given.
    """
    groups: dict[str, list[tuple[str, float, float | None]]] = {}
    for benchmark in benchmarks:
        info = benchmark["extra_info"]
        median = benchmark["stats"]["median"]
        rate = info["bytes"] / median / 1e9 if "bytes" in info else None
        name = info.get("implementation", benchmark["name"])
        contenders = groups.setdefault(benchmark["group"] or benchmark["name"], [])
        if "eager_ms" in info:  # both were timed in turn, which compares better than two benchmarks after one another
            median, eager = info["fused_ms"] / 1e3, info["eager_ms"] / 1e3
            rate = info["bytes"] / median / 1e9
            contenders.append(("eager", eager, info["bytes"] / eager / 1e9))
        contenders.append((name, median, rate))
    rows = []
    for group, contenders in groups.items():
        ours = next((median for name, median, _ in contenders if name == OURS), None)
        for name, median, rate in sorted(contenders, key=lambda contender: contender[1]):
            rows.append((group, name, median, median / ours if ours else None, rate))
    return rows


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints each group's contenders, the fastest first."""
    session = getattr(terminalreporter.config, "_benchmarksession", None)
    finished = [benchmark for benchmark in session.benchmarks if not benchmark.has_error] if session else []
    if not finished:
        return
    table = Table(title="Medians; ratio = time over that of jdm_fast, above 1 is slower", box=SIMPLE_HEAD)
    for column in ("race", "implementation", "median", "ratio", "GB/s"):
        table.add_column(column, justify="left" if column in ("race", "implementation") else "right")
    last = None
    for group, name, median, ratio, rate in ratio_rows(
        [benchmark.as_dict(include_data=False, flat=False, stats=True) for benchmark in finished]
    ):
        table.add_row(
            group if group != last else "",
            f"[bold]{name}[/]" if name == OURS else name,
            f"{median * 1e3:.3f} ms",
            f"{ratio:.2f}" if ratio else "",
            f"{rate:.1f}" if rate else "",
        )
        last = group
    Console(width=140).print(table)
