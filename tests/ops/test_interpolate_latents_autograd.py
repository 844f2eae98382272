"""The derivatives of jdm_fast.ops.interpolate_latents, of every order."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from jdm_fast import ops
from tests.ops.interpolate_latents_cases import algorithm_2, latents, layouts, modes


@pytest.mark.parametrize("shape", [(3, 2, 2, 3), (2, 2, 1, 2, 2), (1, 2, 1, 2)], ids=str)
@modes
@layouts
def test_gradcheck_first_and_second_order(shape: tuple[int, ...], mode: str, channels_last: bool) -> None:
    z = latents(shape, channels_last=channels_last).requires_grad_()
    for n in (1, 3):
        assert torch.autograd.gradcheck(lambda z, n=n: ops.interpolate_latents(z, n, mode), z)
        assert torch.autograd.gradgradcheck(lambda z, n=n: ops.interpolate_latents(z, n, mode), z)


def test_derivatives_of_the_backward_op() -> None:
    """Of both modes, in dy and, for slerp, in z, whose function the weights are. To the third order."""
    forward, backward = torch.ops.jdm_fast.interpolate_latents, torch.ops.jdm_fast.interpolate_latents_backward
    dy = latents((2, 9, 1, 1, 3)).requires_grad_()
    z = latents((2, 3, 1, 1, 3)).requires_grad_()

    def slerp_backward(dy: Tensor, z: Tensor) -> Tensor:
        return backward(dy, z, forward(z.detach(), 4, "slerp")[1], 4)

    for function, inputs in ((lambda dy: backward(dy, None, None, 4), (dy,)), (slerp_backward, (dy, z))):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@modes
def test_second_derivative_where_dy_depends_on_the_latents(mode: str) -> None:
    """Of a loss that is not linear in y: z reaches the gradient both through dy and by itself."""
    z = latents((3, 2, 2, 2)).requires_grad_()
    exact_z = z.detach().clone().requires_grad_()
    results = []
    for function, x in ((ops.interpolate_latents, z), (algorithm_2, exact_z)):
        (first,) = torch.autograd.grad((function(x, 3, mode) ** 4).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
        results.append([first, second, *torch.autograd.grad(second.square().sum(), x)])
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("gap", [1e-3, 3.1405])
def test_gradient_at_small_and_large_angles(gap: float, device: torch.device, assert_accurate: Callable) -> None:
    """Accurate in float32 where the cosine has no digit left, against the formula in float64."""
    p, q = torch.linalg.qr(latents((1, 2, 300, 1))[0, :, :, 0].T).Q.T
    both = torch.stack([p, math.cos(gap) * p + math.sin(gap) * q]).view(2, 3, 10, 10)
    z = both.float().to(device).requires_grad_()
    exact_z = z.detach().double().requires_grad_()
    own_z = z.detach().clone().requires_grad_()
    y, exact = ops.interpolate_latents(z, 4, "slerp"), ops.reference.interpolate_latents(exact_z, 4, "slerp")
    own = ops.reference.interpolate_latents(own_z, 4, "slerp")
    dy = latents(tuple(y.shape), torch.float32, seed=1).to(device)
    assert_accurate("y", y, exact.detach(), own.detach())
    gradients = [torch.autograd.grad(f, x, dy.to(f.dtype))[0] for f, x in ((y, z), (exact, exact_z), (own, own_z))]
    assert_accurate("dz", *gradients)


def test_slerp_gradient_under_autocast() -> None:
    """The inner products behind slerp's gradient stay in float32 when the backward pass runs inside autocast."""
    z = latents((2, 16, 8, 8), torch.float32).requires_grad_()
    weight = latents((6, 16, 8, 8), torch.float32, seed=3)
    (expected,) = torch.autograd.grad((ops.interpolate_latents(z, 5, "slerp") * weight).sum(), z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (inside,) = torch.autograd.grad((ops.interpolate_latents(z, 5, "slerp") * weight).sum(), z)
    torch.testing.assert_close(inside, expected, rtol=1e-6, atol=1e-6)


def test_incoming_gradients_of_any_stride(device: torch.device) -> None:
    z = latents((3, 4, 5, 6), torch.float32).to(device).requires_grad_()
    for dy in (
        torch.ones((), device=device).expand(5, 4, 5, 6),
        latents((5, 4, 6, 5), torch.float32).to(device).transpose(2, 3),
        latents((5, 4, 5, 6), torch.float32, channels_last=True).to(device),
    ):
        (ours,) = torch.autograd.grad(ops.interpolate_latents(z, 2), z, dy)
        (expected,) = torch.autograd.grad(ops.interpolate_latents(z, 2), z, dy.contiguous())
        assert torch.equal(ours, expected)
