"""Critics: networks that map images or latents to a map of logits, one for each patch. No norm, no sigmoid.

Without a norm a critic's logits for one sample do not depend on the others, so real and fake samples may share one
call, and a gradient penalty may differentiate through it twice.
"""

from __future__ import annotations

from torch import Tensor, nn


class Critic(nn.Module):
    """The image critic of Table 5: [N, channels, H, W] to logits [N, 1, H / 2^layers, W / 2^layers] (rounded down).

    Args:
        channels: channels of the images.
        width: channels after the first layer (table: 64); they double with each layer.
        layers: 4x4 stride-2 convolutions (table: 6). Sides must be at least 2^layers.
        max_width: the doubling stops here (table: 2048).
        negative_slope: of the LeakyReLU (authors' other code: 0.01; the table gives none).

    The last, 3x3 convolution has no bias, as in the authors' other code.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        layers: int = 6,
        max_width: int = 2048,
        negative_slope: float = 0.01,
    ) -> None:
        super().__init__()
        widths = [channels, *(min(width * 2**i, max_width) for i in range(layers))]
        hidden: list[nn.Module] = []
        for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
            hidden += [nn.Conv2d(fan_in, fan_out, 4, stride=2, padding=1), nn.LeakyReLU(negative_slope, inplace=True)]
        self.hidden = nn.Sequential(*hidden)
        self.output = nn.Conv2d(widths[-1], 1, 3, padding=1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.hidden(images))


class LatentCritic(nn.Module):
    """The critic of the latent, ours (the paper has none): [N, latent_channels, h, w] to logits [N, 1, h//2, w//2].

    Four convolutions, the second one 4x4 with stride 2. One logit sees 14x14 latent positions, and a single stride lets
    it work on every latent the encoder makes, from 2x2 (small images) to 57x57 (256x256) and beyond.

    Args: as :class:`Critic`; ``width``, 2 * ``width`` and 4 * ``width`` hidden channels, none above ``max_width``.
    """

    def __init__(
        self, latent_channels: int = 256, width: int = 64, max_width: int = 2048, negative_slope: float = 0.01
    ) -> None:
        super().__init__()
        first, second, third = (min(width * factor, max_width) for factor in (1, 2, 4))
        self.hidden = nn.Sequential(
            nn.Conv2d(latent_channels, first, 3, padding=1),
            nn.LeakyReLU(negative_slope, inplace=True),
            nn.Conv2d(first, second, 4, stride=2, padding=1),
            nn.LeakyReLU(negative_slope, inplace=True),
            nn.Conv2d(second, third, 3, padding=1),
            nn.LeakyReLU(negative_slope, inplace=True),
        )
        self.output = nn.Conv2d(third, 1, 3, padding=1, bias=False)

    def forward(self, latent: Tensor) -> Tensor:
        return self.output(self.hidden(latent))


class PixelLatentCritic(nn.Sequential):
    """A critic that judges every latent position alone: [N, latent_channels, h, w] to logits [N, 1, h, w]. Ours.

    Three 1x1 convolutions, 2 * ``latent_channels`` wide. The prior's positions are independent, those of a latent never
    are: a patch critic can always tell by that, this one has only the distribution of the values to go by.
    """

    def __init__(self, latent_channels: int = 256, negative_slope: float = 0.01) -> None:
        width = 2 * latent_channels
        super().__init__(
            nn.Conv2d(latent_channels, width, 1),
            nn.LeakyReLU(negative_slope, inplace=True),
            nn.Conv2d(width, width, 1),
            nn.LeakyReLU(negative_slope, inplace=True),
            nn.Conv2d(width, 1, 1, bias=False),
        )
