"""How many bytes of tensors live while a piece of code runs, on whatever device, also on no device at all."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Context that follows every tensor from the operator that makes it until its memory is freed.

    It sees what autograd keeps for the backward pass, gradients and optimiser states, with fake tensors too, which have
    shapes but no memory. It does not see what an operator takes for itself while it runs (cuDNN's workspaces) or what
    an allocator holds in reserve.

    Args:
        known: tensors that live already.

    Attributes:
        bytes: live now. peak: the most there have been.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._seen: set[int] = set()
        for tensor in known:
            self._note(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return made

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata  # views share it
        if key in self._seen:
            return
        size = storage.nbytes()
        self._seen.add(key)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.bytes -= size


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, each memory counted once."""
    storages = {storage._cdata: storage.nbytes() for storage in (tensor.untyped_storage() for tensor in tensors)}
    return sum(storages.values())
