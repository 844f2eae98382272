"""Reading pickles of others without running what is in them.

A pickle is a program: loading one may do anything. This reader knows numbers, strings, lists and numpy arrays of
numbers, and refuses whatever else a pickle asks for. Pickles of Python 2 are read too.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from jdm_fast.errors import UserError


def read_pickle(path: str | Path) -> Any:
    """Lists, strings, numbers and numpy arrays from a pickle file.

    Raises:
        UserError: the file cannot be read, is no pickle, or asks for anything else.
    """
    path = Path(path)
    try:
        return _Reader(io.BytesIO(path.read_bytes()), path).load()
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to lead to
        raise UserError(f"{path}: not a pickle, or damaged ({type(error).__name__}: {error}); get it again") from error


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, path: Path) -> None:
        super().__init__(file, encoding="latin1")  # the encoding in which Python 2 pickled arrays can be read
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((module, name))
        if allowed is None:
            raise UserError(
                f"{self._path}: this pickle asks for {module}.{name}; only lists, strings and numpy arrays are read, "
                "since anything else could run code. Save the features as a .npy array instead"
            )
        return allowed

    def persistent_load(self, pid: object) -> Any:
        raise UserError(f"{self._path}: this pickle refers to other files; only lists, strings and arrays are read")


def _reconstruct(kind: type, shape: tuple[int, ...], dtype: bytes) -> np.ndarray:
    """numpy's own helper, for arrays only: it would make an object of any class otherwise."""
    if kind is not np.ndarray:
        raise ValueError(f"an array of type {kind!r}")
    return np.ndarray.__new__(np.ndarray, shape, dtype)


def _frombuffer(
    data: bytes, dtype: np.dtype, shape: tuple[int, ...], order: str, axes: tuple[int, ...] | None = None
) -> np.ndarray:
    """numpy's helper for arrays in the newest protocol."""
    array = np.frombuffer(data, dtype=dtype)
    return array.reshape(shape, order="C").transpose(axes) if order == "K" else array.reshape(shape, order=order)


def _scalar(dtype: np.dtype, data: bytes | str) -> np.generic:
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype=dtype)[0]


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if encoding != "latin1":
        raise ValueError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}
