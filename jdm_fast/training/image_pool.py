"""The pool of older generated images that keeps critics from forgetting them (Shrivastava et al. 2017, as in
CycleGAN).

What happens to an image is drawn on the host; carrying it out is a fixed row of operations on the device whose indices
come from a tensor. So asking a pool never waits for the device, and the operations can be captured into a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format


class ImagePool:
    """CycleGAN's rule, image by image: while the pool is not full, keep the image and return it; then with
    probability 1/2 return a random image of the pool and put the new one in its place, else return the new one.

    Args:
        size: images kept; 0 returns every image as it is.
        seed: of the choices, which come from a generator of the pool's own on the host.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._images: Tensor | None = None  # [size + 1, C, H, W]: _count are filled, the last takes what is not kept
        self._count = 0
        self._generator = torch.Generator().manual_seed(seed)

    def query(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] to show the critic instead of ``images`` [N, C, H, W], which must not need gradients."""
        if self._size == 0:
            return images
        return self.exchange(images, to_device(self.decide(len(images)), images.device).view(4, -1))

    def decide(self, count: int) -> list[int]:
        """What becomes of the next ``count`` images, for :meth:`exchange`, which must follow before the next decision.

        Returns:
            4 * count numbers. For each image: 1 if an image of the pool is returned, 0 if one of this batch; its place
            in the pool; its place in the batch; and the place in the pool where the new image goes, ``size`` for none.
        """
        swaps = torch.rand(count, generator=self._generator).lt(0.5).tolist()
        places = torch.randint(self._size, (count,), generator=self._generator).tolist()
        pooled, old, new, kept_at = [0] * count, [0] * count, list(range(count)), [self._size] * count
        kept: dict[int, int] = {}  # image of this batch by its place in the pool: a later one may ask for it
        for index, (swap, place) in enumerate(zip(swaps, places, strict=True)):
            if self._count < self._size:
                kept[self._count] = index
                self._count += 1
            elif swap:
                if place in kept:
                    new[index] = kept[place]
                else:
                    pooled[index], old[index] = 1, place
                kept[place] = index
        for place, index in kept.items():
            kept_at[index] = place
        return pooled + old + new + kept_at

    def exchange(self, images: Tensor, decision: Tensor) -> Tensor:
        """Carry out a decision, int64 [4, N] on the images' device; see :meth:`query`."""
        if self._images is None:
            self._images = images.new_zeros(self._size + 1, *images.shape[1:])
        elif self._images.dtype != images.dtype:  # a checkpoint of another precision
            self._images = self._images.to(images.dtype)
        pooled, old, new, kept_at = decision
        shape = (-1, *[1] * (images.dim() - 1))
        chosen = torch.where(pooled.bool().view(shape), self._images.index_select(0, old), images.index_select(0, new))
        self._images.index_copy_(0, kept_at, images)
        return chosen.contiguous(memory_format=suggest_memory_format(images))  # indexing has its own mind about it

    def state_dict(self) -> dict[str, Any]:
        """The images kept, and the generator's state."""
        images = None if self._images is None else self._images[: self._count].clone()  # not the unfilled rest
        return {"images": images, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Take over the state of a pool of the same size, its images onto ``device``."""
        self._images, self._count = None, 0
        if state["images"] is not None:
            kept = state["images"]
            self._images = torch.zeros(self._size + 1, *kept.shape[1:], dtype=kept.dtype, device=device)
            self._count = len(kept)
            self._images[: self._count].copy_(kept)
        self._generator.set_state(state["generator"])


class Pools:
    """The image pools of a step, by name of the fakes.

    Usually :meth:`query` decides and carries out. After :meth:`fix` the decisions are read from one buffer on the
    device, so that a captured step can be repeated: :meth:`refill` draws those of the next repetition.

    Args:
        names: of the fakes that have a pool.
        size: of each.
        seed: of all; each pool has choices of its own.
    """

    def __init__(self, names: Iterable[str], size: int, seed: int) -> None:
        self._pools = {name: ImagePool(size, seed * 1_000_003 + k) for k, name in enumerate(names)}
        self._size = size
        self._asked: list[tuple[str, int]] = []  # the questions of a step, in their order
        self._buffer: Tensor | None = None
        self._answered = 0

    def begin(self) -> None:
        """A step begins."""
        if self._buffer is None:
            self._asked = []

    def query(self, name: str, images: Tensor) -> Tensor:
        """What to show the critic instead of ``images``; see :meth:`ImagePool.query`."""
        if self._size == 0 or name not in self._pools:
            return images
        if self._buffer is None:
            self._asked.append((name, len(images)))
            return self._pools[name].query(images)
        expected, count = self._asked[self._answered]
        if (name, len(images)) != (expected, count):
            before = f"{count} of {expected} as in the steps before"
            raise ValueError(f"pools: expected {before}, got {len(images)} of {name}")
        first = 4 * sum(count for _, count in self._asked[: self._answered])
        self._answered += 1
        return self._pools[name].exchange(images, self._buffer[first : first + 4 * count].view(4, count))

    def fix(self, device: torch.device) -> None:
        """From now on every step asks what the last one asked, and reads the answers from a buffer on ``device``."""
        self._buffer = torch.zeros(4 * sum(count for _, count in self._asked), dtype=torch.int64, device=device)
        self._answered = 0

    def refill(self) -> None:
        """Draw the decisions of the next step and send them to the buffer, without waiting."""
        if self._buffer is None:
            raise RuntimeError("pools: fix() comes before refill()")
        self._answered = 0
        if self._asked:
            decisions = [number for name, count in self._asked for number in self._pools[name].decide(count)]
            self._buffer.copy_(to_device(decisions, self._buffer.device))

    def state_dict(self) -> dict[str, Any]:
        """The state of each pool by name."""
        return {name: pool.state_dict() for name, pool in self._pools.items()}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Take over the states, and forget what was fixed."""
        self._buffer = None
        for name, pool in self._pools.items():
            pool.load_state_dict(state[name], device)


def to_device(numbers: list[int], device: torch.device) -> Tensor:
    """int64 ``numbers`` on the device. The copy is from pinned memory, so the host does not wait for it; PyTorch keeps
    that memory until the copy is done."""
    on_host = torch.tensor(numbers, dtype=torch.int64, pin_memory=device.type == "cuda")
    return on_host.to(device, non_blocking=True)
