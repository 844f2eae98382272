"""What the trainer asks of a method, and nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

Batch = dict[str, Tensor]
"""One tensor [N, C, H, W] in [-1, 1] for each domain, by the domain's name."""

Terms = dict[str, Tensor]
"""Parts of a loss for the log: unweighted detached float32 scalars by name."""


@runtime_checkable
class Method(Protocol):
    """A published method: an ``nn.Module`` that holds its networks and knows its objective.

    One training step is, in this order::

        fakes = method.generate(batch)                                            # one forward pass for both updates
        method.critic_loss(batch, {name: fakes[name].detach() ...})[0].backward() # critics step
        method.generator_loss(batch, fakes)[0].backward()                         # generators step, critics frozen

    The trainer detaches the fakes for the critic update and passes those named in ``pooled`` through its image pool;
    for the generator update it freezes the critics (``requires_grad_(False)`` on :meth:`critic_parameters`), which
    saves their weight gradients. For use after training a method has ``encode``, ``decode`` and ``translate``, or
    ``sample``, with documentation of its own.

    Attributes:
        config: the frozen dataclass the method was built from.
        domains: names of the domains, the keys of a batch.
        pooled: names of the image fakes that may come from the image pool in the critic update.
    """

    config: Any
    domains: tuple[str, ...]

    @property
    def pooled(self) -> tuple[str, ...]: ...

    def check_size(self, height: int, width: int) -> None:
        """Raise :class:`jdm_fast.errors.UserError` if the networks cannot be trained on images of this size."""

    def generator_parameters(self) -> Sequence[nn.Parameter]:
        """Parameters of the generator update."""

    def critic_parameters(self) -> Sequence[nn.Parameter]:
        """Parameters of the critic update."""

    def regions(self) -> Sequence[nn.Module]:
        """Networks that torch.compile may compile, each on its own. Not among them: what is differentiated twice (a
        critic with a gradient penalty), which compiled code cannot do."""

    def generate(self, batch: Batch) -> Batch:
        """Everything the generators make of a batch, by name, with its graph."""

    def critic_loss(self, batch: Batch, fakes: Batch) -> tuple[Tensor, Terms]:
        """The critics' loss on detached ``fakes``: a float32 scalar and its parts."""

    def generator_loss(self, batch: Batch, fakes: Batch) -> tuple[Tensor, Terms]:
        """The generators' loss on ``fakes`` as :meth:`generate` made them: a float32 scalar and its parts."""


@dataclass(frozen=True)
class MethodSpec:
    """A method in the registry: ``method_class(config_class())`` builds it."""

    config_class: type
    method_class: type[nn.Module]
