"""Memory that is hard on kernels: outputs hold NaN and lie between sentinels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

SENTINEL, POISON, MARGIN = 0xA5, 0xFF, 256


@dataclass
class Guarded:
    """A tensor between sentinels, ``offset`` elements past a multiple of 256 bytes, full of 0xFF bytes (NaN)."""

    shape: Sequence[int]
    dtype: torch.dtype
    offset: int = 0
    buffer: Tensor = field(init=False)
    tensor: Tensor = field(init=False)

    def __post_init__(self) -> None:
        count, size = int(torch.Size(self.shape).numel()), self.dtype.itemsize
        space = torch.full((count * size + self.offset * size + 3 * MARGIN,), SENTINEL, dtype=torch.uint8)
        begin = -space.data_ptr() % MARGIN + MARGIN + self.offset * size
        if space.data_ptr() % size:  # a view as another dtype counts from the start of the storage
            raise RuntimeError(f"the allocator returned memory that is not aligned to {size} bytes")
        self.buffer, self._begin, self._end = space, begin, begin + count * size
        space[begin : self._end] = POISON
        self.tensor = space[begin : self._end].view(self.dtype).view(*self.shape)

    @classmethod
    def of(cls, value: Tensor, offset: int = 0) -> Guarded:
        guarded = cls(value.shape, value.dtype, offset)
        guarded.tensor.copy_(value)
        return guarded

    @property
    def pointer(self) -> int:
        return self.tensor.data_ptr()

    def check(self) -> None:
        outside = torch.cat([self.buffer[: self._begin], self.buffer[self._end :]])
        assert bool((outside == SENTINEL).all()), "the kernel wrote outside its output"


def pointer(tensor: Guarded | None) -> int | None:
    return None if tensor is None else tensor.pointer


def in_memory_order(image: Tensor, channels_last: bool) -> Tensor:
    """[N, C, H, W] as the contiguous tensor that lies in memory: [N, H, W, C] if ``channels_last``."""
    return image.permute(0, 2, 3, 1).contiguous() if channels_last else image.contiguous()


def from_memory_order(stored: Tensor, channels_last: bool) -> Tensor:
    return stored.permute(0, 3, 1, 2) if channels_last else stored
