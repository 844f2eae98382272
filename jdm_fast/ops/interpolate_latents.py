"""Every in-between latent of a sequence of key latents, after Algorithm 2 of the JWDM paper.

``jdm_fast::interpolate_latents`` returns (y, weights). Key frames are copied, never multiplied, so they are exact. Of
``lerp`` the kernels know the weights, and ``jdm_fast::interpolate_latents_backward`` is its transpose. Of ``slerp`` the
weights come from inner products over whole latents, taken in double; they are kept, with their derivatives in the angle
and the angle's gradient (csrc/kernels/interpolate_latents.h), for a backward pass that reads dy once.

Autocast leaves both alone: frames have the dtype of the latents, weights and sums are float32 (float64 for float64).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jdm_fast.ops import _library, reference
from jdm_fast.ops.reference import accumulation_dtype

MODES = ("lerp", "slerp")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

_library.define("interpolate_latents(Tensor z, SymInt n, str mode) -> (Tensor y, Tensor weights)")
# z and weights for slerp, None for lerp.
_library.define("interpolate_latents_backward(Tensor dy, Tensor? z, Tensor? weights, SymInt n) -> Tensor")
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
    if not isinstance(z, Tensor):
        raise TypeError(f"interpolate_latents: z must be a tensor, got {type(z).__name__}")
    if type(n) is not int and (isinstance(n, bool) or not isinstance(n, (int, torch.SymInt))):
        raise TypeError(f"interpolate_latents: n must be an int, got {type(n).__name__}")
    if torch.compiler.is_compiling():
        return _forward_op(z, n, mode)[0]
    if z.requires_grad and torch.is_grad_enabled():
        return _EagerInterpolateLatents.apply(z, n, mode)
    with _library.below_autograd():
        return _forward_op(z, n, mode)[0]


# ---- checks and layout; csrc/bindings/interpolate_latents.cpp makes the same ones


def _check_rows(op: str, name: str, x: Tensor) -> None:
    if x.dtype not in DTYPES:
        raise TypeError(f"{op}: {name} must be float32, float16, bfloat16 or float64, got {x.dtype}")
    if x.dim() not in (4, 5):
        raise ValueError(f"{op}: {name} must be [T, C, h, w] or [B, T, C, h, w], got {list(x.shape)}")
    if x.shape[-4] < 1:
        what = "key latent" if name == "z" else "frame"
        raise ValueError(f"{op}: {name} must hold at least one {what} (T >= 1), got {list(x.shape)}")


def _check(z: Tensor, n: int, mode: str) -> None:
    _check_rows("interpolate_latents", "z", z)
    if n < 1:
        raise ValueError(f"interpolate_latents: n must be at least 1, got {n}")
    if mode not in MODES:
        raise ValueError(f"interpolate_latents: mode must be one of {', '.join(MODES)}, got {mode!r}")


def _check_backward(dy: Tensor, z: Tensor | None, weights: Tensor | None, n: int) -> None:
    op = "interpolate_latents_backward"
    _check_rows(op, "dy", dy)
    if n < 1 or (dy.shape[-4] - 1) % n != 0:
        raise ValueError(f"{op}: dy must hold (T-1)*n + 1 frames with n = {n}, got {list(dy.shape)}")
    if (z is None) != (weights is None):
        raise ValueError(f"{op}: z and weights go together, for slerp; got one")
    if z is None or weights is None:
        return
    gaps = (dy.shape[-4] - 1) // n
    expected = [*dy.shape[:-4], gaps + 1, *dy.shape[-3:]]
    if list(z.shape) != expected:
        raise ValueError(f"{op}: z must be {expected} with dy {list(dy.shape)}, got {list(z.shape)}")
    if z.dtype != dy.dtype:
        raise TypeError(f"{op}: z must be {dy.dtype} like dy, got {z.dtype}")
    if z.device != dy.device:
        raise ValueError(f"{op}: z must be on {dy.device} like dy, got {z.device}")
    rows = [dy.shape[0] if dy.dim() == 5 else 1, gaps, n + 1, 4]
    if list(weights.shape) != rows:
        raise ValueError(f"{op}: weights must be {rows}, got {list(weights.shape)}")
    if weights.dtype != accumulation_dtype(dy.dtype):
        raise TypeError(f"{op}: weights must be {accumulation_dtype(dy.dtype)}, got {weights.dtype}")
    if weights.device != dy.device:
        raise ValueError(f"{op}: weights must be on {dy.device} like dy, got {weights.device}")


def _empty_rows(like: Tensor, rows: int) -> Tensor:
    """``like``, [T, C, h, w] or [B, T, C, h, w], with another T: channels last if ``like`` is, else contiguous."""
    if not like.is_contiguous() and like.movedim(-3, -1).is_contiguous():
        c, h, w = like.shape[-3:]
        return like.new_empty((*like.shape[:-4], rows, h, w, c)).movedim(-1, -3)
    return like.new_empty((*like.shape[:-4], rows, *like.shape[-3:]))


# ---- plain PyTorch implementations, used for a device that the extension has no kernel for


def _by_sequence(x: Tensor) -> Tensor:
    """[B, T, E] of [T, C, h, w] or [B, T, C, h, w]."""
    return (x if x.dim() == 5 else x.unsqueeze(0)).flatten(2)


def _slerp_weights(z: Tensor, n: int) -> Tensor:
    """[B, T-1, n + 1, 4]: rows of a, c, da/dw, dc/dw; last p2, pq, q2, 0. See csrc/kernels/interpolate_latents.h."""
    value = _by_sequence(z).double()
    p, q = value[:, :-1], value[:, 1:]
    pp, qq, pq = ((a * b).sum(-1) for a, b in ((p, p), (q, q), (p, q)))  # [B, T-1]
    both = pp.sqrt() * qq.sqrt()
    cosine = pq / torch.where(both > 0, both, 1)
    sine2 = (1 - cosine) * (1 + cosine)
    safe = (both > 0) & (sine2 > 1e-8)
    sine = torch.where(safe, sine2, 1).sqrt()
    w = torch.atan2(sine, cosine)[..., None]
    r = torch.arange(n, dtype=value.dtype, device=value.device) / n
    rows = []
    for s in (1 - r, r):
        rows.append(torch.where(safe[..., None], torch.sin(s * w) / sine[..., None], s))
    for s in (1 - r, r):
        slope = (s * torch.cos(s * w) * sine[..., None] - torch.sin(s * w) * cosine[..., None]) / sine[..., None] ** 2
        rows.append(torch.where(safe[..., None], slope, 0))
    turn = [cosine / (sine * pp), -1 / (sine * both), cosine / (sine * qq)]
    turn = torch.stack([*(torch.where(safe, t, 0) for t in turn), torch.zeros_like(sine)], dim=-1)
    return torch.cat([torch.stack(rows, dim=-1), turn[:, :, None]], dim=2).to(accumulation_dtype(z.dtype))


def _forward_reference(z: Tensor, n: int, mode: str) -> tuple[Tensor, Tensor]:
    _check(z, n, mode)
    y = _empty_rows(z, (z.shape[-4] - 1) * n + 1)
    y.copy_(reference.interpolate_latents(z, n, mode))
    if mode == "lerp":
        return y, z.new_empty(0, dtype=accumulation_dtype(z.dtype))
    weights = _slerp_weights(z, n)
    return y, weights if y.numel() > 0 else torch.zeros_like(weights)


def _backward_reference(dy: Tensor, z: Tensor | None, weights: Tensor | None, n: int) -> Tensor:
    _check_backward(dy, z, weights, n)
    frames = _by_sequence(dy).to(accumulation_dtype(dy.dtype))  # [B, (T-1)*n + 1, E]
    gaps = (frames.shape[1] - 1) // n
    dz = frames[:, ::n].clone()  # a key's own frame is a copy
    in_between = frames[:, :-1].unflatten(1, (gaps, n))[:, :, 1:]  # [B, T-1, n-1, E]
    if weights is None:
        after = torch.arange(1, n, dtype=dz.dtype, device=dz.device) / n
        rows = torch.stack([1 - after, after], dim=-1).expand(1, gaps, n - 1, 2)
    else:
        rows = weights[:, :, 1:n]
    dz[:, :-1] += (rows[..., :1] * in_between).sum(2)
    dz[:, 1:] += (rows[..., 1:2] * in_between).sum(2)
    if z is not None and weights is not None:
        keys = _by_sequence(z).to(dz.dtype)
        p, q = keys[:, :-1], keys[:, 1:]
        turning = in_between * (rows[..., 2:3] * p[:, :, None] + rows[..., 3:] * q[:, :, None])
        d = turning.sum((2, 3))[..., None] * weights[:, :, n]  # <dy, dy/dw> times the parts of dw/dz
        dz[:, :-1] += d[..., :1] * p + d[..., 1:2] * q
        dz[:, 1:] += d[..., 1:2] * p + d[..., 2:3] * q
    like = dy if z is None else z
    result = _empty_rows(like, gaps + 1)
    result.copy_(dz.view(result.shape))
    return result


_library.register_reference("interpolate_latents", _forward_reference)
_library.register_reference("interpolate_latents_backward", _backward_reference)


# ---- fakes


@torch.library.register_fake("jdm_fast::interpolate_latents")
def _forward_fake(z: Tensor, n: int, mode: str) -> tuple[Tensor, Tensor]:
    _check(z, n, mode)
    gaps = z.shape[-4] - 1
    sequences = z.shape[0] if z.dim() == 5 else 1
    shape = (sequences, gaps, n + 1, 4) if mode == "slerp" else (0,)
    return _empty_rows(z, gaps * n + 1), z.new_empty(shape, dtype=accumulation_dtype(z.dtype))


@torch.library.register_fake("jdm_fast::interpolate_latents_backward")
def _backward_fake(dy: Tensor, z: Tensor | None, weights: Tensor | None, n: int) -> Tensor:
    _check_backward(dy, z, weights, n)
    return _empty_rows(dy if z is None else z, (dy.shape[-4] - 1) // n + 1)


# ---- derivatives


def _setup_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    z, ctx.n, mode = inputs
    _, weights = output
    ctx.save_for_backward(*((z, weights) if mode == "slerp" else (None, None)))
    ctx.mark_non_differentiable(weights)
    ctx.set_materialize_grads(False)


def _forward_derivative(ctx: Any, dy: Tensor | None, _: None = None) -> tuple[Tensor | None, None, None]:
    if dy is None:
        return None, None, None
    z, weights = ctx.saved_tensors
    if torch.is_grad_enabled():  # the derivative of this derivative is asked for
        return _backward_op(dy, z, weights, ctx.n), None, None
    with _library.below_autograd():
        return _backward_op(dy, z, weights, ctx.n), None, None


class _EagerInterpolateLatents(torch.autograd.Function):
    """The op with its derivative, called without the dispatcher's detour through torch.library's Python autograd."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, n: int, mode: str) -> Tensor:
        with _library.below_autograd():
            y, weights = _forward_op(z, n, mode)
        ctx.n = n
        if mode == "slerp":
            ctx.save_for_backward(z, weights)
        else:
            ctx.save_for_backward(None, None)
        ctx.set_materialize_grads(False)
        return y

    backward = staticmethod(_forward_derivative)


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dy, z, _, ctx.n = inputs
    ctx.save_for_backward(None if z is None else dy, z)


