"""Networks without this package's kernels: the same parameters and values in PyTorch's own operations.

An exported graph that called ``jdm_fast::instance_norm`` would need this package to run. Exporters know
``torch.nn.functional.instance_norm``, which becomes ONNX's InstanceNormalization.
"""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from jdm_fast.networks.layers import InstanceNorm
from jdm_fast.networks.output_conv import OutputConv


class PlainInstanceNorm(nn.Module):
    """:class:`jdm_fast.networks.layers.InstanceNorm` with PyTorch's operations, sharing its parameters."""

    def __init__(self, norm: InstanceNorm) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.activation, self.negative_slope, self.eps = norm.activation, norm.negative_slope, norm.eps

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """``act(norm(x)) + residual`` for x [N, C, H, W]."""
        y = F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        if self.activation == "relu":
            y = F.relu(y)
        elif self.activation == "leaky_relu":
            y = F.leaky_relu(y, self.negative_slope)
        return y if residual is None else y + residual


def plain_copy(network: nn.Module) -> nn.Module:
    """A copy of ``network`` in evaluation mode on the CPU, its fused layers replaced by PyTorch's own."""
    made = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    for parent in list(made.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, InstanceNorm):
                setattr(parent, name, PlainInstanceNorm(layer))
            elif isinstance(layer, OutputConv):
                setattr(parent, name, _plain_conv(layer))
    return made


def _plain_conv(layer: OutputConv) -> nn.Conv2d:
    conv = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding)
    conv.weight, conv.bias = layer.weight, layer.bias
    return conv
