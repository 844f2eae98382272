"""The step with the networks compiled by torch.compile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from jdm_fast.errors import UserError
from jdm_fast.methods import Method
from jdm_fast.training.engines.eager import Batch, EagerEngine


class CompiledEngine(EagerEngine):
    """The eager step, whose networks are compiled, each as a region of its own: those that ``method.regions()`` names.

    A critic with a gradient penalty is differentiated twice, which compiled code cannot do: such critics stay eager,
    and the generators are compiled alone. Shapes are static. Each network is compiled once for each way it is called
    (size of the batch; critics with and without gradients of their weights), all in the first step, and not again
    as long as batches keep their shape. The networks are compiled inside of :meth:`step` alone: sample grids and
    scores, whose batches have other shapes, run as ever.

    Args:
        method, options: as :class:`EagerEngine`, except ``activation_memory=recompute``, which compiled code decides
            for itself.
        backend: of torch.compile.

    Raises:
        UserError: ``activation_memory=recompute``.
    """

    def __init__(self, method: Method, *, backend: str = "inductor", **options: Any) -> None:
        if options.get("activation_memory") == "recompute":
            raise UserError(
                "activation_memory: recompute works with engine=eager and engine=graph; with engine=compile PyTorch "
                "decides what is kept. Use full, or another engine"
            )
        super().__init__(method, **options)
        self._compiled = {
            region: torch.compile(region.forward, backend=backend, fullgraph=True, dynamic=False)
            for region in method.regions()
        }

    def _run(self, batch: Batch) -> dict[str, Tensor]:
        try:
            with _forwards(self._compiled):
                return super()._run(batch)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            raise UserError(
                f"engine: torch.compile could not compile the networks here: {_line(error.inner_exception)}. On a CPU "
                "it needs a C++ compiler. Use engine=eager"
            ) from error


@contextmanager
def _forwards(functions: dict[nn.Module, Any]) -> Iterator[None]:
    """Context in which the modules' ``forward`` are other functions."""
    for module, function in functions.items():
        module.forward = function  # on the instance, so it comes before the class's
    try:
        yield
    finally:
        for module in functions:
            del module.forward


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
