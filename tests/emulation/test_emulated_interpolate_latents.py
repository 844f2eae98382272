"""Every CUDA kernel of interpolate_latents on the emulated GPU, against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jdm_fast.ops import reference
from tests.emulation.harness import DTYPES, EmulatedGpu, in_every_order, kernels_of
from tests.ops.conftest import assert_accurate

CASES = {  # B, T, E, n, elements by which the tensors miss a vector's boundary
    "one key": (1, 1, 5, 3, 0),
    "one frame a key": (1, 3, 8, 1, 0),
    "vectors": (2, 3, 48, 4, 0),
    "odd elements": (1, 4, 35, 8, 0),
    "vectors, misaligned": (2, 3, 16, 2, 1),
    "several blocks a latent": (1, 3, 2104, 3, 0),
    "several blocks a latent, odd": (2, 2, 515, 3, 1),
    "ranges of more than one key": (700, 5, 3, 2, 0),
}


def make(case: str, dtype: torch.dtype, mode: str) -> tuple[Tensor, Tensor]:
    """(z [B, T, E], coefficients [B, T-1, n, 2])."""
    batch, keys, elements, n, _ = CASES[case]
    z = torch.randn(batch, keys, elements, dtype=torch.float64).to(dtype)
    return z, reference.interpolation_coefficients(z, n, mode).contiguous()


def interpolate(z: Tensor, coefficients: Tensor) -> Tensor:
    """The definition in interpolate_latents.h, frame by frame."""
    batch, keys, elements = z.shape
    frames = []
    for t in range(keys - 1):
        frames.append(z[:, t])
        for k in range(1, coefficients.shape[2]):
            a, c = coefficients[:, t, k, :1], coefficients[:, t, k, 1:]
            frames.append(a * z[:, t] + c * z[:, t + 1])
    return torch.stack([*frames, z[:, -1]], dim=1)


@pytest.mark.parametrize("mode", ["lerp", "slerp"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(emulated_gpu: EmulatedGpu, case: str, dtype: torch.dtype, mode: str) -> None:
    _, keys, _, n, offset = CASES[case]
    z, coefficients = make(case, dtype, mode)
    (y,) = in_every_order(emulated_gpu, lambda: [emulated_gpu.interpolate_latents(z, coefficients, n, offset)])
    exact_z = z.double().clone().requires_grad_()
    exact = interpolate(exact_z, coefficients.double())
    assert_accurate("y", y, exact.detach(), exact.detach().to(dtype))
    assert torch.equal(y[:, ::n], z), "a key frame is a copy, bit for bit"

    dy = torch.randn(exact.shape, dtype=torch.float64).to(dtype)
    (dz,) = in_every_order(
        emulated_gpu, lambda: [emulated_gpu.interpolate_latents_backward(dy, coefficients, n, keys, offset)]
    )
    exact.backward(dy.double())
    assert_accurate("dz", dz, exact_z.grad, exact_z.grad.to(dtype))


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0)], ids=str)
def test_nothing_to_do(emulated_gpu: EmulatedGpu, shape: tuple[int, int, int]) -> None:
    z, coefficients = torch.zeros(shape), torch.zeros(shape[0], shape[1] - 1, 2, 2)
    y = emulated_gpu.interpolate_latents(z, coefficients, 2)
    assert emulated_gpu.kernels == []
    emulated_gpu.interpolate_latents_backward(y, coefficients, 2, shape[1])
    assert emulated_gpu.kernels == []


def test_every_kernel_is_in_the_cases(emulated_gpu: EmulatedGpu) -> None:
    """A kernel that no case above launches would be untested."""
    launched: set[str] = set()
    for case in ("vectors", "odd elements"):
        _, keys, _, n, _ = CASES[case]
        for dtype in DTYPES:
            z, coefficients = make(case, dtype, "lerp")
            y = emulated_gpu.interpolate_latents(z, coefficients, n)
            launched |= set(emulated_gpu.kernels)
            emulated_gpu.interpolate_latents_backward(y, coefficients, n, keys)
            launched |= set(emulated_gpu.kernels)
    kernels = kernels_of(emulated_gpu.path, ["interpolate_latents.cuh"])
    assert len(kernels) == 14
    assert kernels == launched
