"""interpolate_instance_norm, the start of a decoder for every frame between key frames at factor 8: against lerp and
instance norm composed of PyTorch operators, and against our own two ops one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.race import EAGER, OURS, input_sets, race
from jdm_fast import ops

SHAPES = [
    (9, 256, 16, 16),  # the decoder's first feature maps for images of 64x64
    (5, 256, 64, 64),  # of 256x256
    (3, 256, 128, 256),  # of 512x1024
]
CPU_PIXELS = 64 * 64  # of the largest that a CPU is asked for
FACTOR = 8
TWO_OPS = "interpolate_latents + instance_norm"
CONTENDERS = (OURS, EAGER, TWO_OPS)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    return torch.device(request.param)


@pytest.mark.parametrize("implementation", CONTENDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@torch.no_grad()
def bench_interpolate_instance_norm(
    benchmark: Any,
    implementation: str,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    layout: torch.memory_format,
    device: torch.device,
) -> None:
    if device.type == "cpu" and shape[2] * shape[3] > CPU_PIXELS:
        pytest.skip("for GPUs: a CPU would take minutes")
    torch.manual_seed(0)
    frames = (shape[0] - 1) * FACTOR + 1
    key_bytes = torch.Size(shape).numel() * dtype.itemsize
    frame_bytes = key_bytes // shape[0] * frames
    sets = [
        torch.randn(shape).to(device, dtype).contiguous(memory_format=layout) for _ in range(input_sets(frame_bytes))
    ]
    weight, bias = torch.rand(shape[1], device=device) + 0.5, torch.randn(shape[1], device=device)

    def two_ops(u: Tensor) -> Tensor:
        frames = ops.interpolate_latents(u, FACTOR)
        return ops.instance_norm(frames, weight, bias, activation="relu")

    calls = {
        OURS: lambda u: ops.interpolate_instance_norm(u, FACTOR, weight, bias, "relu"),
        EAGER: lambda u: ops.reference.interpolate_instance_norm(u, FACTOR, weight, bias, "relu"),
        TWO_OPS: two_ops,
    }
    # The two ops round the frame before its norm; the other two do not.
    tolerance = {"rtol": 8 * torch.finfo(dtype).eps, "atol": 64 * torch.finfo(dtype).eps}
    expected = calls[EAGER](sets[0].double()).to(dtype)
    for call in calls.values():
        torch.testing.assert_close(call(sets[0]), expected, **tolerance)
    race(
        benchmark,
        implementation,
        {name: (lambda i, call=call: call(sets[i % len(sets)])) for name, call in calls.items()},
        group=f"interpolate_instance_norm {list(shape)} {'nhwc' if layout == torch.channels_last else 'nchw'} {dtype}",
        bytes_moved=key_bytes + frame_bytes,
        device=device,
    )
