"""One module for each published method: its networks put together and its objective, to be read beside the paper."""

from __future__ import annotations

from jdm_fast.methods.jointgan import JointGAN
from jdm_fast.methods.jointgan_config import JointGANConfig
from jdm_fast.methods.jwdm import JWDM, JWDMConfig
from jdm_fast.methods.protocol import Batch, Method, MethodSpec, Terms

METHODS: dict[str, MethodSpec] = {
    "jwdm": MethodSpec(JWDMConfig, JWDM),
    "jointgan": MethodSpec(JointGANConfig, JointGAN),
}
"""Every method by its name on the command line and in a run's configuration."""

__all__ = ["JWDM", "METHODS", "Batch", "JWDMConfig", "JointGAN", "JointGANConfig", "Method", "MethodSpec", "Terms"]
