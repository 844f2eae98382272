"""Instance norm with the activation and the residual fused.

``jdm_fast::instance_norm`` returns (y, mean, rstd); ``jdm_fast::instance_norm_backward`` recomputes the activation's
mask from x, mean and rstd, so nothing of the size of x is stored but x itself. The residual's gradient is dy.

Weight and bias are [C], or [N, C]: a scale and a shift of each sample's own, as in a network that is modulated by a
style (adaptive instance norm). Their gradients have the same shape.

Autocast leaves both alone: x of any floating dtype goes with weight and bias of any floating dtype, sums and statistics
are float32 (float64 for float64 x), and y has the dtype of x.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from jdm_fast.ops import _library
from jdm_fast.ops.reference import accumulation_dtype, activate

ACTIVATIONS = ("none", "relu", "leaky_relu")

_library.define(
    "instance_norm(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, str activation, float negative_slope,"
    " float eps) -> (Tensor y, Tensor mean, Tensor rstd)"
)
# `eps` is read by the derivative of this op alone, which has to know mean and rstd as functions of x.
_library.define(
    "instance_norm_backward(Tensor dy, Tensor x, Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias,"
    " str activation, float negative_slope, float eps) -> (Tensor dx, Tensor d_weight, Tensor d_bias)"
)
_forward_op = torch.ops.jdm_fast.instance_norm.default
_backward_op = torch.ops.jdm_fast.instance_norm_backward.default


def instance_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    activation: str = "none",
    negative_slope: float = 0.01,
    eps: float = 1e-5,
) -> Tensor:
    """``act((x - mean) / sqrt(var + eps) * weight + bias) + residual``, mean and biased variance of each plane.

    Differentiable to any order in x, weight, bias and residual. Works under ``torch.compile(fullgraph=True)``, which
    itself supports first derivatives only. Equal to :func:`jdm_fast.ops.reference.instance_norm`.

    Args:
        x: [N, C, H, W], floating. Contiguous and channels_last tensors are taken as they are, others are copied first.
            Any of N, C, H, W may be 0; H*W may be 1 (then the plane's value is its mean).
        weight: [C], or [N, C] for values of each sample's own; any floating dtype and strides; or None for 1.
        bias: [C] or [N, C], the same as ``weight``; any floating dtype and strides; or None for 0.
        residual: [N, C, H, W], any floating dtype, or None for 0; added after the activation.
        activation: ``"none"``, ``"relu"`` or ``"leaky_relu"``.
        negative_slope: of ``"leaky_relu"``.
        eps: added to the variance.

    Returns:
        [N, C, H, W] in the dtype and memory format of ``x``.

    Raises:
        ValueError: a shape, device or ``activation`` that does not fit; the message says which, what was expected
            and what came.
        TypeError: a tensor that is not floating.
    """
    if residual is not None and residual.dtype != x.dtype:
        residual = residual.to(x.dtype)
    if torch.compiler.is_compiling():
        return _forward_op(x, weight, bias, residual, activation, negative_slope, eps)[0]
    if torch.is_grad_enabled():
        return _EagerInstanceNorm.apply(x, weight, bias, residual, activation, negative_slope, eps)
    with _library.below_autograd():
        return _forward_op(x, weight, bias, residual, activation, negative_slope, eps)[0]


# ---- checks of the fake and the plain implementation; csrc/bindings/instance_norm.cpp makes the same ones


def _check(x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, activation: str) -> None:
    if x.dim() != 4:
        raise ValueError(f"instance_norm: x must be [N, C, H, W], got {list(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"instance_norm: x must be float32, float16, bfloat16 or float64, got {x.dtype}")
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is None:
            continue
        if parameter.shape != x.shape[1:2] and parameter.shape != x.shape[:2]:
            expected = f"[{x.shape[1]}], one value a channel, or {list(x.shape[:2])}, one for each sample and channel"
            raise ValueError(f"instance_norm: {name} must be {expected}, got {list(parameter.shape)}")
        if not parameter.is_floating_point():
            raise TypeError(f"instance_norm: {name} must be floating, got {parameter.dtype}")
        if parameter.device != x.device:
            raise ValueError(f"instance_norm: {name} must be on {x.device} like x, got {parameter.device}")
    if weight is not None and bias is not None and bias.shape != weight.shape:
        raise ValueError(f"instance_norm: bias must be {list(weight.shape)} like weight, got {list(bias.shape)}")
    if residual is not None:
        _check_like(x, residual, "residual")
    if activation not in ACTIVATIONS:
        raise ValueError(f"instance_norm: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")


def _check_like(x: Tensor, other: Tensor, name: str) -> None:
    if other.shape != x.shape:
        raise ValueError(f"instance_norm: {name} must be {list(x.shape)} like x, got {list(other.shape)}")
    if other.dtype != x.dtype:
        raise TypeError(f"instance_norm: {name} must be {x.dtype} like x, got {other.dtype}")
    if other.device != x.device:
        raise ValueError(f"instance_norm: {name} must be on {x.device} like x, got {other.device}")


# ---- plain PyTorch implementations, used for a device that the extension has no kernel for


def _per_plane(parameter: Tensor | None, like: Tensor) -> Tensor | None:
    """[C] or [N, C] as it goes with [N, C, H, W]."""
    return None if parameter is None else parameter.to(like.dtype)[..., None, None]


def _affine_shape(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> torch.Size:
    """Of weight, bias and their gradients; [C] if both are None."""
    given = weight if weight is not None else bias
    return x.shape[1:2] if given is None else given.shape


def _sum_to(shape: torch.Size, value: Tensor) -> Tensor:
    """``value`` [N, C, H, W] added up to [C] or [N, C]."""
    return value.sum((0, 2, 3) if len(shape) == 1 else (2, 3))


def _normalize(
    x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(xhat, t): the normalised planes, and the same after the affine map. All in the accumulation dtype."""
    t = xhat = (x.to(mean.dtype) - mean) * rstd
    if weight is not None:
        t = t * weight
    if bias is not None:
        t = t + bias
    return xhat, t


def _forward_reference(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    negative_slope: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, weight, bias, residual, activation)
    value = x.to(accumulation_dtype(x.dtype))
    var, mean = torch.var_mean(value, dim=(2, 3), correction=0, keepdim=True)
    rstd = torch.rsqrt(var + eps)
    _, t = _normalize(value, mean, rstd, _per_plane(weight, value), _per_plane(bias, value))
    y = activate(t, activation, negative_slope)
    if residual is not None:
        y = y + residual.to(y.dtype)
    return y.to(x.dtype, memory_format=suggest_memory_format(x)), mean[:, :, 0, 0].clone(), rstd[:, :, 0, 0].clone()


def _slope(t: Tensor, activation: str, negative_slope: float) -> Tensor:
    """act'(t), constant between the kinks."""
    if activation == "none":
        return torch.ones_like(t)
    return torch.where(t > 0, 1.0, 0.0 if activation == "relu" else negative_slope).to(t.dtype)


def _backward_reference(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: str,
    negative_slope: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, weight, bias, None, activation)
    _check_like(x, dy, "dy")
    plane = (2, 3)
    w, b = _per_plane(weight, mean), _per_plane(bias, mean)
    r = rstd[:, :, None, None]
    xhat, t = _normalize(x, mean[:, :, None, None], r, w, b)
    g = dy.to(t.dtype) * _slope(t, activation, negative_slope)
    gx = g * xhat
    dx = r * (g - g.mean(plane, keepdim=True) - xhat * gx.mean(plane, keepdim=True))
    if w is not None:
        dx = dx * w
    d_weight, d_bias = (_sum_to(_affine_shape(x, weight, bias), sums) for sums in (gx, g))
    return dx.to(x.dtype, memory_format=suggest_memory_format(x)), d_weight, d_bias


_library.register_reference("instance_norm", _forward_reference)
_library.register_reference("instance_norm_backward", _backward_reference)


# ---- fakes


@torch.library.register_fake("jdm_fast::instance_norm")
def _forward_fake(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    negative_slope: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, weight, bias, residual, activation)
    statistics = x.new_empty(x.shape[:2], dtype=accumulation_dtype(x.dtype))
    y = torch.empty_like(x, memory_format=suggest_memory_format(x))
    return y, statistics, torch.empty_like(statistics)


@torch.library.register_fake("jdm_fast::instance_norm_backward")
def _backward_fake(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: str,
    negative_slope: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, weight, bias, None, activation)
    _check_like(x, dy, "dy")
    d_weight = x.new_empty(_affine_shape(x, weight, bias), dtype=accumulation_dtype(x.dtype))
    dx = torch.empty_like(x, memory_format=suggest_memory_format(x))
    return dx, d_weight, torch.empty_like(d_weight)


# ---- derivatives


def _setup_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, residual, *ctx.options = inputs
    _, mean, rstd = output
    ctx.save_for_backward(x, mean, rstd, weight, bias)
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)


