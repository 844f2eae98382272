from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from jdm_fast.errors import UserError
from jdm_fast.methods import JWDM, WGANGP, JWDMConfig, WGANGPConfig
from jdm_fast.methods.divergences import gradient_penalty
from jdm_fast.training import TrainConfig
from jdm_fast.training import dry_run as module
from jdm_fast.training.dry_run import Need, dry_run
from jdm_fast.training.engines import make_engine
from jdm_fast.training.flop_count import FlopCount
from jdm_fast.training.live_memory import LiveMemory, tensor_bytes
from tests.training.fake_method import FakeConfig

SMALL = JWDMConfig(width=8, blocks=1, embedding_kernel=1, critic_width=8, critic_layers=2)
CONFIG = TrainConfig(
    method=SMALL, out=Path("run"), load_size=36, crop_size=32, batch_size=3, pool_size=0, sample_every=0, device="cpu"
)


@pytest.fixture(autouse=True)
def no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other batch sizes are tried only in the test of that."""
    monkeypatch.setattr(module, "device_memory_bytes", lambda device: None)


def test_live_memory_follows_tensors() -> None:
    known = torch.zeros(100)
    with LiveMemory([known, known.view(10, 10)]) as live:
        assert live.bytes == 400
        a = torch.zeros(1000)
        view = a.view(10, 100)[3]
        b = a + 1
        assert (live.bytes, live.peak) == (8400, 8400)
        b.add_(1)
        del b
        assert (live.bytes, live.peak) == (4400, 8400)
        del a
        assert live.bytes == 4400, "a view keeps the memory"
        del view
        assert live.bytes == 400
        x = torch.ones(50, requires_grad=True)
        y = x.exp()
        assert live.bytes == 800
        y.sum().backward()
        del y
        assert live.bytes == 400 + 200 + 200, "a gradient has come, and what was kept for it has gone"
    assert tensor_bytes([known, known[1:], torch.zeros(2)]) == 408


@pytest.mark.parametrize("memory, accumulate", [("full", 1), ("recompute", 2)])
def test_it_foretells_a_real_step_to_the_byte(memory: str, accumulate: int, console: Console) -> None:
    config = replace(CONFIG, activation_memory=memory, accumulate=accumulate, ema_decay=0.9)
    need = dry_run(config, console).need
    torch.manual_seed(0)
    counter = FlopCounterMode(display=False)
    with LiveMemory() as live:
        method = JWDM(SMALL)
        engine, _ = make_engine(
            "eager", method, lr=1e-3, betas=(0.5, 0.9), ema_decay=0.9, accumulate=accumulate, activation_memory=memory
        )
        batch = {name: torch.rand(3 * accumulate, 3, 32, 32) * 2 - 1 for name in ("x", "y")}
        engine.step(batch, 1e-3)
        live.peak = kept = live.bytes
        with counter:
            engine.step(batch, 1e-3)
    assert sum(need.kept.values()) == kept and need.peak == live.peak
    assert need.flops == counter.get_total_flops()


def test_a_gradient_penalty_counts() -> None:
    """By hand, for a critic of one convolution of F operations: itself on the interpolates, its gradient, and the
    gradient of that by the weights and by what the gradient came from."""
    torch.manual_seed(0)
    critic, images = torch.nn.Conv2d(3, 5, 4, stride=2, padding=1), torch.rand(2, 3, 8, 8)
    once = 2 * (2 * 5 * 4 * 4) * (3 * 4 * 4)
    with FlopCount() as count:
        penalty = gradient_penalty(critic, images, [(1.0, images.flip(0))])
        assert count.total == 2 * once
        penalty.backward()
    assert count.total == 4 * once


def test_wgan_gp_is_foretold_with_its_penalties(console: Console) -> None:
    """PyTorch's own counter fails on its gradient of a gradient."""
    method = WGANGPConfig(width=4, depth=4, max_width=8, critic_width=4)
    config = replace(CONFIG, method=method, critic_steps=2)
    need = dry_run(config, console).need
    torch.manual_seed(0)
    with LiveMemory() as live:
        engine, _ = make_engine("eager", WGANGP(method), lr=1e-3, betas=(0.5, 0.9), critic_steps=2)
        batch = {name: torch.rand(3, 3, 32, 32) * 2 - 1 for name in ("x", "y")}
        engine.step(batch, 1e-3)
        live.peak = kept = live.bytes
        with FlopCount() as count:
            engine.step(batch, 1e-3)
    assert need.flops == count.total
    assert sum(need.kept.values()) == kept and need.peak == live.peak
    without = dry_run(replace(config, method=replace(method, gradient_penalty_weight=0.0)), console).need
    assert need.flops > 1.2 * without.flops and need.passing > without.passing


