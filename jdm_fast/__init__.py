"""Joint-distribution-matching GANs with fused kernels: train, translate, draw whole tuples, synthesise video.

The names below are loaded on first use: ``import jdm_fast`` is quick and needs nothing but the standard library.

- :mod:`jdm_fast.ops`: the fused kernels as functions; :mod:`jdm_fast.ops.reference`: the same in plain PyTorch.
- :mod:`jdm_fast.methods`: the published methods, each with its configuration.
- :func:`jdm_fast.load`: a trained model from a run folder.
- :mod:`jdm_fast.errors`: the errors that are messages to the user.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "errors", "load", "methods", "ops"]

if TYPE_CHECKING:
    from jdm_fast import errors, methods, ops
    from jdm_fast.synthesis import load

_MODULES = ("errors", "methods", "ops")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"jdm_fast.{name}")
    if name == "load":
        return importlib.import_module("jdm_fast.synthesis").load
    raise AttributeError(f"module 'jdm_fast' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
