"""Every CUDA kernel of instance_norm on the emulated GPU, against float64."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from jdm_fast.ops import reference
from jdm_fast.ops.reference import accumulation_dtype
from tests.emulation.harness import ORDERS, EmulatedGpu, in_every_order, kernels_of
from tests.emulation.structs import DTYPES
from tests.ops.conftest import assert_accurate


@dataclass(frozen=True)
class Case:
    why: str
    shape: tuple[int, int, int, int]
    channels_last: bool = False
    multiprocessors: int = 4
    offsets: tuple[int, int, int] = (0, 0, 0)  # elements by which the three large tensors miss a vector's boundary
    capability: int = 80

    @property
    def plan(self) -> dict[str, Any]:
        return {
            "channels_last": self.channels_last,
            "multiprocessors": self.multiprocessors,
            "offsets": self.offsets,
            "capability": self.capability,
        }

    def __str__(self) -> str:
        return self.why.replace(" ", "-")


CASES = [
    Case("one pixel", (3, 2, 1, 1)),
    Case("loose ends of tiny planes", (2, 3, 7, 7)),
    Case("a warp a plane, not a whole block of them", (1, 5, 16, 16)),
    Case("a warp a plane, misaligned alike", (1, 3, 15, 17), offsets=(3, 3, 3)),
    Case("128 threads a plane", (1, 2, 32, 33)),
    Case("256 threads a plane", (1, 1, 51, 51)),
    Case("256 threads, 512 backward", (1, 2, 64, 65)),
    Case("512 threads a plane, 16 bit backward", (1, 1, 97, 97)),
    Case("512 threads a plane, split in float32 and backward", (1, 1, 131, 131)),
    Case("split", (1, 1, 182, 182), offsets=(1, 1, 1)),
    Case("streamed", (1, 2, 182, 183), multiprocessors=1),
    Case("streamed one by one as tensors lie differently", (2, 3, 7, 7), offsets=(0, 1, 0)),
    Case("split one by one", (1, 1, 182, 182), offsets=(0, 1, 1)),
    Case("few channels", (2, 3, 5, 7), channels_last=True, multiprocessors=1),
    Case("few channels, split", (1, 3, 41, 43), channels_last=True),
    Case("one channel", (1, 1, 9, 9), channels_last=True),
    Case("one vector of channels, split", (1, 8, 40, 41), channels_last=True),
    Case("whole tiles", (2, 64, 8, 8), channels_last=True),
    Case("a tile with idle lanes, split", (1, 72, 12, 13), channels_last=True),
    Case("odd channels over two tiles, split", (1, 37, 11, 13), channels_last=True),
    Case("vectors of channels, misaligned", (1, 24, 5, 5), channels_last=True, offsets=(1, 1, 1)),
    Case("vectors of channels, misaligned, split", (1, 8, 33, 33), channels_last=True, offsets=(0, 1, 0)),
    Case("many tiles, one kernel", (3, 136, 5, 9), channels_last=True, multiprocessors=2),
    Case("split and larger than the cache", (3, 24, 33, 47), channels_last=True, multiprocessors=40),
    Case("cluster, whole tiles", (1, 64, 16, 16), channels_last=True, capability=90),
    Case("cluster, idle lanes and odd rows", (2, 72, 33, 21), channels_last=True, capability=90),
    Case("cluster, fewer pixels than rows of threads", (2, 24, 3, 3), channels_last=True, capability=90),
    Case("cluster of many", (1, 40, 57, 57), channels_last=True, multiprocessors=20, capability=90),
    Case("cluster, blocks of 512 threads", (1, 32, 66, 66), channels_last=True, capability=90),
    Case("cluster, more than registers in 16 bit", (1, 16, 130, 131), channels_last=True, capability=90),
    Case("cluster, more than registers in float32", (1, 8, 130, 131), channels_last=True, capability=90),
    Case("cluster, misaligned: not one", (1, 24, 5, 5), channels_last=True, offsets=(1, 1, 1), capability=90),
    Case("planes in clusters", (1, 1, 184, 184), capability=90),
    Case("planes in clusters, odd and misaligned", (1, 2, 182, 183), offsets=(3, 3, 3), capability=90),
    Case("planes in clusters, wider than one wave", (1, 1, 131, 157), multiprocessors=40, capability=90),
    Case("planes in shared memory of clusters in float32", (1, 1, 257, 263), capability=90),
    Case("planes in shared memory of clusters in 16 bit", (1, 1, 363, 367), offsets=(1, 1, 1), capability=90),
    Case("planes that lie differently: not in clusters", (1, 1, 182, 182), offsets=(0, 1, 1), capability=90),
]


def inputs(
    shape: tuple[int, ...], dtype: torch.dtype, mean: float = 0.5, per_sample: bool = False
) -> dict[str, Tensor]:
    affine_shape = shape[:2] if per_sample else shape[1:2]
    return {
        "x": (torch.randn(shape, dtype=torch.float64) * 2 + mean).to(dtype),
        "weight": torch.randn(affine_shape, dtype=torch.float64).to(reference.accumulation_dtype(dtype)),
        "bias": torch.randn(affine_shape, dtype=torch.float64).to(reference.accumulation_dtype(dtype)),
        "residual": torch.randn(shape, dtype=torch.float64).to(dtype),
    }


def check(
    gpu: EmulatedGpu, case: Case, tensors: dict[str, Tensor | None], activation: str, negative_slope: float = 0.2
) -> None:
    """Values and gradients in every order, against float64; at most twice the error of PyTorch in the same dtype."""
    x, dtype = tensors["x"], tensors["x"].dtype
    affine_shape = next((tensors[name].shape for name in ("weight", "bias") if tensors[name] is not None), x.shape[1:2])
    act = {"activation": activation, "negative_slope": negative_slope}
    y, mean, rstd = in_every_order(gpu, lambda: gpu.instance_norm(**tensors, **act, **case.plan))

    def differentiable(as_dtype: torch.dtype | None) -> dict[str, Tensor | None]:
        values = dict(tensors)
        for name, neutral in (("weight", 1.0), ("bias", 0.0)):  # left out: the same function, and there is a gradient
            if values[name] is None:
                values[name] = torch.full(affine_shape, neutral, dtype=reference.accumulation_dtype(dtype))
        return {
            name: None if value is None else value.to(as_dtype or value.dtype).clone().requires_grad_()
            for name, value in values.items()
        }

    exact, baseline = differentiable(torch.float64), differentiable(None)
    exact_y, baseline_y = (reference.instance_norm(**values, **act) for values in (exact, baseline))
    a = reference.accumulation_dtype(dtype)
    statistics = [torch.var_mean(x.to(as_dtype), dim=(2, 3), correction=0) for as_dtype in (torch.float64, a)]
    exact_rstd, baseline_rstd = ((var + 1e-5).rsqrt() for var, _ in statistics)
    assert_accurate("y", y, exact_y.detach(), baseline_y.detach())
    assert_accurate("mean", mean, statistics[0][1], statistics[1][1])
    assert_accurate("rstd", rstd, exact_rstd, baseline_rstd)

    # Where t is next to 0 a rounding decides whether the gradient passes: let none arrive there.
    t = reference.instance_norm(*(exact[name] for name in ("x", "weight", "bias"))).detach()
    dy = torch.randn(x.shape, dtype=torch.float64).where(t.abs() > 0.01, 0.0).to(dtype)
    weight, bias = tensors["weight"], tensors["bias"]
    dx, d_weight, d_bias = in_every_order(
        gpu, lambda: gpu.instance_norm_backward(dy, x, mean, rstd, weight, bias, **act, **case.plan)
    )
    exact_y.backward(dy.double())
    baseline_y.backward(dy)
    assert_accurate("dx", dx, exact["x"].grad, baseline["x"].grad)
    # The exact sums may cancel: compare on the scale of what is added up.
    per_sample = exact["weight"].dim() == 2
    scale = dy.double().abs().sum(dim=(2, 3) if per_sample else (0, 2, 3)).clamp(min=1)
    for name, value in (("weight", d_weight), ("bias", d_bias)):
        ours = value if per_sample else value.sum(0)
        error, allowed = ((g.double() - exact[name].grad) / scale for g in (ours, baseline[name].grad))
        floor = 1e-13 if dtype == torch.float64 else 1e-5
        assert error.abs().max() <= 2 * allowed.abs().max() + floor, f"d_{name}: {error.abs().max():.3g}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(emulated_gpu: EmulatedGpu, case: Case, dtype: torch.dtype) -> None:
    check(emulated_gpu, case, inputs(case.shape, dtype), "leaky_relu")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_weights_of_each_sample(emulated_gpu: EmulatedGpu, case: Case) -> None:
    """By the same kernels, with a second sample where the case has one."""
    several = replace(case, shape=(max(2, case.shape[0]), *case.shape[1:]))
    for missing in ("", "weight", "bias") if case.why in {"128 threads a plane", "whole tiles"} else ("",):
        tensors = inputs(several.shape, torch.float32, per_sample=True)
        check(emulated_gpu, several, {**tensors, **dict.fromkeys(missing.split())}, "leaky_relu")


@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu"])
@pytest.mark.parametrize("missing", ["weight", "bias", "residual", "weight bias residual"])
@pytest.mark.parametrize("case", [c for c in CASES if c.why in {"128 threads a plane", "whole tiles"}], ids=str)
def test_what_is_left_out(emulated_gpu: EmulatedGpu, case: Case, missing: str, activation: str) -> None:
    tensors = inputs(case.shape, torch.float32)
    check(emulated_gpu, case, {**tensors, **dict.fromkeys(missing.split())}, activation)


@pytest.mark.parametrize("case", [case for case in CASES if case.shape[2] > 1], ids=str)
def test_mean_far_larger_than_the_spread(emulated_gpu: EmulatedGpu, case: Case) -> None:
    """Mean 1e4, spread 2: squares of float32 would leave no digit of the spread."""
    tensors = inputs(case.shape, torch.float32, mean=1e4)
    y, mean, rstd = emulated_gpu.instance_norm(**tensors, **case.plan)
    exact = {name: value.double() for name, value in tensors.items()}
    var, exact_mean = torch.var_mean(exact["x"], dim=(2, 3), correction=0)
    half_place = 2.0**-11  # of a float32 near 1e4: the mean cannot be stored more exactly, and y moves with it
    assert (mean.double() - exact_mean).abs().max() <= half_place * 1.01
    assert (rstd.double() * (var + 1e-5).sqrt() - 1).abs().max() <= 4e-7
    shift = half_place * float(tensors["weight"].abs().max()) * float(rstd.max())
    assert (y.double() - reference.instance_norm(**exact)).abs().max() <= shift * 1.01 + 4e-6


@pytest.mark.parametrize("case", [case for case in CASES if case.shape[2] > 1], ids=str)
def test_first_pixel_far_off_the_others(emulated_gpu: EmulatedGpu, case: Case) -> None:
    """Sums about it must not cancel: a thousand spreads, of which a sum over n values may lose log2(n) bits."""
    x = torch.randn(case.shape)
    x[:, :, 0, 0] = 1e3
    y, mean, rstd = emulated_gpu.instance_norm(x, **case.plan)
    var, exact_mean = torch.var_mean(x.double(), dim=(2, 3), correction=0)
    torch.testing.assert_close(mean.double(), exact_mean, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(rstd.double(), (var + 1e-5).rsqrt(), rtol=1e-5, atol=0)
    torch.testing.assert_close(y.double(), reference.instance_norm(x.double()), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("case", [case for case in CASES if case.shape[2] > 1], ids=str)
def test_what_is_not_finite_stays_in_its_plane(emulated_gpu: EmulatedGpu, case: Case, value: float) -> None:
    for pixel in (0, -1):
        x = torch.randn(case.shape)
        x[0, 0].view(-1)[pixel] = value
        y, _, rstd = emulated_gpu.instance_norm(x, **case.plan)
        assert bool(y[0, 0].isnan().all())
        assert bool(y.flatten(0, 1)[1:].isfinite().all()) and bool(rstd.flatten()[1:].isfinite().all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("n", "c"), [(2, 1), (5, 100), (16, 256), (64, 3)])
def test_sums_over_samples(emulated_gpu: EmulatedGpu, n: int, c: int, dtype: torch.dtype) -> None:
    each = [torch.randn(n, c, dtype=accumulation_dtype(dtype)) for _ in range(2)]
    for order in ORDERS:
        emulated_gpu.set_order(order)
        sums = emulated_gpu.sum_samples(torch.empty(n, c, 1, 1, dtype=dtype), *each)
        assert emulated_gpu.grids == [-(-2 * c // 128)]
        for got, values in zip(sums, each, strict=True):
            expected = torch.zeros(c, dtype=values.dtype)
            for row in values:
                expected = expected + row
            assert torch.equal(got, expected)


def test_parameters_that_miss_a_vector_boundary(emulated_gpu: EmulatedGpu) -> None:
    """As a slice of a larger parameter does: the same values, by the kernel without vectors."""
    tensors = inputs((2, 64, 8, 8), torch.float32)
    aligned, *_ = emulated_gpu.instance_norm(**tensors, channels_last=True)
    assert emulated_gpu.kernels == ["channels_forward<float, 4, false>"]
    misaligned, *_ = emulated_gpu.instance_norm(**tensors, channels_last=True, parameter_offset=1)
    assert emulated_gpu.kernels == ["channels_forward<float, 1, false>"]
    assert torch.allclose(aligned, misaligned, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_constant_planes_give_the_bias(emulated_gpu: EmulatedGpu, case: Case) -> None:
    tensors = inputs(case.shape, torch.float32)
    tensors["x"] = torch.full(case.shape, 3.0)
    y, mean, rstd = emulated_gpu.instance_norm(**tensors, **case.plan)
    assert torch.equal(mean, torch.full_like(mean, 3.0))
    assert torch.allclose(rstd, torch.full_like(rstd, 1e-5**-0.5))
    assert torch.equal(y, tensors["bias"].view(1, -1, 1, 1) + tensors["residual"])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)], ids=str)
def test_nothing_to_do(emulated_gpu: EmulatedGpu, shape: tuple[int, ...], channels_last: bool) -> None:
    tensors = inputs(shape, torch.float32)
    emulated_gpu.instance_norm(**tensors, channels_last=channels_last)
    assert emulated_gpu.kernels == []
    statistics = torch.zeros(shape[:2])
    _, d_weight, d_bias = emulated_gpu.instance_norm_backward(
        tensors["x"], tensors["x"], statistics, statistics, channels_last=channels_last
    )
    assert torch.equal(d_weight, statistics) and torch.equal(d_bias, statistics)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_every_kernel_is_in_the_cases(emulated_gpu: EmulatedGpu, backward: bool) -> None:
    """A kernel that no case above launches would be untested."""
    launched: set[str] = set()
    emulated_gpu.set_order("forward")
    for case in CASES:
        statistics = torch.ones(case.shape[:2])
        for dtype in DTYPES:
            x = torch.zeros(case.shape, dtype=dtype)
            if backward:
                emulated_gpu.instance_norm_backward(x, x, statistics, statistics, **case.plan)
            else:
                emulated_gpu.instance_norm(x, **case.plan)
            launched |= set(emulated_gpu.kernels)
    headers = [f"cuda/instance_norm_{part}.cuh" for part in ("planes", "planes_cluster", "channels", "held")]
    kernels = {
        kernel
        for kernel in kernels_of(emulated_gpu.path, headers)
        if any(word in kernel for word in ("backward", "gradient")) == backward
    }
    assert len(kernels) > 30
    assert kernels - launched == set()
