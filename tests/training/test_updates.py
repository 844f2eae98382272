"""Accumulation, clipping, skipping, and half precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from jdm_fast.training.precision import FP32, Precision
from tests.training.engine_cases import (
    BF16,
    FP16,
    LR,
    build,
    in_double,
    make_batches,
    make_fake,
    make_jwdm,
    steps,
)
from tests.training.fake_method import FakeConfig


def test_micro_batches_take_the_step_of_the_whole_batch() -> None:
    """Except for the prior, whose samples differ, so it has no weight here."""
    batches = in_double(make_batches(2, count=6))
    options = dict(lambda_z=0.0, divergence="lsgan")
    whole = steps(build("eager", make_jwdm(**options).double(), pool_size=0), batches)
    parts = steps(build("eager", make_jwdm(**options).double(), pool_size=0, accumulate=3), batches)
    for got, want in zip(parts, whole, strict=True):
        assert list(got) == list(want)
        for name in want.keys() - {"critic_latent", "adversarial_latent"}:
            assert got[name] == pytest.approx(want[name], rel=1e-9), name


def test_a_batch_that_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="5 of x cannot be split into accumulate=2 equal parts"):
        build("eager", make_fake(), accumulate=2).step(make_batches(1, count=5)[0], LR)


@pytest.mark.parametrize("precision", [FP32, FP16], ids=lambda precision: precision.name)
def test_gradients_are_clipped_over_all_parameters_of_an_update(precision: Precision) -> None:
    class Norms:
        """Sees the gradients before, a hook of the optimisers after."""

        def __init__(self) -> None:
            self.norms: list[float] = []

        def __call__(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
            self.norms.append(torch.nn.utils.get_total_norm(gradients).item())

    method, seen = make_jwdm(), Norms()
    engine = build("eager", method, clip_norm=0.05, precision=precision)
    handle = register_optimizer_step_pre_hook(seen)
    try:
        engine.step(make_batches(1)[0], LR)
    finally:
        handle.remove()
    counted = engine.counters()
    before = [counted["critic_gradient_norm"], counted["generator_gradient_norm"]]
    assert max(before) > 0.05
    for norm, unclipped in zip(seen.norms, before, strict=True):
        assert norm == pytest.approx(min(unclipped, 0.05), rel=1e-3)


def test_a_step_that_is_not_finite_changes_nothing_where_it_is_to_be_skipped() -> None:
    method = make_fake()
    method.config = FakeConfig(broken_at=3)
    engine = build("eager", method, skip_nonfinite=True, ema_decay=0.0)
    losses = steps(engine, make_batches(2))
    assert [terms["generator_skipped"] for terms in losses] == [0, 0]
    generators = [parameter.detach().clone() for parameter in method.generator_parameters()]
    critics = [parameter.detach().clone() for parameter in method.critic_parameters()]
    (terms,) = steps(engine, make_batches(1))
    assert (terms["critic_skipped"], terms["generator_skipped"]) == (0, 1)
    assert all(torch.equal(a, b) for a, b in zip(generators, method.generator_parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(critics, method.critic_parameters(), strict=True))
    method.config = FakeConfig()
    (terms,) = steps(engine, make_batches(1))
    assert (terms["critic_skipped"], terms["generator_skipped"]) == (0, 0)
    assert not any(torch.equal(a, b) for a, b in zip(generators, method.generator_parameters(), strict=True))


@pytest.mark.parametrize("precision", [BF16, FP16], ids=lambda precision: precision.name)
def test_half_precision_trains_alike(precision: Precision) -> None:
    """Ten steps, losses within 5 % or 0.02 of those in float32; statistics, losses and state in float32."""
    batches = make_batches(10)
    expected = steps(build("eager", make_jwdm()), batches)
    method = make_jwdm()
    engine = build("eager", method, precision=precision)
    for got, want in zip(steps(engine, batches), expected, strict=True):
        assert got == pytest.approx(want, rel=0.05, abs=0.02)
    assert all(term.dtype == torch.float32 for term in engine.step(batches[0], LR).values())
    state = engine.state_dict()
    assert all(value.dtype == torch.float32 for value in state["networks"].values())
    for side in ("critic", "generator"):
        for values in state[f"{side}_optimizer"]["state"].values():
            assert values["exp_avg"].dtype == values["exp_avg_sq"].dtype == torch.float32
    made = method.generate(batches[0])
    with precision.autocast(torch.device("cpu")):
        assert method.generate(batches[0])["cycle_x"].dtype == precision.dtype != made["cycle_x"].dtype


def test_each_optimiser_has_a_scale_of_its_own_and_overflows_are_counted() -> None:
    method = make_fake()
    engine = build("eager", method, precision=FP16)
    batches = make_batches(4)
    steps(engine, batches[:1])
    scale = engine.counters()["generator_loss_scale"]
    assert engine.counters() == {
        "critic_overflows": 0, "critic_loss_scale": scale, "generator_overflows": 0, "generator_loss_scale": scale
    }  # fmt: skip
    method.config = FakeConfig(broken_at=1)  # the generators' loss is infinite
    before = [parameter.detach().clone() for parameter in method.generator_parameters()]
    steps(engine, batches[1:3])
    assert engine.counters() == {
        "critic_overflows": 0, "critic_loss_scale": scale, "generator_overflows": 2, "generator_loss_scale": scale / 4
    }  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(before, method.generator_parameters(), strict=True))
    other = build("eager", make_fake(), precision=FP16)
    other.load_state_dict(engine.state_dict())
    assert other.counters() == engine.counters()


def test_no_numbers_to_count_in_float32() -> None:
    assert build("eager", make_fake()).counters() == {}
