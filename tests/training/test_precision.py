from __future__ import annotations

import pytest
import torch

from jdm_fast.errors import UserError
from jdm_fast.training import precision as module
from jdm_fast.training.precision import FP32, Precision, choose_precision, numerics

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("choice", "capability", "name", "why"),
    [
        ("auto", (9, 0), "bf16", "the fastest on a GPU of compute capability 9.0"),
        ("auto", (7, 5), "fp16", "the fastest"),
        ("auto", (6, 1), "fp32", "the fastest"),
        ("fp32", (9, 0), "fp32", "as asked for"),
        ("tf32", (8, 0), "tf32", "as asked for"),
        ("fp16", (8, 6), "fp16", "as asked for"),
        ("bf16", (7, 5), "fp16", "a GPU of compute capability 7.5 has no bf16 units"),
        ("bf16", (6, 1), "fp32", "has no bf16 units"),
        ("tf32", (7, 5), "fp32", "has no tf32 units"),
    ],
)
def test_on_gpus(
    monkeypatch: pytest.MonkeyPatch, choice: str, capability: tuple[int, int], name: str, why: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    chosen = choose_precision(choice, torch.device("cuda"))
    assert chosen.name == name and why in chosen.why
    assert chosen.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name)
    assert chosen.needs_scaling == (name == "fp16")


@pytest.mark.parametrize(
    ("choice", "units", "name", "why"),
    [
        ("auto", True, "fp32", "the fastest on a CPU"),
        ("fp32", False, "fp32", "as asked for"),
        ("bf16", True, "bf16", "as asked for"),
        ("bf16", False, "fp32", "this CPU has no bf16 units"),
        ("tf32", True, "fp32", "tf32 is of GPUs"),
        ("fp16", True, "fp32", "fp16 is for GPUs"),
    ],
)
def test_on_cpus(monkeypatch: pytest.MonkeyPatch, choice: str, units: bool, name: str, why: str) -> None:
    monkeypatch.setattr(module, "cpu_has_bf16", lambda: units)
    chosen = choose_precision(choice, CPU)
    assert chosen.name == name and why in chosen.why


def test_the_units_of_this_cpu() -> None:
    """As the kernel says it, where it says it."""
    try:
        flags = open("/proc/cpuinfo").read().split()
    except OSError:
        flags = []
    assert module.cpu_has_bf16() == any(flag in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def test_what_is_no_precision() -> None:
    with pytest.raises(UserError, match="precision: expected one of auto, fp32, tf32, bf16, fp16, got 'half'"):
        choose_precision("half", CPU)


def switches() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    matmul = torch.backends.cuda.matmul.allow_tf32
    return matmul, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("precision", "deterministic", "expected"),
    [
        (FP32, False, (False, False, True, False, False)),
        (Precision("tf32"), False, (True, True, True, False, False)),
        (Precision("bf16", torch.bfloat16), True, (True, True, False, True, True)),
    ],
)
def test_switches_are_set_and_put_back(
    monkeypatch: pytest.MonkeyPatch, precision: Precision, deterministic: bool, expected: tuple[bool, ...]
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = switches()
    with pytest.raises(KeyError), numerics(precision, torch.device("cuda"), deterministic):
        assert switches() == expected
        raise KeyError
    assert switches() == before
    with numerics(precision, CPU, deterministic):
        assert switches() == (*before[:4], deterministic)
    assert switches() == before


def test_deterministic_refuses_what_is_not() -> None:
    with numerics(FP32, CPU, True), pytest.raises(RuntimeError, match="deterministic"):
        torch.nn.functional.max_unpool2d(torch.rand(1, 1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.int64), 2)