def test_every_part_by_hand(console: Console) -> None:
    config = replace(CONFIG, pool_size=5, sample_every=10, ema_decay=0.5, on_nonfinite="skip")
    answer = dry_run(config, console)
    method = JWDM(SMALL)
    generators = sum(parameter.numel() for parameter in method.generator_parameters())
    critics = sum(parameter.numel() for parameter in method.critic_parameters())
    image = 3 * 32 * 32
    kept = answer.need.kept
    assert kept["weights"] == 4 * (generators + critics)
    assert kept["average of the generators"] == kept["copy of the generators for sample grids"] == 4 * generators
    assert kept["image pools"] == 4 * 5 * image * len(method.pooled)
    assert kept["a batch"] == 4 * 3 * image * 2
    tensors = len(list(method.parameters()))
    moments = 2 * 4 * (generators + critics) + 4 * tensors  # and a step count each
    assert moments <= kept["moments of Adam"] <= moments + 64  # a few scalars: flags and norms
    assert {name: count for name, _, count in answer.networks} == {
        f"{part}.{name}": sum(parameter.numel() for parameter in network.parameters())
        for part in ("encoders", "decoders", "critics")
        for name, network in getattr(method, part).items()
    }
    assert {side for _, side, _ in answer.networks} == {"generator", "critic"}


def test_half_precision_takes_less(monkeypatch: pytest.MonkeyPatch, console: Console) -> None:
    full = dry_run(CONFIG, console).need
    monkeypatch.setattr("jdm_fast.training.precision.cpu_has_bf16", lambda: True)
    half = dry_run(replace(CONFIG, precision="bf16"), console).need
    assert half.kept == full.kept and half.flops == pytest.approx(full.flops, rel=0.05)
    assert half.passing < 0.8 * full.passing


def test_the_batch_size_that_fits(monkeypatch: pytest.MonkeyPatch, console: Console) -> None:
    peaks: dict[int, int] = {}
    ask = module._Rehearsal.need

    def need(self: module._Rehearsal, batch_size: int) -> Need:
        answer = ask(self, batch_size)
        peaks[batch_size] = answer.peak
        return answer

    monkeypatch.setattr(module._Rehearsal, "need", need)
    monkeypatch.setattr(module, "device_memory_bytes", lambda device: 40 << 20)
    answer = dry_run(CONFIG, console)
    assert answer.fitting is not None and answer.fitting > 3 and len(peaks) > 2
    assert peaks[answer.fitting] <= 0.75 * (40 << 20)
    growth = (peaks[6] - peaks[3]) // 3
    assert peaks[answer.fitting] + growth > 0.75 * (40 << 20), "one more would not fit"
    assert f"fits: batch_size up to {answer.fitting} in 40.0 MB" in console.file.getvalue()


@pytest.mark.parametrize(
    "fitting, verdict", [(5, "fits: batch_size up to 5"), (2, "does not fit: batch_size at most 2"), (0, "not even")]
)
def test_the_verdict(fitting: int, verdict: str, monkeypatch: pytest.MonkeyPatch, console: Console) -> None:
    need = Need(3, 10, {"weights": 5}, 7)
    answer = module.DryRun((("net", "critic", 9),), need, (32, 32), 1 << 30, fitting)
    module._print(answer, CONFIG, torch.device("cpu"), module.choose_precision("fp32", torch.device("cpu")), console)
    assert verdict in console.file.getvalue() and "1.0 GB of memory" in console.file.getvalue()


@pytest.mark.parametrize("start", [1, 8, 300])
@pytest.mark.parametrize("limit", [999, 1000, 5000, 30_000, 123_456])
def test_the_search_finds_the_largest(start: int, limit: int) -> None:
    """Of a peak that is the larger of two lines."""

    class Two:
        def need(self, size: int) -> Need:
            return Need(size, 0, {}, max(1000 + 10 * size, 40 * size))

    best = max((size for size in range(4000) if Two().need(size).peak <= limit), default=0)
    assert module._largest(Two(), Two().need(start), limit) == best


def test_what_a_person_sees() -> None:
    console = Console(file=io.StringIO(), width=120)
    dry_run(replace(CONFIG, ema_decay=0.9), console)
    printed = console.file.getvalue()
    assert re.search(r"encoders\.x +generator +[\d,]+", printed)
    assert "memory at batch size 3, fp32" in printed and "average of the generators" in printed
    assert "image pools" not in printed, "there are none"
    assert re.search(r"a step of 3 images of each domain, 32x32: [\d.]+ [GT]FLOP", printed)


def test_any_method(configure: Callable[..., TrainConfig[FakeConfig]], console: Console) -> None:
    answer = dry_run(configure(), console)
    assert [(name, side) for name, side, _ in answer.networks] == [
        ("generators.x", "generator"), ("generators.y", "generator"), ("critics.x", "critic"), ("critics.y", "critic"),
    ]  # fmt: skip
    assert not configure().out.exists()


@pytest.mark.parametrize(
    "changes, message",
    [({"preprocess": "none"}, "preprocess=none"), ({"crop_size": 34}, "must be multiples of 4")],
    ids=str,
)
def test_a_size_that_will_not_do(changes: dict, message: str, console: Console) -> None:
    with pytest.raises(UserError, match=message):
        dry_run(replace(CONFIG, **changes), console)
