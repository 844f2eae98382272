"""The structs of csrc/kernels/*.h that the launchers take."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)  # in the order of the C++ enum
ACTIVATIONS = ("none", "relu", "leaky_relu")


class NormShape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "channels", "pixels")),
        ("channels_last", ctypes.c_bool),
        ("dtype", ctypes.c_int),
        ("activation", ctypes.c_int),
        ("negative_slope", ctypes.c_double),
        ("affine_per_sample", ctypes.c_bool),
    ]


class NormForward(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "residual", "weight", "bias", "y", "mean", "rstd")),
        ("eps", ctypes.c_double),
    ]


class NormBackward(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p) for name in ("dy", "x", "mean", "rstd", "weight", "bias", "dx", "d_weight", "d_bias")
    ]


class BetweenShape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("keys", "frames", "channels", "pixels")),
        ("channels_last", ctypes.c_bool),
        ("dtype", ctypes.c_int),
        ("activation", ctypes.c_int),
        ("negative_slope", ctypes.c_double),
        ("eps", ctypes.c_double),
    ]


class BetweenArgs(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("u", "positions", "weight", "bias", "y")]


class InterpolateShape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("sequences", "keys", "steps", "elements")),
        ("dtype", ctypes.c_int),
    ]


class FramesShape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "channels", "pixels")),
        ("channels_last", ctypes.c_bool),
        ("dtype", ctypes.c_int),
        ("tanh", ctypes.c_bool),
    ]


class CriticShape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("samples", "classes", "pixels", "sources")),
        ("channels_last", ctypes.c_bool),
        ("dtype", ctypes.c_int),
    ]


class CriticArgs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p) for name in ("logits", "source", "loss", "source_loss", "source_accuracy", "dlogits")
    ]


class CriticBackwardArgs(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("dlogits", "source", "d_loss", "d_source_loss", "result")]


def norm_shape(
    x: Tensor, affine: Sequence[Tensor | None], channels_last: bool, activation: str, negative_slope: float
) -> NormShape:
    """For x [N, C, H, W] and ``affine``, weight and bias: [C] or [N, C]."""
    n, c, h, w = x.shape
    per_sample = any(parameter is not None and parameter.dim() == 2 for parameter in affine)
    types = DTYPES.index(x.dtype), ACTIVATIONS.index(activation)
    return NormShape(n, c, h * w, channels_last, *types, negative_slope, per_sample)
