"""A training step of JointGAN as a ladder: from the loop that a straightforward reading of the paper gives to ours.

The plain loop, float32, eager, NCHW: every source is drawn by generator calls of its own and judged by a critic call of
its own with ``F.cross_entropy``, the fakes are made anew for each of the two updates, gradients of the critic's weights
are computed in the generators' update too and thrown away, Adam goes from tensor to tensor, and norms are
``nn.InstanceNorm2d`` followed by scale and shift, and an activation. Each row adds one lever to the row above it. The
last row on a CPU takes from our step the one critic call for all sources alone: what that lever is worth at the end.

Before anything is timed, all rows are checked: in double precision with small networks they compute the same update of
all weights, and at the size that is timed the same losses from the same weights and noise. On a GPU all rows have TF32
and cuDNN's choice of algorithms, as trainings have.

Steps are timed in turn, one of each row in each round, so that a disturbance meets all rows alike.

``make bench BENCHMARKS=benchmarks/bench_jointgan.py`` runs everything; on a CPU 32x32 and 64x64 at width 16, on a GPU
the paper's networks. ``PYTEST_ARGS="-k '32x32 and batch-1'"`` is a quick form.
"""

from __future__ import annotations

import copy
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.jointgan_loops import CriticCallASource, JointLevers, JointLoop
from benchmarks.ladder import DEVICE, TimedSteps
from benchmarks.train_loops import Batch, Ours
from jdm_fast.methods import JointGAN, JointGANConfig
from jdm_fast.training.precision import choose_precision, numerics

ROUNDS = 10
SOURCES = {
    "paired": {"domains": 2, "sources": ("paired",)},
    "unpaired": {"domains": 2, "sources": ("unpaired",)},
    "chain": {"domains": 3, "sources": ("chain",)},
}
OURS = "+ fused norms = jdm_fast"
TOLERANCES = (1e-4, 5e-3) if DEVICE.type == "cpu" else (5e-3, 5e-2)  #: of the losses; TF32 has three digits


# ---- The ladder -----------------------------------------------------------------------------------------------------

Make = Callable[[JointGAN], Any]


def rungs() -> dict[str, Make]:
    """The rows, each with how to make its loop of a method."""
    rows: dict[str, Make] = {}

    def add(name: str, levers: JointLevers) -> JointLevers:
        rows[name] = lambda method: JointLoop(method, levers)
        return levers

    levers = add("plain loop", JointLevers())
    levers = add("+ one critic call for all sources", replace(levers, one_critic_call=True))
    levers = add("+ batched generator calls", replace(levers, batched=True))
    levers = add("+ one generator forward", replace(levers, once=True))
    levers = add("+ critic frozen for the generators", replace(levers, frozen=True))
    add("+ fused Adam", replace(levers, fused_adam=True))
    rows[OURS] = lambda method: Ours(method, "eager")
    rows["- one critic call for all sources"] = lambda method: Ours(critic_call_a_source(method), "eager")
    if DEVICE.type == "cuda":
        best = choose_precision("auto", DEVICE)
        rows[f"jdm_fast, {best.name}"] = lambda method: Ours(method, "eager", best)
        rows[f"jdm_fast, {best.name}, CUDA graph"] = lambda method: Ours(method, "graph", best)
    return rows


def critic_call_a_source(method: JointGAN) -> CriticCallASource:
    """The same networks and objective, judged source by source."""
    parameter = next(method.parameters())
    other = CriticCallASource(method.config).to(parameter)
    other.load_state_dict(method.state_dict())
    return other


@dataclass(frozen=True)
class Row:
    """What was measured of a rung. ``ratio`` is of medians, ``ratio_of_best`` of the quickest steps: where they differ
    much, the machine had other work and the run should be repeated. Calls are those of one step."""

    name: str
    milliseconds: float
    best_milliseconds: float
    ratio: float
    ratio_of_best: float
    peak_bytes: int
    generator_calls: int
    critic_calls: int


class Ladder(TimedSteps):
    """All rungs from the same weights, and a batch."""

    def __init__(self, sources: str, side: int, width: int, batch_size: int) -> None:
        check_all_rungs(sources)
        depth = side.bit_length() - 1  # the bottleneck is 1x1
        method = make_method(sources, width=width, critic_width=width, depth=depth).to(DEVICE)
        batch = make_batch(method, batch_size, side, torch.float32)
        self.calls: dict[str, Counter[str]] = {}
        expected: tuple[Tensor, ...] = ()

        def first_step(name: str, loop: Any) -> None:
            nonlocal expected
            losses, self.calls[name] = counted(loop, batch)
            expected = expected or losses
            check_losses(name, losses, expected)

        super().__init__(rungs(), method, batch, first_step)

    def rows(self) -> list[Row]:
        """What the timed rounds gave, the warm-up left out."""
        times = self.last(ROUNDS)
        first = times[next(iter(times))]
        return [
            Row(
                name=name,
                milliseconds=statistics.median(own) * 1e3,
                best_milliseconds=min(own) * 1e3,
                ratio=statistics.median(first) / statistics.median(own),
                ratio_of_best=min(first) / min(own),
                peak_bytes=self.peaks[name],
                generator_calls=self.calls[name]["generator"],
                critic_calls=self.calls[name]["critic"],
            )
            for name, own in times.items()
        ]


