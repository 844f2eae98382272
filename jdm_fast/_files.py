"""Writing files so that a reader, or a program killed at any moment, never leaves or sees half of one."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from jdm_fast.errors import UserError


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under a temporary name beside ``path``, flush it to the disk, then rename it to ``path``.

    Args:
        path: where the file shall be; its folder must exist. A file already there is replaced whole or not at all.
        write: receives the open binary file.

    Raises:
        UserError: the folder cannot be written or the disk is full; what was at ``path`` before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):  # the temporary file may never have been made; the error below says more
            temporary.unlink()
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise UserError(f"{path}: cannot be written: {reason}. Free some space or choose another folder") from error
        raise


def make_folder(path: Path) -> None:
    """Create a folder and those above it. Raises UserError if that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: the folder cannot be made: {error.strerror or error}. Choose another folder"
        ) from error


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut (where the system lets a folder be flushed: not on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
