"""Every CUDA kernel of interpolate_instance_norm on the emulated GPU, against float64."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from jdm_fast.ops import reference
from tests.emulation.harness import EmulatedGpu, in_every_order, kernels_of
from tests.emulation.structs import ACTIVATIONS, DTYPES
from tests.ops.conftest import assert_accurate


@dataclass
class Case:
    shape: tuple[int, int, int, int]
    positions: int | tuple[float, ...] = 3
    offset: int = 0
    multiprocessors: int = 1
    mean: float = 0.0
    affine: bool = True


CASES = {
    "one key": Case((1, 3, 4, 4), (0.0, 0.0)),
    "one pixel": Case((2, 3, 1, 1)),
    "one frame a key": Case((3, 8, 4, 8), 1),
    "a plane for a warp": Case((3, 5, 8, 16)),
    "a plane for four warps": Case((2, 2, 16, 80), 2),
    "a plane for four or eight warps": Case((2, 1, 48, 64), 1),
    "a plane for a block": Case((2, 1, 64, 72), (0.0, 0.25, 1.0)),
    "a plane for a large block": Case((2, 1, 96, 104), (0.0, 0.75)),
    "parts of a plane": Case((2, 1, 128, 136), (0.5, 1.0), mean=3.0),
    "parts of a plane, few of them": Case((2, 1, 64, 72), (0.1,), multiprocessors=16),
    "odd pixels": Case((3, 3, 7, 9), affine=False),
    "odd pixels for a block": Case((2, 2, 33, 65), (0.0, 0.7, 0.8), mean=-3.0),
    "odd pixels, parts": Case((2, 1, 65, 67), (0.0, 0.7), mean=-3.0),
    "misaligned": Case((2, 8, 4, 8), 2, offset=1),
    "more frames than lanes": Case((2, 8, 3, 8), 70),
    "uneven, a pair without frames": Case((4, 8, 4, 6), (0.0, 0.1, 0.1, 2.0, 2.999, 3.0)),
    "channels for a tile and a rest": Case((2, 72, 5, 7), 2),
    "odd channels past a tile": Case((2, 35, 9, 5), 2, affine=False),
    "rows in parts": Case((2, 8, 40, 41), (0.3, 1.0), multiprocessors=4),
}


def exact_frames(case: Case, u: Tensor, affine: tuple[Tensor | None, ...], activation: str) -> Tensor:
    return reference.interpolate_instance_norm(u.double(), case.positions, *affine, activation)


def run(gpu: EmulatedGpu, case: Case, dtype: torch.dtype, channels_last: bool, activation: str = "leaky_relu") -> None:
    generator = torch.Generator().manual_seed(sum(case.shape))
    u = (torch.randn(case.shape, generator=generator, dtype=torch.float64) + case.mean).to(dtype)
    channels = case.shape[1]
    affine: tuple[Tensor | None, ...] = (None, None)
    if case.affine:
        affine = torch.rand(channels, generator=generator) + 0.5, torch.randn(channels, generator=generator)
    positions = reference.frame_positions(case.positions, len(u), u.device)
    options = {"activation": activation, "channels_last": channels_last}
    (y,) = in_every_order(
        gpu,
        lambda: [
            gpu.interpolate_instance_norm(
                u, positions, *affine, offset=case.offset, multiprocessors=case.multiprocessors, **options
            )
        ],
    )
    exact = exact_frames(case, u, affine, activation)
    own = reference.interpolate_instance_norm(u, case.positions, *affine, activation)
    assert_accurate("y", y, exact, own)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_values(emulated_gpu: EmulatedGpu, case: Case, dtype: torch.dtype, channels_last: bool) -> None:
    run(emulated_gpu, case, dtype, channels_last)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_activations(emulated_gpu: EmulatedGpu, activation: str, channels_last: bool) -> None:
    run(emulated_gpu, Case((3, 8, 4, 8)), torch.float32, channels_last, activation)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("side", [16, 72], ids=["resident", "parts"])
def test_a_large_mean_does_no_harm(emulated_gpu: EmulatedGpu, side: int, channels_last: bool) -> None:
    u = torch.randn(2, 4, side, 128, generator=torch.Generator().manual_seed(0)) + 1e4
    y = emulated_gpu.interpolate_instance_norm(
        u, torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64), channels_last=channels_last, multiprocessors=1
    )
    exact = reference.interpolate_instance_norm(u.double(), (0.0, 0.4, 1.0))
    assert (y - exact).abs().max() < 1e-3  # an ulp of 1e4


@pytest.mark.parametrize("count", [1, 31, 32, 33, 100, 1024, 1025, 2000])
def test_frames_find_their_pair(emulated_gpu: EmulatedGpu, count: int) -> None:
    """The search for a pair's frames, with many frames at few and at many different times."""
    generator = torch.Generator().manual_seed(count)
    u = torch.randn(6, 1, 1, 4, generator=generator, dtype=torch.float64)
    for steps in (4, 1000):
        positions = (torch.randint(0, 5 * steps + 1, (count,), generator=generator) / steps).double().sort().values
        y = emulated_gpu.interpolate_instance_norm(u, positions)
        torch.testing.assert_close(y, reference.interpolate_instance_norm(u, positions))


@pytest.mark.parametrize("shape", [(2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 4, 4)], ids=str)
def test_nothing_to_do(emulated_gpu: EmulatedGpu, shape: tuple[int, int, int, int]) -> None:
    frames = 0 if all(shape) else 2
    emulated_gpu.interpolate_instance_norm(torch.zeros(shape), torch.zeros(frames, dtype=torch.float64))
    assert emulated_gpu.kernels == []


def test_every_kernel_is_in_the_cases(emulated_gpu: EmulatedGpu) -> None:
    """A kernel that no case above launches would be untested."""
    launched: set[str] = set()
    emulated_gpu.set_order("forward")
    for case in CASES.values():
        for dtype in DTYPES:
            for channels_last in (False, True):
                emulated_gpu.interpolate_instance_norm(
                    torch.zeros(case.shape, dtype=dtype),
                    reference.frame_positions(case.positions, case.shape[0], torch.device("cpu")),
                    channels_last=channels_last,
                    offset=case.offset,
                    multiprocessors=case.multiprocessors,
                )
                launched |= set(emulated_gpu.kernels)
    kernels = kernels_of(
        emulated_gpu.path,
        ["cuda/interpolate_instance_norm_planes.cuh", "cuda/interpolate_instance_norm_channels.cuh"],
    )
    assert len(kernels) == 52
    assert kernels == launched
