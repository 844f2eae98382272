"""``jdm-fast train METHOD --data.x DIR --data.y DIR``."""

from __future__ import annotations

import os
from pathlib import Path

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
    default = PRESETS[name][1]()
    config_class = type(default.method)
    only_try = "--dry-run" in rest  # no setting of the run: it is not to be kept in config.json
    rest = [argument for argument in rest if argument != "--dry-run"]
    config = tyro.cli(TrainConfig[config_class], default=default, args=rest, prog=f"jdm-fast train {name}")
    console = Console()
    if only_try:
        dry_run(config, console)
        return 0
    folder = train(config, console=console)
    if os.environ.get("RANK", "0") == "0":  # of several processes the first speaks
        console.print(f"the run is in {folder}{_what_next(config_class, folder)}", markup=False)
    return 0


def _what_next(config_class: type, folder: Path) -> str:
    """The command that uses a run, for methods that have one."""
    method = next(spec.method_class for spec in METHODS.values() if spec.config_class is config_class)
    if hasattr(method, "sample") and hasattr(method, "default_order"):  # draws tuples, as jdm-fast sample asks for
        return f": try jdm-fast sample {folder} OUT"
    if hasattr(method, "translate"):
        return f": try jdm-fast translate {folder} IN OUT --to y"
    if hasattr(method, "marginal"):
        return f": try jdm-fast sample CONDITIONALS OUT --marginals {folder}, with a run of pix2pix or cyclegan"
    return ""


def _usage() -> str:
    lines = [
        "usage: jdm-fast train METHOD --data.x DIR --data.y DIR --out RUN [OPTIONS]",
        "       jdm-fast train METHOD --data.root ROOT [--data.domains X Y ...] --out RUN [OPTIONS]",
        "       jdm-fast train METHOD [OPTIONS] --dry-run    parameters, operations, memory, and the batch that fits",
        "       torchrun --nproc-per-node N -m jdm_fast train METHOD ...    with N processes, one for each GPU",
        "",
    ]
    lines += [f"  {name:18} {text}" for name, (text, _) in PRESETS.items()]
    return "\n".join(
        [*lines, "", "jdm-fast train METHOD --help lists the options with their defaults and where they come from."]
    )