def _forward_derivative(ctx: Any, dy: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 7
    x, mean, rstd, weight, bias = ctx.saved_tensors
    needs_x, needs_weight, needs_bias, needs_residual = ctx.needs_input_grad[:4]
    dx = d_weight = d_bias = None
    if needs_x or needs_weight or needs_bias:
        if torch.is_grad_enabled():  # the derivative of this derivative is asked for
            dx, d_weight, d_bias = _backward_op(dy, x, mean, rstd, weight, bias, *ctx.options)
        else:
            with _library.below_autograd():
                dx, d_weight, d_bias = _backward_op(dy, x, mean, rstd, weight, bias, *ctx.options)
        d_weight = d_weight.to(weight.dtype) if needs_weight else None
        d_bias = d_bias.to(bias.dtype) if needs_bias else None
    return dx if needs_x else None, d_weight, d_bias, dy if needs_residual else None, None, None, None


class _EagerInstanceNorm(torch.autograd.Function):
    """The op with its derivative, called without the dispatcher's detour through torch.library's Python autograd.

    A network calls it a hundred times a step. On a tiny tensor, where nothing else counts, this takes 0.4 of the time
    of the registered op and half of that of eager instance norm with ReLU, forward or with backward (torch 2.11).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        activation: str,
        negative_slope: float,
        eps: float,
    ) -> Tensor:
        with _library.below_autograd():
            y, mean, rstd = _forward_op(x, weight, bias, residual, activation, negative_slope, eps)
        ctx.options = activation, negative_slope, eps
        ctx.save_for_backward(x, mean, rstd, weight, bias)
        ctx.set_materialize_grads(False)
        return y

    backward = staticmethod(_forward_derivative)


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    dy, x, _, _, weight, bias, *ctx.options = inputs
    ctx.save_for_backward(dy, x, weight, bias)
    ctx.set_materialize_grads(False)


def _backward_derivative(ctx: Any, u: Tensor | None, p: Tensor | None, q: Tensor | None) -> tuple[Tensor | None, ...]:
    """Second order: gradients of ``sum(u dx) + sum(p d_weight) + sum(q d_bias)`` in dy, x, weight (none in bias).

    With M the mean over a plane of P pixels, xhat = (x - mean) rstd, s = act'(t), g = dy s, A = M(g), B = M(g xhat),
    U = M(u), V = M(u xhat), a plane contributes  w rstd P (M(u g) - A U - B V) + p P B + q P A.  Its gradient
    in g is  w rstd (u - U - xhat V) + p xhat + q,  in xhat  k = -w rstd (B u + V g) + p g,
    in rstd  R = w P (M(u g) - A U - B V);  from xhat and rstd to x:
    rstd (k - M(k) - xhat M(k xhat)) - R rstd^2 xhat / P. It is all plain PyTorch, so higher orders follow by autograd.
    """
    dy, x, weight, bias = ctx.saved_tensors
    activation, negative_slope, eps = ctx.options
    value = x.to(accumulation_dtype(x.dtype))

    def mean(t: Tensor) -> Tensor:
        return t.mean((2, 3), keepdim=True)

    def or_zero(t: Tensor | None, shape: tuple[int, ...]) -> Tensor:
        return value.new_zeros(shape) if t is None else t.to(value.dtype)

    u = or_zero(u, value.shape)
    p, q = (or_zero(t, _affine_shape(x, weight, bias))[..., None, None] for t in (p, q))
    mu = mean(value)
    rstd = torch.rsqrt(mean((value - mu) ** 2) + eps)
    w, b = _per_plane(weight, value), _per_plane(bias, value)
    xhat, t = _normalize(value, mu, rstd, w, b)
    slope = _slope(t.detach(), activation, negative_slope)
    g = dy.to(value.dtype) * slope
    if w is None:
        w = value.new_ones(1, 1, 1, 1)

    a, b_, u_mean, v = mean(g), mean(g * xhat), mean(u), mean(u * xhat)
    inner = mean(u * g) - a * u_mean - b_ * v
    d_dy = slope * (w * rstd * (u - u_mean - xhat * v) + p * xhat + q)
    k = p * g - w * rstd * (b_ * u + v * g)
    dx = rstd * (k - mean(k) - xhat * mean(k * xhat)) - w * inner * rstd**2 * xhat
    d_weight = None
    if weight is not None:
        d_weight = _sum_to(weight.shape, rstd * inner).mul(x.shape[2] * x.shape[3]).to(weight.dtype)
    return d_dy.to(dy.dtype), dx.to(x.dtype), None, None, d_weight, None, None, None, None


torch.library.register_autograd("jdm_fast::instance_norm", _forward_derivative, setup_context=_setup_forward)
torch.library.register_autograd("jdm_fast::instance_norm_backward", _backward_derivative, setup_context=_setup_backward)
