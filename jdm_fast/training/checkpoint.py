"""Saving the state of a training and taking it up again, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from jdm_fast.errors import UserError
from jdm_fast.runs import DamagedCheckpoint, RunFolder, read_checkpoint, write_checkpoint
from jdm_fast.training.log import LossWindow, NonFiniteLoss
from jdm_fast.training.step import Engine


def save_checkpoint(
    folder: RunFolder, method: str, step: int, engine: Engine, window: LossWindow, keep_last: int
) -> Path:
    """Write the checkpoint after ``step`` steps, then delete all but the newest ``keep_last``.

    Besides the engine's state it holds PyTorch's random number generators (the prior's samples), and the losses that
    no line of the log has yet. The data needs no state: its batches are a function of the step.

    Raises:
        NonFiniteLoss: a loss since the last line of the log, or a weight, is infinite or not a number. Nothing is
        written: such a checkpoint would push out the last good one.
        UserError: the disk is full or the folder cannot be written; the older checkpoints are still there.
    """
    window.check()
    engine_state = engine.state_dict()
    for name, tensor in engine_state["networks"].items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NonFiniteLoss(f"step {step}: the weights {name} are no longer finite")
    rng = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []}
    state = {**engine_state, "rng": rng, "window": window.state_dict()}
    path = write_checkpoint(folder, method, step, state)
    for old in [saved for saved in folder.steps() if saved <= step][:-keep_last]:
        folder.checkpoint(old).unlink(missing_ok=True)
    return path


def newest_checkpoint(folder: RunFolder, method: str, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, or None if there is none at all.

    Args:
        folder, method: the run, and the method its checkpoints must be of.
        warn: told of each damaged checkpoint that is passed over.

    Raises:
        UserError: all of them are damaged, or the newest whole one is of another method or version.
    """
    steps = folder.steps()
    for step in reversed(steps):
        try:
            return read_checkpoint(folder.checkpoint(step), method)
        except DamagedCheckpoint as error:
            warn(f"{error}; looking for the one before it")
    if steps:
        raise UserError(
            f"{folder.checkpoints}: none of the checkpoints (steps {', '.join(map(str, steps))}) can be read; "
            "restore one from a copy, or choose another folder to begin anew"
        )
    return None


def restore(document: dict[str, Any], engine: Engine, window: LossWindow) -> int:
    """Put the engine, the window and the random number generators back where ``document`` says; returns its step."""
    engine.load_state_dict(document)
    window.load_state_dict(document["window"])
    torch.set_rng_state(document["rng"]["cpu"])
    if torch.cuda.is_initialized():
        for index, state in enumerate(document["rng"]["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, index)
    return document["step"]
