"""Every CUDA kernel of interpolate_latents on the emulated GPU, against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jdm_fast.ops import reference
from jdm_fast.ops.interpolate_latents import _slerp_weights
from tests.emulation.harness import EmulatedGpu, in_every_order, kernels_of
from tests.emulation.structs import DTYPES
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


def make(case: str, dtype: torch.dtype) -> Tensor:
    """z [B, T, E]."""
    batch, keys, elements, _, _ = CASES[case]
    return torch.randn(batch, keys, elements, dtype=torch.float64).to(dtype)


def interpolate(z: Tensor, n: int, mode: str) -> Tensor:
    """The definition in interpolate_latents.h, [B, (T-1)*n + 1, E] of z [B, T, E]."""
    frames = []
    for t in range(z.shape[1] - 1):
        p, q = z[:, t], z[:, t + 1]
        cosine = (p * q).sum(-1, keepdim=True) / (p.norm(dim=-1, keepdim=True) * q.norm(dim=-1, keepdim=True))
        w = torch.acos(cosine.clamp(-1, 1))
        safe = torch.sin(w) > 1e-4
        w = torch.where(safe, w, 1)
        for k in range(n):
            a, c = 1 - k / n, k / n
            if mode == "slerp":
                a, c = (torch.where(safe, torch.sin(s * w) / torch.sin(w), s) for s in (a, c))
            frames.append(p if k == 0 else a * p + c * q)
    return torch.stack([*frames, z[:, -1]], dim=1)


@pytest.mark.parametrize("mode", ["lerp", "slerp"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(emulated_gpu: EmulatedGpu, case: str, dtype: torch.dtype, mode: str) -> None:
    _, keys, _, n, offset = CASES[case]
    z = make(case, dtype)
    weights = None
    # Among hundreds of latents of three numbers some are all but opposite, where slerp loses three digits.
    floor = 1e-11 if dtype == torch.float64 and mode == "slerp" else None
    if mode == "slerp":
        (weights,) = in_every_order(emulated_gpu, lambda: [emulated_gpu.slerp_weights(z, n, offset)])
        expected = _slerp_weights(z[:, :, None, None], n)
        assert_accurate("weights", weights, expected.double(), expected, floor)
    (y,) = in_every_order(emulated_gpu, lambda: [emulated_gpu.interpolate_latents(z, weights, n, offset)])
    exact_z = z.double().clone().requires_grad_()
    exact = interpolate(exact_z, n, mode)
    assert_accurate("y", y, exact.detach(), exact.detach().to(dtype), floor)
    assert torch.equal(y[:, ::n], z), "a key frame is a copy, bit for bit"

    dy = torch.randn(exact.shape, dtype=torch.float64).to(dtype)

    def backward() -> list[Tensor]:
        if weights is None:
            return [emulated_gpu.interpolate_latents_backward(dy, n, keys, offset)]
        return [emulated_gpu.slerp_backward(dy, z, weights, offset)]

    (dz,) = in_every_order(emulated_gpu, backward)
    exact.backward(dy.double())
    own_z = z[..., None, None].clone().requires_grad_()
    reference.interpolate_latents(own_z, n, mode).backward(dy[..., None, None])
    assert_accurate("dz", dz, exact_z.grad, own_z.grad[..., 0, 0], floor)


@pytest.mark.parametrize("elements", [5, 515], ids=str)
def test_latents_without_an_angle(emulated_gpu: EmulatedGpu, elements: int) -> None:
    """Equal, parallel, opposite and zero latents are interpolated in a line, with its gradient."""
    key = torch.randn(elements)
    z = torch.stack([key, key, 2.5 * key, -key, torch.zeros(elements), key])[None]
    weights = emulated_gpu.slerp_weights(z, 3)
    assert torch.equal(emulated_gpu.interpolate_latents(z, weights, 3), emulated_gpu.interpolate_latents(z, None, 3))
    dy = torch.randn(1, 16, elements)
    line = emulated_gpu.interpolate_latents_backward(dy, 3, 6)
    assert torch.equal(emulated_gpu.slerp_backward(dy, z, weights), line)


@pytest.mark.parametrize("gap", [1e-3, 3.1405])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_small_and_large_angles(emulated_gpu: EmulatedGpu, gap: float, dtype: torch.dtype) -> None:
    """One minus a cosine in float32 would have no digit left."""
    p, q = torch.linalg.qr(torch.randn(500, 2, dtype=torch.float64)).Q.T
    z = torch.stack([p, torch.cos(torch.tensor(gap)) * p + torch.sin(torch.tensor(gap)) * q])[None].to(dtype)
    exact = interpolate(z.double(), 4, "slerp")
    y = emulated_gpu.interpolate_latents(z, emulated_gpu.slerp_weights(z, 4), 4)
    assert_accurate("y", y, exact, exact.to(dtype), floor=1e-9 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0)], ids=str)
def test_nothing_to_do(emulated_gpu: EmulatedGpu, shape: tuple[int, int, int]) -> None:
    z = torch.zeros(shape)
    weights = emulated_gpu.slerp_weights(z, 2)
    assert emulated_gpu.kernels == []
    y = emulated_gpu.interpolate_latents(z, weights, 2)
    assert emulated_gpu.kernels == []
    emulated_gpu.interpolate_latents_backward(y, 2, shape[1])
    assert emulated_gpu.kernels == []
    emulated_gpu.slerp_backward(y, z, weights)
    assert emulated_gpu.kernels == []


def test_every_kernel_is_in_the_cases(emulated_gpu: EmulatedGpu) -> None:
    """A kernel that no case above launches would be untested."""
    launched: set[str] = set()
    for case in ("vectors", "odd elements"):
        _, keys, _, n, _ = CASES[case]
        for dtype in DTYPES:
            z = make(case, dtype)
            weights = emulated_gpu.slerp_weights(z, n)
            launched |= set(emulated_gpu.kernels)
            y = emulated_gpu.interpolate_latents(z, weights, n)
            launched |= set(emulated_gpu.kernels)
            emulated_gpu.interpolate_latents_backward(y, n, keys)
            launched |= set(emulated_gpu.kernels)
            emulated_gpu.slerp_backward(y, z, weights)
            assert len(emulated_gpu.kernels) == 2
            launched |= set(emulated_gpu.kernels)
    kernels = kernels_of(emulated_gpu.path, ["interpolate_latents.cuh", "cuda/slerp.cuh"])
    assert len(kernels) == 7 * 5 + 2
    assert kernels == launched
