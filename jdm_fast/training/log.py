"""The log of a run: the losses of the steps since its last line, and ``metrics.jsonl``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jdm_fast._files import write_atomically
from jdm_fast.errors import UserError
from jdm_fast.training.nonfinite import MOST_IN_A_ROW, SKIPPED


class NonFiniteLoss(UserError):
    """A loss became infinite or not a number."""


class LossWindow:
    """Losses of the steps since the last line of the log, kept on the device until somebody asks.

    :meth:`means` is the only place where the training loop waits for the device; as it sees every step's values, it
    can say exactly which one went wrong.

    Args:
        skip: go on after a step whose losses or gradients are not finite, whose update the engine has left out
            (``jdm_fast.training.nonfinite``), instead of raising NonFiniteLoss. After ``MOST_IN_A_ROW`` such steps in
            a row it is raised all the same.
        average: gives the means over all processes of float32 values on the host. All processes must then ask the
            window the same things at the same steps.
    """

    def __init__(self, skip: bool = False, average: Callable[[Tensor], Tensor] = lambda values: values) -> None:
        self._skip = skip
        self._average = average
        self._averaged = 0  # of the rows, those that are means over all processes already
        self._names: list[str] = []
        self._rows: list[Tensor] = []  # one [len(_names)] for each step
        self._last_step = 0
        self._in_a_row = 0  # skipped steps at the end of the windows before

    def add(self, step: int, terms: dict[str, Tensor]) -> None:
        """Note the scalars of ``step``; their names must be the same in every step."""
        self._names = list(terms)
        self._rows.append(torch.stack([term.detach().float() for term in terms.values()]))
        self._last_step = step

    def means(self) -> dict[str, float]:
        """The mean of each term over the window. Raises NonFiniteLoss, see :meth:`check`.

        With ``skip`` a mean is over the steps in which the term was finite, a term that never was is left out, and
        those of ``nonfinite.SKIPPED`` are counted instead: how often the update was left out.
        """
        values = self._values()
        self._check(values)
        means = {}
        for name, column in zip(self._names, values.double().unbind(1), strict=True):
            column = column[torch.isfinite(column)]
            if len(column):
                means[name] = column.sum().item() if name in SKIPPED else column.mean().item()
        return means

    def check(self) -> None:
        """Raise NonFiniteLoss naming the first step and term of the window whose loss is infinite or not a number."""
        self._check(self._values())

    def skipped(self) -> list[str]:
        """What to tell of the window's steps that were skipped: step, update, and the terms that were not finite."""
        values = self._values()
        told = []
        for row in self._bad_steps(values).nonzero().flatten().tolist():
            flags = [name for name in SKIPPED if name in self._names and values[row, self._names.index(name)]]
            updates = " and of the ".join(f"{name.removesuffix('_skipped')}s" for name in flags)
            broken = (~torch.isfinite(values[row])).nonzero().flatten().tolist()
            losses = [f"the loss {self._names[term]} became {values[row, term].item()}" for term in broken]
            reason = ", ".join(losses) or "gradients were infinite or not numbers"
            told.append(
                f"step {self._step(values, row)}: {reason}; "
                + (f"the update of the {updates} was skipped" if updates else "the gradients were finite")
            )
        return told

    def clear(self) -> None:
        """Begin a new window."""
        if self._skip and self._rows:
            self._in_a_row = self._row_at_end(self._bad_steps(self._values()))
        self._rows, self._averaged = [], 0

    def state_dict(self) -> dict[str, Any]:
        """The window, so that a continued run writes the lines that an uninterrupted one would have. Raises
        NonFiniteLoss, see :meth:`check`."""
        values = self._values()
        self._check(values)
        return {"names": self._names, "rows": values, "last_step": self._last_step, "in_a_row": self._in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; the rows of the rest of the window join those on whatever device."""
        self._names, self._rows, self._last_step = state["names"], list(state["rows"]), state["last_step"]
        self._averaged = len(self._rows)
        self._in_a_row = state.get("in_a_row", 0)  # checkpoints before there was skipping have none

    def _values(self) -> Tensor:
        """[steps, terms] on the host."""
        if not self._rows:
            return torch.empty(0, len(self._names))
        device = self._rows[-1].device
        values = torch.stack([row.to(device) for row in self._rows]).cpu()
        if self._averaged < len(values):
            values[self._averaged :] = self._average(values[self._averaged :])
            self._rows, self._averaged = list(values), len(values)
        return values

    def _check(self, values: Tensor) -> None:
        bad = self._bad_steps(values)
        if not bad.any():
            return
        if not self._skip:
            row = int(bad.nonzero()[0])
            term = int((~torch.isfinite(values[row])).nonzero()[0])
            raise NonFiniteLoss(
                f"step {self._step(values, row)}: the loss {self._names[term]} became {values[row, term].item()}"
            )
        if self._row_at_end(bad) >= MOST_IN_A_ROW:
            raise NonFiniteLoss(
                f"{self._row_at_end(bad)} steps in a row had to be skipped; the last: {self.skipped()[-1]}"
            )

    def _bad_steps(self, values: Tensor) -> Tensor:
        """bool [steps]: a term was not finite or an update was left out."""
        bad = ~torch.isfinite(values).all(1)
        for name in SKIPPED:
            if name in self._names:
                bad = bad | (values[:, self._names.index(name)] != 0)
        return bad

    def _row_at_end(self, bad: Tensor) -> int:
        """How many steps in a row up to the last one were skipped, those of earlier windows included."""
        good = (~bad).nonzero().flatten().tolist()
        return len(bad) - 1 - good[-1] if good else self._in_a_row + len(bad)

    def _step(self, values: Tensor, row: int) -> int:
        return self._last_step - len(values) + 1 + row


class MetricsLog:
    """``metrics.jsonl``: one JSON object a line, steps ascending, none twice.

    Args:
        path: the file. It is made if it is not there.
        step: the step training continues from. Lines of later steps, left by a run that was killed, are dropped, and
            so is a last line cut short.
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
