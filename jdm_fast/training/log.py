"""The log of a run: the losses of the steps since its last line, and ``metrics.jsonl``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jdm_fast._files import write_atomically
from jdm_fast.errors import UserError


class NonFiniteLoss(UserError):
    """A loss became infinite or not a number."""


class LossWindow:
    """Losses of the steps since the last line of the log, kept on the device until somebody asks.

    :meth:`means` is the only place where the training loop waits for the device; as it sees every step's values, it
    can say exactly which one went wrong.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._rows: list[Tensor] = []  # one [len(_names)] for each step
        self._last_step = 0

    def add(self, step: int, terms: dict[str, Tensor]) -> None:
        """Note the scalars of ``step``; their names must be the same in every step."""
        self._names = list(terms)
        self._rows.append(torch.stack([term.detach().float() for term in terms.values()]))
        self._last_step = step

    def means(self) -> dict[str, float]:
        """The mean of each term over the window. Raises NonFiniteLoss, see :meth:`check`."""
        values = self._values()
        return dict(zip(self._names, values.double().mean(0).tolist(), strict=True)) if len(values) else {}

    def check(self) -> None:
        """Raise NonFiniteLoss naming the first step and term of the window whose loss is infinite or not a number."""
        self._values()

    def clear(self) -> None:
        """Begin a new window."""
        self._rows = []

    def state_dict(self) -> dict[str, Any]:
        """The window, so that a continued run writes the lines that an uninterrupted one would have."""
        return {"names": self._names, "rows": self._values(), "last_step": self._last_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; the rows of the rest of the window join those on whatever device."""
        self._names, self._rows, self._last_step = state["names"], list(state["rows"]), state["last_step"]

    def _values(self) -> Tensor:
        """[steps, terms] on the host, all finite."""
        if not self._rows:
            return torch.empty(0, len(self._names))
        device = self._rows[-1].device
        values = torch.stack([row.to(device) for row in self._rows]).cpu()
        bad = (~torch.isfinite(values)).nonzero()
        if len(bad):
            row, term = bad[0].tolist()
            step = self._last_step - len(values) + 1 + row
            raise NonFiniteLoss(f"step {step}: the loss {self._names[term]} became {values[row, term].item()}")
        return values


class MetricsLog:
    """``metrics.jsonl``: one JSON object a line, steps ascending, none twice.

    Args:
        path: the file. It is made if it is not there.
        step: the step training continues from. Lines of later steps, left by a run that was killed, are dropped, and
        so is
            a last line cut short.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if (record := _parse(line)) is not None and record["step"] <= step]
        if kept != lines:
            write_atomically(path, lambda file: file.write("".join(line + "\n" for line in kept).encode()))
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error

    def write(self, record: dict[str, Any]) -> None:
        """Append a line; it must have a ``step``."""
        try:
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written: {error.strerror or error}. Free some space") from error

    def flush_to_disk(self) -> None:
        """Make sure the lines so far survive a power cut: a checkpoint must not be newer than its log."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _parse(line: str) -> dict[str, Any] | None:
    """A line's record, or None if the line is not a whole one."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None
