"""MNIST's files: ``train-images-idx3-ubyte`` and ``t10k-images-idx3-ubyte``, plain or as ``.gz``.

Domains: original, clockwise, anticlockwise: the pictures as they are, and turned by 90 degrees either way, as in the
JointGAN paper. They belong together picture by picture. Label files are not read. Fashion-MNIST, KMNIST and others come
in the same format.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from jdm_fast.data.dataset import Arrays, Group, Layout
from jdm_fast.errors import UserError

EXPECTED = "train-images-idx3-ubyte and t10k-images-idx3-ubyte, or these with .gz"

#: Clockwise quarter turns that make each domain of the stored pictures.
TURNS = {"original": 0, "clockwise": 1, "anticlockwise": 3}

_STEMS = {"train": "train-images", "test": "t10k-images"}
_ENDINGS = ("-idx3-ubyte", ".idx3-ubyte", "-idx3-ubyte.gz", ".idx3-ubyte.gz")
_UBYTE = 8  # the type number of unsigned bytes


def fits(root: Path) -> bool:
    return _file(root, "train") is not None


def find(root: Path, recursive: bool = False) -> Layout:
    """The data set at ``root``; its files lie in that folder itself, so ``recursive`` changes nothing.

    Raises:
        UserError: there is no file of training pictures, or a file is not what its name says.
    """
    if _file(root, "train") is None:
        raise UserError(f"{root}: there is no train-images file in it; expected MNIST's files: {EXPECTED}")
    splits = {}
    for split in _STEMS:
        path = _file(root, split)
        if path is not None:
            pixels = read_idx_images(path)
            splits[split] = (Group({name: Arrays(pixels, path, turns) for name, turns in TURNS.items()}),)
    return Layout("idx", root, tuple(TURNS), splits)


def read_idx_images(path: str | Path) -> np.ndarray:
    """The pictures of an IDX file, plain or gzip: uint8 [N, H, W, 1], or [N, H, W, 3] if it has a fourth dimension.

    Raises:
        UserError: it is no IDX file of bytes in three dimensions, or its length is not what its header says.
    """
    path = Path(path)
    data = _read(path)
    if len(data) < 4 or data[:2] != b"\0\0":
        raise UserError(
            f"{path}: not an IDX file: it begins with {data[:4].hex(' ') or 'nothing'}, expected 00 00 08 03"
        )
    kind, dimensions = data[2], data[3]
    if kind != _UBYTE or dimensions not in (3, 4):
        what = "labels, not pictures" if (kind, dimensions) == (_UBYTE, 1) else "another kind of IDX file"
        raise UserError(f"{path}: {what}: it begins with {data[:4].hex(' ')}, expected 00 00 08 03")
    if len(data) < 4 + 4 * dimensions:
        raise UserError(f"{path}: cut short in its header, at {len(data)} bytes; get the file again")
    shape = struct.unpack_from(f">{dimensions}I", data, 4)
    expected, found = math.prod(shape), len(data) - 4 - 4 * dimensions
    if expected != found:
        how = "cut short" if found < expected else "too long"
        raise UserError(
            f"{path}: {how}: its header says {' x '.join(map(str, shape))} = {expected} bytes of pixels, there are "
            f"{found}; get the file again"
        )
    if not expected or dimensions == 4 and shape[3] not in (1, 3):
        raise UserError(f"{path}: pictures of {' x '.join(map(str, shape))}; expected N x height x width (x 1 or 3)")
    pixels = np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * dimensions)
    return pixels.reshape(shape if dimensions == 4 else (*shape, 1))


def _file(root: Path, split: str) -> Path | None:
    return next((path for ending in _ENDINGS if (path := root / (_STEMS[split] + ending)).is_file()), None)


def _read(path: Path) -> bytes:
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as file:
            return file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{path}: cannot be unpacked, it is damaged or cut short ({error}); get the file again"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
