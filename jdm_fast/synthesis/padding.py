"""Any picture size through a network that takes only some: pad by reflection, crop back."""

from __future__ import annotations

import torch
from torch import Tensor


def padded_side(side: int, minimum: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is at least ``side`` and ``minimum``."""
    return -(-max(side, minimum) // multiple) * multiple


def pad_reflect(images: Tensor, height: int, width: int) -> Tensor:
    """``images`` [N, C, H, W] continued by reflection at the bottom and on the right to [N, C, height, width].

    The edge itself is not repeated. Unlike ``torch.nn.functional.pad`` it can grow a picture to many times its size,
    reflecting to and fro; a side of one pixel is repeated.
    """
    for axis, length in ((2, height), (3, width)):
        if length != images.shape[axis]:
            images = images.index_select(axis, _reflected(images.shape[axis], length, images.device))
    return images


def _reflected(side: int, length: int, device: torch.device) -> Tensor:
    """0, 1, …, side-1, side-2, …, 1, 0, 1, … of ``length``."""
    period = max(1, 2 * (side - 1))
    index = torch.arange(length, device=device) % period
    return torch.where(index < side, index, period - index)
