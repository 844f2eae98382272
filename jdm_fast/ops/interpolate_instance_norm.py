"""Instance norm of every frame between key feature maps, without the frames.

A decoder's first layer is linear, so the feature map of an in-between latent is the same mixture of the key frames'
feature maps: frame = (1-t) a + t b. Its mean is (1-t) mean(a) + t mean(b) and its variance (1-t)^2 var(a) + t^2 var(b)
+ 2 t (1-t) cov(a, b), so five sums of the two key maps give the statistics of every frame between them.
``jdm_fast::interpolate_instance_norm`` takes them centred (a mean of 1e4 with a spread of 1 does no harm), reads each
key map once per pair, and writes each normalised frame once. The frames before the norm never exist.

For inference: it has no derivative. Autocast leaves it alone: weight and bias of any floating dtype go with u of any,
sums are float32 (float64 for float64 u), frames have the dtype of u.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from jdm_fast.ops import _library, reference
from jdm_fast.ops.instance_norm import ACTIVATIONS

_NAME = "interpolate_instance_norm"
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

_library.define(
    "interpolate_instance_norm(Tensor u, Tensor positions, Tensor? weight, Tensor? bias, str activation,"
    " float negative_slope, float eps) -> Tensor"
)
_op = torch.ops.jdm_fast.interpolate_instance_norm.default


def interpolate_instance_norm(
    u: Tensor,
    positions: int | Sequence[float] | Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    activation: str = "none",
    negative_slope: float = 0.2,
    eps: float = 1e-5,
) -> Tensor:
    """``act((f - mean(f)) / sqrt(var(f) + eps) * weight + bias)`` of every frame ``f = (1 - t) u[k] + t u[k+1]``.

    A frame at position p has ``k = floor(p)`` and ``t = p - k``: Algorithm 2 of the JWDM paper, carried past the linear
    first layer of a decoder. Mean and biased variance are those of each plane of the frame. Works under
    ``torch.compile(fullgraph=True)``, which compiles anew for other numbers in a sequence, not in a tensor. Equal to
    :func:`jdm_fast.ops.reference.interpolate_instance_norm`. A key map that is not finite spoils the frames of both
    its pairs, its neighbours' own among them.

    Args:
        u: [T, C, h, w], key feature maps in time order; float32, float16, bfloat16 or float64; T >= 1. Contiguous and
            channels_last tensors are taken as they are, others are copied first. C, h and w may be 0.
        positions: F numbers in [0, T-1] that never decrease; or an int n >= 1 for 0, 1/n, 2/n, ... T-1, which are
            (T-1)*n + 1. A tensor [F] on the device of ``u`` is used as it is: on a GPU its numbers are not looked at,
            which would wait for the GPU, so they must be right (frames of others hold anything). Numbers of a
            sequence are copied to the GPU, which a CUDA graph cannot record: give one an int or a tensor.
        weight: [C], any floating dtype, or None for 1.
        bias: [C], any floating dtype, or None for 0.
        activation: ``"none"``, ``"relu"`` or ``"leaky_relu"``.
        negative_slope: of ``"leaky_relu"``.
        eps: added to the variance.

    Returns:
        [F, C, h, w] in the dtype and memory format of ``u``. F may be 0.

    Raises:
        ValueError: a shape, device, position or ``activation`` that does not fit; the message says which, what was
            expected and what came.
        TypeError: a tensor that is not floating, or positions of another type.
        NotImplementedError: in backward; use ``interpolate_latents`` and ``instance_norm`` where gradients are needed.
    """
    _check_key_maps(u)
    places = _checked_positions(positions, u)
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and _needs_gradient(u, weight, bias)):
        return _op(u, places, weight, bias, activation, negative_slope, eps)
    with _library.below_autograd():
        return _op(u, places, weight, bias, activation, negative_slope, eps)


def _needs_gradient(*tensors: Tensor | None) -> bool:
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


# ---- checks; csrc/bindings/interpolate_instance_norm.cpp makes those of `_check` too


def _check_key_maps(u: Tensor) -> None:
    if u.dim() != 4:
        raise ValueError(f"{_NAME}: u must be [T, C, h, w], got {list(u.shape)}")
    if u.shape[0] < 1:
        raise ValueError(f"{_NAME}: u must hold at least one key map (T >= 1), got {list(u.shape)}")
    if u.dtype not in _DTYPES:
        raise TypeError(f"{_NAME}: u must be float32, float16, bfloat16 or float64, got {u.dtype}")


def _checked_positions(positions: int | Sequence[float] | Tensor, u: Tensor) -> Tensor:
    """float64 [F] on the device of ``u``."""
    last = u.shape[0] - 1
    if isinstance(positions, Tensor):
        if not positions.is_floating_point():
            raise TypeError(f"{_NAME}: positions must be floating, got {positions.dtype}")
        return positions.to(torch.float64)
    if isinstance(positions, (bool, str)) or not isinstance(positions, (int, torch.SymInt, Sequence)):
        kind = type(positions).__name__
        raise TypeError(f"{_NAME}: positions must be a sequence of numbers, a tensor or an int, got {kind}")
    if isinstance(positions, Sequence):
        before = 0.0
        for index, position in enumerate(positions):
            if not 0 <= position <= last:
                raise ValueError(f"{_NAME}: positions must be in [0, {last}], got {position} at index {index}")
            if position < before:
                raise ValueError(f"{_NAME}: positions must not decrease, got {position} after {before}")
            before = position
    elif positions < 1:
        raise ValueError(f"{_NAME}: positions, if an int, must be at least 1, got {positions}")
    return reference.frame_positions(positions, u.shape[0], u.device)


def _check(u: Tensor, positions: Tensor, weight: Tensor | None, bias: Tensor | None, activation: str) -> None:
    _check_key_maps(u)
    if positions.dim() != 1:
        raise ValueError(f"{_NAME}: positions must be [F], got {list(positions.shape)}")
    if positions.dtype != torch.float64:
        raise TypeError(f"{_NAME}: positions must be torch.float64, got {positions.dtype}")
    if positions.device != u.device:
        raise ValueError(f"{_NAME}: positions must be on {u.device} like u, got {positions.device}")
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is None:
            continue
        if parameter.shape != u.shape[1:2]:
            raise ValueError(f"{_NAME}: {name} must be [{u.shape[1]}], got {list(parameter.shape)}")
        if not parameter.is_floating_point():
            raise TypeError(f"{_NAME}: {name} must be floating, got {parameter.dtype}")
        if parameter.device != u.device:
            raise ValueError(f"{_NAME}: {name} must be on {u.device} like u, got {parameter.device}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"{_NAME}: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")


# ---- plain PyTorch implementation, used for a device that the extension has no kernel for; fake; no derivative


def _reference(
    u: Tensor,
    positions: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: str,
    negative_slope: float,
    eps: float,
) -> Tensor:
    _check(u, positions, weight, bias, activation)
    y = reference.interpolate_instance_norm(u, positions, weight, bias, activation, negative_slope, eps)
    return y.contiguous(memory_format=suggest_memory_format(u))


_library.register_reference(_NAME, _reference)


@torch.library.register_fake("jdm_fast::interpolate_instance_norm")
def _fake(
    u: Tensor,
    positions: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: str,
    negative_slope: float,
    eps: float,
) -> Tensor:
    _check(u, positions, weight, bias, activation)
    shape = (positions.shape[0], *u.shape[1:])
    return torch.empty(shape, dtype=u.dtype, device=u.device, memory_format=suggest_memory_format(u))


def _no_derivative(ctx: Any, *_: Any) -> NoReturn:
    raise NotImplementedError(
        f"{_NAME} has no derivative: it is for inference. Where gradients are needed, interpolate the latents "
        "(jdm_fast.ops.interpolate_latents) and decode every frame"
    )


torch.library.register_autograd("jdm_fast::interpolate_instance_norm", _no_derivative)
