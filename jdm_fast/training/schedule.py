"""The learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

LearningRatePolicy = Literal["linear", "linear_step", "cosine", "step"]

_STEP_FACTOR = 0.1  # CycleGAN's gamma


@dataclass(frozen=True)
class Schedule:
    """The length of a training in steps and the learning rate of each of them.

    Attributes:
        policy: how it falls.

            - ``linear``: CycleGAN's. Full for ``n_epochs``, then less with each epoch, in equal parts towards 0.
            - ``linear_step``: the same line drawn through every step, for trainings of few epochs.
            - ``cosine``: full for ``n_epochs``, then half a cosine wave down towards 0 through every step of
              ``n_epochs_decay``. CycleGAN's begins to fall at once: ``n_epochs=0`` does that here too. (Its wave is as
              long as ``n_epochs`` and climbs again in the epochs of decay, which nobody can have meant.)
            - ``step``: CycleGAN's. A tenth of it after every ``lr_decay_iters`` epochs, whatever the two numbers of
              epochs are.
        lr: the full learning rate.
        n_epochs: epochs at the full learning rate.
        n_epochs_decay: further epochs in which it falls.
        steps_per_epoch: length of an epoch.
        lr_decay_iters: of ``step``: epochs (CycleGAN's name for them) from one fall to the next.
    """

    policy: LearningRatePolicy
    lr: float
    n_epochs: int
    n_epochs_decay: int
    steps_per_epoch: int
    lr_decay_iters: int = 50

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return (self.n_epochs + self.n_epochs_decay) * self.steps_per_epoch

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that ``step``, from 0, belongs to."""
        return step // self.steps_per_epoch

    def learning_rate(self, step: int) -> float:
        """The learning rate of ``step`` (from 0). It is never 0: that would be the step after the last."""
        return self.lr * _POLICIES[self.policy](self, step)

    def share_left(self, step: int) -> float:
        """The share of the decay's steps that is left at ``step``: 1 before it begins, 0 would be after the last."""
        decay_steps = self.n_epochs_decay * self.steps_per_epoch
        return min(1.0, (self.total_steps - step) / decay_steps) if decay_steps else 1.0


def _linear(schedule: Schedule, step: int) -> float:
    """1 - max(0, epoch + 1 - n_epochs) / (n_epochs_decay + 1)."""
    return 1 - max(0, schedule.epoch(step) + 1 - schedule.n_epochs) / (schedule.n_epochs_decay + 1)


def _linear_step(schedule: Schedule, step: int) -> float:
    return schedule.share_left(step)


def _cosine(schedule: Schedule, step: int) -> float:
    return (1 - math.cos(math.pi * schedule.share_left(step))) / 2


def _step(schedule: Schedule, step: int) -> float:
    return _STEP_FACTOR ** (schedule.epoch(step) // schedule.lr_decay_iters)


_POLICIES: dict[str, Callable[[Schedule, int], float]] = {
    "linear": _linear,
    "linear_step": _linear_step,
    "cosine": _cosine,
    "step": _step,
}
