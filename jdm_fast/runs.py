"""A run: the folder in which a training keeps everything, and all that is needed to use its model.

::

    config.json                the method's name and every setting
    checkpoints/step-<N>.pt    the state after step N, tensors and plain values only; the newest few are kept
    metrics.jsonl              one JSON object a line: step, epoch, learning rate, losses, images/s
    samples/step-<N>.png       grids of images: input, reconstruction, translation, cycle

Every file appears under its name only when it is whole. Loading a run never executes code from its files.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import jdm_fast
from jdm_fast import methods
from jdm_fast._files import make_folder, write_atomically
from jdm_fast._plain import from_plain
from jdm_fast.errors import UserError

FORMAT = 1
"""Version of the layout above, in config.json and in each checkpoint; raised when an older reader could not cope."""


class DamagedCheckpoint(UserError):
    """A checkpoint file that cannot be read, as after a copy that was cut short."""


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
            foreign = [path.name for path in (self.metrics, self.checkpoints, self.samples) if path.exists()]
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


def write_config(folder: RunFolder, method: str, config: dict[str, Any], images: dict[str, Any]) -> None:
    """Write ``config.json``: ``config`` as plain values, ``images`` what the data set says of itself."""
    document = {
        "format": FORMAT,
        "jdm_fast": jdm_fast.__version__,
        "method": method,
        "config": config,
        "images": images,
    }
    write_atomically(folder.config, lambda file: file.write(json.dumps(document, indent=2).encode() + b"\n"))


def read_config(folder: RunFolder) -> dict[str, Any]:
    """The document in ``config.json``.

    Raises:
        UserError: the folder or the file is missing, damaged or of a newer version, or its method is not known.
    """
    if not folder.path.is_dir():
        raise UserError(f"{folder.path}: there is no such folder; expected a run, the folder that training wrote")
    if not folder.config.is_file():
        raise UserError(
            f"{folder.path}: not a run, there is no config.json in it; expected the folder that training wrote"
        )
    try:
        document = json.loads(folder.config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder.config}: cannot be read as JSON: {error}") from error
    if not isinstance(document, dict) or not {"format", "method", "config"} <= document.keys():
        raise UserError(f"{folder.config}: not a run's configuration; expected the fields format, method and config")
    _check_format(document, folder.config)
    if document["method"] not in methods.METHODS:
        raise UserError(
            f"{folder.config}: the method {document['method']!r} is not known here; expected one of "
            f"{', '.join(methods.METHODS)}. A newer version of jdm_fast may have it"
        )
    return document


def write_checkpoint(folder: RunFolder, method: str, step: int, state: dict[str, Any]) -> Path:
    """Write the checkpoint of ``step``; ``state`` may hold tensors, numbers, strings, None, lists, tuples and dicts
    of them."""
    document = {"format": FORMAT, "jdm_fast": jdm_fast.__version__, "method": method, "step": step, **state}
    path = folder.checkpoint(step)
    write_atomically(path, lambda file: torch.save(document, file))
    return path


def read_checkpoint(path: Path, method: str) -> dict[str, Any]:
    """The document of a checkpoint, its tensors on the CPU.

    Args:
        path: the file.
        method: name of the method it must be of.

    Raises:
        DamagedCheckpoint: the file is cut short or is not a checkpoint.
        UserError: it is of another method or of a newer version.
    """
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise DamagedCheckpoint(f"{path}: the checkpoint is damaged or cut short ({_first_line(error)})") from error
    if not isinstance(document, dict) or not {"format", "method", "step", "networks"} <= document.keys():
        raise DamagedCheckpoint(
            f"{path}: not a checkpoint of jdm_fast; expected format, method, step and networks in it"
        )
    _check_format(document, path)
    if document["method"] != method:
        raise UserError(
            f"{path}: a checkpoint of the method {document['method']!r} in a run of {method!r}; "
            "put back the run's own checkpoint, or choose the folder the file came from"
        )
    return document


@dataclass(frozen=True)
class Run:
    """A trained model and where it came from.

    Attributes:
        path: the run's folder. method_name: key of ``jdm_fast.methods.METHODS``. config: every setting, as plain
        values; ``method.config`` is the method's own, typed. method: the model in eval mode, with the averaged
        generators if the run kept them. step: of the checkpoint.
    """

    path: Path
    method_name: str
    config: dict[str, Any]
    method: nn.Module
    step: int


def load_run(path: str | Path, *, step: int | None = None, device: torch.device | str = "cpu") -> Run:
    """The model of a run.

    Args:
        path: the folder that training wrote.
        step: which checkpoint; unless said, the newest.
        device: where to put the model.

    Raises:
        UserError: it is not a run, has no checkpoint (of that step), or the checkpoint is damaged or of another method.
    """
    folder = RunFolder(Path(path))
    document = read_config(folder)
    steps = folder.steps()
    if not steps:
        raise UserError(f"{folder.path}: the run has no checkpoint yet; train it, or let it run until it has saved one")
    if step is not None and step not in steps:
        raise UserError(f"{folder.path}: there is no checkpoint of step {step}, only of {', '.join(map(str, steps))}")
    step = steps[-1] if step is None else step
    try:
        checkpoint = read_checkpoint(folder.checkpoint(step), document["method"])
    except DamagedCheckpoint as error:
        others = [other for other in steps if other != step]
        advice = (
            f"the checkpoint of step {others[-1]} may be whole: move this one away to use it"
            if others
            else "train again"
        )
        raise DamagedCheckpoint(f"{error}; {advice}") from error
    spec = methods.METHODS[document["method"]]
    config = document["config"]
    method_config = from_plain(spec.config_class, config.get("method"), str(folder.config))
    with torch.random.fork_rng(
        devices=[]
    ):  # initial weights are drawn and thrown away: leave the caller's stream alone
        method = spec.method_class(method_config)
    load_networks(method, {**checkpoint["networks"], **(checkpoint.get("ema") or {})}, folder.checkpoint(step))
    return Run(folder.path, document["method"], config, method.to(device).eval(), step)


def load_networks(method: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Load ``state`` into ``method``. Raises UserError naming the first tensors of ``path`` that do not fit."""
    try:
        method.load_state_dict(state)
    except RuntimeError as error:
        detail = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise UserError(f"{path}: its tensors do not fit the networks that config.json describes: {detail}") from error


def _check_format(document: dict[str, Any], path: Path) -> None:
    if not isinstance(document["format"], int) or document["format"] > FORMAT:
        writer = document.get("jdm_fast", "of unknown version")
        raise UserError(
            f"{path}: written in format {document['format']} by jdm_fast {writer}; this is jdm_fast "
            f"{jdm_fast.__version__}, which reads formats up to {FORMAT}: upgrade it"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
