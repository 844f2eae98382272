"""The log of a run in programs that draw curves: TensorBoard and Weights & Biases, each only if asked for."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from jdm_fast._files import write_atomically
from jdm_fast.data import read_image
from jdm_fast.errors import UserError

_MB = 1 << 20


def device_memory(device: torch.device) -> dict[str, float]:
    """What training holds of a GPU's memory, in MB, for a line of the log; nothing on a CPU.

    ``gpu_peak_mb`` is the most that tensors have taken so far, ``gpu_reserved_mb`` what PyTorch keeps from others now.
    Asking does not wait for the device.
    """
    if device.type != "cuda":
        return {}
    return {
        "gpu_peak_mb": round(torch.cuda.max_memory_allocated(device) / _MB, 1),
        "gpu_reserved_mb": round(torch.cuda.memory_reserved(device) / _MB, 1),
    }


class _Watcher(Protocol):
    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def picture(self, step: int, path: Path) -> None: ...

    def close(self) -> None: ...


class Watchers:
    """Everything that a training is watched with.

    Args:
        tensorboard: write TensorBoard's event files into the run's folder.
        wandb: name of a Weights & Biases project, or None.

    Raises:
        UserError: a package that this needs is not installed.
    """

    def __init__(self, *, tensorboard: bool = False, wandb: str | None = None) -> None:
        self._summaries = _need("torch.utils.tensorboard", "tensorboard", "tensorboard") if tensorboard else None
        self._wandb = _need("wandb", "wandb", "wandb") if wandb else None
        self._project = wandb
        self._open: list[_Watcher] = []

    @contextmanager
    def watching(self, folder: Path, start: int, config: Mapping[str, Any]) -> Iterator[Watchers]:
        """Context in which the log is passed on.

        Args:
            folder: the run's.
            start: the step training continues from; what TensorBoard has of later steps is struck out.
            config: every setting, as plain values.

        Raises:
            UserError: the files cannot be written, or Weights & Biases cannot be used.
        """
        with ExitStack() as stack:
            if self._summaries is not None:
                self._add(_TensorBoard(self._summaries, folder / "tensorboard", start), stack)
            if self._wandb is not None:
                self._add(_WeightsAndBiases(self._wandb, str(self._project), folder, config), stack)
            try:
                yield self
            finally:
                self._open = []

    def _add(self, watcher: _Watcher, stack: ExitStack) -> None:
        self._open.append(watcher)
        stack.callback(watcher.close)

    def scalars(self, record: Mapping[str, Any]) -> None:
        """Pass on a line of ``metrics.jsonl``: its numbers under its ``step``."""
        values = {name: value for name, value in record.items() if name != "step" and isinstance(value, (int, float))}
        for watcher in self._open:
            watcher.scalars(record["step"], values)

    def picture(self, step: int, path: Path) -> None:
        """Pass on a sample grid; any thread may call this."""
        for watcher in self._open:
            watcher.picture(step, path)


class _TensorBoard:
    def __init__(self, module: Any, folder: Path, start: int) -> None:
        self._folder = folder
        try:
            self._writer = module.SummaryWriter(str(folder), purge_step=start + 1)
        except OSError as error:
            raise self._error(error) from error

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        try:
            for name, value in values.items():
                self._writer.add_scalar(name if "/" in name else f"train/{name}", value, step)
            self._writer.flush()
        except OSError as error:
            raise self._error(error) from error

    def picture(self, step: int, path: Path) -> None:
        try:
            self._writer.add_image("samples", read_image(path), step, dataformats="HWC")
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        self._writer.close()

    def _error(self, error: OSError) -> UserError:
        reason = error.strerror or error
        return UserError(
            f"{self._folder}: cannot be written: {reason}. Free some space, or train without --tensorboard"
        )


class _WeightsAndBiases:
    """A run that is continued goes on under its own name there, which is kept in the file ``wandb-id``."""

    def __init__(self, module: Any, project: str, folder: Path, config: Mapping[str, Any]) -> None:
        self._module = module
        kept = folder / "wandb-id"
        if not kept.exists():
            write_atomically(kept, lambda file: file.write(secrets.token_hex(4).encode()))
        try:
            self._run = module.init(
                project=project,
                name=folder.name,
                id=kept.read_text(encoding="utf-8").strip(),
                resume="allow",
                dir=str(folder),
                config=dict(config),
            )
        except Exception as error:  # its own kinds, which differ between its versions
            reason = str(error).rstrip(". ")
            raise UserError(
                f"wandb: Weights & Biases cannot be used: {reason}. Log in with `wandb login`, set WANDB_MODE=offline, "
                "or train without --wandb"
            ) from error
        # Its own count of steps may not go back, as when a run continues from before its last line.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def picture(self, step: int, path: Path) -> None:
        self._run.log({"step": step, "samples": self._module.Image(str(path))})

    def close(self) -> None:
        self._run.finish()


def _need(module: str, package: str, option: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{option}: the package {package} cannot be imported ({error}): install it with `pip install {package}`, "
            f"or train without --{option}"
        ) from error
