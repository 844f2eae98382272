"""The fused kernels as differentiable functions, usable under ``torch.compile(fullgraph=True)`` and autocast.

Each is an operator of ``torch.ops.jdm_fast`` with a CPU and a CUDA kernel; :mod:`jdm_fast.ops.reference` has the same
functions in plain PyTorch, which also run when the compiled extension is missing.
"""

from __future__ import annotations

from jdm_fast.ops import reference
from jdm_fast.ops.frames_to_uint8 import frames_to_uint8
from jdm_fast.ops.instance_norm import instance_norm
from jdm_fast.ops.interpolate_instance_norm import interpolate_instance_norm
from jdm_fast.ops.interpolate_latents import interpolate_latents
from jdm_fast.ops.plan import GPUS, Gpu, Plan, plan
from jdm_fast.ops.softmax_critic_loss import softmax_critic_loss

__all__ = [
    "GPUS",
    "Gpu",
    "Plan",
    "frames_to_uint8",
    "instance_norm",
    "interpolate_instance_norm",
    "interpolate_latents",
    "plan",
    "reference",
    "softmax_critic_loss",
]
