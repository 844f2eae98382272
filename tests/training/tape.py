"""A CUDA graph's rules without a GPU: a capture that does nothing yet, and replays with fixed addresses.

Operations are recorded below autograd with their tensors and numbers. A replay repeats each of them and puts its
results where those of the capture were. So whatever Python decided during the capture stays decided (a learning rate
that is no tensor, an index from the host, a batch that was not copied to the captured input), and reading a value of a
tensor is an error, as it is on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default)


class TapeRecorder:
    """Stands in for :class:`jdm_fast.training.engines.graph.CudaRecorder`."""

    def __init__(self) -> None:
        self.captures = 0

    def warm_up(self, run: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        return run()

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        tape, generator = _Tape(), torch.get_rng_state()
        with tape:
            run()
        tape.undo()
        torch.set_rng_state(generator)
        return tape.replay


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, Any, Any, Any]] = []
        self._before: dict[Any, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _READS:
            raise RuntimeError("operation not permitted when stream is capturing")
        kwargs = kwargs or {}
        for position, argument in enumerate(function._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                written = kwargs.get(argument.name, args[position] if position < len(args) else None)
                for tensor in tree_leaves(written):
                    self._before.setdefault((tensor.data_ptr(), tensor.shape), (tensor, tensor.clone()))
        result = function(*args, **kwargs)
        self._operations.append((function, args, kwargs, result))
        return result

    @torch.no_grad()
    def undo(self) -> None:
        """What was there before the capture has the values it had."""
        for tensor, value in self._before.values():
            tensor.copy_(value)

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, result in self._operations:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)
