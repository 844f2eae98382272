"""softmax_critic_loss against the same loss composed of PyTorch operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.race import EAGER, OURS, input_sets, race
from jdm_fast import ops

SHAPES = [
    (20, 5, 30, 30),  # JointGAN: 5 sources, batch 4, the map of a 70x70 patch critic on 256x256 images
    (6, 6, 128, 128),
    (5, 5, 512, 512),  # larger than a cache: bound by memory
]
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}

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
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_backward"])
def bench_softmax_critic_loss(
    benchmark: Any,
    implementation: str,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    layout: str,
    backward: bool,
    device: torch.device,
) -> None:
    torch.manual_seed(0)
    samples, classes = shape[:2]
    logits_bytes = torch.Size(shape).numel() * dtype.itemsize
    sets = [
        (2 * torch.randn(shape)).to(device, dtype).contiguous(memory_format=LAYOUTS[layout]).requires_grad_(backward)
        for _ in range(input_sets(logits_bytes))
    ]
    source = torch.arange(samples, device=device) % classes

    def run(function: Any, i: int) -> list[torch.Tensor]:
        logits = sets[i % len(sets)]
        result = function(logits, source, classes)
        return [*result, *(torch.autograd.grad(result[0], logits) if backward else ())]

    contenders = {
        OURS: lambda i: run(ops.softmax_critic_loss, i),
        EAGER: lambda i: run(ops.reference.softmax_critic_loss, i),
    }
    for ours, expected in zip(contenders[OURS](0), contenders[EAGER](0), strict=True):
        error = (ours.double() - expected.double()).norm() / expected.double().norm()
        assert error < (1e-5 if dtype == torch.float32 else 1e-2), f"relative error {error:.3g}"
    race(
        benchmark,
        implementation,
        contenders,
        group=f"softmax_critic_loss {'forward+backward' if backward else 'forward'} {list(shape)} {dtype} {layout}",
        bytes_moved=logits_bytes * (2 if backward else 1),
        device=device,
    )
