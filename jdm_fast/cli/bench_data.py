"""``jdm-fast bench data``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jdm_fast.data.throughput import PILLOW, WORKERS, Comparison, compare
from jdm_fast.errors import UserError
from jdm_fast.methods import METHODS
from jdm_fast.presets import PRESETS
from jdm_fast.training import TrainConfig
from jdm_fast.training.data import open_data
from jdm_fast.training.distributed import Processes
from jdm_fast.training.engines import make_engine
from jdm_fast.training.needs import Needs
from jdm_fast.training.precision import choose_precision

_USAGE = """usage: jdm-fast bench data (--data.root ROOT | --data.x DIR --data.y DIR) [OPTIONS]

Pictures a second of a plain PyTorch DataLoader with Pillow, of DALI decoding, and of DALI with decoded pictures from
the cache, in one run on the same files; and what share of a training step waits for data.

  --method NAME     the method or preset whose step and sizes are taken: {presets} (jwdm-small)
  --seconds NUMBER  of each measurement (1)
  --rounds NUMBER   measurements of each way to load (3)

All other options are those of jdm-fast train NAME."""


def run(arguments: Sequence[str]) -> int:
    """Measure and print a table."""
    if {"-h", "--help"} & set(arguments):
        print(_USAGE.format(presets=", ".join(PRESETS)))
        return 0
    console = Console()
    own, rest = _own_options(arguments)
    _, default = PRESETS[own.method]
    settings, prog = default(), f"jdm-fast bench data --method {own.method}"
    config_class = type(settings.method)
    config = tyro.cli(TrainConfig[config_class], default=settings, args=rest, prog=prog)
    method_class = next(spec.method_class for spec in METHODS.values() if spec.config_class is config_class)
    on_gpu = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if on_gpu else "cpu")
    _report(_measure(config, method_class, device, own, console), config, own.method, device, console)
    return 0


def _measure(
    config: TrainConfig[Any], method_class: type[Any], device: torch.device, own: argparse.Namespace, console: Console
) -> Comparison:
    with console.status("opening the data") as status, torch.random.fork_rng():
        torch.manual_seed(config.seed)
        method = method_class(config.method)
        loader = open_data(
            replace(config, sample_every=0, eval_every=0, accumulate=1),
            Needs.of(method),
            processes=Processes(device),
            warn=lambda text: console.print(text, style="yellow", markup=False),
        ).loader
        if loader.size is None:
            raise UserError("the data are vectors alone: there are no pictures to load")
        method.check_size(*loader.size)
        method.to(device).train()
        engine, _ = make_engine(
            config.engine,
            method,
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            pool_size=config.pool_size,
            ema_decay=config.ema_decay,
            critic_steps=config.critic_steps,
            seed=config.seed,
            precision=choose_precision(config.precision, device),
            device=device,
            activation_memory=config.activation_memory,
        )
        return compare(
            loader.groups,
            load_size=config.load_size,
            crop_size=config.crop_size,
            preprocess=config.preprocess,
            flip=config.flip,
            seed=config.seed,
            channels=getattr(config.method, "channels", 3),
            batch_size=config.batch_size,
            threads=config.data.threads,
            device=device,
            cache_mb=config.data.cache_mb,
            seconds=own.seconds,
            rounds=own.rounds,
            step=lambda batch: engine.step(batch, config.lr),
            on_progress=lambda text: status.update(escape(text)),
        )


def _report(
    measured: Comparison, config: TrainConfig[Any], method: str, device: torch.device, console: Console
) -> None:
    plain = {PILLOW.format(workers) for workers in WORKERS}
    base = max((rate for rate in measured.rates if rate.name in plain), key=lambda rate: rate.median).name
    title = f"pictures a second on {device.type}, batch {config.batch_size}; ratio to the faster DataLoader"
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column("loader")
    for column in ("pictures/s", "slowest", "fastest", "ratio"):
        table.add_column(column, justify="right")
    for rate in measured.rates:
        figures = (f"{rate.median:.0f}", f"{rate.slowest:.0f}", f"{rate.fastest:.0f}")
        table.add_row(rate.name, *figures, f"{measured.ratio(rate.name, base):.1f}")
    console.print(table)
    console.print(
        f"decoding {measured.pictures} pictures into the cache, once: {measured.cache_seconds:.1f} s", highlight=False
    )
    if measured.step_seconds is not None and measured.waiting is not None:
        console.print(
            f"a training step of {method}, with the cache: {measured.step_seconds * 1e3:.0f} ms, of which "
            f"{measured.waiting:.1%} waits for data",
            highlight=False,
            soft_wrap=True,
        )


def _own_options(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this command, and what is left for those of training."""
    parser = argparse.ArgumentParser(prog="jdm-fast bench data", add_help=False, allow_abbrev=False)
    parser.add_argument("--method", default="jwdm-small")
    parser.add_argument("--seconds", default="1")
    parser.add_argument("--rounds", default="3")
    own, rest = parser.parse_known_args(arguments)
    if own.method not in PRESETS:
        raise UserError(f"method: expected one of {', '.join(PRESETS)}, got {own.method!r}")
    for name, kind, expected in (("seconds", float, "a number above 0"), ("rounds", int, "an integer of at least 1")):
        given = getattr(own, name)
        try:
            setattr(own, name, kind(given))
        except ValueError as error:
            raise UserError(f"{name}: expected {expected}, got {given!r}") from error
        if not 0 < getattr(own, name) < float("inf"):
            raise UserError(f"{name}: expected {expected}, got {given}")
    return own, rest
