"""The precision of a training, and PyTorch's switches for it.

Whatever is chosen, parameters, optimiser state, statistics of norms and losses are float32: half precision is
autocast's, for convolutions and what lies between them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from jdm_fast.errors import UserError

PrecisionName = Literal["fp32", "tf32", "bf16", "fp16"]
PrecisionChoice = Literal["auto", "fp32", "tf32", "bf16", "fp16"]


@dataclass(frozen=True)
class Precision:
    """A precision that the device has.

    Attributes:
        name: fp32, tf32, bf16 or fp16.
        dtype: what autocast computes in; None is no autocast.
        why: the reason for it, a few words for people.
    """

    name: PrecisionName
    dtype: torch.dtype | None = None
    why: str = ""

    @property
    def needs_scaling(self) -> bool:
        """Whether losses have to be scaled so that gradients do not vanish: in fp16, whose exponents have 5 bits."""
        return self.dtype == torch.float16

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Context for the networks and losses; the backward pass runs outside of it."""
        return nullcontext() if self.dtype is None else torch.autocast(device.type, dtype=self.dtype)


FP32 = Precision("fp32", None, "PyTorch's default")


def choose_precision(choice: str, device: torch.device) -> Precision:
    """The precision ``choice`` on ``device``, or the nearest that it has.

    ``auto``: bf16 on GPUs from compute capability 8.0 (Ampere) on, fp16 on 7.x, fp32 on older ones and on CPUs, where
    autocast's conversions cost more than bf16 saves on the narrow networks trained there. A CPU without bf16 units gets
    fp32 for every choice, one with them also bf16. tf32 needs a GPU of 8.0; where it is missing fp32 is chosen, and
    fp16 instead of bf16.

    Raises:
        UserError: ``choice`` is none of the five.
    """
    if choice not in get_args(PrecisionChoice):
        raise UserError(f"precision: expected one of {', '.join(get_args(PrecisionChoice))}, got {choice!r}")
    if device.type == "cuda":
        return _on_cuda(choice, torch.cuda.get_device_capability(device))
    return _on_cpu(choice, cpu_has_bf16())


def _on_cuda(choice: str, capability: tuple[int, int]) -> Precision:
    model = f"a GPU of compute capability {capability[0]}.{capability[1]}"
    asked = "as asked for"
    if choice == "auto":
        choice = "bf16" if capability >= (8, 0) else "fp16" if capability >= (7, 0) else "fp32"
        asked = f"the fastest on {model}"
    if choice in ("bf16", "tf32") and capability < (8, 0):
        instead = "fp16" if choice == "bf16" and capability >= (7, 0) else "fp32"
        choice, asked = instead, f"{model} has no {choice} units"
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(choice)
    return Precision(choice, dtype, asked)  # type: ignore[arg-type]  # checked against the names already


def _on_cpu(choice: str, has_bf16: bool) -> Precision:
    if choice == "bf16" and has_bf16:
        return Precision("bf16", torch.bfloat16, "as asked for")
    reasons = {
        "auto": "the fastest on a CPU for narrow networks",
        "fp32": "as asked for",
        "bf16": "this CPU has no bf16 units",
        "tf32": "tf32 is of GPUs",
        "fp16": "fp16 is for GPUs",
    }
    return Precision("fp32", None, reasons[choice])


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX-512 BF16, AMX, or Arm's BF16)."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))


@contextmanager
def numerics(precision: Precision, device: torch.device, deterministic: bool = False) -> Iterator[None]:
    """Context with PyTorch's switches set for a training, and put back afterwards.

    On a GPU: TF32 for float32 matrix products and convolutions unless the precision is fp32; cuDNN tries its
    algorithms once for each shape, unless ``deterministic``. With ``deterministic``, on any device, PyTorch uses
    algorithms with the same bits in every run and raises where there is none.
    """
    cuda = device.type == "cuda"
    switches: list[tuple[object, str, bool]] = []
    if cuda:
        tf32 = precision.name != "fp32"
        switches += [
            (torch.backends.cuda.matmul, "allow_tf32", tf32),
            (torch.backends.cudnn, "allow_tf32", tf32),
            (torch.backends.cudnn, "benchmark", not deterministic),
            (torch.backends.cudnn, "deterministic", deterministic),
        ]
    before = [getattr(owner, name) for owner, name, _ in switches]
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    if deterministic and cuda:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    try:
        for owner, name, value in switches:
            setattr(owner, name, value)
        if deterministic:
            torch.use_deterministic_algorithms(True)
        yield
    finally:
        for (owner, name, _), value in zip(switches, before, strict=True):
            setattr(owner, name, value)
        if deterministic:
            torch.use_deterministic_algorithms(was_deterministic, warn_only=warned_only)
