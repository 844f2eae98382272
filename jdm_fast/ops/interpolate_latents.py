"""Every in-between latent of a sequence of key latents, after Algorithm 2 of the JWDM paper.

``jdm_fast::interpolate_latents`` combines neighbouring key latents [B, T, ...] with coefficients [B, T-1, n, 2], which
tell it n; ``jdm_fast::interpolate_latents_backward`` is its transpose. Key frames are copied, never multiplied, so they
are exact and their coefficients have gradient 0. The coefficients of slerp are plain PyTorch functions of the latents.

Autocast leaves both alone: frames have the dtype of the latents, weights and sums are float32 (float64 for float64).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jdm_fast.ops import _library
from jdm_fast.ops.reference import accumulation_dtype, interpolation_coefficients

MODES = ("lerp", "slerp")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

_library.define("interpolate_latents(Tensor latents, Tensor coefficients) -> Tensor")
_library.define("interpolate_latents_backward(Tensor dy, Tensor coefficients) -> Tensor")
_forward_op = torch.ops.jdm_fast.interpolate_latents.default
_backward_op = torch.ops.jdm_fast.interpolate_latents_backward.default


def interpolate_latents(z: Tensor, n: int, mode: str = "lerp") -> Tensor:
    """All ``(T-1)*n + 1`` latents of a sequence of ``T`` key latents, in time order, the key latents among them.

    Frame ``t*n + k`` is ``(1 - k/n) z[t] + (k/n) z[t+1]`` (``lerp``, Algorithm 2 of the JWDM paper), or, with ``w`` the
    angle between the two flattened latents, ``(sin((1 - k/n) w) z[t] + sin((k/n) w) z[t+1]) / sin(w)`` (``slerp``; it
    is ``lerp`` where ``sin(w) < 1e-4``). Key latents come back bit for bit.

    Differentiable to any order. Works under ``torch.compile(fullgraph=True)``, which itself supports first derivatives
    only. Equal to :func:`jdm_fast.ops.reference.interpolate_latents`.

    Args:
        z: [T, C, h, w], or B sequences [B, T, C, h, w] (B pairs: T = 2); float32, float16, bfloat16 or float64. T >= 1;
            B, C, h and w may be 0. Contiguous and channels-last latents are taken as they are, others are copied first.
        n: steps from one key latent to the next, >= 1, so ``n - 1`` latents between two neighbours.
        mode: ``"lerp"`` or ``"slerp"``.

    Returns:
        [(T-1)*n + 1, C, h, w] or [B, (T-1)*n + 1, C, h, w], in the dtype of ``z``; channels last if ``z`` is.

    Raises:
        TypeError: ``z`` is not a tensor of one of these dtypes, or ``n`` is not an int.
        ValueError: a shape, ``n`` or ``mode`` that does not fit; the message says what was expected and what came.
    """
    _check_arguments(z, n, mode)
    # The op works on the numbers of a latent in memory order: channels-last latents pass through it as [..., h, w, C].
    channels_last = not z.is_contiguous() and z.movedim(-3, -1).is_contiguous()
    keys = z.movedim(-3, -1) if channels_last else z
    if z.dim() == 4:
        keys = keys.unsqueeze(0)
    y = _forward_op(keys, interpolation_coefficients(keys, n, mode))
    if z.dim() == 4:
        y = y.squeeze(0)
    return y.movedim(-1, -3) if channels_last else y


# ---- checks


def _check_arguments(z: Tensor, n: int, mode: str) -> None:
    if not isinstance(z, Tensor):
        raise TypeError(f"interpolate_latents: z must be a tensor, got {type(z).__name__}")
    if z.dtype not in DTYPES:
        raise TypeError(f"interpolate_latents: z must be float32, float16, bfloat16 or float64, got {z.dtype}")
    if z.dim() not in (4, 5):
        raise ValueError(f"interpolate_latents: z must be [T, C, h, w] or [B, T, C, h, w], got {list(z.shape)}")
    if z.shape[-4] < 1:
        raise ValueError(f"interpolate_latents: z must hold at least one key latent (T >= 1), got {list(z.shape)}")
    if isinstance(n, bool) or not isinstance(n, (int, torch.SymInt)):
        raise TypeError(f"interpolate_latents: n must be an int, got {type(n).__name__}")
    if n < 1:
        raise ValueError(f"interpolate_latents: n must be at least 1, got {n}")
    if mode not in MODES:
        raise ValueError(f"interpolate_latents: mode must be one of {', '.join(MODES)}, got {mode!r}")


def _check(x: Tensor, coefficients: Tensor, *, frames: bool) -> None:
    """``x`` is latents [B, T, ...] or, with ``frames``, dy [B, (T-1)*n + 1, ...].

    csrc/bindings/interpolate_latents.cpp makes the same checks.
    """
    name, op = ("dy", "interpolate_latents_backward") if frames else ("latents", "interpolate_latents")
    if x.dtype not in DTYPES:
        raise TypeError(f"{op}: {name} must be float32, float16, bfloat16 or float64, got {x.dtype}")
    if coefficients.dtype != accumulation_dtype(x.dtype):
        raise TypeError(f"{op}: coefficients must be {accumulation_dtype(x.dtype)}, got {coefficients.dtype}")
    if coefficients.device != x.device:
        raise ValueError(f"{op}: coefficients must be on {x.device} like {name}, got {coefficients.device}")
    if coefficients.dim() != 4 or coefficients.shape[2] < 1 or coefficients.shape[3] != 2:
        raise ValueError(f"{op}: coefficients must be [B, T-1, n, 2] with n >= 1, got {list(coefficients.shape)}")
    batch, gaps, n, _ = coefficients.shape
    rows = gaps * n + 1 if frames else gaps + 1
    if x.dim() < 2 or x.shape[0] != batch or x.shape[1] != rows:
        raise ValueError(
            f"{op}: {name} must be [{batch}, {rows}, ...] with coefficients {list(coefficients.shape)}, "
            f"got {list(x.shape)}"
        )


# ---- plain PyTorch implementations, used for a device that the extension has no kernel for


def _forward_reference(latents: Tensor, coefficients: Tensor) -> Tensor:
    _check(latents, coefficients, frames=False)
    keys = latents.flatten(2).to(coefficients.dtype)  # [B, T, E]
    begin, end = keys[:, :-1, None], keys[:, 1:, None]  # [B, T-1, 1, E]
    weight = coefficients[:, :, 1:, :, None]  # [B, T-1, n-1, 2, 1]
    in_between = weight[:, :, :, 0] * begin + weight[:, :, :, 1] * end
    y = torch.cat([torch.cat([begin, in_between], dim=2).flatten(1, 2), keys[:, -1:]], dim=1)
    return y.to(latents.dtype).view(y.shape[:2] + latents.shape[2:]).contiguous()


def _backward_reference(dy: Tensor, coefficients: Tensor) -> Tensor:
    _check(dy, coefficients, frames=True)
    frames = dy.flatten(2).to(coefficients.dtype)  # [B, (T-1)*n + 1, E]
    in_between = _by_gap(frames, coefficients)[:, :, 1:]  # [B, T-1, n-1, E]
    weight = coefficients[:, :, 1:, :, None]  # [B, T-1, n-1, 2, 1]
    begin, end = (weight[:, :, :, 0] * in_between).sum(2), (weight[:, :, :, 1] * in_between).sum(2)
    key_frames = frames[:, :: coefficients.shape[2]]  # [B, T, E]
    d_keys = key_frames + F.pad(begin, (0, 0, 0, 1)) + F.pad(end, (0, 0, 1, 0))
    return d_keys.to(dy.dtype).view(d_keys.shape[:2] + dy.shape[2:])


def _by_gap(frames: Tensor, coefficients: Tensor) -> Tensor:
    """[B, (T-1)*n + 1, E] without its last frame, as [B, T-1, n, E]."""
    return frames[:, :-1].reshape(coefficients.shape[:3] + frames.shape[2:])


_library.register_reference("interpolate_latents", _forward_reference)
_library.register_reference("interpolate_latents_backward", _backward_reference)


# ---- fakes


@torch.library.register_fake("jdm_fast::interpolate_latents")
def _forward_fake(latents: Tensor, coefficients: Tensor) -> Tensor:
    _check(latents, coefficients, frames=False)
    batch, gaps, n, _ = coefficients.shape
    return latents.new_empty((batch, gaps * n + 1, *latents.shape[2:]))


@torch.library.register_fake("jdm_fast::interpolate_latents_backward")
def _backward_fake(dy: Tensor, coefficients: Tensor) -> Tensor:
    _check(dy, coefficients, frames=True)
    batch, gaps = coefficients.shape[:2]
    return dy.new_empty((batch, gaps + 1, *dy.shape[2:]))


# ---- derivatives. The op is bilinear: y = A(c) z with A(c) in `_forward_op`, A(c)^T in `_backward_op`.


def _coefficient_gradient(dy: Tensor, latents: Tensor, coefficients: Tensor) -> Tensor:
    """Gradient of ``<dy, forward(latents, c)>`` in c: inner products of every in-between dy with the two key latents.

    [B, T-1, n, 2], zero at the key frames. Plain PyTorch, so higher orders follow by autograd.
    """
    with torch.autocast(dy.device.type, enabled=False):  # the product stays in the accumulation type
        in_between = _by_gap(dy.flatten(2).to(coefficients.dtype), coefficients)[:, :, 1:]  # [B, T-1, n-1, E]
        keys = latents.flatten(2).to(coefficients.dtype)  # [B, T, E]
        d_in_between = in_between @ torch.stack([keys[:, :-1], keys[:, 1:]], dim=3)  # [B, T-1, n-1, 2]
    return F.pad(d_in_between, (0, 0, 1, 0))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, coefficients = inputs
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, coefficients)


def _forward_derivative(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
    latents, coefficients = ctx.saved_tensors
    d_latents = _backward_op(dy, coefficients) if ctx.needs_input_grad[0] else None
    return d_latents, None if latents is None else _coefficient_gradient(dy, latents, coefficients)


def _backward_derivative(ctx: Any, u: Tensor) -> tuple[Tensor | None, Tensor | None]:
    # <u, backward(dy, c)> = <dy, forward(u, c)>: u takes the place of the latents.
    dy, coefficients = ctx.saved_tensors
    d_dy = _forward_op(u, coefficients) if ctx.needs_input_grad[0] else None
    return d_dy, None if dy is None else _coefficient_gradient(dy, u, coefficients)


torch.library.register_autograd("jdm_fast::interpolate_latents", _forward_derivative, setup_context=_setup)
torch.library.register_autograd("jdm_fast::interpolate_latents_backward", _backward_derivative, setup_context=_setup)
