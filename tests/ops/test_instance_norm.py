"""jdm_fast.ops.instance_norm: values and gradients against float64, strides, dtypes, threads, instruction sets."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jdm_fast import _extension, ops
from tests.ops.instance_norm_cases import (
    LAYOUTS,
    OPTIONS,
    SHAPES,
    SLOPE,
    eager,
    exact_value,
    layouts,
    make_inputs,
    run,
    to_double,
)

module = importlib.import_module("jdm_fast.ops.instance_norm")  # the attribute of that name is the function
# What the plain implementation says of planes without pixels, which are tested here on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:var_mean:UserWarning")


# ---- values and gradients


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@layouts
def test_values(
    shape: tuple[int, ...],
    layout: torch.memory_format,
    dtype: torch.dtype,
    device: torch.device,
    assert_accurate: Callable,
) -> None:
    for activation, affine, residual in OPTIONS:
        inputs = make_inputs(shape, dtype, layout, affine=affine, residual=residual, device=device)
        y = run(inputs, activation)
        assert y.dtype == dtype
        assert y.numel() == 0 or y.stride() == inputs["x"].stride()
        exact = exact_value(inputs, activation)
        baseline = eager(**inputs, activation=activation) if y.numel() else exact
        assert_accurate(f"y, {activation}, {affine}", y, exact, baseline)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@layouts
def test_gradients(
    shape: tuple[int, ...],
    layout: torch.memory_format,
    dtype: torch.dtype,
    device: torch.device,
    assert_accurate: Callable,
) -> None:
    generator = torch.Generator().manual_seed(5)
    dy64 = torch.randn(shape, generator=generator, dtype=torch.float64)
    for activation, affine, residual in OPTIONS:
        inputs = make_inputs(shape, dtype, layout, affine=affine, residual=residual, device=device)
        dy = dy64.to(device, dtype).contiguous(memory_format=layout)
        value = inputs["x"].to(torch.promote_types(dtype, torch.float32))
        # Where t is within rounding of the kink both slopes are right: no gradient there.
        t = ops.reference.instance_norm(value, inputs["weight"], inputs["bias"])
        dy = torch.where(t.abs() < 1e-4, torch.zeros_like(dy), dy)

        def gradients(
            function: Callable[..., Tensor], tensors: dict[str, Tensor | None], dy: Tensor
        ) -> dict[str, Tensor]:
            leaves = {name: t.detach().requires_grad_() for name, t in tensors.items() if t is not None}
            y = function(**{name: leaves.get(name) for name in tensors})
            return dict(zip(leaves, torch.autograd.grad(y, list(leaves.values()), dy), strict=True))

        def fused(activation: str = activation, **tensors: Any) -> Tensor:
            return run(tensors, activation)

        def double(activation: str = activation, **tensors: Any) -> Tensor:
            return ops.reference.instance_norm(**tensors, activation=activation, negative_slope=SLOPE)

        def own(activation: str = activation, **tensors: Any) -> Tensor:
            return eager(**tensors, activation=activation)

        ours = gradients(fused, inputs, dy)
        exact = gradients(double, to_double(inputs), dy.double())
        several_pixels = inputs["x"].numel() > 0 and shape[2] * shape[3] > 1
        baseline = gradients(own, inputs, dy) if several_pixels else exact
        for name, gradient in ours.items():
            assert gradient.dtype == inputs[name].dtype and gradient.shape == inputs[name].shape
            assert_accurate(f"d_{name}, {activation}, {affine}", gradient, exact[name], baseline[name])
        assert dy.numel() == 0 or ours["x"].stride() == inputs["x"].stride()


@layouts
@pytest.mark.parametrize("mean", [1e4, -300.0])
def test_large_mean(layout: torch.memory_format, mean: float, device: torch.device) -> None:
    """A variance computed as E[x^2] - E[x]^2 in float32 would be wrong by more than 100 % at a mean of 1e4."""
    inputs = make_inputs((2, 5, 70, 70), torch.float32, layout, mean=mean, device=device)
    rounding = 2 * torch.finfo(torch.float32).eps * abs(mean)  # of x and of the stored mean
    assert (run(inputs, "none").double() - exact_value(inputs, "none")).abs().max() < rounding
    _, stored_mean, rstd = torch.ops.jdm_fast.instance_norm(inputs["x"], None, None, None, "none", 0.0, 1e-5)
    var, exact_mean = torch.var_mean(inputs["x"].double(), dim=(2, 3), correction=0)
    torch.testing.assert_close(stored_mean.double(), exact_mean, rtol=1e-7, atol=0)
    torch.testing.assert_close(rstd.double(), torch.rsqrt(var + 1e-5), rtol=2e-6, atol=0)


@layouts
def test_outlier(layout: torch.memory_format, device: torch.device) -> None:
    """A first pixel far off the others: sums shifted by it must not cancel."""
    inputs = make_inputs((1, 16, 64, 64), torch.float32, layout, affine=None, residual=False, mean=0.0, device=device)
    inputs["x"][:, :, 0, 0] = 1e3
    torch.testing.assert_close(run(inputs, "none").double(), exact_value(inputs, "none"), rtol=2e-5, atol=2e-5)


def test_special_values(device: torch.device) -> None:
    x = torch.randn(1, 4, 6, 6, device=device)
    x[0, 1, 2, 3] = float("nan")
    x[0, 2, 0, 0] = float("inf")
    x[0, 3] = 7.0  # constant: variance 0
    for layout in LAYOUTS.values():
        y = ops.instance_norm(x.contiguous(memory_format=layout), activation="relu")
        assert torch.isfinite(y[0, 0]).all()  # other planes do not notice
        assert y[0, 1].isnan().all() and y[0, 2].isnan().all()
        assert torch.equal(y[0, 3], torch.zeros_like(y[0, 3]))
        assert not torch.signbit(y[0, 0]).any()  # relu gives 0, never -0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_of_16_bit_outputs(dtype: torch.dtype, device: torch.device) -> None:
    """To nearest, ties to even, with subnormals, overflow to infinity and NaN, exactly as PyTorch converts."""
    bias = torch.cat([torch.randn(4000) * 10.0**exponent for exponent in range(-8, 6)]).to(device)
    bias[:4] = torch.tensor([float("nan"), float("inf"), -float("inf"), 65520.0])
    for shape in ((1, len(bias), 1, 1), (1, len(bias), 4, 5)):
        x = torch.zeros(shape, dtype=dtype, device=device)  # constant planes: y is the bias
        for layout in LAYOUTS.values():
            y = ops.instance_norm(x.contiguous(memory_format=layout), None, bias)
            expected = bias.to(dtype).view(1, -1, 1, 1).expand(shape)
            torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
    # Read back: every finite 16-bit value, through the residual.
    values = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype)
    values = values[values.isfinite()][: 63 * 1007].view(1, 63, 19, 53).to(device)
    y = ops.instance_norm(torch.zeros_like(values), residual=values)
    assert torch.equal(y, values + torch.zeros_like(values))


# ---- strides, dtypes, threads, instruction sets


def test_strided_inputs(device: torch.device) -> None:
    full = torch.randn(4, 12, 10, 14, device=device)
    last = full.contiguous(memory_format=torch.channels_last)
    views = {
        "sliced": full[::2, 1::2, 2:, ::3],
        "expanded": full[:1].expand(3, -1, -1, -1),
        "transposed": full.transpose(2, 3),
        "sliced channels_last": last[:, :8],
        "offset": full.flatten()[7 : 7 + 2 * 3 * 5 * 4].view(2, 3, 5, 4),
    }
    for name, x in views.items():
        y = ops.instance_norm(x, residual=x, activation="relu")
        expected = ops.instance_norm(x.contiguous(), residual=x.contiguous(), activation="relu")
        torch.testing.assert_close(y, expected, msg=lambda text, name=name: f"{name}: {text}")
        is_last = name == "sliced channels_last"
        assert y.is_contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format), name
    mixed = ops.instance_norm(last, residual=full)  # the residual follows the layout of x
    torch.testing.assert_close(mixed, ops.instance_norm(full, residual=full))
    assert mixed.is_contiguous(memory_format=torch.channels_last)


@layouts
def test_values_of_each_sample_are_the_values_of_the_sample_alone(
    layout: torch.memory_format, dtype: torch.dtype
) -> None:
    """To the bit, and so are the same values repeated for every sample."""
    for shape in ((3, 5, 6, 7), (2, 64, 17, 19), (4, 3, 70, 70)):
        inputs = make_inputs(shape, dtype, layout, affine="NC")
        dy = torch.randn_like(inputs["x"])

        def results(dy: Tensor, **tensors: Tensor) -> list[Tensor]:
            leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
            y = run(leaves, "relu")
            return [y.detach(), *torch.autograd.grad(y, list(leaves.values()), dy)]

        together = results(dy, **inputs)
        for n in range(shape[0]):
            one = {
                name: tensor[n : n + 1].contiguous(memory_format=layout) if tensor.dim() == 4 else tensor[n]
                for name, tensor in inputs.items()
            }
            alone = results(dy[n : n + 1].contiguous(memory_format=layout), **one)
            assert all(torch.equal(a[n], b.view_as(a[n])) for a, b in zip(together, alone, strict=True)), (shape, n)

        shared = inputs | {name: inputs[name][0] for name in ("weight", "bias")}
        repeated = inputs | {name: inputs[name][:1].expand(shape[:2]) for name in ("weight", "bias")}
        y, dx, d_weight, d_bias, _ = results(dy, **shared)
        y_n, dx_n, d_weight_n, d_bias_n, _ = results(dy, **repeated)
        assert torch.equal(y, y_n) and torch.equal(dx, dx_n)
        assert torch.equal(d_weight, d_weight_n.sum(0)) and torch.equal(d_bias, d_bias_n.sum(0))


@layouts
def test_weights_of_any_stride(layout: torch.memory_format, device: torch.device) -> None:
    """Scale and shift as halves of one linear layer's output, transposed, expanded, and misaligned."""
    n, c = 3, 8
    x = torch.randn(n, c, 6, 5, device=device).contiguous(memory_format=layout)
    style = torch.randn(n, 2 * c, device=device)
    flat = torch.randn(1 + n * c, device=device)
    pairs = {
        "halves": style.chunk(2, dim=1),
        "interleaved": (style[:, ::2], style[:, 1::2]),
        "transposed": (flat[1:].view(c, n).T, flat[:-1].view(c, n).T),
        "expanded": (flat[:n, None].expand(n, c), flat[:c].expand(n, c)),
        "misaligned": (flat[1:].view(n, c), flat[1:].view(n, c)),
        "channels, strided": (flat[: 2 * c : 2], flat[1 : 1 + 2 * c : 2]),
    }
    for name, (weight, bias) in pairs.items():
        y = ops.instance_norm(x, weight, bias, activation="relu")
        copies = (tensor.clone(memory_format=torch.contiguous_format) for tensor in (weight, bias))
        expected = ops.instance_norm(x, *copies, activation="relu")  # alignment may decide the order of a sum
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
        torch.testing.assert_close(y, ops.reference.instance_norm(x, weight, bias, activation="relu"), msg=name)


