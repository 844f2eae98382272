"""What instance norm does on a GPU: which kernels, and how many bytes they move. Needs no GPU to be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from jdm_fast import _extension
from jdm_fast.errors import UserError


@dataclass(frozen=True)
class Gpu:
    """What a plan depends on.

    Attributes:
        name: for people. multiprocessors: how many. capability: compute capability. cache_bytes: of the last cache.
    """

    name: str
    multiprocessors: int
    capability: tuple[int, int]
    cache_bytes: int


_MIB = 1 << 20
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100", 108, (8, 0), 40 * _MIB),
        Gpu("rtx4090", 128, (8, 9), 72 * _MIB),
        Gpu("h100", 132, (9, 0), 50 * _MIB),
        Gpu("h200", 132, (9, 0), 60 * _MIB),
    )
}
"""GPUs that can be asked about by name: the numbers of NVIDIA's data sheets, of the H200 what its driver says."""

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)  # in the order of the C++ enum


@dataclass(frozen=True)
class Plan:
    """What one call of instance norm does on a GPU.

    Attributes:
        path: ``resident`` (a plane in the registers of a block), ``cluster`` (a plane or a tile of channels in the
            registers or the shared memory of a cluster of blocks, or a tile in both), ``streamed`` (a block reads its
            plane or tile twice), ``split`` (several blocks share one, so that a first kernel leaves partial results for
            a second), ``nothing``.
        kernels: the names of the kernels that are launched, in their order.
        blocks: of each launch. threads: of a block. cluster: blocks of a cluster, 1 without. shared_bytes: dynamic
            shared memory of a block.
        bytes_read, bytes_written: of the large tensors, second reads included, which may come from a cache.
        floor: the least bytes there are to move.
    """

    path: str
    kernels: tuple[str, ...]
    blocks: int
    threads: int
    cluster: int
    shared_bytes: int
    bytes_read: int
    bytes_written: int
    floor: int

    def __str__(self) -> str:
        moved = self.bytes_read + self.bytes_written
        if not self.kernels:
            return "nothing to do"
        ways = f"{self.blocks} blocks of {self.threads} threads"
        if self.cluster > 1:
            ways += f" in clusters of {self.cluster}"
        if self.shared_bytes > 0:
            ways += f" with {self.shared_bytes / 1024:g} KiB each"
        return (
            f"{self.path}: {' then '.join(self.kernels)}, {ways}; {moved / 1e6:.1f} MB, "
            f"{moved / self.floor:.2f} of the floor"
        )


def plan(
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    *,
    channels_last: bool = False,
    backward: bool = False,
    residual: bool = False,
    gpu: str | Gpu | None = None,
) -> Plan:
    """The plan of :func:`jdm_fast.ops.instance_norm` for tensors that begin on 16 bytes.

    Args:
        shape: [N, C, H, W].
        dtype: of x: float32, float16, bfloat16 or float64.
        channels_last: memory format of x.
        backward: ask about the derivative.
        residual: whether one is given; the backward pass does not read it.
        gpu: one of :data:`GPUS` by name, or any; unset: the current GPU.

    Raises:
        UserError: the compiled kernels are missing; an unknown name; no name, and no GPU here.
        ValueError: a shape that is not [N, C, H, W], or another dtype.
    """
    if len(shape) != 4 or any(int(side) != side or side < 0 for side in shape):
        raise ValueError(f"plan: shape must be [N, C, H, W], got {list(shape)}")
    if dtype not in _DTYPES:
        raise ValueError(f"plan: dtype must be one of {', '.join(map(str, _DTYPES))}, got {dtype}")
    device = _gpu(gpu)
    count = shape[0] * shape[1] * shape[2] * shape[3]
    size = count * dtype.itemsize
    inputs = 2 if backward else 1
    extra = size if residual and not backward else 0
    if count == 0:
        return Plan("nothing", (), 0, 0, 1, 0, 0, 0, 0)
    major, minor = device.capability
    found = _extension.instance_norm_plan(
        batch=shape[0], channels=shape[1], pixels=shape[2] * shape[3], channels_last=channels_last,
        dtype=_DTYPES.index(dtype), backward=backward, multiprocessors=device.multiprocessors,
        capability=10 * major + minor, cache_bytes=device.cache_bytes,
    )  # fmt: skip
    return Plan(
        path=found["path"],
        kernels=tuple(found["kernels"]),
        blocks=found["blocks"],
        threads=found["threads"],
        cluster=found["cluster"],
        shared_bytes=found["shared_bytes"],
        bytes_read=found["reads"] * inputs * size + extra,
        bytes_written=size,
        floor=(inputs + 1) * size + extra,
    )


def _gpu(asked: str | Gpu | None) -> Gpu:
    if isinstance(asked, Gpu):
        return asked
    if asked is not None:
        if asked not in GPUS:
            raise UserError(f"gpu: expected one of {', '.join(GPUS)}, or a Gpu, got {asked!r}")
        return GPUS[asked]
    if not torch.cuda.is_available():
        raise UserError(f"gpu: there is none on this machine: name one of {', '.join(GPUS)}")
    there = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Gpu(there.name, there.multi_processor_count, (there.major, there.minor), there.L2_cache_size)
