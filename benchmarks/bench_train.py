"""A training step of JWDM as a ladder: from the loop that a straightforward reading gives to each of our engines.

(a) is the plain loop in float32, eager, NCHW, that a reading of Algorithm 1 line by line gives: every network is
called for one batch at a time, the fakes are made anew for each of the two updates, gradients of the critics' weights
are computed in the generator update too and thrown away, Adam goes from tensor to tensor, and norms are
``nn.InstanceNorm2d`` followed by an activation and an addition. (b) is the same loop with what PyTorch offers:
channels_last, AMP where the device has the units, and torch.compile. (c) is ours, each engine that the device has.
Each row adds one lever to a row above it, so that none takes another's credit. Before anything is timed, all rows are
checked to compute the same update. On a GPU all have TF32 and cuDNN's choice of algorithms, as trainings have.

Steps are timed in turn, one of each row in each round, so that a disturbance meets all rows alike. FLOP utilisation is
the work that has to be done (the count of our eager step, nothing done twice) over the time and the rate of a large
matrix product measured in the same run, in float32 on a CPU and bfloat16 on a GPU.

``make bench BENCHMARKS=benchmarks/bench_train.py`` runs everything; on a CPU 64x64 at widths 16 and 32, on a GPU the
paper's networks at 256x256. ``JDM_FAST_BENCH_COMPILE=0`` leaves out the rows that take minutes to compile on a CPU.
"""

from __future__ import annotations

import copy
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ladder import DEVICE, TimedSteps
from benchmarks.train_loops import Batch, Levers, Loop, Ours
from jdm_fast.methods import JWDM, JWDMConfig
from jdm_fast.training.precision import choose_precision, numerics

ROUNDS = 8
COMPILE = os.environ.get("JDM_FAST_BENCH_COMPILE", "1") != "0"


# ---- The ladder -----------------------------------------------------------------------------------------------------

Make = Callable[[JWDM], Any]


def rungs() -> dict[str, Make]:
    """The rows, each with how to make its loop of a method."""
    plain = Levers()
    rows: dict[str, Make] = {}

    def add(name: str, levers: Levers) -> Levers:
        rows[name] = lambda method: Loop(method, levers)
        return levers

    half, best = choose_precision("bf16", DEVICE), choose_precision("auto", DEVICE)
    add("(a) plain loop", plain)
    # On a GPU these pay together. On a CPU each of the first two costs time, so (b) does without them.
    together = DEVICE.type == "cuda"
    b = add("(a) + channels_last", replace(plain, channels_last=True))
    if half.dtype is not None:
        row = f"    + AMP ({half.name})" if together else f"(a) + AMP ({half.name})"
        b = add(row, replace(b if together else plain, precision=half))
    if COMPILE:
        row = "    + torch.compile = (b)" if together else "(a) + torch.compile = (b)"
        add(row, replace(b if together else plain, compiled=True))
    levers = add("(a) + one generator forward", replace(plain, once=True))
    levers = add("    + critics frozen for the generators", replace(levers, frozen=True))
    levers = add("    + batched calls", replace(levers, batched=True))
    add("    + fused Adam", replace(levers, fused_adam=True))
    rows["    + fused norms = (c) eager"] = lambda method: Ours(method, "eager")
    if best.dtype is not None:
        rows[f"    + {best.name}, channels_last"] = lambda method: Ours(method, "eager", best)
    if COMPILE:
        rows["    + torch.compile = (c) compile"] = lambda method: Ours(method, "compile", best)
    if DEVICE.type == "cuda":
        rows["    (instead) CUDA graph = (c) graph"] = lambda method: Ours(method, "graph", best)
    return rows


@dataclass(frozen=True)
class Row:
    """What was measured of a rung. ``ratio`` is of medians, ``ratio_of_best`` of the quickest steps: where they differ
    much, the machine had other work and the run should be repeated."""

    name: str
    milliseconds: float
    images_per_second: float
    ratio: float
    ratio_of_best: float
    peak_bytes: int
    utilisation: float


class Ladder(TimedSteps):
    """All rungs from the same weights, and a batch."""

    def __init__(self, width: int, residual_convs: int, batch_size: int, side: int) -> None:
        check_all_rungs()
        torch.manual_seed(0)
        config = JWDMConfig(width=width, critic_width=width, residual_convs=residual_convs)
        method = JWDM(config).to(DEVICE)
        batch = {name: torch.rand(batch_size, 3, side, side, device=DEVICE) * 2 - 1 for name in ("x", "y")}
        self.flops = count_flops(copy.deepcopy(method), batch)
        self.rate = matrix_rate()
        expected: tuple[Tensor, ...] = ()

        def first_step(name: str, loop: Any) -> None:
            nonlocal expected
            losses = loop.step(batch)
            expected = expected or losses
            # Precisions and compilers round differently; what is wrong is wrong by more.
            torch.testing.assert_close(losses, expected, rtol=0.05, atol=0.01, msg=lambda text: f"{name}: {text}")

        super().__init__(rungs(), method, batch, first_step)

    def rows(self) -> list[Row]:
        """What the timed rounds gave, the warm-up left out."""
        times = self.last(ROUNDS)
        first = times[next(iter(times))]
        images = 2 * len(self.batch["x"])
        rows = []
        for name, own in times.items():
            median = statistics.median(own)
            rows.append(
                Row(
                    name=name,
                    milliseconds=median * 1e3,
                    images_per_second=images / median,
                    ratio=statistics.median(first) / median,
                    ratio_of_best=min(first) / min(own),
                    peak_bytes=self.peaks[name],
                    utilisation=self.flops / median / self.rate,
                )
            )
        return rows