def _backward_derivative(ctx: Any, u: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    """Second order: gradients of ``<u, dz>`` in dy and, for slerp, in z, whose function the weights are.

    lerp is linear, so dz's transpose is the op itself. Slerp's come from plain PyTorch, differentiated twice; with
    gradients recorded, so that higher orders follow.
    """
    dy, z = ctx.saved_tensors
    if z is None:
        return _forward_op(u, ctx.n, "lerp")[0], None, None, None
    needs_dy, needs_z = ctx.needs_input_grad[:2]
    with torch.autocast(u.device.type, enabled=False):
        d_dy, d_z = _second_order(u, dy, z, ctx.n, torch.is_grad_enabled())
    return d_dy if needs_dy else None, d_z if needs_z else None, None, None


def _second_order(u: Tensor, dy: Tensor, z: Tensor, n: int, create_graph: bool) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        if not create_graph:
            u, dy, z = u.detach(), dy.detach().requires_grad_(), z.detach().requires_grad_()
        else:  # tensors of their own, whose history nothing below looks into
            dy, z = (t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for t in (dy, z))
        y = reference.interpolate_latents(z, n, "slerp")
        (dz,) = torch.autograd.grad(y, z, dy, create_graph=True)
        return torch.autograd.grad(dz, (dy, z), u, create_graph=create_graph, materialize_grads=True)


torch.library.register_autograd("jdm_fast::interpolate_latents", _forward_derivative, setup_context=_setup_forward)
torch.library.register_autograd(
    "jdm_fast::interpolate_latents_backward", _backward_derivative, setup_context=_setup_backward
)