def table(rows: list[Row], title: str) -> Table:
    """The ladder as it is printed."""
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    shown.add_column("step", no_wrap=True)
    for column in ("ms", "best ms", "ratio", "of best", "peak MB", "generator calls", "critic calls"):
        shown.add_column(column, justify="right")
    for row in rows:
        shown.add_row(
            row.name,
            f"{row.milliseconds:.1f}",
            f"{row.best_milliseconds:.1f}",
            f"{row.ratio:.2f}x",
            f"{row.ratio_of_best:.2f}x",
            f"{row.peak_bytes / 2**20:.0f}",
            str(row.generator_calls),
            str(row.critic_calls),
        )
    return shown


# ---- Inputs and checks ----------------------------------------------------------------------------------------------


def make_method(sources: str, **options: Any) -> JointGAN:
    torch.manual_seed(0)
    return JointGAN(JointGANConfig(**SOURCES[sources], **options))


def make_batch(method: JointGAN, count: int, side: int, dtype: torch.dtype) -> Batch:
    """Images with the keys that a loader gives: of three domains with pairs (x, y) and (y, z), y comes twice."""
    names = ("x", "y_xy", "y_yz", "z") if len(method.domains) == 3 else method.domains
    shape = (count, method.config.channels, side, side)
    return {name: torch.rand(shape, dtype=dtype, device=DEVICE) * 2 - 1 for name in names}


def counted(loop: Any, batch: Batch) -> tuple[tuple[Tensor, Tensor], Counter[str]]:
    """The losses of a step, and how often each network was called in it (of a CUDA graph: until it stood)."""
    calls: Counter[str] = Counter()
    method = loop.method
    networks = [("critic", method.critic), *(("generator", network) for network in method.generators.values())]
    hooks = [network.register_forward_hook(lambda *_, n=name: calls.update([n])) for name, network in networks]
    losses = loop.step(batch)
    for hook in hooks:
        hook.remove()
    return losses, calls


def check_losses(name: str, losses: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Equal to those of the plain loop, for the same weights and noise.

    The generators' loss comes after an update of the critic by Adam, whose first step is the gradient's sign, which
    rounding decides where the gradient is next to nothing; half precision rounds more.
    """
    half = "jdm_fast, " in name
    for kind, found, plain, tolerance in zip(("critic", "generator"), losses, expected, TOLERANCES, strict=True):
        torch.testing.assert_close(
            found, plain, rtol=0.05 if half else tolerance, atol=0.01 if half else 0,
            msg=lambda text, k=kind: f"{name}: the {k} loss differs from the plain loop's: {text}",
        )  # fmt: skip


def check_all_rungs(sources: str) -> None:
    """Every rung in float32 computes in double precision the losses and the update of the plain loop, with small
    networks."""
    method = make_method(
        sources, width=4, depth=5, max_width=16, critic_width=4, critic_layers=2, noise=8, init="default"
    )
    method.double().to(DEVICE)
    batch = make_batch(method, 2, 32, torch.float64)
    before = answers(method, batch)
    expected: tuple[Tensor, tuple[Tensor, ...]] | None = None
    for name, make in rungs().items():
        if "jdm_fast, " in name:
            continue
        loop = make(copy.deepcopy(method))
        torch.manual_seed(1)
        losses = loop.step(batch)
        found = answers(loop.method, batch)
        expected = expected or (found, losses)
        torch.testing.assert_close(losses, expected[1], rtol=1e-6, atol=0, msg=lambda text, n=name: f"{n}: {text}")
        change = (expected[0] - before).norm()
        assert change > 1e-3 * before.norm(), f"{name}: the step must have done something"
        difference = (found - expected[0]).norm() / change
        assert difference < 1e-4, f"{name}: must compute the plain loop's update, differs by {difference:.1e} of it"


@torch.no_grad()
def answers(method: JointGAN, batch: Batch) -> Tensor:
    """All that the networks make of a batch and of one noise."""
    torch.manual_seed(2)
    fakes = method.generate(batch)
    logits, _ = method._judge(method.sources, batch, fakes)
    return torch.cat([*(made.flatten() for made in fakes.values()), logits.flatten()])


# ---- The benchmark --------------------------------------------------------------------------------------------------

SIZES = [(64, 64, 8), (256, 64, 1), (256, 64, 8)] if DEVICE.type == "cuda" else [
    (side, 16, count) for side in (32, 64) for count in (1, 8)
]  # fmt: skip


@pytest.fixture(autouse=True)
def numerics_of_a_training() -> Iterator[None]:
    """On a GPU, for every row alike: TF32, and cuDNN's best algorithm of each convolution."""
    with numerics(choose_precision("auto", DEVICE), DEVICE):
        yield


@pytest.mark.parametrize("sources", SOURCES)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "{0}x{0}-width-{1}-batch-{2}".format(*size))
def test_jointgan_step(benchmark: Any, sources: str, size: tuple[int, int, int], capsys: Any) -> None:
    """The timed step is ours; each comes after one of every other row."""
    ladder = Ladder(sources, *size)
    side, width, count = size
    benchmark.group = f"JointGAN step, {sources}, {side}x{side}, width {width}, batch {count}, {DEVICE.type}"
    benchmark.extra_info["implementation"] = "jdm_fast"

    def run_others() -> None:
        for other in ladder.loops:
            if other != OURS:
                ladder.run(other)

    benchmark.pedantic(ladder.run, args=(OURS,), setup=run_others, rounds=ROUNDS, warmup_rounds=1)
    if benchmark.stats is None:  # with --benchmark-disable
        return
    rows = ladder.rows()
    benchmark.extra_info["ladder"] = [vars(row) for row in rows]
    with capsys.disabled():
        print()
        Console(width=120).print(table(rows, benchmark.group))
