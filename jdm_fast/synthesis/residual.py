"""What encoding and decoding loses of the key frames, given back to the frames between them.

Algorithm 2 decodes every frame, the key frames too, so every frame of the source domain lacks what the auto-encoder
cannot keep: the residual ``key frame - decoded key frame``. Above all that is the picture's colours, for an instance
norm takes out the mean and the contrast of each feature map (docs/video_quality.md has the figures). The key frames'
residuals are known, and between two key frames they are cross-faded and added:

    frame(k + t) = decode(latent(k + t)) + (1 - t) residual(k) + t residual(k + 1).

The path through the latents is that of Algorithm 2, and the key frames come out as they were. What is added is as good
as a cross-fade: fine detail is doubled half-way where much moves. The other domain has no known key frames and stays as
it is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def key_residual(key_frames: Tensor, decoded: Tensor) -> Tensor:
    """What decoding lost of the key frames, in [-2, 2].

    Args:
        key_frames: float [T, C, H, W] in [-1, 1], as they were given.
        decoded: the same, encoded and decoded; it may be larger at the bottom and on the right, where pictures are
            padded, and is cropped.

    Raises:
        ValueError: the numbers of frames or channels differ, or ``decoded`` is smaller.
    """
    height, width = key_frames.shape[-2:]
    cropped = decoded[..., :height, :width]
    if cropped.shape != key_frames.shape:
        raise ValueError(
            f"decoded must hold the key frames {list(key_frames.shape)} or larger ones, got {list(decoded.shape)}"
        )
    return key_frames - cropped


def add_residual(frames: Tensor, residuals: Tensor, positions: Sequence[float] | Tensor) -> Tensor:
    """Decoded frames with the cross-faded residuals of the key frames around them, clamped to [-1, 1].

    Args:
        frames: float [F, C, H', W'], decoded; cropped to the size of the residuals.
        residuals: [T, C, H, W] of :func:`key_residual`.
        positions: F numbers in [0, T - 1]: frame k + t lies at t from key frame k to the next. A key frame, t = 0,
            comes out as it was given. The values of a tensor are not looked at (it may lie on a GPU, and be part of a
            captured graph): those outside take the nearest key frame.

    Returns:
        [F, C, H, W], of the wider dtype of ``frames`` and ``residuals``.

    Raises:
        ValueError: there is not one position for each frame, or one in a sequence is outside of [0, T - 1].
    """
    last = len(residuals) - 1
    if not isinstance(positions, Tensor):
        outside = [position for position in positions if not 0 <= position <= last]
        if outside:
            raise ValueError(
                f"positions must lie between the first and the last of {last + 1} key frames, in [0, {last}], "
                f"got {outside[0]:g}"
            )
    position = torch.as_tensor(positions, dtype=torch.float64, device=residuals.device).clamp(0, last)
    if position.shape != (len(frames),):
        raise ValueError(f"positions must be one for each of {len(frames)} frames, got {list(position.shape)}")
    begin = position.floor().long()
    end = (begin + 1).clamp(max=last)
    ratio = (position - begin).to(residuals.dtype)[:, None, None, None]
    between = torch.lerp(residuals[begin], residuals[end], ratio)
    return (frames[..., : residuals.shape[-2], : residuals.shape[-1]] + between).clamp(-1, 1)
