"""What a process that loads pictures does, for the tests of several processes and of killed ones."""

from __future__ import annotations

import hashlib
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from jdm_fast.data.dataset import Group, ImageFiles
from jdm_fast.data.images import find_images
from jdm_fast.data.loader import Loader

Line = tuple[int, dict[str, list[int]], str]


def open_loader(root: Path, **settings: Any) -> Loader:
    groups = [Group({key: ImageFiles(tuple(find_images(root / key)), root / key)}) for key in ("x", "y")]
    options: dict[str, Any] = dict(load_size=36, crop_size=32, seed=3, cache_folder=root / "cache", threads=1)
    return Loader(groups, **{**options, **settings})


def line(step: int, batch: dict[str, torch.Tensor]) -> Line:
    """A step: its number, the pictures shown (the red of each is its number) and a hash of all values."""
    shown = {key: ((images[:, 0, 0, 0] + 1) * 127.5).round().int().tolist() for key, images in batch.items()}
    return step, shown, hashlib.sha256(b"".join(images.numpy().tobytes() for images in batch.values())).hexdigest()


def load(connection: Connection, root: Path, start: int, stop: int, settings: dict[str, Any]) -> None:
    """Send the :func:`line` of each step as soon as it is there."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with it ignored
    with open_loader(root, **settings).batches(start, stop) as batches:
        for step, batch in enumerate(batches, start):
            connection.send(line(step, batch))
