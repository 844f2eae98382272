"""What instance norm says it does on a GPU: paths of the shapes of JWDM's networks, and bytes against the floor."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jdm_fast import _extension, ops
from jdm_fast.errors import UserError

assert _extension.available, _extension.reason

# shape, channels_last, path forward and backward on an H200, in bfloat16
CASES = [
    ((1, 64, 256, 256), False, "cluster", "cluster"),
    ((16, 64, 256, 256), False, "cluster", "cluster"),
    ((1, 3, 1024, 512), False, "split", "split"),
    ((1, 128, 128, 128), False, "resident", "resident"),
    ((16, 128, 128, 128), False, "cluster", "cluster"),
    ((16, 256, 64, 64), False, "resident", "resident"),
    ((16, 256, 64, 128), False, "resident", "cluster"),
    ((1, 256, 57, 57), False, "resident", "resident"),
    ((1, 64, 256, 256), True, "split", "split"),
    ((16, 64, 256, 256), True, "split", "split"),
    ((1, 256, 64, 64), True, "cluster", "cluster"),
    ((16, 256, 64, 64), True, "cluster", "cluster"),
    ((1, 128, 128, 128), True, "cluster", "cluster"),
    ((16, 128, 128, 128), True, "cluster", "cluster"),
    ((1, 3, 256, 256), True, "split", "split"),
]


@pytest.mark.parametrize(("shape", "channels_last", "forward", "backward"), CASES)
def test_paths_and_bytes_on_an_h200(shape: Any, channels_last: bool, forward: str, backward: str) -> None:
    size = 2 * torch.Size(shape).numel()
    for direction, path, inputs in ((False, forward, 1), (True, backward, 2)):
        plan = ops.plan(shape, torch.bfloat16, channels_last=channels_last, backward=direction, gpu="h200")
        reads = 1 if path in ("resident", "cluster") else 2
        assert plan.path == path
        assert (plan.bytes_read, plan.bytes_written) == (reads * inputs * size, size)
        assert plan.floor == (inputs + 1) * size
        assert len(plan.kernels) == (2 if path == "split" else 1)
        held_by_one = ((16, 128, 128, 128), False), ((16, 256, 64, 128), True)  # block: a whole plane, both tensors
        one_block = not channels_last and (shape, direction) in held_by_one
        assert (plan.cluster > 1) == (path == "cluster" and not one_block)
        more = channels_last and (shape == (16, 128, 128, 128) or (shape == (16, 256, 64, 64) and not direction))
        assert (plan.shared_bytes > 0) == more  # the others fit registers
        assert plan.blocks % plan.cluster == 0 and plan.blocks > 0 and plan.threads % 32 == 0
        assert path in str(plan) and plan.kernels[-1] in str(plan)


def test_clusters_are_of_hopper() -> None:
    shape = (1, 256, 64, 64)
    assert ops.plan(shape, torch.bfloat16, channels_last=True, gpu="a100").path == "split"
    assert (
        ops.plan(shape, torch.bfloat16, channels_last=True, gpu=ops.Gpu("mine", 132, (9, 0), 1 << 25)).path == "cluster"
    )


def test_tiles_of_clusters_are_in_registers_and_what_is_more_in_shared_memory() -> None:
    asked: Any = {"dtype": torch.bfloat16, "channels_last": True, "gpu": "h200"}
    found = {}
    for shape in ((16, 256, 64, 64), (1, 128, 128, 128), (16, 128, 128, 128)):
        for backward in (False, True):
            plan = ops.plan(shape, **asked, backward=backward)
            assert plan.kernels == (f"channels_{'backward' if backward else 'forward'}_held",)
            found[shape, backward] = (plan.threads, plan.cluster, plan.shared_bytes >> 10, plan.blocks)
    assert found == {
        ((16, 256, 64, 64), False): (256, 2, 96, 256),  # nearly two blocks a multiprocessor
        ((16, 256, 64, 64), True): (256, 8, 0, 1024),
        ((1, 128, 128, 128), False): (512, 8, 0, 64),  # rows of 32 bytes
        ((1, 128, 128, 128), True): (512, 8, 0, 64),
        ((16, 128, 128, 128), False): (256, 8, 96, 512),
        ((16, 128, 128, 128), True): (512, 8, 128, 512),
    }
    assert ops.plan((1, 128, 1024, 4096), **asked).path == "split"


def test_planes_of_clusters_are_in_registers_or_shared_memory() -> None:
    asked: Any = {"shape": (1, 64, 256, 512), "dtype": torch.bfloat16, "gpu": "h200"}
    forward, backward = ops.plan(**asked), ops.plan(**asked, backward=True)
    assert (forward.cluster, forward.shared_bytes, forward.blocks) == (8, 0, 512)
    assert (backward.cluster, backward.shared_bytes, backward.blocks) == (8, 64 * 1024, 512)
    assert "in clusters of 8; " in str(forward) and "in clusters of 8 with 64 KiB each; " in str(backward)
    assert ops.plan(**{**asked, "gpu": "a100"}).path == "split"


def test_a_residual_is_read_forward_alone() -> None:
    size = 4 * 2 * 3 * 5 * 7
    asked: Any = {"shape": (2, 3, 5, 7), "gpu": "h100", "residual": True}
    assert ops.plan(**asked).floor == 3 * size == ops.plan(**asked, backward=True).floor
    assert ops.plan((2, 0, 5, 7), gpu="h100").kernels == ()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"shape": (1, 2, 3)}, ValueError, r"\[N, C, H, W\], got \[1, 2, 3\]"),
        ({"shape": (1, 2, 3, -4)}, ValueError, "got"),
        ({"shape": (1, 2, 3, 4), "dtype": torch.int32}, ValueError, r"torch\.int32"),
        ({"shape": (1, 2, 3, 4), "gpu": "h900"}, UserError, "a100, rtx4090, h100, h200.*'h900'"),
    ],
)
def test_what_cannot_be_asked(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.plan(**{"gpu": "h200", **arguments})


def test_without_a_gpu_one_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="name one of a100"):
        ops.plan((1, 2, 3, 4))


def test_without_the_extension_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_extension, "_module", None)
    with pytest.raises(UserError, match="compiled kernels"):
        ops.plan((1, 2, 3, 4), gpu="h200")


@pytest.mark.gpu
def test_the_gpu_that_is_there() -> None:
    assert ops.plan((1, 256, 64, 64), torch.bfloat16).path == "resident"
