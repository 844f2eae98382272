"""interpolate_latents, all latents of a video at factor 8, against the same composed of PyTorch operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.race import EAGER, OURS, input_sets, race
from jdm_fast import ops

SHAPES = [
    (9, 256, 9, 9),  # latents of 64x64 images through an 8x8 embedding convolution
    (5, 256, 57, 57),  # of 256x256 images
]
FACTOR = 8

implementations = pytest.mark.parametrize("implementation", [OURS, EAGER])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    return torch.device(request.param)


@implementations
@dtypes
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("mode", ["lerp", "slerp"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_backward"])
def bench_interpolate_latents(
    benchmark: Any,
    implementation: str,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    mode: str,
    backward: bool,
    device: torch.device,
) -> None:
    torch.manual_seed(0)
    frames = (shape[0] - 1) * FACTOR + 1
    key_bytes = torch.Size(shape).numel() * dtype.itemsize
    frame_bytes = key_bytes // shape[0] * frames
    sets = [
        torch.randn(shape, dtype=torch.float32).to(device, dtype).requires_grad_(backward)
        for _ in range(input_sets(frame_bytes if backward else key_bytes))
    ]
    dy = torch.randn(frames, *shape[1:], dtype=torch.float32).to(device, dtype)

    def run(function: Any, i: int) -> torch.Tensor:
        z = sets[i % len(sets)]
        y = function(z, FACTOR, mode)
        return torch.autograd.grad(y, z, dy)[0] if backward else y

    contenders = {
        OURS: lambda i: run(ops.interpolate_latents, i),
        EAGER: lambda i: run(ops.reference.interpolate_latents, i),
    }
    tolerance = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 16 * torch.finfo(dtype).eps}
    torch.testing.assert_close(contenders[OURS](0), contenders[EAGER](0), **tolerance)
    race(
        benchmark,
        implementation,
        contenders,
        group=f"interpolate_latents {mode} {'forward+backward' if backward else 'forward'} {list(shape)} {dtype}",
        bytes_moved=(key_bytes + frame_bytes) * (2 if backward else 1),
        device=device,
    )
