"""Loads the compiled kernels ``jdm_fast._C``, or remembers why they are not there.

Importing this module registers the C++ and CUDA kernels with PyTorch's dispatcher. When that is not possible it warns
once, and :mod:`jdm_fast.ops` registers the plain PyTorch implementations in their place: same results, slower.

``JDM_FAST_DISABLE_EXTENSION=1`` in the environment leaves the compiled kernels out on purpose.
"""

from __future__ import annotations

import importlib
import os
import warnings
from types import ModuleType
from typing import Any

import torch

from jdm_fast.errors import UserError

REBUILD = "build it in the source folder with: pip install --no-build-isolation -e ."


def _why_not_importable(error: ImportError) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == "jdm_fast._C":
        return f"the package was installed without its compiled kernels; {REBUILD}"
    return (
        f"jdm_fast._C does not load with torch {torch.__version__}: {error}. It may have been built for another torch; "
        f"{REBUILD}"
    )


def _load() -> tuple[ModuleType | None, str | None]:
    if os.environ.get("JDM_FAST_DISABLE_EXTENSION", "") not in ("", "0"):
        return None, "JDM_FAST_DISABLE_EXTENSION is set in the environment; unset it to use the compiled kernels"
    try:
        return importlib.import_module("jdm_fast._C"), None
    except ImportError as error:
        return None, _why_not_importable(error)


_module, reason = _load()
#: Whether the compiled kernels are loaded.
available: bool = _module is not None
#: Why the compiled kernels are not loaded and what to do about it; None when they are.
reason: str | None

if not available:
    warnings.warn(
        f"jdm_fast runs on plain PyTorch, which is slower: {reason}. `jdm-fast doctor` tells more.",
        RuntimeWarning,
        stacklevel=2,
    )


def build_config() -> dict[str, Any]:
    """How ``jdm_fast._C`` was built.

    Keys: ``cuda`` (bool), ``cuda_architectures`` (as in TORCH_CUDA_ARCH_LIST, "" without CUDA), ``compiler``,
    ``torch_version``, ``cpu_capabilities`` (the instruction sets of this machine that the kernels can use) and
    ``cpu_capability`` (the one they use). All are empty when the extension is not loaded.
    """
    if _module is None:
        texts = ("cuda_architectures", "compiler", "torch_version", "cpu_capability")
        return {"cuda": False, "cpu_capabilities": [], **dict.fromkeys(texts, "")}
    return dict(_module.build_config())


def has_cuda() -> bool:
    """Whether the loaded extension contains CUDA kernels (whether or not a GPU is present)."""
    return bool(build_config()["cuda"])


def instance_norm_plan(**asked: Any) -> dict[str, Any]:
    """See :func:`jdm_fast.ops.plan`. Raises UserError where the extension is missing."""
    if _module is None:
        raise UserError(f"plan: it is part of the compiled kernels, which are not here: {reason}")
    return dict(_module.instance_norm_plan(**asked))


_built_with = build_config()["torch_version"].split("+")[0]
if available and _built_with != torch.__version__.split("+")[0]:
    warnings.warn(
        f"jdm_fast._C was built with torch {_built_with} and runs with torch {torch.__version__}; {REBUILD}",
        RuntimeWarning,
        stacklevel=2,
    )
