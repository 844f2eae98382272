"""The auto-encoder of Table 4 (JWDM, supplementary materials), one encoder and one decoder for each domain.

No convolution that is followed by an instance norm has a bias: the norm subtracts it again with the mean, so leaving it
out changes nothing but the time and the memory it costs. Padding is with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from jdm_fast.networks.layers import InstanceNorm
from jdm_fast.networks.output_conv import OutputConv
from jdm_fast.ops import interpolate_instance_norm

SIZE_MULTIPLE = 4
"""Sides of an image must be multiples of this: two stride-2 convolutions down, two stride-2 deconvolutions up."""


def minimum_side(embedding_kernel: int) -> int:
    """Smallest image side whose latent is at least 2x2.

    A 1x1 latent would be wiped out by the embedding layer's instance norm, which turns a plane of one value into a
    constant.
    """
    return SIZE_MULTIPLE * (embedding_kernel + 1)


class ResidualBlock(nn.Module):
    """A residual block of Table 4: [N, C, h, w] to the same shape.

    ``convs=2``: ``h + IN(conv(relu(IN(conv(h)))))``, the block of CycleGAN and of the JWDM authors' other code.
    ``convs=1``: ``h + relu(IN(conv(h)))``, the row of the table read literally.
    """

    def __init__(self, channels: int, convs: int = 2) -> None:
        super().__init__()
        if convs not in (1, 2):
            raise ValueError(f"convs: a residual block has 1 or 2 convolutions, got {convs}")
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = InstanceNorm(channels, activation="relu")
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False) if convs == 2 else None
        self.norm2 = InstanceNorm(channels) if convs == 2 else None

    def forward(self, feature: Tensor) -> Tensor:
        if self.conv2 is None or self.norm2 is None:
            return self.norm1(self.conv1(feature), residual=feature)
        hidden = self.norm1(self.conv1(feature))
        return self.norm2(self.conv2(hidden), residual=feature)


class Encoder(nn.Module):
    """Images to latents, the left half of Table 4: [N, channels, H, W] to [N, latent_channels, H/4-k+1, W/4-k+1].

    Args:
        channels: channels of the images.
        width: channels after the first convolution (table: 64); the bottleneck has 4 times as many.
        blocks: residual blocks (table: 6).
        residual_convs: convolutions in each block, 2 or 1, see :class:`ResidualBlock`.
        latent_channels: channels of the latent, N_z (table: 256); ``None`` is 4 * width.
        embedding_kernel: side k of the last, unpadded convolution (table: 8).
        latent_activation: ``"relu"`` (table) or ``"none"``, which ends in the instance norm.

    H and W must be multiples of 4 and at least ``minimum_side(embedding_kernel)``.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        blocks: int = 6,
        residual_convs: int = 2,
        latent_channels: int | None = None,
        embedding_kernel: int = 8,
        latent_activation: str = "relu",
    ) -> None:
        super().__init__()
        bottleneck = 4 * width
        latent_channels = bottleneck if latent_channels is None else latent_channels
        self.down_sampling = nn.Sequential(
            nn.Conv2d(channels, width, 7, padding=3, bias=False),
            InstanceNorm(width, activation="relu"),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
            InstanceNorm(2 * width, activation="relu"),
            nn.Conv2d(2 * width, bottleneck, 3, stride=2, padding=1, bias=False),
            InstanceNorm(bottleneck, activation="relu"),
        )
        self.bottleneck = nn.Sequential(*[ResidualBlock(bottleneck, residual_convs) for _ in range(blocks)])
        self.embedding = nn.Sequential(
            nn.Conv2d(bottleneck, latent_channels, embedding_kernel, bias=False),
            InstanceNorm(latent_channels, activation=latent_activation),
        )

    def forward(self, images: Tensor) -> Tensor:
        """[N, channels, H, W] in [-1, 1] to the latent."""
        return self.embedding(self.bottleneck(self.down_sampling(images)))


class Decoder(nn.Module):
    """Latents to images, the right half of Table 4, the mirror of :class:`Encoder` and with the same arguments.

    :meth:`forward` is ``finish(expand(latent))``. :meth:`expand` is linear, so for latents whose weights sum to one it
    may be applied to the key frames alone and interpolated afterwards: ``expand((1-t) a + t b) = (1-t) expand(a) + t
    expand(b)``. :meth:`decode_between` does that, and saves each frame its first deconvolution.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        blocks: int = 6,
        residual_convs: int = 2,
        latent_channels: int | None = None,
        embedding_kernel: int = 8,
    ) -> None:
        super().__init__()
        bottleneck = 4 * width
        latent_channels = bottleneck if latent_channels is None else latent_channels
        self.embedding = nn.ConvTranspose2d(latent_channels, bottleneck, embedding_kernel, bias=False)
        self.embedding_norm = InstanceNorm(bottleneck, activation="relu")
        self.bottleneck = nn.Sequential(*[ResidualBlock(bottleneck, residual_convs) for _ in range(blocks)])
        # output_padding=1 is what makes "DECONV K3 S2 P1" double the side exactly, as the table's shapes say.
        self.up_sampling = nn.Sequential(
            nn.ConvTranspose2d(bottleneck, 2 * width, 3, stride=2, padding=1, output_padding=1, bias=False),
            InstanceNorm(2 * width, activation="relu"),
            nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1, bias=False),
            InstanceNorm(width, activation="relu"),
            OutputConv(width, channels, 7),
            nn.Tanh(),
        )

    def expand(self, latent: Tensor) -> Tensor:
        """The first layer's deconvolution alone: [N, latent_channels, h, w] to [N, 4 * width, h + k - 1, w + k - 1]."""
        return self.embedding(latent)

    def finish(self, feature: Tensor) -> Tensor:
        """All that follows :meth:`expand`, from its norm onwards: to [N, channels, H, W] in [-1, 1]."""
        return self.up_sampling(self.bottleneck(self.embedding_norm(feature)))

    def decode_between(self, feature: Tensor, positions: int | Sequence[float] | Tensor) -> Tensor:
        """Images of the latents on the straight lines between key latents, whose :meth:`expand` is ``feature``.

        Equal to ``forward`` of the interpolated latents, to rounding.

        Args:
            feature: [T, 4 * width, h, w], :meth:`expand` of T key latents in time order.
            positions: of F images, from 0 (the first key) to T - 1 (the last), as in
                :func:`jdm_fast.ops.interpolate_instance_norm`; an int n stands for 0, 1/n, 2/n, ... T - 1.

        Returns:
            [F, channels, H, W] in [-1, 1].
        """
        norm = self.embedding_norm
        hidden = interpolate_instance_norm(
            feature, positions, norm.weight, norm.bias, norm.activation, norm.negative_slope, norm.eps
        )
        return self.up_sampling(self.bottleneck(hidden))

    def forward(self, latent: Tensor) -> Tensor:
        """The latent to [N, channels, H, W] in [-1, 1]."""
        return self.finish(self.expand(latent))
