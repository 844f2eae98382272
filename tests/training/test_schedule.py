from __future__ import annotations

import pytest

from jdm_fast.training.schedule import Schedule


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
    schedule = Schedule("linear_step", 1.0, 2, 3, steps_per_epoch=10)
    rates = [schedule.learning_rate(step) for step in range(schedule.total_steps)]
    assert rates[:21] == [1.0] * 21
    assert rates[20:] == pytest.approx([1 - k / 30 for k in range(30)])
    assert rates[-1] > 0


@pytest.mark.parametrize("policy", ["linear", "linear_step"])
@pytest.mark.parametrize("n_epochs, n_epochs_decay", [(3, 0), (0, 3)], ids=["no decay", "decay only"])
def test_one_part_alone(policy: str, n_epochs: int, n_epochs_decay: int) -> None:
    schedule = Schedule(policy, 1.0, n_epochs, n_epochs_decay, steps_per_epoch=4)
    rates = [schedule.learning_rate(step) for step in range(12)]
    if n_epochs_decay == 0:
        assert rates == [1.0] * 12
    else:
        assert rates == sorted(rates, reverse=True) and 0 < rates[-1] < rates[0] <= 1
