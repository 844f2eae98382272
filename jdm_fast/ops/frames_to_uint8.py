"""Network output to picture bytes: range, rounding and channel order in one pass.

``jdm_fast::frames_to_uint8`` computes in float32 (float64 for float64 input), whatever autocast says. Bytes have no
gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jdm_fast.ops import _library, reference

MAX_CHANNELS = 4
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

_library.define("frames_to_uint8(Tensor x, bool tanh) -> Tensor")
_op = torch.ops.jdm_fast.frames_to_uint8.default


def frames_to_uint8(x: Tensor, *, tanh: bool = False) -> Tensor:
    """Bytes ``round((v + 1) * 127.5)`` of ``v = x`` or ``tanh(x)``, clamped to 0..255; ties to even, NaN becomes 0.

    -1 becomes 0 and 1 becomes 255. Works under ``torch.compile(fullgraph=True)``. Equal to
    :func:`jdm_fast.ops.reference.frames_to_uint8`, but that a ``tanh`` may differ in its last bits.

    Args:
        x: [N, C, H, W], float32, float16, bfloat16 or float64, C from 1 to 4. Contiguous and channels_last tensors are
            taken as they are, others are copied first. N, H and W may be 0.
        tanh: apply tanh first, for a network without its last activation.

    Returns:
        [N, H, W, C] uint8, contiguous. It carries no gradient.

    Raises:
        ValueError: a shape that does not fit; the message says what was expected and what came.
        TypeError: ``x`` has another dtype.
    """
    return _op(x, tanh)


# ---- check shared by the fake and the reference; csrc/bindings/frames_to_uint8.cpp makes the same one


def _check(x: Tensor) -> None:
    if x.dtype not in DTYPES:
        raise TypeError(f"frames_to_uint8: x must be float32, float16, bfloat16 or float64, got {x.dtype}")
    if x.dim() != 4:
        raise ValueError(f"frames_to_uint8: x must be [N, C, H, W], got {list(x.shape)}")
    if not 1 <= x.shape[1] <= MAX_CHANNELS:
        raise ValueError(f"frames_to_uint8: x must have 1 to {MAX_CHANNELS} channels, got {list(x.shape)}")


# ---- plain PyTorch implementation, used for a device that the extension has no kernel for


def _reference(x: Tensor, tanh: bool) -> Tensor:
    _check(x)
    return reference.frames_to_uint8(x, tanh=tanh)


_library.register_reference("frames_to_uint8", _reference)


# ---- fake


@torch.library.register_fake("jdm_fast::frames_to_uint8")
def _fake(x: Tensor, tanh: bool) -> Tensor:
    _check(x)
    n, c, h, w = x.shape
    return x.new_empty((n, h, w, c), dtype=torch.uint8)
