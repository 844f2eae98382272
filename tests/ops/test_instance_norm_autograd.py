"""jdm_fast::instance_norm as PyTorch sees it: derivatives of every order, opcheck, torch.compile, the fallback."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor

from jdm_fast import ops
from tests.ops.instance_norm_cases import LAYOUTS, OPTIONS, SLOPE, layouts, make_inputs, run

module = importlib.import_module("jdm_fast.ops.instance_norm")  # the attribute of that name is the function
# What the plain implementation says of planes without pixels, which are tested here on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:var_mean:UserWarning")


# ---- derivatives


@pytest.mark.parametrize("affine", ["C", "NC"])
@pytest.mark.parametrize("activation", module.ACTIVATIONS)
def test_gradcheck_first_and_second_order(activation: str, affine: str) -> None:
    for layout in LAYOUTS.values():
        inputs = make_inputs((2, 3, 4, 3), torch.float64, layout, affine=affine)
        tensors = tuple(tensor.requires_grad_() for tensor in inputs.values())

        def function(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
            return run({"x": x, "weight": weight, "bias": bias, "residual": residual}, activation)

        assert torch.autograd.gradcheck(function, tensors)
        assert torch.autograd.gradgradcheck(function, tensors)

        def plain(x: Tensor) -> Tensor:
            return ops.instance_norm(x, activation=activation, eps=0.3)

        assert torch.autograd.gradgradcheck(plain, tensors[:1])


def test_third_order() -> None:
    x = torch.randn(1, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def second(x: Tensor) -> Tensor:
        y = ops.instance_norm(x, eps=0.3)
        (first,) = torch.autograd.grad((y**2 * torch.arange(8.0).view_as(x)).sum(), x, create_graph=True)
        return torch.autograd.grad((first**3).sum(), x, create_graph=True)[0]

    assert torch.autograd.gradcheck(second, (x,))


@pytest.mark.parametrize("affine", ["C", "NC"])
def test_gradient_penalty_equals_plain_pytorch(affine: str) -> None:
    """A Wasserstein critic with this norm in it: the gradient of a gradient, in float32 and channels_last."""
    results = []
    for function in (ops.instance_norm, ops.reference.instance_norm):
        inputs = make_inputs((2, 8, 9, 7), torch.float32, torch.channels_last, affine=affine, residual=False)
        x, weight = inputs["x"].requires_grad_(), inputs["weight"].requires_grad_()
        y = function(x, weight, inputs["bias"], activation="leaky_relu")
        (gradient,) = torch.autograd.grad((y * y.detach().cos()).sum(), x, create_graph=True)
        results.append(torch.autograd.grad((gradient.flatten(1).norm(dim=1) - 1).square().sum(), (x, weight)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_incoming_gradients_of_any_stride(device: torch.device) -> None:
    """sum().backward() sends an expanded gradient (all strides 0); a transposed one comes from a permute."""
    inputs = make_inputs((2, 6, 10, 9), torch.float32, device=device)
    x = inputs["x"].requires_grad_()
    shape = x.shape
    for dy in (torch.ones((), device=device).expand(shape), torch.randn(2, 6, 9, 10, device=device).transpose(2, 3)):
        (ours,) = torch.autograd.grad(run(inputs, "relu"), x, dy)
        (expected,) = torch.autograd.grad(run(inputs, "relu"), x, dy.contiguous())
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("affine", ["C", "NC"])
def test_only_what_is_asked_for(affine: str) -> None:
    inputs = make_inputs((2, 4, 5, 5), torch.float32, affine=affine)
    for name in inputs:
        leaves = {key: tensor.detach().requires_grad_(key == name) for key, tensor in inputs.items()}
        run(leaves, "relu").sum().backward()
        assert {key for key, tensor in leaves.items() if tensor.grad is not None} == {name}
    with torch.no_grad():
        assert not run(inputs | {"x": inputs["x"].requires_grad_()}, "relu").requires_grad


# ---- the plain PyTorch implementation behind the same schema


@layouts
def test_fallback_agrees_with_the_kernel(layout: torch.memory_format) -> None:
    for shape in ((2, 5, 6, 7), (1, 1, 5, 4), (0, 3, 4, 4), (2, 3, 1, 1)):
        for activation, affine, residual in OPTIONS:
            x, weight, bias, other = make_inputs(
                shape, torch.float32, layout, affine=affine, residual=residual
            ).values()
            options = (activation, SLOPE, 1e-5)
            ours = torch.ops.jdm_fast.instance_norm(x, weight, bias, other, *options)
            plain = module._forward_reference(x, weight, bias, other, *options)
            _, mean, rstd = ours
            dy = torch.ones_like(x)
            ours += torch.ops.jdm_fast.instance_norm_backward(dy, x, mean, rstd, weight, bias, *options)
            plain += module._backward_reference(dy, x, mean, rstd, weight, bias, *options)
            for a, b in zip(ours, plain, strict=True):
                torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)
                assert a.numel() == 0 or a.stride() == b.stride()


# ---- torch.library and torch.compile


@layouts
def test_opcheck(layout: torch.memory_format) -> None:
    forward, backward = torch.ops.jdm_fast.instance_norm.default, torch.ops.jdm_fast.instance_norm_backward.default
    options = ("leaky_relu", SLOPE, 1e-5)
    for shape, dtype, affine in (
        ((2, 3, 5, 4), torch.float32, "C"),
        ((1, 1, 4, 4), torch.bfloat16, "C"),
        ((0, 3, 4, 4), torch.float32, "C"),
        ((2, 3, 5, 4), torch.float32, "NC"),
        ((1, 3, 4, 4), torch.bfloat16, "NC"),
        ((0, 3, 4, 4), torch.float32, "NC"),
    ):
        x, weight, bias, residual = make_inputs(shape, dtype, layout, affine=affine).values()
        y, mean, rstd = forward(x, weight, bias, residual, *options)
        x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), residual.requires_grad_()
        torch.library.opcheck(forward, (x, weight, bias, residual, *options))
        torch.library.opcheck(backward, (y, x, mean, rstd, weight, bias, *options))
    torch.library.opcheck(forward, (x, None, None, None, *options))
    x, weight, bias, _ = make_inputs((2, 3, 5, 4), torch.float32, layout, affine="NC").values()
    y, mean, rstd = forward(x, None, bias, None, *options)
    for w, b in ((None, bias), (weight, None)):  # one alone says what shape the gradients have
        torch.library.opcheck(backward, (y, x, mean, rstd, w, b, *options))
        _, d_weight, d_bias = backward(y, x, mean, rstd, w, b, *options)
        assert d_weight.shape == d_bias.shape == (2, 3)


def test_compile_fullgraph_forward_and_backward() -> None:
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager_decomp_partition")

    def block(x: Tensor, weight: Tensor, bias: Tensor, style: Tensor) -> Tensor:
        y = ops.instance_norm(x * 2, weight, bias, residual=x, activation="relu")
        y = ops.instance_norm(y, *style.chunk(2, dim=1), activation="relu")
        return ops.instance_norm(y, activation="leaky_relu").sin()

    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, dynamic=False, backend=counter)
    for seed in range(3):
        torch.manual_seed(seed)
        inputs = [torch.randn(2, 6, 8, 9), torch.randn(6), torch.randn(6), torch.randn(2, 12)]
        inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
        results = []
        for function in (block, compiled):
            leaves = [tensor.clone().requires_grad_() for tensor in inputs]
            y = function(*leaves)
            assert y.is_contiguous(memory_format=torch.channels_last)
            results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
        for ours, expected in zip(*results, strict=True):
            torch.testing.assert_close(ours, expected)
    assert counter.frame_count == 1, "compiled again for inputs that differ only in their values"


def test_compile_dynamic_shapes() -> None:
    torch._dynamo.reset()

    def block(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return ops.instance_norm(ops.instance_norm(x, activation="relu"), scale, shift)

    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch, size in ((2, 5), (3, 8), (4, 11)):
        x = torch.randn(batch, 3, size, size + 1, requires_grad=True)
        scale, shift = torch.randn(2, batch, 3, requires_grad=True)
        torch.testing.assert_close(compiled(x, scale, shift), block(x, scale, shift))
