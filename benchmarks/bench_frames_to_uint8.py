"""frames_to_uint8 against the same conversion composed of PyTorch operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.race import EAGER, OURS, input_sets, race
from jdm_fast import ops

SHAPES = [
    (1, 3, 64, 64),  # one small picture
    (8, 3, 256, 512),  # a batch of video frames
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
@pytest.mark.parametrize("tanh", [False, True], ids=["plain", "tanh"])
def bench_frames_to_uint8(
    benchmark: Any,
    implementation: str,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    layout: str,
    tanh: bool,
    device: torch.device,
) -> None:
    torch.manual_seed(0)
    values = torch.Size(shape).numel()
    sets = [
        (0.7 * torch.randn(shape)).to(device, dtype).contiguous(memory_format=LAYOUTS[layout])
        for _ in range(input_sets(values * dtype.itemsize))
    ]
    contenders = {
        OURS: lambda i: ops.frames_to_uint8(sets[i % len(sets)], tanh=tanh),
        EAGER: lambda i: ops.reference.frames_to_uint8(sets[i % len(sets)], tanh=tanh),
    }
    difference = (contenders[OURS](0).int() - contenders[EAGER](0).int()).abs()
    assert difference.max() <= tanh  # a tanh may put a value on the other side of a tie
    assert difference.double().mean() < 1e-4
    race(
        benchmark,
        implementation,
        contenders,
        group=f"frames_to_uint8{' tanh' if tanh else ''} {list(shape)} {dtype} {layout}",
        bytes_moved=values * (dtype.itemsize + 1),
        device=device,
    )
