"""Every op of :mod:`jdm_fast.ops` in plain PyTorch.

These functions are the definition of the kernels: the oracle of the tests, the baseline of the benchmarks, and the
outline of what runs when the compiled extension is missing. They take the same arguments and return the same values as
the public ops. Statistics and sums are kept in float32 (float64 for float64 input); results come back in the dtype of
the input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for every other floating dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def activate(t: Tensor, activation: str, negative_slope: float) -> Tensor:
    """``t`` through ``"none"``, ``"relu"`` or ``"leaky_relu"``."""
    if activation == "none":
        return t
    if activation == "relu":
        return F.relu(t)
    return F.leaky_relu(t, negative_slope)


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
    """``act((x - mean) / sqrt(var + eps) * weight + bias) + residual`` over each plane of ``x`` [N, C, H, W].

    ``weight`` and ``bias``: [C], or [N, C] for a scale and a shift of each sample's own.
    """
    value = x.to(accumulation_dtype(x.dtype))
    var, mean = torch.var_mean(value, dim=(2, 3), correction=0, keepdim=True)
    t = (value - mean) * torch.rsqrt(var + eps)
    if weight is not None:
        t = t * weight.to(t.dtype)[..., None, None]
    if bias is not None:
        t = t + bias.to(t.dtype)[..., None, None]
    y = activate(t, activation, negative_slope)
    if residual is not None:
        y = y + residual.to(t.dtype)
    return y.to(x.dtype)


def interpolation_coefficients(z: Tensor, n: int, mode: str = "lerp") -> Tensor:
    """Weights of both neighbours for every frame, [B, T-1, n, 2], of key latents ``z`` [B, T, ...].

    ``lerp``: (1 - k/n, k/n), Algorithm 2 of the JWDM paper in time order. ``slerp``: (sin((1-r)w), sin(rw)) / sin(w),
    w the angle between the flattened latents; where sin(w) < 1e-4 (parallel, opposite or zero latents) it is lerp.
    """
    dtype = accumulation_dtype(z.dtype)
    batch, keys = z.shape[:2]
    r = torch.arange(n, dtype=dtype, device=z.device) / n
    lerp = torch.stack([1 - r, r], dim=-1).expand(batch, keys - 1, n, 2)
    if mode == "lerp":
        return lerp
    flat = z.to(dtype).flatten(2)
    norm = torch.linalg.vector_norm(flat, dim=-1, keepdim=True)
    unit = flat / torch.where(norm > 0, norm, 1)
    # |u - v| = 2 sin(w/2) and |u + v| = 2 cos(w/2): unlike acos of the cosine, accurate also near w = 0 and w = pi.
    sine2, cosine2 = (side.square().sum(-1) for side in (unit[:, :-1] - unit[:, 1:], unit[:, :-1] + unit[:, 1:]))
    safe = (sine2 * cosine2 > 4e-8) & (norm[:, :-1, 0] > 0) & (norm[:, 1:, 0] > 0)  # sin(w) = |u - v| |u + v| / 2
    omega = 2 * torch.atan2(*(torch.where(safe, side, 1).sqrt() for side in (sine2, cosine2)))[..., None]
    slerp = torch.stack([torch.sin((1 - r) * omega), torch.sin(r * omega)], dim=-1) / torch.sin(omega)[..., None]
    return torch.where(safe[..., None, None], slerp, lerp)


def interpolate_latents(z: Tensor, n: int, mode: str = "lerp") -> Tensor:
    """All (T-1)*n + 1 latents between key latents ``z`` [T, C, h, w] (or [B, T, C, h, w]), in time order."""
    if z.dim() == 4:
        return interpolate_latents(z[None], n, mode)[0]
    coefficients = interpolation_coefficients(z, n, mode)[..., None, None, None]
    value = z.to(coefficients.dtype)
    begin, end = value[:, :-1, None], value[:, 1:, None]
    frames = coefficients[:, :, :, 0] * begin + coefficients[:, :, :, 1] * end
    return torch.cat([frames.flatten(1, 2), value[:, -1:]], dim=1).to(z.dtype)


def frame_positions(positions: int | Sequence[float] | Tensor, keys: int, device: torch.device) -> Tensor:
    """``positions`` of :func:`interpolate_instance_norm` as float64 [F] on ``device``: an int n is 0, 1/n, ... T-1."""
    if isinstance(positions, Tensor):
        return positions.to(device, torch.float64)
    if isinstance(positions, (int, torch.SymInt)):
        return torch.arange((keys - 1) * positions + 1, dtype=torch.float64, device=device) / positions
    return torch.tensor([float(position) for position in positions], dtype=torch.float64, device=device)


def key_neighbours(positions: Tensor, keys: int) -> tuple[Tensor, Tensor]:
    """Numbers int64 [F] of the key frames before and after every one of ``positions`` [F], in [0, keys - 1]."""
    begin = positions.floor().clamp(0, max(keys - 2, 0)).long()
    return begin, (begin + 1).clamp(max=keys - 1)


def interpolate_frames(u: Tensor, positions: Tensor) -> Tensor:
    """``(1 - t) u[k] + t u[k+1]`` with ``k = floor(p)``, ``t = p - k`` for every p of float64 ``positions`` [F]."""
    begin, end = key_neighbours(positions, len(u))
    t = (positions - begin).to(u.dtype)[:, None, None, None]
    return (1 - t) * u[begin] + t * u[end]


def interpolate_instance_norm(
    u: Tensor,
    positions: int | Sequence[float] | Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    activation: str = "none",
    negative_slope: float = 0.2,
    eps: float = 1e-5,
) -> Tensor:
    """:func:`instance_norm` of every frame between key feature maps ``u`` [T, C, h, w]: [F, C, h, w]."""
    value = u.to(accumulation_dtype(u.dtype))
    frames = interpolate_frames(value, frame_positions(positions, len(u), u.device))
    y = instance_norm(frames, weight, bias, activation=activation, negative_slope=negative_slope, eps=eps)
    return y.to(u.dtype)


def frames_to_uint8(x: Tensor, *, tanh: bool = False) -> Tensor:
    """``x`` [N, C, H, W] in [-1, 1] (after ``tanh`` if asked) to uint8 [N, H, W, C]; ties to even, NaN to 0."""
    value = x.to(accumulation_dtype(x.dtype))
    if tanh:
        value = torch.tanh(value)
    value = torch.nan_to_num((value + 1) * 127.5, nan=0.0, posinf=255.0, neginf=0.0)
    return torch.round(value).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def softmax_critic_loss(logits: Tensor, source: Tensor, num_sources: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy averaged within each source: (sum over sources, per-source loss [S], per-source accuracy [S]).

    ``logits`` [M, K, h, w]; ``source`` int64 [M], the true class of each sample, in 0..num_sources-1.
    """
    value = logits.to(accumulation_dtype(logits.dtype))
    target = source.view(-1, 1, 1).expand(-1, *logits.shape[2:])
    per_sample = F.cross_entropy(value, target, reduction="none").flatten(1).mean(1)
    correct = (value.argmax(1) == target).to(value.dtype).flatten(1).mean(1)
    count = torch.zeros(num_sources, dtype=value.dtype, device=logits.device)
    count = count.index_add(0, source, torch.ones_like(per_sample)).clamp(min=1)
    losses = torch.zeros_like(count).index_add(0, source, per_sample) / count
    accuracy = torch.zeros_like(count).index_add(0, source, correct.detach()) / count
    return losses.sum(), losses, accuracy
