"""The learning rate of each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """The length of a training in steps and the learning rate of each of them.

    Attributes:
        policy: ``linear``, CycleGAN's, or ``linear_step``.
        lr: the full learning rate.
        n_epochs: epochs at the full learning rate.
        n_epochs_decay: further epochs in which it falls.
        steps_per_epoch: length of an epoch.
    """

    policy: str
    lr: float
    n_epochs: int
    n_epochs_decay: int
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return (self.n_epochs + self.n_epochs_decay) * self.steps_per_epoch

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that ``step``, from 0, belongs to."""
        return step // self.steps_per_epoch

    def learning_rate(self, step: int) -> float:
        """The learning rate of ``step`` (from 0)."""
        return self.lr * _POLICIES[self.policy](self, step)


def _linear(schedule: Schedule, step: int) -> float:
    """CycleGAN's: 1 - max(0, epoch + 1 - n_epochs) / (n_epochs_decay + 1), from 1 in equal parts towards 0."""
    return 1 - max(0, schedule.epoch(step) + 1 - schedule.n_epochs) / (schedule.n_epochs_decay + 1)


def _linear_step(schedule: Schedule, step: int) -> float:
    """The same line drawn through every step: 1, then the share of the decay that is left; 0 would be the step after
    the last."""
    decay_steps = schedule.n_epochs_decay * schedule.steps_per_epoch
    return min(1.0, (schedule.total_steps - step) / decay_steps) if decay_steps else 1.0


_POLICIES: dict[str, Callable[[Schedule, int], float]] = {"linear": _linear, "linear_step": _linear_step}
