"""Results as a file, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jdm_fast._files import write_atomically
from jdm_fast.bench.clock import Times
from jdm_fast.bench.matrix import Cell
from jdm_fast.bench.measure import Result
from jdm_fast.errors import UserError

#: What a file of results calls itself; benchmarks/compare.py knows it by this.
KIND = "jdm_fast bench kernels"


def write_results(path: Path, results: Sequence[Result], about: Mapping[str, Any]) -> None:
    """Write results as JSON. ``about`` says what they depend on: machine, revision, copy bandwidth, command.

    Raises:
        UserError: the file cannot be written.
    """
    head = json.dumps({"kind": KIND, **about}, indent=1).removesuffix("\n}")
    cells = ",\n".join(json.dumps(_as_json(result)) for result in results)  # one a line: there are hundreds
    write_atomically(path, lambda file: file.write(f'{head},\n "cells": [\n{cells}\n]}}\n'.encode()))


def read_results(path: Path) -> list[Result]:
    """The results that :func:`write_results` wrote.

    Raises:
        UserError: no such file, or another kind of file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["kind"] != KIND:
            raise KeyError("kind")
        return [_from_json(entry) for entry in content["cells"]]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: these are not results of jdm-fast bench kernels") from error


def _as_json(result: Result) -> dict[str, Any]:
    contenders: dict[str, Any] = {
        name: {
            **_times(times),
            "gigabytes_per_second": _short(result.gigabytes_per_second(name)),
            "of_copy": _short(result.of_copy(name)),
            "ratio": None if (ratio := result.ratio(name)) is None else _short(ratio),
        }
        for name, times in result.times.items()
    }
    return {
        **asdict(result.cell),
        "title": result.cell.title,
        "device": result.device,
        "bytes": result.bytes,
        "rotated": result.rotated,
        "copy": _times(result.copy),
        "contenders": contenders | {name: {"problem": text} for name, text in result.problems.items()},
    }


def _times(times: Times) -> dict[str, Any]:
    first, third = map(_short, times.quartiles)
    return {"median": _short(times.median), "q1": first, "q3": third, "rounds": times.count, "clock": times.clock}


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _from_json(entry: dict[str, Any]) -> Result:
    names = ("op", "variant", "dtype", "layout", "direction")
    contenders = entry["contenders"]
    return Result(
        Cell(shape=tuple(entry["shape"]), **{name: entry[name] for name in names}),
        entry["device"],
        entry["bytes"],
        entry["rotated"],
        _as_times(entry["copy"]),
        {name: _as_times(value) for name, value in contenders.items() if "problem" not in value},
        {name: value["problem"] for name, value in contenders.items() if "problem" in value},
    )


def _as_times(entry: dict[str, Any]) -> Times:
    return Times(entry["median"], (entry["q1"], entry["q3"]), entry["rounds"], entry["clock"])
