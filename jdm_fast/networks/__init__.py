"""Plain architectures: layers and networks, no losses and no data.

- :mod:`jdm_fast.networks.layers`: instance norm fused with its activation and residual.
- :mod:`jdm_fast.networks.autoencoder`: the encoder and the decoder of JWDM's Table 4.
- :mod:`jdm_fast.networks.critics`: the image critic of Table 5 and critics of the latent.
- :mod:`jdm_fast.networks.unet`: the U-net of pix2pix with noise.
- :mod:`jdm_fast.networks.generators`: images from vectors, and vectors from images.
- :mod:`jdm_fast.networks.patch_critic`: the PatchGAN critic, with several logits a patch.
- :mod:`jdm_fast.networks.output_conv`: the convolution to an image's channels, arranged for the CPU.
- :mod:`jdm_fast.networks.initialize`: how weights begin.
"""

from __future__ import annotations

from jdm_fast.networks.autoencoder import Decoder, Encoder, ResidualBlock
from jdm_fast.networks.critics import Critic, LatentCritic, PixelLatentCritic
from jdm_fast.networks.generators import ImageFromVectors, VectorGenerator
from jdm_fast.networks.initialize import initialize_weights
from jdm_fast.networks.layers import InstanceNorm, ModulatedInstanceNorm
from jdm_fast.networks.patch_critic import PatchCritic
from jdm_fast.networks.unet import UNet

__all__ = [
    "Critic",
    "Decoder",
    "Encoder",
    "ImageFromVectors",
    "InstanceNorm",
    "LatentCritic",
    "ModulatedInstanceNorm",
    "PatchCritic",
    "PixelLatentCritic",
    "ResidualBlock",
    "UNet",
    "VectorGenerator",
    "initialize_weights",
]
