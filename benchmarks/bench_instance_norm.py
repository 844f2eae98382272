"""instance_norm with ReLU (and residual), fused against eager PyTorch: forward, forward with backward, both layouts.

Each benchmark checks its results against float64, then times both implementations in alternating rounds over enough
input sets to leave the cache, so that both meet the same machine. pytest-benchmark's own figure is the fused one;
``extra_info`` has the medians of both, their ratio (``speedup``) and the fused implementation's memory traffic, and
each test prints a line of it.
"""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jdm_fast import ops

SHAPES = [
    (1, 64, 256, 256),  # first and last layers of a 256x256 image network
    (1, 256, 64, 64),  # its residual blocks
    (16, 256, 64, 64),  # the same, batch 16: far larger than any cache
    (1, 64, 64, 64),  # a small training image
    (1, 16, 64, 64),  # and a narrow network on it: bound by overhead
]
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
CACHE_BYTES = 64 << 20  # of inputs to rotate through, on a GPU more than its L2
ROUNDS = 15


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    return torch.device(request.param)


@pytest.fixture(autouse=True, scope="module")
def keep_freed_memory() -> Iterator[None]:
    """glibc gives freed blocks over 32 MB back to the system at once, so that every large output would be a new mapping
    and the page faults, the same for both implementations, would take longer than the arithmetic. In other programs
    GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967296 in the environment does the same."""
    if sys.platform == "linux":
        m_trim_threshold, m_mmap_max = -1, -4
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
    yield


def eager(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
    y = F.relu(F.instance_norm(x, weight=weight, bias=bias))
    return y if residual is None else y + residual


def fused(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
    return ops.instance_norm(x, weight, bias, residual=residual, activation="relu")


def make_sets(
    shape: tuple[int, ...], layout: torch.memory_format, residual: bool, device: torch.device
) -> list[tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]]:
    """Sets of (x, weight, bias, residual, dy), together larger than the cache."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        t = torch.randn(size, generator=generator).to(device)
        return t.contiguous(memory_format=layout) if t.dim() == 4 else t

    count = max(2, min(16, CACHE_BYTES // (4 * torch.Size(shape).numel())))
    return [
        (
            normal(*shape).requires_grad_(),
            normal(shape[1]).requires_grad_(),
            normal(shape[1]).requires_grad_(),
            normal(*shape) if residual else None,
            normal(*shape),
        )
        for _ in range(count)
    ]


def check(
    function: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor, other: Tensor | None, dy: Tensor
) -> None:
    """Values and gradients against float64, relative to the size of the whole."""

    def results(function: Callable[..., Tensor], *tensors: Tensor | None, dy: Tensor) -> list[Tensor]:
        leaves = [t if t is None else t.detach().requires_grad_() for t in tensors]
        y = function(*leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves[:3], dy)]

    def exact(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
        return ops.reference.instance_norm(x, weight, bias, residual=residual, activation="relu")

    # At the kink of ReLU both slopes are right, and which one it is depends on the last bit: no gradient there.
    with torch.no_grad():
        dy = torch.where(ops.reference.instance_norm(x, weight, bias).abs() < 1e-4, torch.zeros_like(dy), dy)
    ours = results(function, x, weight, bias, other, dy=dy)
    expected = results(exact, *(t if t is None else t.double() for t in (x, weight, bias, other)), dy=dy.double())
    for a, b in zip(ours, expected, strict=True):
        error = ((a.double() - b).norm() / b.norm()).item()
        assert error < 1e-5, f"relative error {error:.3g}"


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    begin = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("residual", [False, True], ids=["relu", "relu-residual"])
@pytest.mark.parametrize("mode", ["forward", "forward_backward"])
def bench_instance_norm(
    benchmark: Any, shape: tuple[int, ...], layout: str, residual: bool, mode: str, device: torch.device
) -> None:
    sets = make_sets(shape, LAYOUTS[layout], residual, device)
    check(fused, *sets[0])

    def step(function: Callable[..., Tensor], index: int) -> None:
        *inputs, dy = sets[index % len(sets)]
        if mode == "forward":
            with torch.no_grad():
                function(*inputs)
        else:
            torch.autograd.grad(function(*inputs), inputs[:3], dy)

    # A round runs long enough for the clock, and alternates so that a disturbance meets both.
    repeat = max(1, round(0.003 / seconds(lambda: [step(eager, i) for i in range(3)], device) * 3))
    times: dict[str, list[float]] = {"eager": [], "fused": []}
    for round_index in range(ROUNDS):
        for name, function in (("eager", eager), ("fused", fused)):
            first = round_index * repeat
            elapsed = seconds(lambda f=function, first=first: [step(f, first + i) for i in range(repeat)], device)
            times[name].append(elapsed / repeat)
    medians = {name: statistics.median(values) for name, values in times.items()}
    speedup = medians["eager"] / medians["fused"]
    passes = 2 + residual + (3 if mode == "forward_backward" else 0)  # x, y, residual; dy, x, dx
    gigabytes = passes * 4 * torch.Size(shape).numel() / 1e9
    case = f"{mode} {list(shape)} {layout}{' + residual' if residual else ''} on {device}"
    benchmark.group = f"instance_norm {case}"
    benchmark.extra_info.update(
        implementation="jdm_fast",
        bytes=round(gigabytes * 1e9),
        device=str(device),
        eager_ms=medians["eager"] * 1e3,
        fused_ms=medians["fused"] * 1e3,
        speedup=speedup,
        speedup_of_best=min(times["eager"]) / min(times["fused"]),
        gigabytes_per_second=gigabytes / medians["fused"],
        threads=torch.get_num_threads(),
    )
    print(
        f"\n{case}: eager {medians['eager'] * 1e3:.3f} ms, fused {medians['fused'] * 1e3:.3f} ms, {speedup:.2f}x,"
        f" {gigabytes / medians['fused']:.1f} GB/s"
    )
    counter = iter(range(10**9))
    benchmark.pedantic(
        lambda: seconds(lambda: step(fused, next(counter)), device), rounds=ROUNDS, iterations=repeat, warmup_rounds=1
    )
