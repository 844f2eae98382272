"""A training that is killed with SIGKILL over and over, and begun again each time, until its runs are complete.

``python -m tests.training.kill_often IMAGES FOLDER SEED KILLS`` imports everything once and trains in forked children.
They die at random moments by the clock, or at a random one of the moments that matter to what is on the disk: half-way
through a piece of a checkpoint, before and after it is flushed, renamed, and an older one deleted. It prints as JSON
what it found after each kill.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nvidia.dali.fn  # noqa: F401  # here and not in every child
import torch
import torch._dynamo  # noqa: F401
from rich.console import Console

from jdm_fast import _checkpoint_file
from jdm_fast.methods import METHODS, MethodSpec
from jdm_fast.runs import RunFolder, read_checkpoint
from jdm_fast.training import DataConfig, TrainConfig, train
from tests.training.fake_method import FakeConfig, FakeMethod

STEPS = 49
_PIECE = 1000  # bytes
_MOMENTS = 60  # about those of three checkpoints
_SECONDS = 0.4


def config(images: Path, out: Path) -> TrainConfig[FakeConfig]:
    return TrainConfig(
        method=FakeConfig(), data=DataConfig(x=images / "trainA", y=images / "trainB"), out=out, load_size=18,
        crop_size=16, n_epochs=4, n_epochs_decay=3, lr=1e-3, pool_size=3, ema_decay=0.9, seed=3, device="cpu",
        save_every_steps=5, keep_last=2, log_every=2, sample_every=0,
    )  # fmt: skip


class _Moments:
    """Kills this process at the moment of number ``fatal``; counts those before it."""

    def __init__(self, fatal: int) -> None:
        self._left = fatal

    def __call__(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, name: str) -> None:
        """A moment before and one after each call of ``owner.name``."""
        original: Callable[..., Any] = getattr(owner, name)

        def watched(*arguments: Any, **named: Any) -> Any:
            self()
            result = original(*arguments, **named)
            self()
            return result

        setattr(owner, name, watched)

    def within_writes(self) -> None:
        """A moment after the first half of each larger piece of a checkpoint."""
        write = _checkpoint_file._WatchedFile.write

        def halves(file: Any, data: Any) -> int:
            if len(data) < _PIECE:  # most are the padding and names between the tensors
                return write(file, data)
            data = bytes(data)
            written = write(file, data[: len(data) // 2])
            file.flush()
            self()
            return written + write(file, data[len(data) // 2 :])

        _checkpoint_file._WatchedFile.write = halves


def _train(images: Path, out: Path, fatal: int) -> None:
    """The child: train, and die at moment ``fatal``, or not at all if it is 0."""
    status = 1
    try:
        moments = _Moments(fatal)
        moments.within_writes()
        for owner, name in ((os, "fsync"), (os, "replace"), (Path, "unlink")):
            moments.around(owner, name)
        train(config(images, out), console=Console(file=io.StringIO()))
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def _life(images: Path, out: Path, seconds: float | None, fatal: int) -> dict[str, Any]:
    """One child's life, ended after ``seconds`` or at moment ``fatal``; what it left."""
    child = os.fork()
    if child == 0:
        _train(images, out, fatal)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    folder = RunFolder(out)
    for step in folder.steps():
        read_checkpoint(folder.checkpoint(step), "fake")  # whatever has the name of a checkpoint is whole
    unfinished = len(list(folder.checkpoints.glob(".*.tmp"))) if folder.checkpoints.is_dir() else 0
    return {"out": out.name, "status": status, "steps": folder.steps(), "unfinished": unfinished}


def main() -> None:
    images, folder, seed, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    METHODS["fake"] = MethodSpec(FakeConfig, FakeMethod)
    chance = random.Random(seed)
    runs, lives = 1, []
    while sum(life["status"] == -signal.SIGKILL for life in lives) < kills:
        by_clock = chance.random() < 0.5
        seconds = chance.uniform(0, _SECONDS) if by_clock else None
        lives.append(_life(images, folder / f"run-{runs}", seconds, 0 if by_clock else chance.randint(1, _MOMENTS)))
        runs += lives[-1]["status"] == 0  # complete before its end came: kill another one
    lives.append(_life(images, folder / f"run-{runs}", None, 0))
    print(json.dumps(lives))


if __name__ == "__main__":
    main()
