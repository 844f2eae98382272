"""What is raced: for each op its inputs, the ways to compute it, its exact result and the bytes it must at least move.

``eager`` is the op as one writes it with PyTorch's own operators, ``compile`` is ``torch.compile`` of that, and
``unfused``, where an op fuses several steps that stand alone as well, our own op with the other steps beside it.
In channels_last eager instance norm returns NCHW; the copy that the next layer would then make is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from jdm_fast import ops
from jdm_fast.ops import reference

Contender = Literal["jdm_fast", "eager", "compile", "unfused"]
OURS, EAGER, COMPILE, UNFUSED = "jdm_fast", "eager", "compile", "unfused"
Shape = tuple[int, ...]
Function = Callable[..., Any]

STEPS = 8  # from one key latent to the next, as a video at factor 8 has


@dataclass(frozen=True)
class Sample:
    """Arguments of one call; the first ``leaves`` want gradients, ``dy`` is the gradient of its first result."""

    arguments: tuple[Any, ...]
    leaves: int = 0
    dy: Tensor | None = None


@dataclass(frozen=True)
class Op:
    """One op. Functions take ``Sample.arguments``, and are made for a variant.

    Attributes:
        make: (shape, variant, normal, device) to a sample; ``normal(*size)`` draws a tensor of the cell's dtype, and
            layout if it has four dimensions.
        functions: variant to the contenders, without compile. exact: the function whose float64 results are right.
        traffic: (variant, elements of x, elements of y) to elements read and written, for each direction: the least.
        output: elements of y for a shape.
        fits: whether the op takes the shape.
        blunt: dy without places where the gradient is undefined.
    """

    make: Callable[[Shape, str, Callable[..., Tensor], torch.device], Sample]
    functions: Callable[[str], dict[str, Function]]
    exact: Callable[[str], Function]
    traffic: Callable[[Shape, str, int], Mapping[str, int]]
    differentiable: bool = True
    fits: Callable[[Shape], bool] = field(default=lambda shape: True)
    blunt: Callable[[Sample], Tensor | None] = field(default=lambda sample: sample.dy)


def _numel(shape: Shape) -> int:
    return torch.Size(shape).numel()


# ---- instance_norm


def _norm_make(shape: Shape, variant: str, normal: Callable[..., Tensor], device: torch.device) -> Sample:
    # Parameters stay float32, as under autocast.
    weight, bias = (normal(shape[1]).float() for _ in range(2))
    residual = normal(*shape) if variant == "relu+residual" else None
    return Sample((normal(*shape), weight, bias, residual), 3, normal(*shape))


def _norm_eager(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
    y = F.relu(F.instance_norm(x, weight=weight, bias=bias))
    return y if residual is None else y + residual


def _norm_unfused(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
    y = F.relu(ops.instance_norm(x, weight, bias))
    return y if residual is None else y + residual


def _norm_blunt(sample: Sample) -> Tensor:
    """At the kink of ReLU both slopes are right, and which one it is depends on the last bit: no gradient there."""
    x, weight, bias, _ = sample.arguments
    assert sample.dy is not None
    with torch.no_grad():
        before = reference.instance_norm(x.double(), weight.double(), bias.double())
        return torch.where(before.abs() < 1e-4, torch.zeros_like(sample.dy), sample.dy)


def _norm_traffic(shape: Shape, variant: str, itemsize: int) -> dict[str, int]:
    plane, residual = itemsize * _numel(shape), variant == "relu+residual"
    # x, y and the residual; dy, x and dx.
    return {"forward": (2 + residual) * plane, "backward": 3 * plane, "both": (5 + residual) * plane}


# ---- softmax_critic_loss


def _critic_make(shape: Shape, variant: str, normal: Callable[..., Tensor], device: torch.device) -> Sample:
    source = torch.arange(shape[0], device=device) % shape[1]
    return Sample((2 * normal(*shape), source, shape[1]), 1, torch.ones((), device=device))


def _critic_traffic(shape: Shape, variant: str, itemsize: int) -> dict[str, int]:
    logits = itemsize * _numel(shape)
    # The gradient can be written while the logits are read, so both together cost no more than the backward alone.
    return {"forward": logits, "backward": 2 * logits, "both": 2 * logits}


# ---- interpolate_latents


def _latents_make(shape: Shape, variant: str, normal: Callable[..., Tensor], device: torch.device) -> Sample:
    return Sample((normal(*shape),), 1, normal((shape[0] - 1) * STEPS + 1, *shape[1:]))


def _latents_traffic(shape: Shape, variant: str, itemsize: int) -> dict[str, int]:
    key = itemsize * _numel(shape[1:])
    once = key * (shape[0] + (shape[0] - 1) * STEPS + 1)
    # The gradient of slerp's coefficients needs the key latents as well.
    backward = once + (key * shape[0] if variant == "slerp" else 0)
    return {"forward": once, "backward": backward, "both": once + backward}


# ---- interpolate_instance_norm


def _between_make(shape: Shape, variant: str, normal: Callable[..., Tensor], device: torch.device) -> Sample:
    # Positions as a tensor on the device, which all contenders take without work.
    positions = reference.frame_positions(STEPS, shape[0], device)
    weight, bias = (normal(shape[1]).float() for _ in range(2))
    return Sample((normal(*shape), positions, weight, bias))


def _between_eager(u: Tensor, positions: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.relu(F.instance_norm(reference.interpolate_frames(u, positions), weight=weight, bias=bias))


def _between_unfused(u: Tensor, positions: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return ops.instance_norm(ops.interpolate_latents(u, STEPS), weight, bias, activation="relu")


# ---- frames_to_uint8


def _frames_make(shape: Shape, variant: str, normal: Callable[..., Tensor], device: torch.device) -> Sample:
    return Sample((0.7 * normal(*shape),))


def _frames_eager(x: Tensor, tanh: bool) -> Tensor:
    value = x.float()
    if tanh:
        value = torch.tanh(value)
    return ((value + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _frames_functions(variant: str) -> dict[str, Function]:
    if variant == "plain":
        return {OURS: lambda x: ops.frames_to_uint8(x), EAGER: lambda x: _frames_eager(x, False)}
    return {
        OURS: lambda x: ops.frames_to_uint8(x, tanh=True),
        EAGER: lambda x: _frames_eager(x, True),
        UNFUSED: lambda x: ops.frames_to_uint8(torch.tanh(x.float())),
    }


#: Every op of jdm_fast.ops. Contenders look the op up when they are called.
OPS: dict[str, Op] = {
    "instance_norm": Op(
        make=_norm_make,
        functions=lambda variant: {
            OURS: lambda x, w, b, r: ops.instance_norm(x, w, b, residual=r, activation="relu"),
            EAGER: _norm_eager,
            UNFUSED: _norm_unfused,
        },
        exact=lambda variant: lambda x, w, b, r: reference.instance_norm(x, w, b, residual=r, activation="relu"),
        traffic=_norm_traffic,
        blunt=_norm_blunt,
    ),
    "softmax_critic_loss": Op(
        make=_critic_make,
        functions=lambda variant: {
            OURS: lambda logits, source, sources: ops.softmax_critic_loss(logits, source, sources),
            EAGER: reference.softmax_critic_loss,
        },
        exact=lambda variant: reference.softmax_critic_loss,
        traffic=_critic_traffic,
        fits=lambda shape: shape[1] <= 64,
    ),
    "interpolate_latents": Op(
        make=_latents_make,
        functions=lambda variant: {
            OURS: lambda z: ops.interpolate_latents(z, STEPS, variant),
            EAGER: lambda z: reference.interpolate_latents(z, STEPS, variant),
        },
        exact=lambda variant: lambda z: reference.interpolate_latents(z, STEPS, variant),
        traffic=_latents_traffic,
    ),
    "interpolate_instance_norm": Op(
        make=_between_make,
        functions=lambda variant: {
            OURS: lambda u, p, w, b: ops.interpolate_instance_norm(u, p, w, b, "relu"),
            EAGER: _between_eager,
            UNFUSED: _between_unfused,
        },
        exact=lambda variant: lambda u, p, w, b: reference.interpolate_instance_norm(u, p, w, b, "relu"),
        traffic=lambda shape, variant, itemsize: {"forward": _latents_traffic(shape, "lerp", itemsize)["forward"]},
        differentiable=False,
    ),
    "frames_to_uint8": Op(
        make=_frames_make,
        functions=_frames_functions,
        exact=lambda variant: lambda x: reference.frames_to_uint8(x, tanh=variant == "tanh"),
        traffic=lambda shape, variant, itemsize: {"forward": (itemsize + 1) * _numel(shape)},
        differentiable=False,
        fits=lambda shape: shape[1] <= 4,
    ),
}
