"""The moving average of the generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """An exponential moving average of some parameters of a module, beside them.

    Args:
        module: whose parameters.
        averaged: which of them.
        decay: a step; 0 keeps no average.
    """

    def __init__(self, module: nn.Module, averaged: list[nn.Parameter], decay: float) -> None:
        self._own: dict[str, nn.Parameter] = {}
        self._means: dict[str, Tensor] = {}
        if decay > 0:
            wanted = {id(parameter) for parameter in averaged}
            self._own = {name: value for name, value in module.named_parameters() if id(value) in wanted}
            self._means = {name: value.detach().clone() for name, value in self._own.items()}
            self._update = get_ema_multi_avg_fn(decay)

    def update(self) -> None:
        """Take in the parameters as they are now."""
        if self._means:
            self._update(list(self._means.values()), list(self._own.values()), None)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context in which the module has the average; without one nothing changes."""
        kept = {name: self._own[name].detach().clone() for name in self._means}
        try:
            self._copy_to_module(self._means)
            yield
        finally:
            self._copy_to_module(kept)

    def _copy_to_module(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                self._own[name].copy_(value)

    def state_dict(self) -> dict[str, Tensor] | None:
        """The means by parameter, None if no average is kept."""
        return dict(self._means) or None

    def load_state_dict(self, state: dict[str, Tensor] | None) -> None:
        """Take over what :meth:`state_dict` gave; it is not asked for if no average is kept."""
        for name, mean in self._means.items():
            mean.copy_(state[name])
