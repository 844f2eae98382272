"""Leaving out an update whose gradients are infinite or not numbers, without asking the device."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

SKIPPED = ("critic_skipped", "generator_skipped")
"""Terms of a step that say which of its two updates were left out: 1.0 or 0.0."""

MOST_IN_A_ROW = 50
"""Steps in a row that may be left out. After that many, waiting does not help: the weights or the data are at fault."""


def hold_back_unless_finite(optimizer: torch.optim.Optimizer) -> Tensor:
    """Make the next ``step`` of a fused optimiser do nothing if one of its gradients is infinite or not a number.

    The decision is made on the device, in the way that PyTorch's loss scaling uses: a fused Adam looks at a flag in the
    device's memory and leaves weights, moments and step count as they are if it is set. Nothing waits, the flag can be
    part of a captured graph, and the cost is one reading of the gradients. The gradients alone decide, after they were
    averaged over processes, so that all of them decide alike.

    Args:
        optimizer: a fused one. With loss scaling (fp16) this is not needed: the scaler does the same.

    Returns:
        The flag, a float32 scalar on the device: 1 if the update will be left out.
    """
    parameters: Iterable[Tensor] = (p for group in optimizer.param_groups for p in group["params"])
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    # Norms are finite where all elements are, up to squares that overflow (1e19): no update to be sorry for either.
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(gradients, 2)])
    flag = (~torch.isfinite(norms).all()).float()
    optimizer.found_inf = flag  # type: ignore[attr-defined]  # what a fused Adam's step looks for
    return flag
