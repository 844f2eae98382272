"""Cells of jdm_fast.bench as benchmarks of pytest-benchmark, for benchmarks/bench_<op>.py.

The cells of a case, which differ in the direction, are checked and raced once, with all contenders that are collected,
in alternating rounds; each contender's benchmark then reports its rounds. So a table compares what ran side by side,
and the JSON has every round.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from jdm_fast.bench.contenders import COMPILE, EAGER, OURS
from jdm_fast.bench.matrix import Cell, select
from jdm_fast.bench.measure import Result, measure_cells

#: "1" compiles the core shapes on a CPU too, which takes minutes, "0" compiles nothing; by default on a GPU only.
COMPILED = os.environ.get("JDM_FAST_BENCH_COMPILE", "")

_now = 0.0


def replayed_time() -> float:
    """The clock of these benchmarks: it moves by what the race has measured."""
    return _now


def kernel_cells(op: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Parametrises a benchmark of ``(benchmark, request, cell, contender, device)`` over the cells of ``op``: on a CPU
    the core shapes in float32, on a GPU, if there is one, all shapes in float32 and bfloat16."""
    parameters = []
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        core = set(_cells(op, device, "core"))
        compiled = COMPILED != "0" and (device == "cuda" or COMPILED == "1")
        for cell in _cells(op, device, "core" if device == "cpu" else "all"):
            for contender in (OURS, EAGER, *((COMPILE,) if compiled and cell in core else ())):
                parameters.append(pytest.param(cell, contender, device, id=f"{contender}-{cell.id}-{device}"))

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        function = pytest.mark.benchmark(timer=replayed_time)(function)
        return pytest.mark.parametrize("cell, contender, device", parameters)(function)

    return decorate


def _cells(op: str, device: str, shapes: str) -> list[Cell]:
    return select(ops=[op], shapes=[shapes], dtypes=("float32", "bfloat16") if device == "cuda" else ("float32",))


def race(benchmark: Any, request: pytest.FixtureRequest, cell: Cell, contender: str, device: str) -> None:
    """Reports the rounds of one contender in a cell; fails if it is wrong or has no time."""
    result = _measured(request.session, _case(cell, device))[cell]
    if contender in result.problems:
        pytest.fail(f"{cell.title} on {device}: {contender} {result.problems[contender]}", pytrace=False)
    benchmark.group = f"{cell.title} on {device}"
    benchmark.extra_info.update(
        implementation=contender,
        device=device,
        bytes=result.bytes,
        rotated=result.rotated,
        clock=result.times[contender].clock,
        of_copy=result.of_copy(contender),
        copy_seconds=result.copy.median,
        threads=torch.get_num_threads(),
    )
    rounds = iter(result.times[contender].rounds)

    def round_again() -> None:
        global _now
        _now += next(rounds)

    benchmark.pedantic(round_again, rounds=len(result.times[contender].rounds))


def _case(cell: Cell, device: str) -> tuple[str, Cell]:
    """What cells of all directions have in common, which share inputs and a check."""
    return device, replace(cell, direction="forward")


@functools.lru_cache(maxsize=1)
def _collected(session: pytest.Session) -> dict[tuple[str, Cell], dict[str, dict[Any, None]]]:
    """For each case that is to be run its cells and its contenders, in order."""
    found: dict[tuple[str, Cell], dict[str, dict[Any, None]]] = {}
    for item in session.items:
        callspec = getattr(item, "callspec", None)
        if callspec is not None and isinstance(callspec.params.get("cell"), Cell):
            cell, contender, device = (callspec.params[name] for name in ("cell", "contender", "device"))
            case = found.setdefault(_case(cell, device), {"cells": {}, "contenders": {}})
            case["cells"][cell] = case["contenders"][contender] = None
    return found


@functools.lru_cache(maxsize=1)
def _measured(session: pytest.Session, case: tuple[str, Cell]) -> dict[Cell, Result]:
    of, (device, _) = _collected(session)[case], case
    return {result.cell: result for result in measure_cells(list(of["cells"]), list(of["contenders"]), device)}
