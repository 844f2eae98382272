"""The inputs and the float64 baseline of the tests of jdm_fast.ops.interpolate_latents."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

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
modes = pytest.mark.parametrize("mode", ["lerp", "slerp"])
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
