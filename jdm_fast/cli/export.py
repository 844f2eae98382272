"""``jdm-fast export RUN OUT --format onnx|pt2``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from jdm_fast.cli._progress import counting
from jdm_fast.export import export_networks


@dataclass
class Export:
    """Write a run's encoders and decoders as files that run without jdm_fast. Batch and size are free, and each file is
    compared with the run before the folder gets its name."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a training run of jwdm, or a file of its generators."""
    output: Annotated[Path, tyro.conf.Positional]
    """The folder to make: encoder_x, encoder_y, decoder_x, decoder_y and export.json. It must be new or empty."""
    format: Literal["onnx", "pt2"] = "onnx"
    """onnx: opset 18, for onnxruntime and others; needs the extra jdm_fast[export]. pt2: for torch.export.load."""
    step: int | Literal["best"] | None = None
    """The checkpoint of this step, or the best; by default the newest."""


def run(arguments: list[str]) -> int:
    """Export, and show how far each file is from the run."""
    options = tyro.cli(Export, args=arguments, prog="jdm-fast export")
    console = Console()
    with counting(console, "exporting", "networks") as on_progress:
        made = export_networks(options.run, options.output, options.format, step=options.step, on_progress=on_progress)
    table = Table("file", "size", "differs from the run by", box=None, pad_edge=False)
    for name, difference in made.differences.items():
        size = (made.folder / name).stat().st_size / 2**20
        table.add_row(name, f"{size:.1f} MiB", f"{difference:.1g} of the largest value")
    console.print(table)
    console.print(
        f"{len(made.differences)} networks in {made.folder}; export.json says how they are used", markup=False
    )
    return 0
