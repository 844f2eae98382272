"""Generators from or to vectors, such as the features of captions; after StackGAN's first stage (Zhang et al. 2017).

The JointGAN paper (§5.2) makes images of caption features by StackGAN-stage-I and features of images by a CNN.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jdm_fast.networks.layers import InstanceNorm, ModulatedInstanceNorm
from jdm_fast.networks.output_conv import OutputConv
from jdm_fast.networks.unet import joined, level_widths, style_of

_SLOPE = 0.2


class ImageFromVectors(nn.Module):
    """Noise and a vector to [N, out_channels, h * 2^depth, w * 2^depth] in [-1, 1], where no image is given.

    A 4x4 map, then nearest up-sampling and a 3x3 convolution for each doubling, as StackGAN's first stage; with
    instance norms that the noise and the vector modulate in place of its batch norms, so that samples do not depend on
    each other.

    Args:
        out_channels: of the images.
        width: channels at full resolution; they double with each level below, up to ``max_width``.
        depth: log2 of the image's side for noise of one position, at least 2.
        noise, vector: numbers of each; one of them may be 0.
    """

    def __init__(
        self,
        out_channels: int,
        width: int = 64,
        depth: int = 8,
        max_width: int = 512,
        noise: int = 100,
        vector: int = 0,
    ) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"depth: the first map is 4x4, so at least 2, got {depth}")
        widths = level_widths(width, depth - 1, max_width)[::-1]
        self.first = nn.ConvTranspose2d(noise + vector, widths[0], 4, stride=4, bias=False)
        self.first_norm = ModulatedInstanceNorm(widths[0], noise + vector, activation="relu")
        self.up = nn.ModuleList()
        self.norms = nn.ModuleList()
        for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
            self.up.append(nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False))
            self.norms.append(ModulatedInstanceNorm(fan_out, noise + vector, activation="relu"))
        self.last = nn.Sequential(OutputConv(widths[-1], out_channels, 3), nn.Tanh())

    def forward(self, noise: Tensor, vector: Tensor | None = None) -> Tensor:
        """``noise`` [N, noise, h, w] and ``vector`` [N, vector]."""
        style = style_of(noise, vector)
        feature = self.first_norm(self.first(joined(noise, None, vector)), style)
        for up, norm in zip(self.up, self.norms, strict=True):
            feature = norm(up(F.interpolate(feature, scale_factor=2.0, mode="nearest")), style)
        return self.last(feature)


class VectorGenerator(nn.Module):
    """Images, vectors and noise to a vector [N, out]: a CNN from the images to features, and an MLP from all of it.

    Args:
        image_channels: channels of all given images together, 0 for none.
        vector: numbers of all given vectors together, 0 for none.
        out: numbers of the vector that is made.
        noise: numbers of noise.
        width, depth, max_width: of the CNN, as :class:`jdm_fast.networks.UNet`'s way down; the mean over the positions
            of its last map joins the MLP.
        hidden: width of the MLP's two hidden layers.
    """

    def __init__(
        self,
        image_channels: int,
        vector: int,
        out: int,
        noise: int = 100,
        width: int = 64,
        depth: int = 8,
        max_width: int = 512,
        hidden: int = 512,
    ) -> None:
        super().__init__()
        self.features: nn.Module | None = None
        features = 0
        if image_channels:
            widths = level_widths(width, depth, max_width)
            layers: list[nn.Module] = []
            for level, (fan_in, fan_out) in enumerate(zip([image_channels, *widths[:-1]], widths, strict=True)):
                plain = level in (0, depth - 1)
                layers.append(nn.Conv2d(fan_in, fan_out, 4, stride=2, padding=1, bias=plain))
                layers.append(
                    nn.LeakyReLU(_SLOPE, inplace=True)
                    if plain
                    else InstanceNorm(fan_out, activation="leaky_relu", negative_slope=_SLOPE)
                )
            self.features = nn.Sequential(*layers)
            features = widths[-1]
        self.mlp = nn.Sequential(
            nn.Linear(features + vector + noise, hidden),
            nn.LeakyReLU(_SLOPE, inplace=True),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(_SLOPE, inplace=True),
            nn.Linear(hidden, out),
        )

    def forward(self, images: Tensor | None, noise: Tensor, vector: Tensor | None = None) -> Tensor:
        """``images`` [N, image_channels, H, W], ``noise`` [N, noise], ``vector`` [N, vector]."""
        parts = [noise]
        if self.features is not None:
            parts.append(self.features(images).mean((2, 3)))
        if vector is not None:
            parts.append(vector)
        return self.mlp(torch.cat(parts, dim=1))
