"""Saving the state of a training without stopping it, and taking it up again, to the bit."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

import jdm_fast
from jdm_fast._checkpoint_file import WriteStopped
from jdm_fast.errors import UserError
from jdm_fast.runs import FORMAT, BestCheckpoint, RunFolder, read_best, write_best, write_checkpoint
from jdm_fast.training.distributed import Processes
from jdm_fast.training.log import LossWindow, NonFiniteLoss
from jdm_fast.training.ranks import all_ranks, own_state
from jdm_fast.training.rng import rng_state, set_rng_state
from jdm_fast.training.snapshot import Snapshot
from jdm_fast.training.step import Engine

_HIGHER_IS_BETTER = ("psnr", "ssim", "miou", "land_sea")
_PATIENCE = 2.0  # seconds in which a write that is called off should have ended


class CheckpointWriter:
    """Writes checkpoints in a thread of its own, from snapshots; keeps the newest few and the best.

    A checkpoint holds what the engine's ``state_dict`` has (networks, average, optimisers with their learning rates,
    loss scalers, image pools), what the caller adds (the losses that no line of the log has yet), the random streams of
    every process, the step, the configuration and the versions. Learning rate and data have no further state: both
    are functions of the step.

    One checkpoint is written at a time, and every one asked for is written: a :meth:`save` that comes before the last
    one is on the disk waits for it first. So there is one snapshot in memory, and which files are kept does not depend
    on the speed of the disk. What goes wrong in the thread is raised by the next call of any method, once; older
    checkpoints are deleted only after a newer one is on the disk.

    As a context it ends with all checkpoints on the disk, also when an error ends the training. Where the process is
    to end at once (KeyboardInterrupt, SystemExit) the write in progress is called off instead.

    Args:
        folder, method: whose checkpoints they are.
        keep_last: how many of the newest are kept.
        keep_best: a metric, such as ``truth/x_to_y/l1``, by which the best one is kept besides those; None keeps none.
        config: the run's settings as plain values.
        start: the step from which training continues. A best checkpoint of a later step is forgotten.
        before_write: called in the thread before each write, such as to flush the log: a checkpoint must not be newer.
        warn: told of a write that failed where another error is ending the training already.
    """

    def __init__(
        self,
        folder: RunFolder,
        method: str,
        *,
        keep_last: int,
        keep_best: str | None = None,
        config: dict[str, Any] | None = None,
        start: int = 0,
        before_write: Callable[[], None] = lambda: None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._folder, self._method, self._config = folder, method, config or {}
        self._keep_last, self._keep_best = keep_last, keep_best
        self._before_write, self._warn = before_write, warn
        best = read_best(folder) if keep_best else None
        self._best = best if best is not None and best.metric == keep_best and best.step <= start else None
        self._snapshot: Snapshot | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._failure: BaseException | None = None

    def save(
        self,
        step: int,
        engine: Engine,
        extra_state: dict[str, Any] | None = None,
        *,
        rng: Sequence[dict[str, Any]] | None = None,
        value: float | None = None,
    ) -> Path:
        """Take a snapshot of the state after ``step`` steps and begin to write it.

        Args:
            step: number of steps done.
            engine: whose state it is. If its weights are no longer finite nothing is written, as such a checkpoint
                would push out the last good one.
            extra_state: more to save, by names that the engine does not use.
            rng: the random streams of each process by rank; by default those of
                this one.
            value: the metric of ``keep_best`` at this step, where it is known.

        Returns:
            The path at which the checkpoint will be; there is nothing there until it is whole.

        Raises:
            UserError, NonFiniteLoss: as for :meth:`wait`, of the checkpoint before this one. TypeError: ``extra_state``
            or the engine's state has something that a checkpoint cannot hold.
        """
        self.wait()
        state = {"rng": [rng_state(_device())] if rng is None else list(rng), **engine.state_dict()}
        taken = sorted({*state, *_OWN} & (extra_state or {}).keys())
        if taken:
            raise ValueError(f"extra_state: the names {', '.join(taken)} are taken")
        state = {**state, **(extra_state or {}), "config": self._config, "versions": versions()}
        snapshot = self._snapshot = Snapshot(state, instead_of=self._snapshot)
        best = None
        if self._keep_best is not None and value is not None and self.is_better(value):
            best = BestCheckpoint(step, self._keep_best, value)
        # A daemon: Python would wait for any other kind when a second signal has asked it to end at once.
        self._thread = threading.Thread(
            target=self._work, args=(step, snapshot, best), name=f"checkpoint {step}", daemon=True
        )
        self._thread.start()
        return self._folder.checkpoint(step)

    def check(self) -> None:
        """Raise what went wrong with the last checkpoint, if it is known by now; never waits."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk.

        Raises:
            UserError: it could not be written; the older ones are still there.
            NonFiniteLoss: its weights are infinite or not numbers; it was not written.
        """
        self._join()
        self.check()

    def kept(self) -> list[int]:
        """Steps of the checkpoints on the disk, ascending, after the write in progress if there is one."""
        self._join()
        return self._folder.steps()

    def is_better(self, value: float) -> bool:
        """Whether a checkpoint of this value of the metric would be the best so far; never true for NaN."""
        if self._keep_best is None or value != value:
            return False
        self._join()
        if self._best is None:
            return True
        rising = self._keep_best.rsplit("/", 1)[-1] in _HIGHER_IS_BETTER
        return value > self._best.value if rising else value < self._best.value

    def close(self, *, abandon: bool = False) -> None:
        """Wait as :meth:`wait` does; or, with ``abandon``, call the write in progress off."""
        if not abandon:
            self.wait()
        elif self._thread is not None:
            self._stop.set()
            self._thread.join(_PATIENCE)  # more would not be at once; flushing to a slow disk cannot be called off

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, Exception):
            self.close(abandon=True)
            return
        try:
            self.close()
        except (UserError, OSError) as failure:
            if error is None:
                raise
            self._warn(str(failure))  # what ended the training matters more

    def _join(self) -> None:
        if self._thread is None:
            return
        try:
            self._thread.join()
        except BaseException:  # a second signal, while waiting
            self.close(abandon=True)
            raise
        self._thread = None

    def _work(self, step: int, snapshot: Snapshot, best: BestCheckpoint | None) -> None:
        """The thread: one checkpoint from its snapshot to the disk."""
        try:
            self._write(step, snapshot.get(), best)
        except WriteStopped:
            pass  # by close(abandon=True), and the process is ending
        except BaseException as error:
            self._failure = error

    def _write(self, step: int, state: dict[str, Any], best: BestCheckpoint | None) -> None:
        for part in ("networks", "ema"):
            for name, tensor in (state.get(part) or {}).items():
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    raise NonFiniteLoss(f"step {step}: the weights {name} are no longer finite")
        self._before_write()
        write_checkpoint(self._folder, self._method, step, state, stop=self._stop)
        if best is not None:
            write_best(self._folder, best)
            self._best = best
        kept = {self._best.step} if self._best is not None else set()
        for old in [saved for saved in self._folder.steps() if saved <= step][: -self._keep_last]:
            if old not in kept:
                self._delete(old)

    def _delete(self, step: int) -> None:
        path = self._folder.checkpoint(step)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"{path}: this older checkpoint cannot be deleted: {error.strerror or error}. Make the folder "
                "writable, or raise keep_last"
            ) from error


_OWN = ("format", "jdm_fast", "method", "step", "config", "versions")


def restore(document: dict[str, Any], engine: Engine, window: LossWindow, pool_size: int, processes: Processes) -> int:
    """Put the engine, the window and the random streams back where ``document`` says; returns its step.

    Random streams and image pools are each process's own; see :func:`jdm_fast.training.ranks.own_state` for another
    number of processes than there was.

    Args:
        document: a checkpoint.
        engine, window: to be set.
        pool_size: of all processes together.
        processes: those of the training.

    Raises:
        UserError: the checkpoint is of an older version, which saved less than is needed to go on.
    """
    if document["format"] != FORMAT:
        raise UserError(
            f"the checkpoint of step {document['step']} was written in format {document['format']} by jdm_fast "
            f"{document['jdm_fast']}: its model can be used, but its training cannot be continued by this version. "
            "Continue it with that one, or choose another folder to begin anew"
        )
    own = own_state(all_ranks(document), pool_size, processes)
    engine.load_state_dict({**document, "pools": own["pools"]})
    window.load_state_dict(document["window"])
    set_rng_state(own["rng"], processes.device)
    return document["step"]


def _device() -> torch.device:
    """The device whose random stream is this process's."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_initialized() else torch.device("cpu")


def versions() -> dict[str, str]:
    """What computes here, by name; with another of these a training goes on, but not to the bit."""
    return {
        "jdm_fast": jdm_fast.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "cuda": str(torch.version.cuda or "none"),
    }


def changed_versions(document: dict[str, Any]) -> list[str]:
    """What computes otherwise than when ``document`` was saved, as ``torch 2.12.0 (was 2.11.0)``."""
    before = document["versions"]
    return [f"{name} {now} (was {before.get(name)})" for name, now in versions().items() if before.get(name) != now]
