from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jdm_fast.errors import UserError
from jdm_fast.methods import JWDMConfig
from jdm_fast.training import TrainConfig
from jdm_fast.training.out_of_memory import advice, is_out_of_memory, memory_advice

CONFIG = TrainConfig(method=JWDMConfig(), out=Path("run"), batch_size=4, precision="fp32")


def test_a_real_one_becomes_advice() -> None:
    """More than any machine's address space: PyTorch's own allocator on the CPU refuses it."""
    with pytest.raises(UserError) as caught, memory_advice(CONFIG):
        torch.empty(1 << 60, dtype=torch.uint8)
    message = str(caught.value)
    assert message.startswith("memory has run out when 1152921504606846976 bytes more were asked for. Try")
    assert "--dry-run" in message and isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    "error, asked",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."), "2.00 GiB more"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "the GPU's memory has run out. Try"),
        (RuntimeError("CUDA error: out of memory"), "the GPU's memory has run out. Try"),
        (MemoryError(), "memory has run out. Try"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_all_kinds_are_known(error: BaseException, asked: str) -> None:
    assert is_out_of_memory(error) and asked in str(advice(error, CONFIG))


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="size mismatch") as caught, memory_advice(CONFIG):
        raise RuntimeError("size mismatch")
    assert not isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    "changes, said, not_said",
    [
        ({}, ["activation_memory=recompute", "batch_size=2 with accumulate=2", "precision=bf16", "crop_size than"], []),
        ({"batch_size": 1}, ["crop_size"], ["batch_size=", "accumulate"]),
        ({"batch_size": 3}, ["a smaller batch_size than 3"], ["accumulate"]),
        ({"batch_size": 8, "accumulate": 2}, ["batch_size=4 with accumulate=4"], []),
        ({"activation_memory": "recompute", "precision": "bf16"}, ["batch_size=2"], ["recompute", "bf16"]),
        ({"engine": "compile"}, [], ["recompute"]),
        ({"preprocess": "resize", "load_size": (256, 512)}, ["load_size than 256x512"], ["crop_size"]),
        ({"preprocess": "none"}, ["method.width"], ["load_size", "crop_size"]),
    ],
    ids=str,
)  # fmt: skip
def test_only_what_would_help_is_said(changes: dict, said: list[str], not_said: list[str]) -> None:
    message = str(advice(MemoryError(), replace(CONFIG, **changes)))
    assert all(text in message for text in said), message
    assert not any(text in message for text in not_said), message
