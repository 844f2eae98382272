"""The operator library ``torch.ops.jdm_fast``: schemas are defined here, in Python, so that they exist with or without
the compiled extension, which only adds CPU and CUDA implementations to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from jdm_fast import _extension  # noqa: F401  (imported first: it registers the compiled kernels)

NAMESPACE = "jdm_fast"

_library = torch.library.Library(NAMESPACE, "DEF")

#: Context in which an operator goes straight to its kernel, past the autograd registered for it. For the inside of a
#: ``torch.autograd.Function``, and where gradients are off.
below_autograd = torch._C._AutoDispatchBelowAutograd


def define(schema: str) -> None:
    """Defines one operator, e.g. ``define("scale(Tensor x, float by) -> Tensor")``.

    All operators of this library are functional and take strides as they come, hence the tag.
    """
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides))


def register_reference(op_name: str, fn: Callable[..., Any]) -> None:
    """Makes ``fn`` the implementation of ``op_name`` on the CPU and on CUDA, where the extension has none.

    ``fn`` takes and returns exactly what the schema says.
    """
    for key in ("CPU", "CUDA"):
        if not has_kernel(op_name, key):
            _library.impl(op_name, fn, key)


def has_kernel(op_name: str, dispatch_key: str) -> bool:
    """Whether an implementation of ``op_name`` is registered for ``dispatch_key`` ("CPU", "CUDA")."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{op_name}", dispatch_key)
