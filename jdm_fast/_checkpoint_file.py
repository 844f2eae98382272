"""One file of tensors and plain values that is never taken for whole when it is not."""

from __future__ import annotations

import pickle
import threading
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from jdm_fast._files import write_atomically
from jdm_fast.errors import UserError, first_line


class DamagedCheckpoint(UserError):
    """A checkpoint file that cannot be read, as after a copy that was cut short."""


class WriteStopped(Exception):
    """The writing of a file was called off; nothing is left of it."""


def save_document(path: Path, document: dict[str, Any], stop: threading.Event | None = None) -> None:
    """Write ``document``, made of tensors, numbers, strings, None, lists, tuples and dicts of them, to ``path``.

    Args:
        path: replaced whole or not at all.
        document: what to write; its tensors on the CPU.
        stop: set by another thread to call the writing off within the piece that is being written.

    Raises:
        UserError: the folder cannot be written or the disk is full; what was at ``path`` before is untouched.
        WriteStopped: ``stop`` was set.
    """

    def write(file: BinaryIO) -> None:
        watched = _WatchedFile(file, stop)
        try:
            torch.save(document, watched)
        except Exception as error:
            # PyTorch turns what went wrong with the file into an error about its own offsets.
            raise watched.error or error from None

    write_atomically(path, write)


def load_document(path: Path) -> dict[str, Any]:
    """What :func:`save_document` wrote, its tensors on the CPU. Nothing in the file is executed.

    Raises:
        DamagedCheckpoint: the file is cut short, has been changed on the disk, is something else, or holds code.
    """
    try:
        changed = _changed_part(path)
        if changed is not None:
            raise DamagedCheckpoint(f"{path}: the checkpoint is damaged: the bytes of {changed} have changed")
        document = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DamagedCheckpoint(
            f"{path}: not a checkpoint of jdm_fast: there is something else in it than tensors and plain values, "
            "which is not executed"
        ) from error
    except _UNREADABLE as error:
        raise DamagedCheckpoint(f"{path}: the checkpoint is damaged or cut short ({first_line(error)})") from error
    if not isinstance(document, dict):
        raise DamagedCheckpoint(f"{path}: not a checkpoint of jdm_fast; expected a dict in it")
    return document


_UNREADABLE = (
    zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, KeyError, IndexError, UnicodeDecodeError,
)  # fmt: skip


def _changed_part(path: Path) -> str | None:
    """The first part of the file that is not as it was written, if there is one.

    PyTorch reads on where bytes in the middle of a file have changed, and takes a part that is marked as a folder for
    read without reading it. The sums and marks in the file tell.
    """
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            if part.external_attr != 0 or part.compress_type != zipfile.ZIP_STORED:
                return part.filename
        return archive.testzip()


class _WatchedFile:
    """A file to write to that remembers its first error, and refuses to go on after it or once told to stop."""

    def __init__(self, file: BinaryIO, stop: threading.Event | None) -> None:
        self._file, self._stop = file, stop
        self.error: BaseException | None = None

    def write(self, data: Any) -> int:
        try:
            if self.error is not None:
                raise self.error
            if self._stop is not None and self._stop.is_set():
                raise WriteStopped
            return self._file.write(data)
        except BaseException as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()
