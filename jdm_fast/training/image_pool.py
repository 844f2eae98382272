"""The pool of older generated images that keeps critics from forgetting them (Shrivastava et al. 2017, as in
CycleGAN)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ImagePool:
    """CycleGAN's rule, image by image: while the pool is not full, keep the image and return it; then with
    probability 1/2 return a random image of the pool and put the new one in its place, else return the new one.

    The images stay on their device; the choices come from a generator of the pool's own on the host, so asking never
    waits for the device.

    Args:
        size: images kept; 0 returns every image as it is.
        seed: of the choices.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._images: Tensor | None = None  # [size, C, H, W], of which the first _count are filled
        self._count = 0
        self._generator = torch.Generator().manual_seed(seed)

    def query(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] to show the critic instead of ``images`` [N, C, H, W], which must not need gradients."""
        if self._size == 0:
            return images
        if self._images is None:
            self._images = images.new_empty(self._size, *images.shape[1:])
        swaps = torch.rand(len(images), generator=self._generator).lt(0.5).tolist()
        places = torch.randint(self._size, (len(images),), generator=self._generator).tolist()
        chosen = images.clone()
        for index, (swap, place) in enumerate(zip(swaps, places, strict=True)):
            if self._count < self._size:
                self._images[self._count].copy_(images[index])
                self._count += 1
            elif swap:
                chosen[index].copy_(self._images[place])
                self._images[place].copy_(images[index])
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """The images kept, and the generator's state."""
        images = None if self._images is None else self._images[: self._count].clone()  # not the unfilled rest
        return {"images": images, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Take over the state of a pool of the same size, its images onto ``device``."""
        self._images, self._count = None, 0
        if state["images"] is not None:
            kept = state["images"]
            self._images = torch.empty(self._size, *kept.shape[1:], dtype=kept.dtype, device=device)
            self._count = len(kept)
            self._images[: self._count].copy_(kept)
        self._generator.set_state(state["generator"])
