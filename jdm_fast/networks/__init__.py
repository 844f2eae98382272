"""Plain architectures: layers and networks, no losses and no data.

- :mod:`jdm_fast.networks.layers`: instance norm fused with its activation and residual.
- :mod:`jdm_fast.networks.autoencoder`: the encoder and the decoder of JWDM's Table 4.
- :mod:`jdm_fast.networks.critics`: the image critic of Table 5 and critics of the latent.
- :mod:`jdm_fast.networks.output_conv`: the convolution to an image's channels, arranged for the CPU.
- :mod:`jdm_fast.networks.initialize`: how weights begin.
"""

from __future__ import annotations

from jdm_fast.networks.autoencoder import Decoder, Encoder, ResidualBlock
from jdm_fast.networks.critics import Critic, LatentCritic, PixelLatentCritic
from jdm_fast.networks.initialize import initialize_weights
from jdm_fast.networks.layers import InstanceNorm

__all__ = [
    "Critic",
    "Decoder",
    "Encoder",
    "InstanceNorm",
    "LatentCritic",
    "PixelLatentCritic",
    "ResidualBlock",
    "initialize_weights",
]
