"""Random numbers that do not depend on how many processes share a batch.

Every process draws the numbers of the whole global batch from the same stream and keeps its own part. So two processes
that each work on half of a batch train with the very numbers that one process would have used for all of it, and the
streams of all processes stay in the same place. Methods draw what belongs to single samples by these functions; what
is drawn for the batch as a whole needs no care, as the streams are the same.

The price is that a process draws ``world_size`` times the numbers that it uses: see ``docs/scale.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

# Facts of the process, not of a thread; plain numbers, which torch.compile takes for constants.
_rank, _world_size = 0, 1


@contextmanager
def share_of_batch(rank: int, world_size: int) -> Iterator[None]:
    """Context in which batches are the part ``rank`` of ``world_size`` equal parts of global batches.

    Raises:
        ValueError: there is no such part.
    """
    global _rank, _world_size
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: expected 0 to {world_size - 1} for a world_size of {world_size}, got {rank}")
    before = _rank, _world_size
    _rank, _world_size = rank, world_size
    try:
        yield
    finally:
        _rank, _world_size = before


def normal_like(like: Tensor) -> Tensor:
    """N(0, I) shaped as ``like`` [N, ...], of its dtype, device and memory format: the part of this process."""
    if _world_size == 1:
        return torch.randn_like(like)
    # The numbers fill the memory in its own order, so the format is that which one process would have had.
    last = like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    noise = torch.empty(
        (_world_size * len(like), *like.shape[1:]),
        dtype=like.dtype,
        device=like.device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    ).normal_()
    return noise.narrow(0, _rank * len(like), len(like))


def uniform(shape: Sequence[int], like: Tensor) -> Tensor:
    """U[0, 1) of ``shape`` [N, ...], of the dtype and device of ``like``: the part of this process."""
    count, *rest = shape
    numbers = torch.rand(_world_size * count, *rest, dtype=like.dtype, device=like.device)
    return numbers.narrow(0, _rank * count, count)


def normal(shape: Sequence[int], like: Tensor) -> Tensor:
    """N(0, I) of ``shape`` [N, ...], of the dtype and device of ``like``: the part of this process."""
    count, *rest = shape
    numbers = torch.randn(_world_size * count, *rest, dtype=like.dtype, device=like.device)
    return numbers.narrow(0, _rank * count, count)
