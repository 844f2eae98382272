"""The decoder's output convolution against ``nn.Conv2d`` in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from jdm_fast.networks.output_conv import OutputConv


def plain_in_float64(layer: OutputConv) -> nn.Conv2d:
    plain = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding).double()
    plain.load_state_dict(layer.state_dict())
    return plain


def value_and_gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x)
    slopes = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y, *torch.autograd.grad((y * slopes).sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize(
    ("shape", "out_channels", "kernel", "arranged"),
    [
        ((2, 12, 16, 24), 3, 7, True),  # the demo's
        ((1, 5, 4, 6), 1, 3, True),
        ((1, 3, 2, 2), 4, 5, True),  # kernel larger than the image
        ((1, 3, 6, 4), 2, 1, True),
        ((0, 3, 6, 4), 2, 3, True),  # empty batch
        ((1, 5, 5, 6), 3, 7, False),  # odd sides take the plain way
        ((1, 5, 6, 5), 3, 7, False),
    ],
)
def test_equals_a_plain_convolution(shape: tuple[int, ...], out_channels: int, kernel: int, arranged: bool) -> None:
    torch.manual_seed(0)
    layer = OutputConv(shape[1], out_channels, kernel)
    x = torch.randn(shape)
    assert ("ArrangedConv" in type(layer(x).grad_fn).__name__) == arranged
    expected = value_and_gradients(plain_in_float64(layer), x.double())
    for got, exact in zip(value_and_gradients(layer, x), expected, strict=True):
        torch.testing.assert_close(got.double(), exact, rtol=1e-4, atol=1e-4)


def test_plain_wherever_the_arrangement_does_not_apply() -> None:
    torch.manual_seed(0)
    layer, x = OutputConv(4, 3, 7), torch.randn(2, 4, 8, 8)
    channels_last = layer(x.to(memory_format=torch.channels_last))
    with torch.autocast("cpu", torch.bfloat16):
        autocast = layer(x)
    float64 = plain_in_float64(layer)(x.double())
    assert "ArrangedConv" not in type(channels_last.grad_fn).__name__ + type(autocast.grad_fn).__name__
    assert autocast.dtype == torch.bfloat16
    torch.testing.assert_close(channels_last, float64.float(), rtol=1e-4, atol=1e-4)


def test_frozen_parts_get_no_gradient() -> None:
    layer = OutputConv(4, 3, 3).requires_grad_(False)
    x = torch.randn(1, 4, 4, 4, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is None and layer.bias.grad is None
    layer.requires_grad_(True)
    layer(x.detach()).sum().backward()
    assert layer.weight.grad is not None


def test_a_second_derivative_raises() -> None:
    layer, x = OutputConv(4, 3, 3), torch.randn(1, 4, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="odd number, got 4"):
        OutputConv(4, 3, 4)
