"""Training a method: configuration, loop, step, checkpoints, log."""

from __future__ import annotations

from jdm_fast.training.config import DataConfig, TrainConfig
from jdm_fast.training.interrupt import Interrupted
from jdm_fast.training.log import NonFiniteLoss
from jdm_fast.training.trainer import Event, train

__all__ = ["DataConfig", "Event", "Interrupted", "NonFiniteLoss", "TrainConfig", "train"]
