"""The U-net of pix2pix (Isola et al. 2017) with noise that matters: images to images, the generator of JointGAN.

Noise that joins a U-net at its bottleneck alone is ignored: the skip connections bring everything else to the output,
and each instance norm on the way up takes the mean of its planes away, which is most of what the noise has put there.
So the noise also sets scale and shift after every norm of the decoder (``noise_at="layers"``). docs/jointgan.md has the
measurement.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jdm_fast.networks.layers import InstanceNorm, ModulatedInstanceNorm

_SLOPE = 0.2


def level_widths(width: int, depth: int, max_width: int) -> list[int]:
    """Channels after each of ``depth`` stride-2 convolutions: they double up to ``max_width``."""
    return [min(width * 2**level, max_width) for level in range(depth)]


def style_of(noise: Tensor | None, vector: Tensor | None) -> Tensor:
    """The style [N, noise + vector] of a sample: its noise [N, noise, h, w] over all positions, again N(0, I), and its
    vector [N, vector]."""
    parts = []
    if noise is not None:
        parts.append(noise.sum((2, 3)) / (noise.shape[2] * noise.shape[3]) ** 0.5)
    if vector is not None:
        parts.append(vector)
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def joined(feature: Tensor, noise: Tensor | None, vector: Tensor | None) -> Tensor:
    """``feature`` [N, C, h, w] and behind its channels the noise [N, noise, h, w] and the vector [N, vector], which is
    the same at every position."""
    parts = [feature]
    if noise is not None:
        parts.append(noise.to(feature.dtype))
    if vector is not None:
        parts.append(vector.to(feature.dtype)[:, :, None, None].expand(-1, -1, *feature.shape[2:]))
    return torch.cat(parts, dim=1) if len(parts) > 1 else feature


class UNet(nn.Module):
    """[N, in_channels, H, W] and noise to [N, out_channels, H, W] in [-1, 1].

    Args:
        in_channels, out_channels: of the images.
        width: channels after the first convolution (pix2pix: 64); they double with each level.
        depth: stride-2 convolutions, 8 for 256x256, 7 for 128x128, 6 for 64x64, 5 for 32x32: the bottleneck is then
            1x1. Sides must be multiples of 2^depth; larger images have a larger bottleneck, with noise of its own at
            each position.
        max_width: the doubling stops here (pix2pix: 512).
        noise: numbers of noise at each position of the bottleneck; 0 makes it a function of the image alone.
        vector: numbers of a vector that the image is made from besides; 0 is none.
        noise_at: ``layers``, at the bottleneck and in the norms of the decoder, or ``bottleneck``, there alone.
        dropout: probability in the three innermost levels of the decoder (pix2pix: 0.5, its only noise).

    The first convolution has no norm (pix2pix), nor has the innermost, whose map may have one position only.
    Activations follow their norms at once, fused; the skip connections carry them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 64,
        depth: int = 8,
        max_width: int = 512,
        noise: int = 0,
        vector: int = 0,
        noise_at: str = "layers",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = level_widths(width, depth, max_width)
        self.first = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(_SLOPE, inplace=True)
        )
        self.down = nn.ModuleList()
        for level in range(1, depth):
            innermost = level == depth - 1
            conv = nn.Conv2d(widths[level - 1], widths[level], 4, stride=2, padding=1, bias=innermost)
            after = (
                nn.LeakyReLU(_SLOPE, inplace=True)
                if innermost
                else InstanceNorm(widths[level], activation="leaky_relu", negative_slope=_SLOPE)
            )
            self.down.append(nn.Sequential(conv, after))
        style = noise + vector if noise_at == "layers" else 0
        self.up = nn.ModuleList()
        self.norms = nn.ModuleList()
        for level in range(depth - 1, 0, -1):
            fan_in = widths[level] + noise + vector if level == depth - 1 else 2 * widths[level]
            self.up.append(nn.ConvTranspose2d(fan_in, widths[level - 1], 4, stride=2, padding=1, bias=False))
            self.norms.append(
                ModulatedInstanceNorm(widths[level - 1], style, activation="relu")
                if style
                else InstanceNorm(widths[level - 1], activation="relu")
            )
        last = widths[0] + noise + vector if depth == 1 else 2 * widths[0]
        self.last = nn.Sequential(nn.ConvTranspose2d(last, out_channels, 4, stride=2, padding=1), nn.Tanh())
        self.dropout = nn.Dropout(dropout) if dropout > 0 else None
        self.modulated = bool(style)

    def forward(self, images: Tensor, noise: Tensor | None = None, vector: Tensor | None = None) -> Tensor:
        """``images`` [N, in_channels, H, W], ``noise`` [N, noise, H / 2^depth, W / 2^depth], ``vector`` [N, vector]."""
        style = style_of(noise, vector) if self.modulated else None
        feature = self.first(images)
        skips = []
        for down in self.down:
            skips.append(feature)
            feature = down(feature)
        feature = joined(feature, noise, vector)
        for index, (up, norm) in enumerate(zip(self.up, self.norms, strict=True)):
            feature = up(feature)
            feature = norm(feature) if style is None else norm(feature, style)
            if self.dropout is not None and index < 3:
                feature = self.dropout(feature)
            feature = torch.cat([feature, skips.pop()], dim=1)
        return self.last(feature)
