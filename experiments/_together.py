"""Many small trainings side by side on one GPU, from pictures in its memory.

A step of a small network is a thousand kernels that each leave most of a GPU idle. Here every training is a captured
step on a stream of its own, and a few threads go round them: launching such a step takes the host about as long as the
GPU, and their kernels fill the GPU together. Steps, engines and
methods are those of ``jdm_fast train``; batches are cut from pictures that lie in the GPU's memory. Captured steps
share PyTorch's one generator of random numbers, so noise, and with it a run, does not repeat to the bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jdm_fast.methods import Method
from jdm_fast.training.engines import Engine, make_engine
from jdm_fast.training.precision import choose_precision, numerics

AHEAD = 40  # steps whose batches are cut at once
ALONE = 10  # first steps, which warm up and capture, one training after another
PROBE = 50  # steps after them, whose time says how many there is time for
THREADS = 6  # that launch the steps after them


@dataclass(frozen=True)
class Job:
    """One training.

    Args:
        name: for messages.
        make: gives the method, after its seed is set.
        pictures: by key of a batch, uint8 [N, C, h, w].
        places: keys that show one place: they are drawn, cut and turned over together; all others alone.
        side: of the squares that are cut out of the pictures. flip: turn every other one over.
        lr: constant for half of the steps, then falling to 0.
        engine: further options of :func:`jdm_fast.training.engines.make_engine`.
    """

    name: str
    make: Callable[[], Method]
    pictures: dict[str, Tensor]
    places: Sequence[Sequence[str]]
    side: int
    flip: bool
    batch_size: int
    lr: float
    seed: int
    engine: dict[str, Any]


class Batches:
    """Endless random batches of a job, cut on the device many steps at a time."""

    def __init__(self, job: Job, device: torch.device) -> None:
        self._job, self._device = job, device
        self._pictures = {key: value.to(device) for key, value in job.pictures.items()}
        self._generator = torch.Generator(device).manual_seed(1000 + job.seed)
        self._ready: list[dict[str, Tensor]] = []

    def next(self) -> dict[str, Tensor]:
        """[B, C, side, side] by key, in [-1, 1]."""
        if not self._ready:
            cut: dict[str, Tensor] = {}
            for keys in self._job.places:
                cut |= self._cut(keys, AHEAD * self._job.batch_size)
            parts = {key: value.split(self._job.batch_size) for key, value in cut.items()}
            self._ready = [{key: values[k] for key, values in parts.items()} for k in range(AHEAD)]
        return self._ready.pop()

    def _cut(self, keys: Sequence[str], count: int) -> dict[str, Tensor]:
        """The same places of all ``keys``."""
        side, (n, _, height, width) = self._job.side, self._pictures[keys[0]].shape

        def below(most: int) -> Tensor:
            return torch.randint(most, (count, 1), device=self._device, generator=self._generator)

        line = torch.arange(side, device=self._device)
        chosen, rows, columns = below(n), below(height - side + 1) + line, below(width - side + 1) + line
        if self._job.flip:
            columns = torch.where(below(2) == 1, columns.flip(1), columns)
        at = (chosen[:, :, None], slice(None), rows[:, :, None], columns[:, None, :])
        return {key: self._pictures[key][at].permute(0, 3, 1, 2).float() / 127.5 - 1 for key in keys}


def train_together(
    jobs: Sequence[Job], steps: int, device: torch.device, seconds: float | None = None
) -> tuple[dict[str, Method], int, float]:
    """Train all jobs for ``steps`` steps each, or for fewer if ``seconds`` do not suffice.

    Returns:
        By name the methods, with the average of their generators' weights over the last twentieth of the steps; the
        steps of each, and the seconds that they took.
    """
    ema_decay = max(0.0, 1 - 20 / steps)  # a longer memory than the training would average the beginning in
    precision = choose_precision("tf32" if device.type == "cuda" else "fp32", device)
    engines: list[tuple[Job, Method, Engine, Batches, Any]] = []
    with numerics(precision, device):
        for job in jobs:
            torch.manual_seed(job.seed)
            method: Any = job.make()
            method = method.to(device).train()
            engine, _ = make_engine("auto", method, lr=job.lr, precision=precision, ema_decay=ema_decay, **job.engine)
            stream = torch.cuda.Stream(device) if device.type == "cuda" else None
            engines.append((job, method, engine, Batches(job, device), stream))
        _synchronize(device)
        began = time.monotonic()

        threads = THREADS if device.type == "cuda" else 1

        def run(part: Sequence[Any], first: int, last: int) -> None:
            for step in range(first, last):
                share = min(1.0, 2 * (1 - step / steps))
                for job, _, engine, batches, stream in part:
                    with nullcontext() if stream is None else torch.cuda.stream(stream):
                        engine.step(batches.next(), job.lr * share)

        def run_all(first: int, last: int) -> None:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda k: run(engines[k::threads], first, last), range(threads)))
            _synchronize(device)

        run(engines, 0, min(ALONE, steps))
        _synchronize(device)
        if seconds is not None and steps > 2 * (ALONE + PROBE):
            probed = time.monotonic()
            run_all(ALONE, ALONE + PROBE)
            left = seconds - (time.monotonic() - began)
            steps = max(2 * (ALONE + PROBE), min(steps, int(left * PROBE / (time.monotonic() - probed))))
            run_all(ALONE + PROBE, steps)
        else:
            run_all(min(ALONE, steps), steps)
        took = time.monotonic() - began
    for _, method, engine, _, _ in engines:
        with engine.averaged():
            state = {name: value.clone() for name, value in method.state_dict().items()}
        method.load_state_dict(state)
        method.eval()
    return {job.name: method for job, method, *_ in engines}, steps, took


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
