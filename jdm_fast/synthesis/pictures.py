"""Pictures as people have them, and as networks take them; how many go through at once."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_BATCH_PIXELS = 2**20  # pixels in a batch unless the caller says how many pictures: 16 of 256x256
_MOST_IN_BATCH = 64


def batch_for(height: int, width: int) -> int:
    """How many pictures of this size go through the networks at once if nobody says."""
    return min(_MOST_IN_BATCH, max(1, _BATCH_PIXELS // (height * width)))


def to_float(images: np.ndarray, device: torch.device | None = None) -> Tensor:
    """uint8 [N, H, W, 3] to float32 [N, 3, H, W] in [-1, 1], on ``device``, by default the CPU.

    A GPU gets the bytes, a quarter of the floats, from page-locked memory: nobody waits for the copy.
    """
    if device is not None and device.type == "cuda":
        there = torch.from_numpy(np.ascontiguousarray(images)).pin_memory().to(device, non_blocking=True)
        return there.permute(0, 3, 1, 2).float().contiguous().div_(127.5).sub_(1)
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32)
    made = torch.from_numpy(planes).div_(127.5).sub_(1)
    return made if device is None else made.to(device)


def rgb(image: Image.Image) -> np.ndarray:
    """A PIL image of any mode as uint8 [H, W, 3]."""
    return np.array(image.convert("RGB"))
