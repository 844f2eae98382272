"""Derivatives of jdm_fast.ops.softmax_critic_loss of every order, and the op that scales its gradient."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from jdm_fast import ops
from tests.ops.test_softmax_critic_loss import CASES, L, S, equation, index, layouts, make_logits

module = sys.modules["jdm_fast.ops.softmax_critic_loss"]


@layouts
def test_gradcheck_first_and_second_order(layout: torch.memory_format) -> None:
    for shape, sources, num_sources in (((4, 3, 2, 3), [0, 1, 1, 0], 3), ((1, 1, 2, 1), [0], 1)):
        logits = make_logits(shape, layout=layout).requires_grad_()

        def function(
            logits: Tensor, sources: list[int] = sources, num_sources: int = num_sources
        ) -> tuple[Tensor, Tensor]:
            return ops.softmax_critic_loss(logits, index(sources), num_sources)[:2]

        assert torch.autograd.gradcheck(function, logits)
        assert torch.autograd.gradgradcheck(function, logits)


def test_third_order() -> None:
    logits = make_logits((2, 3, 1, 2)).requires_grad_()

    def second(logits: Tensor) -> Tensor:
        loss = ops.softmax_critic_loss(logits, index([1, 0]), 2)[0]
        (first,) = torch.autograd.grad(loss**2, logits, create_graph=True)
        return torch.autograd.grad((first**3).sum(), logits, create_graph=True)[0]

    assert torch.autograd.gradcheck(second, (logits,))


def test_gradient_penalty_equals_plain_pytorch() -> None:
    """R1 on a critic that ends in this loss: the gradient of the norm of a gradient, through both outputs."""
    results = []
    for function in (ops.softmax_critic_loss, ops.reference.softmax_critic_loss):
        torch.manual_seed(0)
        critic = torch.nn.Conv2d(3, 4, 3, dtype=torch.float64)
        images = make_logits((4, 3, 6, 6)).requires_grad_()
        loss, source_loss, _ = function(critic(images), index([0, 1, 2, 1]), 3)
        (gradient,) = torch.autograd.grad(loss + source_loss[1] * source_loss[0], images, create_graph=True)
        results.append(torch.autograd.grad(gradient.square().sum(), (critic.weight, critic.bias, images)))
    for ours, expected in zip(*results, strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(ours, expected)


def test_only_what_is_asked_for() -> None:
    logits, source = make_logits((4, 3, 2, 3)).requires_grad_(), index([0, 1, 1, 0])
    with torch.no_grad():
        assert not ops.softmax_critic_loss(logits, source, 2)[0].requires_grad
    *_, dlogits = torch.ops.jdm_fast.softmax_critic_loss(logits.detach(), source, 2, False)
    assert dlogits.numel() == 0
    with pytest.raises(RuntimeError, match="pass needs_grad=True"):
        torch.ops.jdm_fast.softmax_critic_loss(logits, source, 2, False)[0].backward()


def test_backward_twice() -> None:
    """The saved gradient is scaled, never overwritten."""
    logits = make_logits((2, 3, 4, 5)).requires_grad_()
    loss = ops.softmax_critic_loss(logits, index([1, 0]), 2)[0]
    (first,) = torch.autograd.grad(5 * loss, logits, retain_graph=True)
    torch.testing.assert_close(first, 5 * torch.autograd.grad(loss, logits)[0])


def test_float16_gradients_survive_a_loss_scaler() -> None:
    """Each dlogits is about 1e-5, below float16's normal range; times the scaler's 2^12 it is not."""
    scale = 2.0**12
    logits = make_logits((2, 2, 160, 160), torch.float16).requires_grad_()
    (gradient,) = torch.autograd.grad(scale * ops.softmax_critic_loss(logits, index([0, 1]), 2)[0], logits)
    exact = logits.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(scale * equation(exact, [0, 1], 2)[0], exact)
    assert gradient.dtype == torch.float16
    torch.testing.assert_close(gradient.double(), expected, rtol=2e-3, atol=1e-6)


# ---- softmax_critic_loss_backward

FACTORS = {"loss": (True, False), "source losses": (False, True), "both": (True, True)}


@layouts
@pytest.mark.parametrize("factors", FACTORS.values(), ids=FACTORS.keys())
def test_backward_op_scales_exactly(
    layout: torch.memory_format, factors: tuple[bool, bool], dtype: torch.dtype, device: torch.device
) -> None:
    """The product in the accumulation type, rounded once."""
    sums = ops.reference.accumulation_dtype(dtype)
    for shape, sources, num_sources in [*CASES, ((3, 5, 120, 90), [2, 0, 1], 3)]:  # the last one: several pieces
        arguments = (
            make_logits(shape, dtype, layout).to(device),
            index(sources, device),
            torch.tensor(0.7, dtype=sums, device=device) if factors[0] else None,
            torch.linspace(-1, 2, num_sources, dtype=sums, device=device) if factors[1] else None,
        )
        dlogits, source, d_loss, d_source_loss = arguments
        scale = torch.zeros(len(sources), dtype=sums, device=device)
        scale = scale + (0 if d_loss is None else d_loss) + (0 if d_source_loss is None else d_source_loss[source])
        expected = (dlogits.to(sums) * scale.view(-1, 1, 1, 1)).to(dtype)
        ours = torch.ops.jdm_fast.softmax_critic_loss_backward(*arguments)
        assert torch.equal(ours, expected)
        assert torch.equal(module._scaled(*arguments), expected)
        assert ours.numel() == 0 or ours.stride() == arguments[0].stride()


def test_backward_op_takes_strided_tensors() -> None:
    dlogits, factor = make_logits((3, 4, 6, 10), torch.float32)[:, 1:, ::2], torch.arange(6.0)[::2]
    ours = torch.ops.jdm_fast.softmax_critic_loss_backward(dlogits, index([2, 9, 0, 9, 1, 9])[::2], None, factor)
    assert torch.equal(ours, dlogits * factor[index([2, 0, 1])].view(3, 1, 1, 1))


def test_backward_op_of_an_unknown_source_is_nan(device: torch.device) -> None:
    arguments = torch.ones(3, 2, 3, 3, device=device), index([1, -1, 2], device), None, torch.ones(2, device=device)
    for result in (torch.ops.jdm_fast.softmax_critic_loss_backward(*arguments), module._scaled(*arguments)):
        assert (result[0] == 1).all() and result[1:].isnan().all()


def test_second_derivative_of_an_unknown_source_is_nan(device: torch.device) -> None:
    """What a CUDA device, which cannot refuse it, makes of one: its own samples are NaN, the others right."""
    logits, u = make_logits((4, 3, 2, 3), seed=1).to(device), make_logits((4, 3, 2, 3), seed=2).to(device)
    source, good = index([0, 1, 5, -1], device), [0, 1]
    product = module._hessian_product(logits, source, 3, u)
    assert product[2:].isnan().all()
    torch.testing.assert_close(product[good], module._hessian_product(logits[good], source[good], 3, u[good]))


@layouts
def test_backward_opcheck(layout: torch.memory_format) -> None:
    dlogits = make_logits((4, 3, 2, 3), torch.float32, layout)
    for factors in ((torch.tensor(2.0), None), (None, torch.ones(2)), (torch.tensor(2.0), torch.ones(2))):
        torch.library.opcheck(
            torch.ops.jdm_fast.softmax_critic_loss_backward.default, (dlogits, index([0, 1, 1, 0]), *factors)
        )


ONE, EACH = torch.ones(()), torch.ones(2)
BAD_BACKWARD: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    ((L.int(), S, ONE, None), TypeError, "dlogits must be float32, float16, bfloat16 or float64, got"),
    ((L[0], S, ONE, None), ValueError, r"dlogits must be \[M, K, h, w\], got \[4, 2, 2\]"),
    ((L, S[:2], ONE, None), ValueError, r"source must be \[3\], one index a sample, got \[2\]"),
    ((L, S.int(), ONE, None), TypeError, "source must be int64, got"),
    ((L, S.to("meta"), ONE, None), ValueError, "source must be on cpu like dlogits, got meta"),
    ((L, S, None, None), ValueError, "d_loss or d_source_loss must be given, got neither"),
    ((L, S, EACH, None), ValueError, r"d_loss must have 0 dimensions, got \[2\]"),
    ((L, S, None, ONE), ValueError, r"d_source_loss must have 1 dimensions, got \[\]"),
    ((L, S, ONE.double(), None), TypeError, "d_loss must be .*, got"),
    ((L, S, None, EACH.bfloat16()), TypeError, "d_source_loss must be .*, got"),
    ((L, S, ONE.to("meta"), None), ValueError, "d_loss must be on cpu like dlogits, got meta"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_BACKWARD, ids=[m[:35] for _, _, m in BAD_BACKWARD])
def test_bad_arguments_of_the_backward_op(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="softmax_critic_loss_backward: " + message):
        torch.ops.jdm_fast.softmax_critic_loss_backward(*arguments)
    with pytest.raises(error, match="softmax_critic_loss_backward: " + message):
        module._backward_reference(*arguments)
