"""Scores against a truth, shown as a table and written as JSON beside what was made."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jdm_fast._files import write_atomically
from jdm_fast.metrics import Score

_COLUMNS = {
    "l1": ("L1 error", "{:.3f}"),
    "psnr": ("PSNR (dB)", "{:.1f}"),
    "ssim": ("SSIM", "{:.3f}"),
    "miou": ("mIoU", "{:.3f}"),
    "land_sea": ("land/sea", "{:.3f}"),
}


def show_scores(console: Console, title: str, scores: Mapping[str, Score], rows: Mapping[str, str]) -> None:
    """Print a table of ``scores``, each under its name in ``rows``; columns without any score are left out."""
    kinds = [kind for kind in _COLUMNS if any(getattr(score, kind) is not None for score in scores.values())]
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for kind in kinds:
        table.add_column(_COLUMNS[kind][0], justify="right")
    for name, score in scores.items():
        values = [getattr(score, kind) for kind in kinds]
        cells = [
            "" if value is None else _COLUMNS[kind][1].format(value) for kind, value in zip(kinds, values, strict=True)
        ]
        table.add_row(rows[name], *cells)
    console.print(table)


def as_json(scores: Mapping[str, Score]) -> dict[str, dict[str, float]]:
    """Scores by name as plain numbers; those there are none of are left out."""
    return {
        name: {kind: value for kind, value in dataclasses.asdict(score).items() if value is not None}
        for name, score in scores.items()
    }


def write_scores(console: Console, output: Path, report: Mapping[str, Any]) -> Path:
    """Write ``report`` to ``scores.json`` in the folder ``output``, or to ``NAME.scores.json`` beside the file
    ``output``."""
    path = output / "scores.json" if output.is_dir() else output.with_name(f"{output.stem}.scores.json")
    text = json.dumps(report, indent=1, ensure_ascii=False)
    write_atomically(path, lambda file: file.write(text.encode() + b"\n"))
    console.print(f"scores in {path}", markup=False, soft_wrap=True)
    return path
