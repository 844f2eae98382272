from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.autograd import DeviceType

from jdm_fast.methods import JWDM, JWDMConfig
from jdm_fast.training.profile import _STEP, DATA, StepProfile, StepProfiler, _category, summarize
from jdm_fast.training.step import EagerEngine

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "name, category",
    [
        # Operators, as they are named on a CPU.
        ("aten::mkldnn_convolution", "convolutions"),
        ("aten::convolution_backward", "convolutions"),
        ("autograd::engine::evaluate_function: ConvolutionBackward0", "convolutions"),
        ("aten::addmm", "convolutions"),
        ("jdm_fast::instance_norm_backward", "norms"),
        ("_EagerInstanceNormBackward", "norms"),
        ("aten::native_batch_norm", "norms"),
        ("aten::_fused_adam_", "optimiser"),
        ("Optimizer.step#Adam.step", "optimiser"),
        ("aten::_foreach_lerp_", "optimiser"),
        ("aten::copy_", "elementwise, losses, copies"),
        ("aten::mul", "elementwise, losses, copies"),
        ("aten::binary_cross_entropy_with_logits", "elementwise, losses, copies"),
        # Kernels, as they are named on a GPU.
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64", "convolutions"),
        ("cutlass__5x_cudnn::Kernel<cutlass_tensorop_bf16_s16816dgrad_optimized>", "convolutions"),
        ("void cudnn::ops::nchwToNhwcKernel<float>(float*)", "elementwise, losses, copies"),
        (
            "void jdm_fast::cuda::(anonymous namespace)::channels_forward<c10::BFloat16>(jdm_fast::NormForward<float>)",
            "norms",
        ),
        (
            "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedOptimizerTensorListMetadata<4>, "
            "FusedAdamMathFunctor<float, 4>>(int)",
            "optimiser",
        ),
        ("void at::native::vectorized_elementwise_kernel<4, AddFunctor>(int)", "elementwise, losses, copies"),
        ("Memcpy HtoD (Pinned -> Device)", "elementwise, losses, copies"),
    ],
)  # fmt: skip
def test_names_are_sorted(name: str, category: str) -> None:
    assert _category(name) == category


def event(name: str, start: float, end: float, *, gpu: bool = False, own: float | None = None) -> Any:
    """What a profiler tells of an operator or a kernel; times in microseconds."""
    return SimpleNamespace(
        name=name,
        thread=1,
        device_type=DeviceType.CUDA if gpu else DeviceType.CPU,
        time_range=SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start),
        self_cpu_time_total=end - start if own is None else own,
    )


def shares(profile: StepProfile) -> dict[str, float]:
    return {share.name: share.milliseconds for share in profile.shares}


def test_a_cpus_rows_by_hand() -> None:
    """Two steps of 1000 µs: an operator's time is its own, without that of those it calls."""
    events = [
        event(_STEP, 0, 1000), event(DATA, 0, 100), event("aten::conv2d", 100, 700, own=10),
        event("aten::mkldnn_convolution", 110, 700), event("jdm_fast::instance_norm", 700, 750),
        event("aten::add", 750, 800), event(_STEP, 1500, 2500), event("aten::_fused_adam_", 2000, 2400),
    ]  # fmt: skip
    other = event("aten::mul", 0, 5000)
    other.thread = 2
    profile = summarize([*events, other], steps=2, seconds=2e-3, device="cpu")
    assert shares(profile) == pytest.approx(
        {
            "convolutions": 0.3, "norms": 0.025, "elementwise, losses, copies": 0.025, "optimiser": 0.2, "data": 0.05,
            "idle": 0.4,
        }
    )  # fmt: skip
    assert sum(share.share for share in profile.shares) == pytest.approx(1)
    assert profile.shares[0].parts == (("mkldnn_convolution", pytest.approx(0.295)), ("conv2d", pytest.approx(0.005)))


def test_a_gpus_rows_by_hand() -> None:
    """One step of 1000 µs: kernels on two streams run side by side, and only idle waiting is the data's fault."""
    events = [
        event(_STEP, 0, 1000), event(DATA, 0, 300),
        event("sm90_xmma_fprop_a", 200, 600, gpu=True), event("sm90_xmma_fprop_b", 400, 700, gpu=True),
        event("void FusedAdamMathFunctor<float>(int)", 800, 900, gpu=True), event(_STEP, 0, 1000, gpu=True),
        event("aten::mul", 0, 900),
    ]  # fmt: skip
    profile = summarize(events, steps=1, seconds=1e-3, device="cuda")
    assert shares(profile) == pytest.approx(
        {
            "convolutions": 0.7, "norms": 0, "elementwise, losses, copies": 0, "optimiser": 0.1, "data": 0.2,
            "idle": 0.2,
        }
    )  # fmt: skip


@contextmanager
def data(seconds: float) -> Iterator[None]:
    with torch.profiler.record_function(DATA):
        time.sleep(seconds)
        yield


def test_a_training_is_profiled_and_left_alone(tmp_path: Path) -> None:
    told: list[StepProfile] = []
    batch = {name: torch.rand(1, 3, 32, 32) * 2 - 1 for name in ("x", "y")}
    config = JWDMConfig(width=8, blocks=1, embedding_kernel=1, critic_width=8, critic_layers=2)
    weights = []
    for profiled in (False, True):
        torch.manual_seed(0)
        method = JWDM(config)
        engine = EagerEngine(method, lr=1e-3, betas=(0.5, 0.999), pool_size=2, ema_decay=0.9)
        profiler = StepProfiler(tmp_path / "profile", CPU, told.append, first=3 if profiled else 99, count=2)
        for _ in range(6):
            with profiler.step():
                with data(0.002):
                    pass
                engine.step(batch, 1e-3)
        profiler.close()
        weights.append([parameter.detach().clone() for parameter in method.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    (profile,) = told
    assert profile.steps == 2 and profile.trace == tmp_path / "profile" / "trace.json"
    names = {record.get("name") for record in json.loads(profile.trace.read_text())["traceEvents"]}
    assert {"aten::mkldnn_convolution", "jdm_fast::instance_norm", DATA, _STEP} <= names
    took = shares(profile)
    assert took["data"] >= 2
    assert all(took[row] > 0 for row in ("convolutions", "norms", "elementwise, losses, copies", "optimiser"))
    assert sum(took.values()) == pytest.approx(profile.milliseconds, rel=0.02)
    with (console := Console(width=120)).capture() as shown:
        console.print(profile.table())
    assert "mean of 2 steps" in shown.get() and "optimiser" in shown.get()


def test_a_short_training_is_profiled_as_far_as_it_goes(tmp_path: Path) -> None:
    told: list[StepProfile] = []
    profiler = StepProfiler(tmp_path, CPU, told.append, first=2, count=10)
    for _ in range(4):
        with profiler.step():
            torch.ones(10) + 1
    assert told == []
    profiler.close()
    profiler.close()
    assert [profile.steps for profile in told] == [3]
