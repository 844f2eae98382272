"""jdm_fast.ops.interpolate_latents against Algorithm 2 written out, in float64."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor

from jdm_fast import ops
from tests.ops.interpolate_latents_cases import CASES, algorithm_2, latents, layouts, modes

module = sys.modules["jdm_fast.ops.interpolate_latents"]


def same_layout(a: Tensor, b: Tensor) -> bool:
    return a.movedim(-3, -1).is_contiguous() if b.movedim(-3, -1).is_contiguous() else a.is_contiguous()


# ---- values and gradients


@pytest.mark.parametrize(("shape", "n"), CASES, ids=str)
@modes
@layouts
def test_values_and_gradients(
    shape: tuple[int, ...],
    n: int,
    mode: str,
    channels_last: bool,
    dtype: torch.dtype,
    device: torch.device,
    assert_accurate: Callable,
) -> None:
    z = latents(shape, dtype, channels_last=channels_last).to(device).requires_grad_()
    y = ops.interpolate_latents(z, n, mode)
    assert y.dtype == dtype
    assert same_layout(y, z)
    exact_z = z.detach().double().requires_grad_()
    exact = algorithm_2(exact_z, n, mode)
    own_z = z.detach().clone().requires_grad_()
    own = ops.reference.interpolate_latents(own_z, n, mode)
    assert_accurate("y", y, exact.detach(), own.detach())
    key_frames = y[::n] if z.dim() == 4 else y[:, ::n]
    assert torch.equal(key_frames, z), "key frames come back bit for bit"

    dy = latents(tuple(y.shape), dtype, channels_last=channels_last, seed=1).to(device)
    (dz,) = torch.autograd.grad(y, z, dy)
    assert dz.dtype == dtype
    (exact_dz,) = torch.autograd.grad(exact, exact_z, dy.double())
    (own_dz,) = torch.autograd.grad(own, own_z, dy)
    assert_accurate("dz", dz, exact_dz, own_dz)


def test_time_order(device: torch.device) -> None:
    z = torch.tensor([0.0, 8.0, -8.0], device=device).view(3, 1, 1, 1)
    expected = [0, 2, 4, 6, 8, 4, 0, -4, -8]
    assert ops.interpolate_latents(z, 4).flatten().tolist() == expected


def test_slerp_stays_on_the_sphere_and_moves_evenly(device: torch.device) -> None:
    z = (
        torch.nn.functional.normalize(latents((2, 6, 5, 4), torch.float32).flatten(1), dim=1)
        .view(2, 6, 5, 4)
        .to(device)
    )
    y = ops.interpolate_latents(z, 9, "slerp").flatten(1)
    torch.testing.assert_close(y.norm(dim=1), torch.ones(10, device=device))
    angles = torch.acos((y[1:] * y[:-1]).sum(1).clamp(-1, 1))
    torch.testing.assert_close(angles, angles.mean().expand(9), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("factor", [0.0, 1.0, 2.5, -1.0])
def test_slerp_of_parallel_latents_is_lerp(factor: float, device: torch.device) -> None:
    """No angle (equal, parallel, opposite, or a zero latent): the straight line, with a finite gradient."""
    begin = latents((1, 3, 4, 4), torch.float32).to(device)
    z = torch.cat([begin, factor * begin]).requires_grad_()
    y = ops.interpolate_latents(z, 4, "slerp")
    torch.testing.assert_close(y, ops.interpolate_latents(z, 4))
    assert torch.autograd.grad(y.square().sum(), z)[0].isfinite().all()


def test_nan_stays_in_its_frames(device: torch.device) -> None:
    z = latents((4, 2, 3, 3), torch.float32).to(device)
    z[1, 0, 0, 0] = float("nan")
    bad = ops.interpolate_latents(z, 3).isnan().flatten(1).any(1)
    assert bad.tolist() == [False, True, True, True, True, True, False, False, False, False]


def test_rows_do_not_overlap(device: torch.device) -> None:
    """Sequences one by one give the same bits as together, for rests of vectors of every length."""
    for elements in (1, 3, 8, 15, 17, 31, 64, 65, 2049):
        z = latents((3, 3, elements, 1, 1), torch.float32).to(device)
        y = ops.interpolate_latents(z, 3)
        assert torch.equal(y, torch.stack([ops.interpolate_latents(sequence, 3) for sequence in z]))


# ---- strides, threads


@modes
def test_strided_latents(mode: str, device: torch.device) -> None:
    full = latents((6, 8, 10, 14), torch.float32).to(device)
    views = {
        "sliced": full[::2, 1::2, 2:, ::3],
        "expanded": full[:1].expand(3, -1, -1, -1),
        "transposed": full.transpose(2, 3),
        "offset": full.flatten()[7 : 7 + 2 * 3 * 5 * 4].view(2, 3, 5, 4),
        "part of channels_last": full.contiguous(memory_format=torch.channels_last)[1:4],
    }
    for name, z in views.items():
        y = ops.interpolate_latents(z, 3, mode)
        torch.testing.assert_close(
            y, ops.interpolate_latents(z.contiguous(), 3, mode), msg=lambda text, name=name: f"{name}: {text}"
        )
    last = ops.interpolate_latents(views["part of channels_last"], 3, mode)
    assert last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(3, 7, 60, 61), (5, 2, 64, 16, 16)], ids=str)
def test_threads_do_not_change_a_bit(shape: tuple[int, ...], threads: Callable[[int], None]) -> None:
    z = latents(shape, torch.float32).requires_grad_()
    results = []
    for count in (1, 2, 5):
        threads(count)
        y = ops.interpolate_latents(z, 4)
        results.append([y.detach(), *torch.autograd.grad(y, z, torch.cos(3 * y.detach()))])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


# ---- torch.library, torch.compile, autocast


OP_CASES = [((3, 4, 5, 2), 3), ((2, 3, 4, 5, 2), 3), ((1, 1, 4, 1, 1), 2), ((2, 6, 1, 2), 1), ((0, 2, 3, 1, 1), 2)]


@modes
@layouts
def test_fallback_agrees_with_the_kernel(mode: str, channels_last: bool) -> None:
    for shape, n in [*OP_CASES, ((2, 3, 0, 1, 2), 2)]:
        z = latents(shape, channels_last=channels_last)
        y, weights = torch.ops.jdm_fast.interpolate_latents(z, n, mode)
        expected, expected_weights = module._forward_reference(z, n, mode)
        slerp = (z, weights) if mode == "slerp" else (None, None)
        dy = latents(tuple(y.shape), channels_last=channels_last, seed=2)
        dz = torch.ops.jdm_fast.interpolate_latents_backward(dy, *slerp, n)
        for ours, fallback in (
            (y, expected),
            (weights, expected_weights),
            (dz, module._backward_reference(dy, *slerp, n)),
        ):
            torch.testing.assert_close(ours, fallback)
            assert ours.stride() == fallback.stride()


@pytest.mark.parametrize("factor", [0.0, 2.5, -1.0])
def test_fallback_of_parallel_latents(factor: float) -> None:
    begin = latents((1, 3, 4, 4))
    z = torch.cat([begin, factor * begin])
    for ours, fallback in zip(
        torch.ops.jdm_fast.interpolate_latents(z, 4, "slerp"), module._forward_reference(z, 4, "slerp"), strict=True
    ):
        torch.testing.assert_close(ours, fallback)


@modes
@layouts
def test_opcheck(mode: str, channels_last: bool) -> None:
    forward, backward = torch.ops.jdm_fast.interpolate_latents, torch.ops.jdm_fast.interpolate_latents_backward
    for (shape, n), dtype in zip(
        OP_CASES, (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float32), strict=True
    ):
        z = latents(shape, dtype, channels_last=channels_last)
        torch.library.opcheck(forward.default, (z.clone().requires_grad_(), n, mode))
        y, weights = forward(z, n, mode)
        dy = latents(tuple(y.shape), dtype, channels_last=channels_last).requires_grad_()
        slerp = (z.requires_grad_(), weights) if mode == "slerp" else (None, None)
        torch.library.opcheck(backward.default, (dy, *slerp, n))


@modes
def test_compile_fullgraph_forward_and_backward(mode: str) -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    def function(z: Tensor) -> Tensor:
        return ops.interpolate_latents(z * 2, 4, mode).sin()

    compiled = torch.compile(function, fullgraph=True, dynamic=False, backend=counter)
    for seed in range(3):
        z = latents((3, 2, 4, 5), torch.float32, channels_last=True, seed=seed).requires_grad_()
        results = []
        for candidate in (function, compiled):
            y = candidate(z)
            assert y.is_contiguous(memory_format=torch.channels_last)
            results.append([y, *torch.autograd.grad(y.square().sum(), z)])
        for ours, expected in zip(*results, strict=True):
            torch.testing.assert_close(ours, expected)
    assert counter.frame_count == 1, "compiled again for inputs that differ only in their values"


def test_compile_dynamic_shapes() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda z: ops.interpolate_latents(z, 3), fullgraph=True, dynamic=True, backend="aot_eager")
    for keys, size in ((3, 5), (4, 8), (6, 11)):
        z = latents((keys, 2, size, size + 1), torch.float32).requires_grad_()
        torch.testing.assert_close(compiled(z), ops.interpolate_latents(z, 3))


def test_autocast_keeps_the_dtype() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        z = latents((3, 2, 4, 5), dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = ops.interpolate_latents(z, 3, "slerp")
        assert y.dtype == dtype
        assert torch.equal(y, ops.interpolate_latents(z, 3, "slerp"))


# ---- bad arguments

Z = torch.zeros(2, 3, 4, 4)
BAD_ARGUMENTS: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    ((Z[0], 2), ValueError, r"z must be \[T, C, h, w\] or \[B, T, C, h, w\], got \[3, 4, 4\]"),
    ((Z[:0], 2), ValueError, r"z must hold at least one key latent \(T >= 1\), got \[0, 3, 4, 4\]"),
    ((Z.int(), 2), TypeError, "z must be float32, float16, bfloat16 or float64, got "),
    (([1.0, 2.0], 2), TypeError, "z must be a tensor, got list"),
    ((Z, 0), ValueError, "n must be at least 1, got 0"),
    ((Z, 2.0), TypeError, "n must be an int, got float"),
    ((Z, True), TypeError, "n must be an int, got bool"),
    ((Z, 2, "cubic"), ValueError, "mode must be one of lerp, slerp, got 'cubic'"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_ARGUMENTS, ids=[m[:25] for _, _, m in BAD_ARGUMENTS])
def test_bad_arguments(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="interpolate_latents: " + message):
        ops.interpolate_latents(*arguments)


BAD_OP_ARGUMENTS = [(Z[0], 2, "lerp"), (Z[:0], 2, "lerp"), (Z.int(), 2, "lerp"), (Z, 0, "lerp"), (Z, 2, "cubic")]


@pytest.mark.parametrize("arguments", BAD_OP_ARGUMENTS, ids=range(len(BAD_OP_ARGUMENTS)))
def test_kernel_and_fallback_refuse_the_same(arguments: tuple[Any, ...]) -> None:
    """In the same words, but for the name of the dtype that came."""
    messages = []
    for function in (torch.ops.jdm_fast.interpolate_latents, module._forward_reference):
        with pytest.raises((TypeError, ValueError)) as error:
            function(*arguments)
        messages.append((error.type, str(error.value).split(", got")[0]))
    assert messages[0] == messages[1]


DY, W = torch.zeros(9, 3, 4, 4), torch.zeros(1, 2, 5, 4)
Z3 = torch.zeros(3, 3, 4, 4)
BAD_GRADIENT_ARGUMENTS: list[tuple[tuple[Any, ...], type[Exception], str]] = [  # dy, z, weights, n
    ((DY[:8], None, None, 4), ValueError, r"dy must hold \(T-1\)\*n \+ 1 frames with n = 4, got \[8, 3, 4, 4\]"),
    ((DY, None, None, 0), ValueError, r"dy must hold \(T-1\)\*n \+ 1 frames with n = 0, got \[9, 3, 4, 4\]"),
    ((DY[:0], None, None, 4), ValueError, r"dy must hold at least one frame"),
    ((DY[0], None, None, 4), ValueError, r"dy must be \[T, C, h, w\] or \[B, T, C, h, w\], got \[3, 4, 4\]"),
    ((DY.int(), None, None, 4), TypeError, r"dy must be float32, float16, bfloat16 or float64"),
    ((DY, Z3, None, 4), ValueError, r"z and weights go together, for slerp; got one"),
    ((DY, Z, W, 4), ValueError, r"z must be \[3, 3, 4, 4\] with dy \[9, 3, 4, 4\], got \[2, 3, 4, 4\]"),
    ((DY, Z3.double(), W, 4), TypeError, r"z must be .* like dy, got"),
    ((DY, Z3.to("meta"), W, 4), ValueError, r"z must be on cpu like dy, got meta"),
    ((DY, Z3, W[0], 4), ValueError, r"weights must be \[1, 2, 5, 4\], got \[2, 5, 4\]"),
    ((DY, Z3, W.double(), 4), TypeError, r"weights must be .*, got"),
    ((DY, Z3, W.to("meta"), 4), ValueError, r"weights must be on cpu like dy, got meta"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_GRADIENT_ARGUMENTS, ids=range(12))
def test_bad_gradient_arguments(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    """The kernel and the plain implementation refuse the same things in the same words."""
    for function in (torch.ops.jdm_fast.interpolate_latents_backward, module._backward_reference):
        with pytest.raises(error, match="interpolate_latents_backward: " + message):
            function(*arguments)


def test_key_angle_of_known_vectors() -> None:
    """A quarter turn in two steps passes through 45 degrees."""
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64).view(2, 2, 1, 1)
    middle = ops.interpolate_latents(z, 2, "slerp")[1].flatten()
    torch.testing.assert_close(middle, torch.full((2,), math.sqrt(0.5), dtype=torch.float64))
