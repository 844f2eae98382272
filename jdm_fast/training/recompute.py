"""Normalised activations that are computed again in the backward pass instead of being kept (``recompute``).

An instance norm keeps its input x for its own derivative. Its output y is kept only by the convolution that follows,
for the gradient of that one's weight. y is a function of x that costs one pass over the memory and no matrix product,
so the convolution's copy is replaced by a recipe: the same kernel on the same x gives the same bits again. What adds a
residual is kept, as the residual would have to be.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from jdm_fast.networks.layers import InstanceNorm


@dataclass(frozen=True)
class Recipe:
    """How an activation is made: ``norm(x)``."""

    norm: InstanceNorm
    x: Tensor

    def make(self) -> Tensor:
        """The activation, without a graph."""
        with torch.no_grad():
            return self.norm.forward(self.x)


class Recompute:
    """Watches the instance norms of a module.

    Args:
        module: whose instance norms' outputs need not be kept. Their weights must not change between a forward pass
            and its backward pass.
    """

    def __init__(self, module: nn.Module) -> None:
        self._recipes: WeakTensorKeyDictionary | None = None  # by activation, while it is alive
        for child in module.modules():
            if isinstance(child, InstanceNorm):
                child.register_forward_hook(self._note, with_kwargs=True)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Context of a forward pass whose normalised activations are not kept."""
        self._recipes = WeakTensorKeyDictionary()
        try:
            with torch.autograd.graph.saved_tensors_hooks(self.pack, self.unpack):
                yield
        finally:
            self._recipes = None

    def _note(self, norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> None:
        has_residual = len(args) > 1 or kwargs.get("residual") is not None
        if self._recipes is not None and y.requires_grad and not has_residual:
            self._recipes[y] = Recipe(norm, args[0].detach())  # type: ignore[arg-type]  # norms only are hooked

    def pack(self, tensor: Tensor) -> Tensor | Recipe:
        """What is kept of a tensor that an operation needs for its derivative."""
        recipe = None if self._recipes is None else self._recipes.get(tensor)
        # Detached, as an operation that keeps its own result would otherwise keep itself alive.
        return tensor.detach() if recipe is None else recipe

    @staticmethod
    def unpack(kept: Tensor | Recipe) -> Tensor:
        """The tensor again."""
        return kept.make() if isinstance(kept, Recipe) else kept
