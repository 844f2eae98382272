"""``jdm-fast translate RUN IN OUT --to x|y``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from jdm_fast import synthesis
from jdm_fast.cli._progress import counting


@dataclass
class Translate:
    """Translate a picture, or every picture in a folder, into another domain. Sizes are kept."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a training run. It carries its configuration: no option here has to match the training."""
    input: Annotated[Path, tyro.conf.Positional]
    """A picture, or a folder of pictures."""
    output: Annotated[Path, tyro.conf.Positional]
    """For a picture: the file to write. For a folder: the folder to write to."""
    to: Literal["x", "y"] = "y"
    """The domain to translate to."""
    batch_size: int | None = None
    """Pictures of one size translated at once; by default as many as fit a sensible amount of memory."""
    skip_bad: bool = False
    """Leave out pictures that cannot be read instead of failing at the end."""
    device: str | None = None
    """cpu or cuda; by default the GPU if there is one."""


def run(arguments: list[str]) -> int:
    """Translate files; every unreadable one is named at the end, and makes the status 2 unless ``--skip-bad``."""
    options = tyro.cli(Translate, args=arguments, prog="jdm-fast translate")
    console = Console()
    model = synthesis.load(options.run, device=options.device)
    with counting(console, "translating", "pictures") as on_progress:
        done = synthesis.translate_files(
            model,
            options.input,
            options.output,
            to=options.to,
            batch_size=options.batch_size,
            skip_bad=options.skip_bad,
            on_progress=on_progress,
        )
    for path, reason in done.failed.items():
        console.print(f"left out {path}: {reason}", markup=False)
    console.print(f"{len(done.files)} pictures in {options.output}", markup=False)
    return 0
