"""jdm_fast.ops.interpolate_latents against Algorithm 2 written out, in float64, and its derivatives of every order."""

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

module = sys.modules["jdm_fast.ops.interpolate_latents"]

CASES = [  # shape of z, n
    ((2, 4, 3, 3), 4),  # one gap
    ((5, 3, 4, 5), 3),  # several gaps
    ((1, 3, 4, 5), 3),  # T = 1: nothing to interpolate
    ((3, 2, 3, 4), 1),  # n = 1: the keys themselves
    ((2, 1, 1, 1), 7),  # one number
    ((3, 8, 4, 8), 8),  # whole vectors
    ((3, 5, 37, 31), 8),  # several pieces and a rest
    ((2, 3, 2, 4, 5), 3),  # sequences
    ((4, 2, 16, 9, 7), 5),  # pairs
    ((3, 1, 2, 2, 2), 2),  # sequences of one
    ((0, 2, 3, 2, 2), 2),  # no sequences
    ((2, 3, 0, 4), 3),  # no numbers
]
MODES = module.MODES
modes = pytest.mark.parametrize("mode", MODES)
layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])


def latents(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float64, *, channels_last: bool = False, seed: int = 0
) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    z = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return z.movedim(-3, -1).contiguous().movedim(-1, -3) if channels_last else z


def algorithm_2(z: Tensor, n: int, mode: str) -> Tensor:
    """Frame by frame: z_k = (1 - k/n) z_begin + (k/n) z_end in time order, or the same on the sphere; the ends too."""
    if z.dim() == 5 and len(z) == 0:
        return z[:, :1].expand(-1, (z.shape[1] - 1) * n + 1, -1, -1, -1)
    if z.dim() == 5:
        return torch.stack([algorithm_2(sequence, n, mode) for sequence in z])
    frames = []
    for begin, end in zip(z[:-1], z[1:], strict=True):
        for k in range(n):
            a, c = 1 - k / n, k / n
            if mode == "slerp":
                cosine = (begin * end).sum() / (begin.norm() * end.norm())
                w = torch.acos(cosine.clamp(-1, 1))
                if torch.sin(w) > 1e-4:
                    a, c = torch.sin(a * w) / torch.sin(w), torch.sin(c * w) / torch.sin(w)
            frames.append(begin if k == 0 else a * begin + c * end)
    return torch.stack([*frames, z[-1]])


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


# ---- derivatives


@pytest.mark.parametrize("shape", [(3, 2, 2, 3), (2, 2, 1, 2, 2), (1, 2, 1, 2)], ids=str)
@modes
@layouts
def test_gradcheck_first_and_second_order(shape: tuple[int, ...], mode: str, channels_last: bool) -> None:
    z = latents(shape, channels_last=channels_last).requires_grad_()
    for n in (1, 3):
        assert torch.autograd.gradcheck(lambda z, n=n: ops.interpolate_latents(z, n, mode), z)
        assert torch.autograd.gradgradcheck(lambda z, n=n: ops.interpolate_latents(z, n, mode), z)


def test_gradients_of_the_coefficients() -> None:
    """Of both ops, as functions of both arguments. The key frames' coefficients are not read: their gradient is 0."""
    z = latents((2, 3, 5)).requires_grad_()
    dy = latents((2, 9, 5)).requires_grad_()
    coefficients = latents((2, 2, 4, 2)).requires_grad_()
    forward, backward = torch.ops.jdm_fast.interpolate_latents, torch.ops.jdm_fast.interpolate_latents_backward
    for function, x in ((forward, z), (backward, dy)):
        assert torch.autograd.gradcheck(function, (x, coefficients))
        assert torch.autograd.gradgradcheck(function, (x, coefficients))
        (gradient,) = torch.autograd.grad(function(x, coefficients).sum(), coefficients)
        assert (gradient[:, :, 0] == 0).all()
        assert (gradient[:, :, 1:] != 0).all()


