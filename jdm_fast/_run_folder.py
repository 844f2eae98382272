"""The names inside a run's folder, and who may write there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jdm_fast._files import make_folder
from jdm_fast.errors import UserError


@dataclass(frozen=True)
class RunFolder:
    """The names inside a run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        return self.checkpoints / "best.json"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:08d}.pt"

    def sample(self, step: int) -> Path:
        return self.samples / f"step-{step:08d}.png"

    def steps(self) -> list[int]:
        """Steps of which there is a checkpoint file, ascending."""
        names = self.checkpoints.glob("step-*.pt") if self.checkpoints.is_dir() else ()
        return sorted(int(match[1]) for path in names if (match := re.fullmatch(r"step-(\d+)\.pt", path.name)))

    def create(self) -> None:
        """Make the folder and those in it.

        Raises:
            UserError: it cannot be made, or holds files of a run of which there is no configuration.
        """
        if not self.config.exists():
            # Folders without files are those of a training that was killed right here, before it wrote its settings.
            foreign = [path.name for path in (self.metrics, self.checkpoints, self.samples) if _holds_files(path)]
            if foreign:
                raise UserError(
                    f"{self.path}: there is {', '.join(foreign)} but no config.json, so it is not known whose they "
                    "are. Nothing was touched: choose another folder or move them away"
                )
        for folder in (self.path, self.checkpoints, self.samples):
            make_folder(folder)

    def sweep(self) -> None:
        """Delete the unfinished files of a process that was killed; only for the holder of the lock."""
        for folder in (self.path, self.checkpoints, self.samples):
            for unfinished in folder.glob(".*.tmp"):
                unfinished.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process from training into the same folder (where the system has ``flock``: not on Windows)."""
        try:
            import fcntl
        except ImportError:
            yield
            return
        try:
            file = (self.path / ".lock").open("w")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror}. Choose another folder") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"{self.path}: another process is training into this folder; wait for it or stop it"
                ) from error
            yield


def _holds_files(path: Path) -> bool:
    """Whether this is a file, or a folder with anything but hidden files in it."""
    if not path.is_dir():
        return path.exists()
    return any(not inside.name.startswith(".") for inside in path.iterdir())
