"""``jdm-fast train METHOD --data.x DIR --data.y DIR``."""

from __future__ import annotations

import os

import tyro
from rich.console import Console

from jdm_fast.errors import UserError
from jdm_fast.methods import METHODS
from jdm_fast.presets import PRESETS
from jdm_fast.training import TrainConfig, train
from jdm_fast.training.dry_run import dry_run


def run(arguments: list[str]) -> int:
    """Train the named method or preset; run again on the same folder it continues."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name not in PRESETS:
        raise UserError(f"no method or preset is called {name!r}\n\n{_usage()}")
    _, default = PRESETS[name]
    config_class = METHODS[name.split("-")[0]].config_class
    only_try = "--dry-run" in rest  # no setting of the run: it is not to be kept in config.json
    rest = [argument for argument in rest if argument != "--dry-run"]
    config = tyro.cli(TrainConfig[config_class], default=default(), args=rest, prog=f"jdm-fast train {name}")
    console = Console()
    if only_try:
        dry_run(config, console)
        return 0
    folder = train(config, console=console)
    if os.environ.get("RANK", "0") == "0":  # of several processes the first speaks
        console.print(f"the run is in {folder}: try jdm-fast translate {folder} IN OUT --to y", markup=False)
    return 0


def _usage() -> str:
    lines = [
        "usage: jdm-fast train METHOD --data.x DIR --data.y DIR --out RUN [OPTIONS]",
        "       jdm-fast train METHOD --data.root ROOT [--data.domains X Y] --out RUN [OPTIONS]",
        "       jdm-fast train METHOD [OPTIONS] --dry-run    parameters, operations, memory, and the batch that fits",
        "       torchrun --nproc-per-node N -m jdm_fast train METHOD ...    with N processes, one for each GPU",
        "",
    ]
    lines += [f"  {name:12} {text}" for name, (text, _) in PRESETS.items()]
    return "\n".join(
        [*lines, "", "jdm-fast train METHOD --help lists the options with their defaults and where they come from."]
    )
