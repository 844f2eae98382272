"""One module for each published method: its networks put together and its objective, to be read beside the paper."""

from __future__ import annotations

from jdm_fast.methods.cyclegan import CycleGAN, CycleGANConfig
from jdm_fast.methods.jointgan import JointGAN
from jdm_fast.methods.jointgan_config import JointGANConfig
from jdm_fast.methods.jwdm import JWDM, JWDMConfig
from jdm_fast.methods.pix2pix import Pix2Pix, Pix2PixConfig
from jdm_fast.methods.protocol import Batch, Method, MethodSpec, Terms
from jdm_fast.methods.two_step import TwoStep
from jdm_fast.methods.wgan_gp import WGANGP, WGANGPConfig

METHODS: dict[str, MethodSpec] = {
    "jwdm": MethodSpec(JWDMConfig, JWDM),
    "jointgan": MethodSpec(JointGANConfig, JointGAN),
    "wgan-gp": MethodSpec(WGANGPConfig, WGANGP),
    "pix2pix": MethodSpec(Pix2PixConfig, Pix2Pix),
    "cyclegan": MethodSpec(CycleGANConfig, CycleGAN),
}
"""Every method by its name on the command line and in a run's configuration."""

__all__ = [
    "JWDM",
    "METHODS",
    "WGANGP",
    "Batch",
    "CycleGAN",
    "CycleGANConfig",
    "JWDMConfig",
    "JointGAN",
    "JointGANConfig",
    "Method",
    "MethodSpec",
    "Pix2Pix",
    "Pix2PixConfig",
    "Terms",
    "TwoStep",
    "WGANGPConfig",
]
