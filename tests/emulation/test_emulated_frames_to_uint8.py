"""Every CUDA kernel of frames_to_uint8 on the emulated GPU, against the definition."""

from __future__ import annotations

import pytest
import torch

from jdm_fast.ops import reference
from tests.emulation.harness import EmulatedGpu, in_every_order, kernels_of
from tests.emulation.structs import DTYPES

SHAPES = {
    "one pixel": (1, 3, 1, 1),
    "vectors of pixels": (2, 3, 8, 12),
    "odd pixels": (2, 3, 5, 7),
    "more than a block": (1, 3, 25, 88),
    "more than a block, odd": (1, 3, 17, 19),
    "one channel": (2, 1, 6, 4),
    "one channel, odd": (1, 1, 3, 3),
    "two channels": (1, 2, 4, 6),
    "two channels, odd": (1, 2, 3, 5),
    "four channels": (1, 4, 4, 6),
    "four channels, odd": (1, 4, 3, 5),
}
OFFSETS = {"aligned": (0, 0), "x misaligned": (1, 0), "y misaligned": (0, 1)}


@pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_values(emulated_gpu: EmulatedGpu, shape: str, dtype: torch.dtype, channels_last: bool) -> None:
    x = (torch.randn(SHAPES[shape], dtype=torch.float64) * 0.7).to(dtype)
    for offsets in OFFSETS.values():
        (y,) = in_every_order(
            emulated_gpu, lambda o=offsets: [emulated_gpu.frames_to_uint8(x, channels_last=channels_last, offsets=o)]
        )
        assert torch.equal(y, reference.frames_to_uint8(x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tanh(emulated_gpu: EmulatedGpu, dtype: torch.dtype) -> None:
    """Two implementations of tanh may differ in the last place, which decides some ties."""
    x = torch.randn(2, 3, 24, 24, dtype=torch.float64).to(dtype)
    y = emulated_gpu.frames_to_uint8(x, tanh=True).int()
    difference = (y - reference.frames_to_uint8(x, tanh=True).int()).abs()
    assert difference.max() <= 1
    assert difference.double().mean() < 1e-3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_special_values(emulated_gpu: EmulatedGpu, dtype: torch.dtype) -> None:
    """Not a number, infinities, both ends, what lies beyond them, and ties, which go to the even byte."""
    nan, inf = float("nan"), float("inf")
    ties = [(byte + 0.5) / 127.5 - 1 for byte in range(0, 255, 10)]  # ties where the dtype can hold them
    values = torch.tensor([nan, inf, -inf, 1.0, -1.0, 1.5, -1.5, 0.0, -0.0, *ties], dtype=torch.float64).to(dtype)
    x = values.repeat(3, 1).view(1, 3, 1, -1)
    y = emulated_gpu.frames_to_uint8(x)
    assert y[0, 0, :9, 0].tolist() == [0, 255, 0, 255, 0, 255, 0, 128, 128]
    assert torch.equal(y, reference.frames_to_uint8(x))


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4)], ids=str)
def test_nothing_to_do(emulated_gpu: EmulatedGpu, shape: tuple[int, ...]) -> None:
    emulated_gpu.frames_to_uint8(torch.zeros(shape))
    assert emulated_gpu.kernels == []


def test_every_kernel_is_in_the_cases(emulated_gpu: EmulatedGpu) -> None:
    """A kernel that no case above launches would be untested."""
    launched: set[str] = set()
    for shape in SHAPES.values():
        for dtype in DTYPES:
            for channels_last in (False, True):
                for offsets in OFFSETS.values():
                    emulated_gpu.frames_to_uint8(
                        torch.zeros(shape, dtype=dtype), channels_last=channels_last, offsets=offsets
                    )
                    launched |= set(emulated_gpu.kernels)
    kernels = kernels_of(emulated_gpu.path, ["frames_to_uint8.cuh"])
    assert len(kernels) == 20
    assert kernels == launched
