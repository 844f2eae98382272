"""How many floating point operations a piece of code takes, on whatever device, also on no device at all."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class FlopCount(TorchDispatchMode):
    """Context that counts the operations of matrix products and convolutions, by PyTorch's formulas for them.

    The sum is that of PyTorch's ``FlopCounterMode``. That one also keeps account of the module each operation belongs
    to, by hooks that fail where gradients are taken by ``torch.autograd.grad`` of a leaf, as a gradient penalty does.
    Here a penalty counts with all that it takes: the critic on the interpolates, its gradient, and the gradient of
    that.

    Attributes:
        total: operations so far, a multiplication and an addition being two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if formula := flop_registry.get(func._overloadpacket):
            self.total += formula(*args, **kwargs, out_val=made)
        return made
