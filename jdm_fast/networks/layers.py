"""Layers with fused kernels behind them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jdm_fast.ops import instance_norm
from jdm_fast.ops.instance_norm import ACTIVATIONS


class InstanceNorm(nn.Module):
    """Instance norm, activation and residual in one pass; parameters and state dict are those of ``nn.InstanceNorm2d``.

    A convolution in front needs no bias: the mean takes it out again, exactly.

    Args:
        num_features: channels C of the input.
        affine: learn ``weight`` (starts at 1) and ``bias`` (starts at 0), both [C].
        activation: ``"none"``, ``"relu"`` or ``"leaky_relu"``.
        negative_slope: of ``"leaky_relu"``.
        eps: added to the variance.

    Raises:
        ValueError: ``activation`` is none of the three.
    """

    def __init__(
        self,
        num_features: int,
        *,
        affine: bool = True,
        activation: str = "none",
        negative_slope: float = 0.01,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"InstanceNorm: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        self.num_features = num_features
        self.affine = affine
        self.activation = activation
        self.negative_slope = negative_slope
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None

    def reset_parameters(self) -> None:
        """Weight to 1, bias to 0."""
        if self.affine:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """``act(norm(x)) + residual`` for x [N, C, H, W]; keeps the dtype and memory format of x."""
        return instance_norm(
            x,
            self.weight,
            self.bias,
            residual=residual,
            activation=self.activation,
            negative_slope=self.negative_slope,
            eps=self.eps,
        )

    def extra_repr(self) -> str:
        parts = [str(self.num_features), f"affine={self.affine}", f"activation={self.activation!r}"]
        if self.activation == "leaky_relu":
            parts.append(f"negative_slope={self.negative_slope}")
        if self.eps != 1e-5:
            parts.append(f"eps={self.eps}")
        return ", ".join(parts)


class ModulatedInstanceNorm(nn.Module):
    """Instance norm and activation in one pass, with a scale and a shift for each sample that come from its style.

    An instance norm takes the mean of every plane away, and with it whatever a noise vector has added to the plane as a
    whole. Scale and shift after the norm give it back (the adaptive instance norm of Huang & Belongie 2017):
    ``act(norm(x) (1 + a(style)) + b(style))``, a and b linear.

    Args:
        num_features: channels C of the input.
        style: numbers in a style.
        activation, negative_slope, eps: as :class:`InstanceNorm`.
    """

    def __init__(
        self,
        num_features: int,
        style: int,
        *,
        activation: str = "none",
        negative_slope: float = 0.01,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm = InstanceNorm(
            num_features, affine=False, activation=activation, negative_slope=negative_slope, eps=eps
        )
        self.modulation = nn.Linear(style, 2 * num_features)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """``x`` [N, C, H, W] and ``style`` [N, style]; keeps the dtype and memory format of x."""
        norm = self.norm
        scale, shift = self.modulation(style).chunk(2, dim=1)
        return instance_norm(
            x,
            1 + scale,
            shift,
            activation=norm.activation,
            negative_slope=norm.negative_slope,
            eps=norm.eps,
        )
