"""Finished segments of an output, in a folder beside it, until they are joined: what a killed job leaves for the next.

``.OUT.segments/plan.json`` says what they are segments of; ``00007.json`` that segment 7 is finished, and how many
frames it has; ``00007.x.mp4`` is its x. All appear whole or not at all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jdm_fast._files import make_folder, write_atomically
from jdm_fast.errors import UserError


class SegmentStore:
    """The segments of one output.

    Args:
        output: the output's own path. names: of its files (``both``, ``x``, ``y``). suffix: of a segment's files, none
            for folders of pictures.
    """

    def __init__(self, output: Path, names: Iterable[str], suffix: str) -> None:
        self.folder = output.with_name(f".{output.name}.segments")
        self.names, self._suffix = tuple(names), suffix

    def open(self, plan: Mapping[str, Any], resume: bool) -> int:
        """Begin, or go on with what an earlier job of the same plan finished; returns how many segments that was.

        Raises:
            UserError: ``resume``, but what is there was made from another input, run, or with other options; or the
                folder cannot be written.
        """
        plan = json.loads(json.dumps(plan))
        if resume and (self.folder / "plan.json").exists():
            before = _read(self.folder / "plan.json")
            other = sorted(key for key in {*plan, *before} if plan.get(key) != before.get(key))
            if other:
                said = "; ".join(f"{key} was {before.get(key)}, is {plan.get(key)}" for key in other)
                raise UserError(
                    f"{self.folder}: cannot go on: the segments there were made otherwise ({said}). Use the same "
                    "options, or leave out --resume to start over"
                )
        else:
            self.clear()
            make_folder(self.folder)
            write_atomically(self.folder / "plan.json", lambda file: file.write(json.dumps(plan).encode()))
        return len(list(self.folder.glob("[0-9]*.json")))

    def finished(self, number: int) -> dict[str, Any] | None:
        """What is noted of a finished segment: what :meth:`mark` was told. None if unfinished."""
        path = self._marker(number)
        return _read(path) if path.exists() else None

    def all_finished(self) -> list[dict[str, Any]]:
        """What is noted of all segments, to the one that is ``last``. UserError if one is missing."""
        notes: list[dict[str, Any]] = []
        while not (notes and notes[-1]["last"]):
            note = self.finished(len(notes))
            if note is None:
                raise UserError(f"{self._marker(len(notes))}: this segment was not made, so nothing is joined")
            notes.append(note)
        return notes

    def path(self, number: int, name: str) -> Path:
        """A segment's file (or folder of pictures)."""
        return self.folder / f"{number:05d}.{name}{self._suffix}"

    def make_way(self, number: int, name: str) -> Path:
        """:meth:`path`, for writing: without the folder of an earlier job that ended between two files."""
        path = self.path(number, name)
        shutil.rmtree(path, ignore_errors=True)
        return path

    def mark(self, number: int, note: Mapping[str, Any]) -> None:
        """Note that a segment's files are there, with what is to be known of it: its ``frames``, whether ``last``."""
        write_atomically(self._marker(number), lambda file: file.write(json.dumps(note).encode()))

    def clear(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _marker(self, number: int) -> Path:
        return self.folder / f"{number:05d}.json"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); leave out --resume to start over") from error