def test_mixed_dtypes(device: torch.device, assert_accurate: Callable) -> None:
    floating = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    for dtype in floating:
        for vector_dtype, affine in itertools.product(floating, ("C", "NC")):
            inputs = make_inputs((2, 4, 6, 5), dtype, affine=affine, device=device)
            inputs["weight"], inputs["bias"] = (inputs[name].to(vector_dtype) for name in ("weight", "bias"))
            inputs["residual"] = inputs["residual"].to(vector_dtype)
            for tensor in inputs.values():
                tensor.requires_grad_()
            y = run(inputs, "relu")
            assert y.dtype == dtype
            rounded = inputs | {"residual": inputs["residual"].to(dtype)}
            exact = exact_value(rounded, "relu")
            assert_accurate(f"{dtype}, {vector_dtype}, {affine}", y, exact, exact)
            y.sum().backward()
            assert all(tensor.grad.dtype == tensor.dtype for tensor in inputs.values())


def test_autocast_keeps_the_dtype_of_x() -> None:
    convolution = torch.nn.Conv2d(3, 8, 3)
    weight = torch.ones(8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ops.instance_norm(convolution(torch.randn(2, 3, 9, 9)), weight, activation="relu")
        assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert weight.grad.dtype == torch.float32
    assert convolution.weight.grad.abs().sum() > 0


@layouts
@pytest.mark.parametrize("shape", [(1, 3, 150, 150), (3, 64, 64, 64), (1, 130, 63, 65), (16, 5, 40, 41)], ids=str)
def test_threads_do_not_change_a_bit(shape: tuple[int, ...], layout: torch.memory_format, threads: Callable) -> None:
    inputs = make_inputs(shape, torch.float32, layout, affine="NC")
    leaves = [tensor.requires_grad_() for tensor in inputs.values()]
    results = []
    for count in (1, 2, 5):
        threads(count)
        y = run(inputs, "leaky_relu")
        results.append([y, *torch.autograd.grad(y, leaves, torch.cos(3 * y.detach()))])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


CAPABILITY_SCRIPT = """
import sys, torch
from jdm_fast import _extension, ops
assert _extension.available, _extension.reason
assert _extension.build_config()["cpu_capability"] == sys.argv[1]
torch.set_num_threads(1)
saved = []
for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
    for shape in ((2, 33, 7, 11), (1, 130, 9, 40), (2, 3, 70, 70)):
        for layout in (torch.contiguous_format, torch.channels_last):
            g = torch.Generator().manual_seed(1)
            x, r, dy = (torch.randn(shape, generator=g).to(dtype).contiguous(memory_format=layout) for _ in range(3))
            w, b = (torch.randn(shape[1], generator=g) for _ in range(2))
            x.requires_grad_(), w.requires_grad_(), b.requires_grad_()
            for activation in ("none", "relu", "leaky_relu"):
                y = ops.instance_norm(x, w, b, residual=r, activation=activation)
                saved += [y.detach(), *torch.autograd.grad(y, (x, w, b), dy)]
torch.save(saved, sys.argv[2])
"""


def run_with_capability(name: str, *arguments: str) -> subprocess.Popen:
    environment = os.environ | {"JDM_FAST_CPU_CAPABILITY": name, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CAPABILITY_SCRIPT, name, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_every_instruction_set_gives_the_same(tmp_path: Path) -> None:
    levels = _extension.build_config()["cpu_capabilities"]
    assert levels, f"the compiled extension is needed here: {_extension.reason}"
    processes = {level: run_with_capability(level, str(tmp_path / level)) for level in levels}
    for level, process in processes.items():
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, f"{level}: {output}"
    results = {level: torch.load(tmp_path / level) for level in levels}
    # Lanes differ, so sums differ in their last bits; a 16-bit result may then fall on the other side of a tie.
    allowed = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
    for level in levels[1:]:
        for expected, actual in zip(results["default"], results[level], strict=True):
            difference = (expected.double() - actual.double()).abs() / expected.double().abs().max().clamp(min=1)
            # A t that rounds to the other side of the kink moves one gradient by a finite amount: allow 1 in 1000.
            wrong = (difference > allowed[expected.dtype]).double().mean().item()
            assert wrong <= 1e-3, f"{level}, {expected.dtype}, {list(expected.shape)}: {wrong:.2%} of the values differ"


def test_unknown_instruction_set_is_refused() -> None:
    output, _ = run_with_capability("avx1024", "unused").communicate(timeout=240)
    assert "JDM_FAST_CPU_CAPABILITY=avx1024: expected default, avx2 or avx512" in output


def test_one_openmp_runtime() -> None:
    """A second libgomp would bring a second pool of threads, and both would fight for the cores."""
    assert _extension.available, _extension.reason
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc/self/maps on this system to look into")
    libraries = {line.split()[-1] for line in maps.read_text().splitlines() if "libgomp" in line or "libomp" in line}
    assert len(libraries) == 1, libraries


# ---- bad arguments

X = torch.zeros(2, 4, 3, 3)
AFFINE = r"\[4\], one value a channel, or \[2, 4\], one for each sample and channel"
BAD_ARGUMENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": X[0]}, ValueError, r"x must be \[N, C, H, W\], got \[4, 3, 3\]"),
    ({"x": X.int()}, TypeError, "x must be float32, float16, bfloat16 or float64, got"),
    ({"weight": torch.ones(3)}, ValueError, rf"weight must be {AFFINE}, got \[3\]"),
    ({"bias": torch.ones(4, 1)}, ValueError, rf"bias must be {AFFINE}, got \[4, 1\]"),
    ({"weight": torch.ones(1, 4)}, ValueError, rf"weight must be {AFFINE}, got \[1, 4\]"),
    ({"bias": torch.ones(2, 4, 1)}, ValueError, rf"bias must be {AFFINE}, got \[2, 4, 1\]"),
    (
        {"weight": torch.ones(2, 4), "bias": torch.ones(4)},
        ValueError,
        r"bias must be \[2, 4\] like weight, got \[4\]",
    ),
    (
        {"weight": torch.ones(4), "bias": torch.ones(2, 4)},
        ValueError,
        r"bias must be \[4\] like weight, got \[2, 4\]",
    ),
    ({"bias": torch.ones(4, dtype=torch.int64)}, TypeError, "bias must be float"),
    ({"weight": torch.ones(4, device="meta")}, ValueError, "weight must be on cpu like x, got meta"),
    ({"residual": X[:1]}, ValueError, r"residual must be \[2, 4, 3, 3\] like x, got \[1, 4, 3, 3\]"),
    ({"activation": "gelu"}, ValueError, "activation must be one of none, relu, leaky_relu, got 'gelu'"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_ARGUMENTS)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """The kernel and the plain implementation refuse the same things in the same words."""
    arguments = {"x": X, "weight": None, "bias": None, "residual": None, "activation": "none"} | arguments
    with pytest.raises(error, match="instance_norm: " + message):
        ops.instance_norm(arguments.pop("x"), **arguments)
    arguments = {"x": X} | arguments
    with pytest.raises(error, match="instance_norm: " + message):
        module._check(**(arguments | {"x": BAD_X.get(message, X)}))


BAD_X = {message: arguments["x"] for arguments, _, message in BAD_ARGUMENTS if "x" in arguments}


def test_bad_gradient_arguments() -> None:
    _, mean, rstd = torch.ops.jdm_fast.instance_norm(X, None, None, None, "none", 0.0, 1e-5)
    backward = torch.ops.jdm_fast.instance_norm_backward
    with pytest.raises(ValueError, match=r"dy must be \[2, 4, 3, 3\] like x, got \[2, 4, 3, 2\]"):
        backward(X[..., :2], X, mean, rstd, None, None, "none", 0.0, 1e-5)
    with pytest.raises(TypeError, match="dy must be"):
        backward(X.double(), X, mean, rstd, None, None, "none", 0.0, 1e-5)
    with pytest.raises(ValueError, match=r"mean must be \[2, 4\], got \[4\]"):
        backward(X, X, mean[0], rstd, None, None, "none", 0.0, 1e-5)


def test_build_config_is_plain_data() -> None:
    config = _extension.build_config()
    assert json.loads(json.dumps(config)) == config
    assert config["cpu_capability"] in config["cpu_capabilities"]
