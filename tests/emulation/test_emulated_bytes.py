"""What instance norm launches and moves on the emulated GPU, element by element, against jdm_fast.ops.plan."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from jdm_fast import _extension, ops
from jdm_fast.ops import Plan
from tests.emulation.harness import EmulatedGpu
from tests.emulation.test_emulated_instance_norm import CASES, Case, inputs

L2_BYTES = 128 << 10  # of the emulated GPU; cluster.cuh
#: Tensors as the plan takes them: alike relative to 16 bytes, and in channels_last on such a boundary.
PLANNED = [case for case in CASES if len({*case.offsets, 0 if case.channels_last else case.offsets[0]}) == 1]
PATHS = {"resident", "streamed", "split", "cluster"}

assert _extension.available, _extension.reason  # it has the plan


@pytest.fixture
def counting_gpu(emulated_gpu: EmulatedGpu) -> Iterator[EmulatedGpu]:
    emulated_gpu.touched = {}
    yield emulated_gpu
    emulated_gpu.touched = None


def plan_of(case: Case, dtype: torch.dtype, backward: bool, residual: bool) -> Plan:
    major, minor = divmod(case.capability, 10)
    gpu = ops.Gpu("emulated", case.multiprocessors, (major, minor), L2_BYTES)
    return ops.plan(case.shape, dtype, channels_last=case.channels_last, backward=backward, residual=residual, gpu=gpu)


def check(
    gpu: EmulatedGpu, plan: Plan, case: Case, dtype: torch.dtype, read: tuple[str, ...], once: tuple[str, ...]
) -> None:
    """Of each tensor in ``read`` every pass reads every element once, of each in ``once`` there is one access.

    The first pixel of a plane is also what other pixels are measured from: it may be read more often. Kernels that hold
    tiles read it again forward, and the pixels whose mean their blocks sum about; no others.
    """
    assert tuple(name.partition("<")[0] for name in gpu.kernels) == plan.kernels
    assert gpu.grids == [plan.blocks] * len(plan.kernels)
    touched = gpu.touched
    assert touched is not None and set(touched) == {*read, *once}
    passes = 1 if plan.path in {"resident", "cluster"} else 2
    n, c = case.shape[:2]
    for name in read:
        pixels = touched[name].reshape((n, -1, c) if case.channels_last else (n * c, -1, 1))
        often = (pixels != passes).any(2).any(0)
        assert bool((pixels >= passes).all()), name
        if "_held" in plan.kernels[0]:
            assert set(often.nonzero().flatten().tolist()) == (set() if "dx" in once else reference(plan, case)), name
        else:
            assert not often[1:].any(), name
    for name in once:
        assert bool((touched[name] == 1).all()), name
    tensor = torch.Size(case.shape).numel() * dtype.itemsize
    residual = "residual" in once
    assert plan.bytes_written == tensor
    assert plan.bytes_read == tensor * (passes * len(read) + residual)
    assert plan.floor == tensor * (len(read) + residual + 1)


def reference(plan: Plan, case: Case) -> set[int]:
    """Pixels that the blocks of ``channels_forward_held`` read besides: a few, evenly from the part of each."""
    pixels = case.shape[2] * case.shape[3]
    part, count = -(-pixels // plan.cluster), 8 if plan.shared_bytes else 4
    found = {0}
    for begin in range(0, pixels, part):
        found |= {begin + i * min(part, pixels - begin) // count for i in range(count)}
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("case", PLANNED, ids=str)
def test_every_element_is_moved_as_planned(counting_gpu: EmulatedGpu, case: Case, dtype: torch.dtype) -> None:
    gpu = counting_gpu
    gpu.set_order("forward")
    tensors = inputs(case.shape, dtype)
    for residual in (None, tensors["residual"]):
        gpu.touched = {}
        _, mean, rstd = gpu.instance_norm(**{**tensors, "residual": residual}, **case.plan)
        plan = plan_of(case, dtype, False, residual is not None)
        check(gpu, plan, case, dtype, ("x",), ("y",) if residual is None else ("y", "residual"))
    gpu.touched = {}
    dy = torch.randn_like(tensors["x"])
    gpu.instance_norm_backward(dy, tensors["x"], mean, rstd, tensors["weight"], tensors["bias"], **case.plan)
    check(gpu, plan_of(case, dtype, True, False), case, dtype, ("x", "dy"), ("dx",))


def test_the_cases_take_every_path() -> None:
    for backward in (False, True):
        for channels_last in (False, True):
            cases = [case for case in PLANNED if case.channels_last == channels_last]
            found = {plan_of(case, torch.bfloat16, backward, False).path for case in cases}
            assert found == PATHS - ({"resident"} if channels_last else set())
