"""How weights begin."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def initialize_weights(module: nn.Module, init: str = "normal", std: float = 0.02) -> None:
    """Initialise every convolution of ``module`` in place; norms keep weight 1 and bias 0.

    ``"normal"``: weights N(0, ``std``), biases 0 (CycleGAN's initialisation, whose settings the JWDM paper follows).
    ``"default"``: PyTorch's own, which the layers already have.

    Raises:
        ValueError: another ``init``.
    """
    if init == "default":
        return
    if init != "normal":
        raise ValueError(f'init: expected "normal" or "default", got {init!r}')
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
