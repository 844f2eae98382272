"""The PatchGAN critic of pix2pix (Isola et al. 2017) with any number of logits a patch, over images and vectors."""

from __future__ import annotations

from torch import Tensor, nn

from jdm_fast.networks.layers import InstanceNorm
from jdm_fast.networks.unet import joined, level_widths

_SLOPE = 0.2


class PatchCritic(nn.Module):
    """Stacked images [N, image_channels, H, W] and vectors [N, vector] to logits [N, classes, h, w].

    ``layers`` 4x4 convolutions with stride 2, one with stride 1, and one to the logits: with 3 layers each logit sees a
    patch of 70x70, with 2 of 34x34, with 1 of 16x16. Vectors are laid beside the last features at every position, with
    a 1x1 convolution behind them, as in StackGAN's critic. Without images it is an MLP, h = w = 1.

    Args:
        image_channels: channels of all images together; 0 for none.
        classes: logits of each patch.
        width: channels after the first layer (pix2pix: 64); they double up to ``max_width`` (pix2pix: 512).
        layers: stride-2 convolutions (pix2pix: 3). Sides must be at least 3 * 2^layers.
        norm: ``instance``, none in the first layer (CycleGAN), or ``none``, which a gradient penalty wants.
        vector: numbers of all vectors together; 0 for none.
        hidden: width of the MLP's two hidden layers.
    """

    def __init__(
        self,
        image_channels: int,
        classes: int = 1,
        width: int = 64,
        layers: int = 3,
        max_width: int = 512,
        norm: str = "instance",
        vector: int = 0,
        hidden: int = 512,
    ) -> None:
        super().__init__()
        if norm not in ("instance", "none"):
            raise ValueError(f"norm: expected instance or none, got {norm!r}")
        self.classes = classes
        if not image_channels:
            self.hidden: nn.Module | None = None
            self.output: nn.Module = nn.Sequential(
                nn.Linear(vector, hidden),
                nn.LeakyReLU(_SLOPE, inplace=True),
                nn.Linear(hidden, hidden),
                nn.LeakyReLU(_SLOPE, inplace=True),
                nn.Linear(hidden, classes),
            )
            return
        widths = level_widths(width, layers + 1, max_width)
        parts: list[nn.Module] = []
        for level, (fan_in, fan_out) in enumerate(zip([image_channels, *widths[:-1]], widths, strict=True)):
            normed = norm == "instance" and level > 0
            stride = 2 if level < layers else 1
            parts.append(nn.Conv2d(fan_in, fan_out, 4, stride=stride, padding=1, bias=not normed))
            parts.append(
                InstanceNorm(fan_out, activation="leaky_relu", negative_slope=_SLOPE)
                if normed
                else nn.LeakyReLU(_SLOPE, inplace=True)
            )
        self.hidden = nn.Sequential(*parts)
        self.join = (
            nn.Sequential(nn.Conv2d(widths[-1] + vector, widths[-1], 1), nn.LeakyReLU(_SLOPE, inplace=True))
            if vector
            else None
        )
        self.output = nn.Conv2d(widths[-1], classes, 4, padding=1)

    @staticmethod
    def minimum_side(layers: int) -> int:
        """The smallest side of images that leaves a logit."""
        return 3 * 2**layers

    def forward(self, images: Tensor | None, vector: Tensor | None = None) -> Tensor:
        if self.hidden is None:
            assert vector is not None
            return self.output(vector)[:, :, None, None]
        feature = self.hidden(images)
        if self.join is not None:
            feature = self.join(joined(feature, None, vector))
        return self.output(feature)