def test_coefficient_gradient_under_autocast() -> None:
    """The inner products behind slerp's gradient stay in float32 when the backward pass runs inside autocast."""
    z = latents((2, 16, 8, 8), torch.float32).requires_grad_()
    weight = latents((6, 16, 8, 8), torch.float32, seed=3)
    (expected,) = torch.autograd.grad((ops.interpolate_latents(z, 5, "slerp") * weight).sum(), z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (inside,) = torch.autograd.grad((ops.interpolate_latents(z, 5, "slerp") * weight).sum(), z)
    torch.testing.assert_close(inside, expected, rtol=1e-6, atol=1e-6)


def test_incoming_gradients_of_any_stride(device: torch.device) -> None:
    z = latents((3, 4, 5, 6), torch.float32).to(device).requires_grad_()
    for dy in (
        torch.ones((), device=device).expand(5, 4, 5, 6),
        latents((5, 4, 6, 5), torch.float32).to(device).transpose(2, 3),
        latents((5, 4, 5, 6), torch.float32, channels_last=True).to(device),
    ):
        (ours,) = torch.autograd.grad(ops.interpolate_latents(z, 2), z, dy)
        (expected,) = torch.autograd.grad(ops.interpolate_latents(z, 2), z, dy.contiguous())
        assert torch.equal(ours, expected)


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


def test_fallback_agrees_with_the_kernel() -> None:
    for shape, n in (((2, 3, 4, 5), 3), ((1, 1, 4), 2), ((2, 2, 6), 1), ((0, 2, 3), 2), ((2, 3, 0), 2)):
        z, coefficients = latents(shape), latents((shape[0], shape[1] - 1, n, 2), seed=1)
        dy = latents((shape[0], (shape[1] - 1) * n + 1, *shape[2:]), seed=2)
        for ours, fallback in (
            (torch.ops.jdm_fast.interpolate_latents(z, coefficients), module._forward_reference(z, coefficients)),
            (
                torch.ops.jdm_fast.interpolate_latents_backward(dy, coefficients),
                module._backward_reference(dy, coefficients),
            ),
        ):
            torch.testing.assert_close(ours, fallback)
            assert ours.stride() == fallback.stride()


def test_opcheck() -> None:
    forward, backward = torch.ops.jdm_fast.interpolate_latents, torch.ops.jdm_fast.interpolate_latents_backward
    for shape, n, dtype in (
        ((2, 3, 4, 5), 3, torch.float32),
        ((1, 1, 4), 2, torch.bfloat16),
        ((0, 2, 3), 2, torch.float32),
    ):
        z, dy = latents(shape, dtype), latents((shape[0], (shape[1] - 1) * n + 1, *shape[2:]), dtype)
        coefficients = latents((shape[0], shape[1] - 1, n, 2), torch.float32).requires_grad_()
        torch.library.opcheck(forward.default, (z.requires_grad_(), coefficients))
        torch.library.opcheck(backward.default, (dy.requires_grad_(), coefficients))


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
    ((Z.int(), 2), TypeError, "z must be float32, float16, bfloat16 or float64, got torch.int32"),
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


C = torch.zeros(2, 2, 4, 2)
BAD_OP_ARGUMENTS: list[tuple[Tensor, Tensor, type[Exception], str]] = [  # latents, coefficients
    (torch.zeros(2, 4, 5), C, ValueError, r"\[2, 3, \.\.\.\] with coefficients \[2, 2, 4, 2\], got \[2, 4, 5\]"),
    (torch.zeros(3, 3, 5), C, ValueError, r"\[2, 3, \.\.\.\] with coefficients \[2, 2, 4, 2\], got \[3, 3, 5\]"),
    (torch.zeros(2, 3, 5), C[..., 0], ValueError, r"\[B, T-1, n, 2\] with n >= 1, got \[2, 2, 4\]"),
    (torch.zeros(2, 3, 5), C[:, :, :0], ValueError, r"\[B, T-1, n, 2\] with n >= 1, got \[2, 2, 0, 2\]"),
    (torch.zeros(2, 3, 5), C.double(), TypeError, "coefficients must be "),
    (torch.zeros(2, 3, 5), C.to("meta"), ValueError, "coefficients must be on cpu like latents, got meta"),
    (
        torch.zeros(2, 3, 5, dtype=torch.int64),
        C,
        TypeError,
        "latents must be float32, float16, bfloat16 or float64, got",
    ),
]


@pytest.mark.parametrize(("z", "coefficients", "error", "message"), BAD_OP_ARGUMENTS, ids=range(len(BAD_OP_ARGUMENTS)))
def test_bad_op_arguments(z: Tensor, coefficients: Tensor, error: type[Exception], message: str) -> None:
    """The kernel and the plain implementation refuse the same things in the same words."""
    for function in (torch.ops.jdm_fast.interpolate_latents, module._forward_reference):
        with pytest.raises(error, match="interpolate_latents: .*" + message):
            function(z, coefficients)


def test_bad_gradient_arguments() -> None:
    for function in (torch.ops.jdm_fast.interpolate_latents_backward, module._backward_reference):
        with pytest.raises(
            ValueError, match=r"interpolate_latents_backward: dy must be \[2, 9, \.\.\.\].*got \[2, 8, 5\]"
        ):
            function(torch.zeros(2, 8, 5), C)


def test_key_angle_of_known_vectors() -> None:
    """A quarter turn in two steps passes through 45 degrees."""
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64).view(2, 2, 1, 1)
    middle = ops.interpolate_latents(z, 2, "slerp")[1].flatten()
    torch.testing.assert_close(middle, torch.full((2,), math.sqrt(0.5), dtype=torch.float64))
