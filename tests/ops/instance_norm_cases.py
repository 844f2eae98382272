"""The inputs and baselines of the tests of jdm_fast.ops.instance_norm."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jdm_fast import ops

SHAPES = [
    (1, 1, 1, 1),  # minimal: one value, which is its own mean
    (2, 3, 1, 1),  # one pixel a plane
    (2, 5, 3, 3),  # smaller than a vector
    (1, 1, 5, 7),  # one channel: NCHW and channels_last coincide
    (3, 16, 8, 8),  # whole vectors
    (2, 33, 7, 11),  # channels and pixels not multiples of anything
    (2, 130, 9, 4),  # channels_last: whole blocks of vectors and a rest
    (1, 3, 129, 65),  # few planes, each larger than a span, shared by threads
    (9, 4, 65, 64),  # planes handed out whole, each of more than one span
    (1, 64, 96, 96),  # large: many pieces and threads in both layouts
    (0, 3, 4, 4),  # empty batch
    (2, 0, 4, 4),  # no channels
    (2, 3, 0, 4),  # no pixels
]
OPTIONS = [  # activation, shape of weight and bias, residual
    ("none", None, False),
    ("relu", "C", False),
    ("relu", None, True),
    ("leaky_relu", "C", True),
    ("leaky_relu", "NC", True),
]
SLOPE = 0.2
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


def make_inputs(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    layout: torch.memory_format = torch.contiguous_format,
    *,
    affine: str | None = "C",
    residual: bool = True,
    mean: float = 0.5,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor | None]:
    """x, weight, bias, residual: normal values; weight and bias in the accumulation type, as a network has them.

    ``affine``: "C" for one weight and bias a channel, "NC" for one for each sample and channel, None for none.
    """
    generator = torch.Generator().manual_seed(sum(shape) + 1)
    normal = lambda *size: torch.randn(size, generator=generator, dtype=torch.float64)  # noqa: E731
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    x = (mean + normal(*shape)).to(device, dtype).contiguous(memory_format=layout)
    other = normal(*shape).to(device, dtype).contiguous(memory_format=layout)
    affine_shape = shape[:2] if affine == "NC" else shape[1:2]
    weight, bias = 1 + 0.5 * normal(*affine_shape), 0.5 * normal(*affine_shape)
    return {
        "x": x,
        "weight": weight.to(device, sums) if affine else None,
        "bias": bias.to(device, sums) if affine else None,
        "residual": other if residual else None,
    }


def to_double(inputs: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {name: None if tensor is None else tensor.double() for name, tensor in inputs.items()}


def eager(x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, activation: str) -> Tensor:
    """What a user would write without this package, in the dtype of x."""
    weight, bias = (None if p is None else p.to(x.dtype) for p in (weight, bias))
    if x.shape[2] * x.shape[3] == 1:  # F.instance_norm refuses a single pixel in training mode
        y = torch.zeros_like(x) if weight is None else torch.zeros_like(x) + bias[..., None, None]
    elif weight is not None and weight.dim() == 2:
        y = F.instance_norm(x) * weight[..., None, None] + bias[..., None, None]
    else:
        y = F.instance_norm(x, None, None, weight, bias)
    y = {"none": lambda t: t, "relu": F.relu, "leaky_relu": lambda t: F.leaky_relu(t, SLOPE)}[activation](y)
    return y if residual is None else y + residual


def run(inputs: dict[str, Tensor | None], activation: str) -> Tensor:
    return ops.instance_norm(**inputs, activation=activation, negative_slope=SLOPE)


def exact_value(inputs: dict[str, Tensor | None], activation: str) -> Tensor:
    return ops.reference.instance_norm(**to_double(inputs), activation=activation, negative_slope=SLOPE)
