"""A folder of drawn tuples: pictures and vectors as they come, and a grid of the first."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.format import write_array_header_1_0

from jdm_fast._files import make_folder, write_atomically
from jdm_fast.data.images import resize_image, save_image
from jdm_fast.data.sheet import contact_sheet
from jdm_fast.errors import UserError

GRID_ROWS = 16  #: tuples in a grid
_GRID_DRAWS = 8
_GRID_COLUMNS = 8  # of a grid of one picture a tuple
_LEAST_SIDE = 64  # smaller pictures are enlarged, so that their titles fit


def require_free(output: str | os.PathLike[str]) -> Path:
    """The path, or UserError unless there is nothing yet or an empty folder."""
    folder = Path(output)
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"{folder}: the folder is not empty; samples go to a new one, so that none are mixed up")
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read: {error.strerror}") from error
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; expected the name of a new folder")
    return folder


class TupleFolder:
    """Writes ``x/NAME.png`` for pictures and ``y.npy`` for vectors, in the order of the rows.

    Every file appears under its name when it is whole. A context: vectors that are not finished are deleted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._vectors: dict[str, tuple[BinaryIO, Path]] = {}

    def settings(self, **settings: Any) -> None:
        """Make the folder, and note in ``sample.json`` what the tuples are."""
        make_folder(self._path)
        text = json.dumps(settings, indent=2).encode() + b"\n"
        write_atomically(self._path / "sample.json", lambda file: file.write(text))

    def write(self, domain: str, name: str, value: np.ndarray, shape: tuple[int, ...]) -> None:
        """A picture, uint8 [H, W, 3], or the next vector, float32 [D], of an array of ``shape`` vectors."""
        if value.ndim == 3:
            path = self._path / domain / f"{name}.png"
            make_folder(path.parent)
            save_image(path, value)
            return
        final = self._path / f"{domain}.npy"
        try:
            if domain not in self._vectors:
                temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
                self._vectors[domain] = temporary.open("wb"), temporary
                form = {"descr": "<f4", "fortran_order": False, "shape": (*shape, *value.shape)}
                write_array_header_1_0(self._vectors[domain][0], form)
            self._vectors[domain][0].write(value.astype("<f4").tobytes())
        except OSError as error:
            raise UserError(f"{final}: cannot be written: {error.strerror}. Choose another folder") from error

    def finish(self) -> None:
        """Give files of vectors their names."""
        for domain, (file, temporary) in self._vectors.items():
            try:
                file.flush()
                os.fsync(file.fileno())
                file.close()
                os.replace(temporary, self._path / f"{domain}.npy")
            except OSError as error:
                raise UserError(f"{self._path / domain}.npy: cannot be written: {error.strerror}") from error

    def __enter__(self) -> TupleFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file, temporary in self._vectors.values():
            with suppress(OSError):
                file.close()
            with suppress(OSError):
                temporary.unlink()


class TupleGrid:
    """The first tuples as one picture, a row each; where a tuple is one picture, so many in a row.

    Args:
        kept: domains of pictures that are given. made: those that are drawn. draws: of each, or None.
    """

    def __init__(self, kept: Sequence[str], made: Sequence[str], draws: int | None) -> None:
        columns = [(domain, 0) for domain in kept]
        columns += [(domain, draw) for draw in range(min(draws or 1, _GRID_DRAWS)) for domain in made]
        self._columns = {column: place for place, column in enumerate(columns)}
        numbered = made if draws is not None else ()
        self._titles = [f"{domain} {draw}" if domain in numbered else domain for domain, draw in columns]
        self._rows: list[dict[int, np.ndarray]] = []
        self._most = GRID_ROWS if len(columns) > 1 else GRID_ROWS * _GRID_COLUMNS

    def add(self, domain: str, number: int, draw: int, picture: np.ndarray) -> None:
        """Take a picture of tuple ``number`` if it is one of the first."""
        if number >= self._most or (domain, draw) not in self._columns:
            return
        while number >= len(self._rows):
            self._rows.append({})
        self._rows[number][self._columns[domain, draw]] = picture

    def save(self, path: Path) -> list[Path]:
        """Write the grid; returns its path, or nothing if there are no pictures."""
        if not self._rows:
            return []
        rows = [[row[place] for place in range(len(self._columns))] for row in self._rows]
        if len(self._columns) > 1:
            return [save_grid(path, rows, self._titles)]
        flat = [picture for row in rows for picture in row]
        return [save_grid(path, [flat[k : k + _GRID_COLUMNS] for k in range(0, len(flat), _GRID_COLUMNS)])]


def save_grid(path: Path, rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str] | None = None) -> Path:
    """Pictures uint8 [H, W, 3] as a contact sheet, those of other sizes in that of the first."""
    height, width = rows[0][0].shape[:2]
    same = [[resize_image(picture, (height, width)) for picture in row] for row in rows]
    save_image(path, contact_sheet(same, titles=titles, scale=max(1, -(-_LEAST_SIDE // width))))
    return path
