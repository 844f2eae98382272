"""Plain calls, outside torch.compile, take a short way past the registered autograd. What they must have in common with
it: results that are recorded or not as the inputs ask, on fake tensors too, and the same gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from jdm_fast import ops

SOURCE = torch.tensor([0, 1, 2, 1])
OPS = torch.ops.jdm_fast
#: Public op, the registered op's first result, the shape of its input.
CALLS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "instance_norm": (
        lambda x: ops.instance_norm(x, activation="relu"),
        lambda x: OPS.instance_norm(x, None, None, None, "relu", 0.01, 1e-5)[0],
        (2, 3, 5, 6),
    ),
    "softmax_critic_loss": (
        lambda x: ops.softmax_critic_loss(x, SOURCE.to(x.device), 3)[0],
        lambda x: OPS.softmax_critic_loss(x, SOURCE, 3, True)[0],
        (4, 3, 5, 6),
    ),
    "lerp": (
        lambda x: ops.interpolate_latents(x, 4),
        lambda x: OPS.interpolate_latents(x, 4, "lerp")[0],
        (2, 3, 4, 5, 6),
    ),
    "slerp": (
        lambda x: ops.interpolate_latents(x, 4, "slerp"),
        lambda x: OPS.interpolate_latents(x, 4, "slerp")[0],
        (3, 4, 5, 6),
    ),
}
calls = pytest.mark.parametrize("call", CALLS)


@calls
def test_recorded_as_the_inputs_ask(call: str) -> None:
    public, _, shape = CALLS[call]
    x = torch.randn(shape)
    assert not public(x).requires_grad
    with torch.no_grad():
        assert not public(x.requires_grad_()).requires_grad
    y = public(x)
    assert y.requires_grad
    with torch.inference_mode():
        assert torch.equal(public(x), y)


@calls
def test_same_gradients_as_the_registered_op(call: str) -> None:
    """The first, and one through it."""
    public, registered, shape = CALLS[call]
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    results = []
    for function in (public, registered):
        y = function(x)
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        results.append([y.detach(), first.detach(), *torch.autograd.grad(first.square().sum(), x)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


@calls
def test_fake_tensors(call: str) -> None:
    public, _, shape = CALLS[call]
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(shape, dtype=torch.bfloat16)
        assert not public(x).requires_grad
        y = public(x.requires_grad_())
        assert y.requires_grad
        (dx,) = torch.autograd.grad(y.sum(), x)
        assert (dx.shape, dx.dtype) == (x.shape, x.dtype)


def test_interpolate_instance_norm_needs_no_gradient() -> None:
    """It has none: with gradients on, a call whose inputs ask for none runs, and one that does fails in backward."""
    u, weight = torch.randn(3, 4, 5, 6), torch.rand(4)
    assert not ops.interpolate_instance_norm(u, 2, weight).requires_grad
    y = ops.interpolate_instance_norm(u, 2, weight.requires_grad_())
    with pytest.raises(NotImplementedError, match="interpolate_instance_norm has no derivative"):
        y.sum().backward()
