"""jdm_fast.networks.layers.InstanceNorm against nn.InstanceNorm2d and the layers it replaces."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jdm_fast.networks.layers import InstanceNorm


@pytest.mark.parametrize("affine", [True, False])
def test_state_dict_is_that_of_torch(affine: bool) -> None:
    ours, theirs = InstanceNorm(6, affine=affine), nn.InstanceNorm2d(6, affine=affine)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 7, 5)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)


def test_starts_and_resets_as_torch_does() -> None:
    layer = InstanceNorm(4)
    for _ in range(2):
        assert torch.equal(layer.weight, torch.ones(4)) and torch.equal(layer.bias, torch.zeros(4))
        with torch.no_grad():
            layer.weight.fill_(3), layer.bias.fill_(3)
        layer.reset_parameters()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
def test_fused_equals_unfused(layout: torch.memory_format) -> None:
    """A residual block and a leaky layer, gradients included."""
    torch.manual_seed(0)
    fused = nn.ModuleList(
        [InstanceNorm(8, activation="relu"), InstanceNorm(8, activation="leaky_relu", negative_slope=0.2)]
    )
    for parameter in fused.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 8, 9, 6).contiguous(memory_format=layout).requires_grad_()

    def unfused(index: int, x: torch.Tensor) -> torch.Tensor:
        return F.instance_norm(x, weight=fused[index].weight, bias=fused[index].bias)

    ours = fused[1](fused[0](x, residual=x))
    expected = F.leaky_relu(unfused(1, F.relu(unfused(0, x)) + x), 0.2)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    leaves = [x, *fused.parameters()]
    dy = torch.randn_like(ours)
    ours, expected = torch.autograd.grad(ours, leaves, dy), torch.autograd.grad(expected, leaves, dy)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_compiles_inside_a_network() -> None:
    torch._dynamo.reset()
    network = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), InstanceNorm(8, activation="relu"))
    x = torch.randn(1, 3, 10, 10)
    torch.testing.assert_close(torch.compile(network, fullgraph=True, backend="aot_eager")(x), network(x))


def test_unknown_activation_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="activation must be one of none, relu, leaky_relu, got 'elu'"):
        InstanceNorm(4, activation="elu")


def test_repr_says_what_it_is() -> None:
    assert repr(InstanceNorm(4, activation="relu")) == "InstanceNorm(4, affine=True, activation='relu')"
    layer = InstanceNorm(4, affine=False, activation="leaky_relu", negative_slope=0.2, eps=1e-3)
    assert repr(layer) == "InstanceNorm(4, affine=False, activation='leaky_relu', negative_slope=0.2, eps=0.001)"
