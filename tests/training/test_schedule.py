from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from jdm_fast.training.schedule import _POLICIES, LearningRatePolicy, Schedule

POLICIES = get_args(LearningRatePolicy)


def rates(schedule: Schedule) -> list[float]:
    return [schedule.learning_rate(step) for step in range(schedule.total_steps)]


def test_every_name_is_a_policy() -> None:
    assert set(POLICIES) == set(_POLICIES)


def test_linear_is_cyclegans_formula() -> None:
    """100 epochs at the full rate and 100 falling, as the paper says; the values by hand."""
    schedule = Schedule("linear", 2e-4, 100, 100, steps_per_epoch=7)
    assert schedule.total_steps == 1400
    by_hand = {0: 2e-4, 98: 2e-4, 99: 2e-4, 100: 2e-4 * 100 / 101, 150: 2e-4 * 50 / 101, 199: 2e-4 / 101}
    for epoch, lr in by_hand.items():
        for step in (7 * epoch, 7 * epoch + 6):  # it is one value for all of an epoch
            assert schedule.epoch(step) == epoch
            assert schedule.learning_rate(step) == pytest.approx(lr, rel=1e-12)


def test_linear_step_falls_with_every_step_and_never_trains_at_zero() -> None:
    values = rates(Schedule("linear_step", 1.0, 2, 3, steps_per_epoch=10))
    assert values[:21] == [1.0] * 21
    assert values[20:] == pytest.approx([1 - k / 30 for k in range(30)])


def test_cosine_by_hand() -> None:
    values = rates(Schedule("cosine", 2.0, 2, 2, steps_per_epoch=6))
    assert values[:13] == [2.0] * 13
    by_hand = {15: 1 + math.sqrt(2) / 2, 16: 1.5, 18: 1.0, 20: 0.5, 23: 1 - math.cos(math.pi / 12)}
    assert {step: values[step] for step in by_hand} == pytest.approx(by_hand)


@pytest.mark.parametrize(
    "policy, torchs",
    [
        ("step", lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.1)),
        ("cosine", lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8, eta_min=0)),
    ],
    ids=["step", "cosine"],
)
def test_policies_that_cyclegan_takes_from_pytorch(policy: LearningRatePolicy, torchs: object) -> None:
    """CycleGAN steps these schedulers once an epoch; with n_epochs=0 all eight epochs belong to the fall."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = torchs(optimizer)
    expected = []
    for _ in range(8):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    schedule = Schedule(policy, 0.5, 0, 8, steps_per_epoch=5, lr_decay_iters=3)
    assert [schedule.learning_rate(5 * epoch) for epoch in range(8)] == pytest.approx(expected)
    if policy == "step":
        assert rates(schedule) == pytest.approx([lr for lr in expected for _ in range(5)])
        assert rates(Schedule(policy, 0.5, 6, 2, 5, lr_decay_iters=3)) == rates(schedule)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("n_epochs, n_epochs_decay", [(3, 0), (0, 3), (1, 2)], ids=["no decay", "decay only", "both"])
def test_rates_never_rise_and_never_reach_zero(policy: LearningRatePolicy, n_epochs: int, n_epochs_decay: int) -> None:
    values = rates(Schedule(policy, 1.0, n_epochs, n_epochs_decay, steps_per_epoch=4, lr_decay_iters=2))
    assert len(values) == 12 and values == sorted(values, reverse=True) and 0 < values[-1] <= values[0] <= 1
    if policy == "step":
        assert values == pytest.approx([1.0] * 8 + [0.1] * 4)
    elif n_epochs_decay == 0:
        assert values == [1.0] * 12
    else:
        assert values[-1] < values[0]