def table(rows: list[Row], title: str) -> Table:
    """The ladder as it is printed."""
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    shown.add_column("step", no_wrap=True)
    for column in ("ms", "images/s", "ratio", "of best", "peak MB", "FLOP utilisation"):
        shown.add_column(column, justify="right")
    for row in rows:
        shown.add_row(
            row.name,
            f"{row.milliseconds:.1f}",
            f"{row.images_per_second:.1f}",
            f"{row.ratio:.2f}x",
            f"{row.ratio_of_best:.2f}x",
            f"{row.peak_bytes / 2**20:.0f}",
            f"{row.utilisation:.0%}",
        )
    return shown


# ---- Measures and checks --------------------------------------------------------------------------------------------


def count_flops(method: JWDM, batch: Batch) -> int:
    """Of a step in which nothing is done twice."""
    with FlopCounterMode(display=False) as counter:
        Ours(method, "eager").step(batch)
    return counter.get_total_flops()


def matrix_rate() -> float:
    """FLOP/s of a large matrix product, the ceiling of a convolution."""
    size, dtype = (8192, torch.bfloat16) if DEVICE.type == "cuda" else (1024, torch.float32)
    a = torch.rand(size, size, device=DEVICE, dtype=dtype)
    times = []
    for _ in range(12):
        begin = time.perf_counter()
        a @ a
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return 2 * size**3 / statistics.median(times[2:])


def check_all_rungs() -> None:
    """Every rung that can run in double precision computes the update of (a), with small networks.

    In single precision Adam's first step would tell little: it is the gradient's sign, which rounding decides where the
    gradient is next to nothing.
    """
    torch.manual_seed(0)
    method = JWDM(JWDMConfig(width=4, critic_width=4, blocks=2)).double().to(DEVICE)
    batch = {name: torch.rand(2, 3, 64, 64, dtype=torch.float64, device=DEVICE) * 2 - 1 for name in ("x", "y")}
    before = answers(method, batch)
    expected = None
    for name, make in rungs().items():
        if "compile" in name or "AMP" in name or "bf16" in name or "graph" in name:
            continue
        loop = make(copy.deepcopy(method))
        torch.manual_seed(1)
        loop.step(batch)
        found = answers(loop.method, batch)
        expected = found if expected is None else expected
        change = (expected - before).norm()
        assert change > 1e-3 * before.norm(), f"{name}: the step must have done something"
        difference = (found - expected).norm() / change
        assert difference < 1e-4, f"{name}: must compute the same update as (a), differs by {difference:.1e} of it"


@torch.no_grad()
def answers(method: JWDM, batch: Batch) -> Tensor:
    """All that the networks make of a batch."""
    scores = [method.critics[name](batch[name]).flatten() for name in ("x", "y")]
    return torch.cat([*(made.flatten() for made in method.generate(batch).values()), *scores])


# ---- The benchmark --------------------------------------------------------------------------------------------------

ON_CPU = [
    pytest.param((16, 1, 1, 64), id="64x64, width 16, one-conv blocks"),
    pytest.param((16, 2, 4, 64), id="64x64, width 16, two-conv blocks, batch 4"),
    pytest.param((32, 1, 1, 64), id="64x64, width 32, one-conv blocks"),
]
ON_GPU = [
    pytest.param((64, 2, 1, 256), id="256x256, two-conv blocks, batch 1"),
    pytest.param((64, 2, 16, 256), id="256x256, two-conv blocks, batch 16"),
    pytest.param((64, 1, 1, 256), id="256x256, one-conv blocks, batch 1"),
]


@pytest.fixture(autouse=True)
def numerics_of_a_training() -> Iterator[None]:
    """On a GPU, for every row alike: TF32, and cuDNN's best algorithm of each convolution."""
    with numerics(choose_precision("auto", DEVICE), DEVICE):
        yield


@pytest.mark.parametrize("case", ON_GPU if DEVICE.type == "cuda" else ON_CPU)
def test_train_step(
    benchmark: Any, request: pytest.FixtureRequest, case: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """The timed step is that of the last rung but those that are compiled; each comes after one of every other."""
    ladder = Ladder(*case)
    name = "    + fused norms = (c) eager"
    benchmark.group = f"training step, {request.node.callspec.id}, {DEVICE.type}"
    benchmark.extra_info["implementation"] = "jdm_fast"

    def run_others() -> None:
        for other in ladder.loops:
            if other != name:
                ladder.run(other)

    benchmark.pedantic(ladder.run, args=(name,), setup=run_others, rounds=ROUNDS, warmup_rounds=1)
    if benchmark.stats is None:  # with --benchmark-disable
        return
    rows = ladder.rows()
    benchmark.extra_info["ladder"] = [vars(row) for row in rows]
    benchmark.extra_info["matrix_flops_per_second"] = ladder.rate
    with capsys.disabled():
        print()
        Console(width=120).print(table(rows, benchmark.group))
