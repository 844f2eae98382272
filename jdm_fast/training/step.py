"""One training step: Algorithm 1 of the JWDM paper for any method, with no work done twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from jdm_fast.methods import Method
from jdm_fast.training.image_pool import ImagePool


class Engine(Protocol):
    """What the training loop asks of whatever carries out the steps: how it does so is its own affair."""

    def step(self, batch: dict[str, Tensor], lr: float) -> dict[str, Tensor]:
        """One update of critics and generators; the losses and their parts as scalars on the device, without waiting
        for it."""

    def averaged(self) -> Any:
        """Context in which the method has the averaged generators, if an average is kept."""

    def state_dict(self) -> dict[str, Any]:
        """Networks, average, optimisers and pools: tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave, also on another device."""


class EagerEngine:
    """The step, operation by operation.

    - The generators run once a step: they do not change between the two updates, so both use the same fakes.
    - The critics are frozen in the generator update, which then computes no gradients of their weights.
    - All critics share one fused Adam and all generators another: one pass over each set of parameters.

    Args:
        method: the networks and their objective, on its device.
        lr, betas: of both optimisers; the learning rate is set anew in each step.
        pool_size: of the image pool of each kind in ``method.pooled``.
        ema_decay: of the average of the generators; 0 keeps none.
        seed: of the image pools.
    """

    def __init__(
        self,
        method: Method,
        *,
        lr: float,
        betas: tuple[float, float],
        pool_size: int = 0,
        ema_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._method = method
        self._critics = list(method.critic_parameters())
        self._generators = list(method.generator_parameters())
        self._critic_optimizer = torch.optim.Adam(self._critics, lr=lr, betas=betas, fused=True)
        self._generator_optimizer = torch.optim.Adam(self._generators, lr=lr, betas=betas, fused=True)
        self._pools = {name: ImagePool(pool_size, seed * 1_000_003 + k) for k, name in enumerate(method.pooled)}
        self._average: dict[str, Tensor] = {}
        if ema_decay > 0:
            of_generators = {id(parameter) for parameter in self._generators}
            named = _module(method).named_parameters()
            self._averaged = {name: parameter for name, parameter in named if id(parameter) in of_generators}
            self._average = {name: parameter.detach().clone() for name, parameter in self._averaged.items()}
            self._update_average = get_ema_multi_avg_fn(ema_decay)

    def step(self, batch: dict[str, Tensor], lr: float) -> dict[str, Tensor]:
        """Critics first, then generators, on the same fakes; see :class:`Engine`."""
        fakes = self._method.generate(batch)
        critic_loss, critic_terms = self._update_critics(batch, fakes, lr)
        generator_loss, generator_terms = self._update_generators(batch, fakes, lr)
        if self._average:
            self._update_average(list(self._average.values()), list(self._averaged.values()), None)
        return {"critic_loss": critic_loss, "generator_loss": generator_loss, **critic_terms, **generator_terms}

    def _update_critics(
        self, batch: dict[str, Tensor], fakes: dict[str, Tensor], lr: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        detached = {name: fake.detach() for name, fake in fakes.items()}
        shown = {
            name: self._pools[name].query(fake) if name in self._pools else fake for name, fake in detached.items()
        }
        loss, terms = self._method.critic_loss(batch, shown)
        loss.backward()
        _apply(self._critic_optimizer, lr)
        return loss.detach(), terms

    def _update_generators(
        self, batch: dict[str, Tensor], fakes: dict[str, Tensor], lr: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with _frozen(self._critics):
            loss, terms = self._method.generator_loss(batch, fakes)
            loss.backward()
        _apply(self._generator_optimizer, lr)
        return loss.detach(), terms

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """See :class:`Engine`."""
        kept = {name: self._averaged[name].detach().clone() for name in self._average}
        try:
            self._copy_to_method(self._average)
            yield
        finally:
            self._copy_to_method(kept)

    def _copy_to_method(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                self._averaged[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Engine`."""
        return {
            "networks": _module(self._method).state_dict(),
            "ema": dict(self._average) or None,
            "critic_optimizer": self._critic_optimizer.state_dict(),
            "generator_optimizer": self._generator_optimizer.state_dict(),
            "pools": {name: pool.state_dict() for name, pool in self._pools.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`Engine`. The networks must fit: :func:`jdm_fast.runs.load_networks` says so in words."""
        device = self._generators[0].device
        _module(self._method).load_state_dict(state["networks"])
        for name in self._average:
            self._average[name].copy_(state["ema"][name])
        self._critic_optimizer.load_state_dict(state["critic_optimizer"])
        self._generator_optimizer.load_state_dict(state["generator_optimizer"])
        for name, pool in self._pools.items():
            pool.load_state_dict(state["pools"][name], device)


def _module(method: Method) -> nn.Module:
    """A method is a module besides following the protocol, which Python's types cannot say of both at once."""
    if not isinstance(method, nn.Module):
        raise TypeError(
            f"method: expected an nn.Module that follows jdm_fast.methods.Method, got {type(method).__name__}"
        )
    return method


def _apply(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """One step at this learning rate. The gradients are dropped at once, so that their memory is free for the next
    pass."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@contextmanager
def _frozen(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Context without gradients of ``parameters``; gradients still flow through what they are used in."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
