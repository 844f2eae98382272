"""The CUDA kernels as they were compiled: no spills but the listed ones, wide accesses, and the table in the docs."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from benchmarks import static_evidence
from benchmarks.static_evidence import Kernel


@pytest.fixture(scope="module")
def kernels() -> Sequence[Kernel]:
    path, tool = static_evidence.library(), static_evidence.cuobjdump()
    if path is None:
        pytest.skip("the extension holds no CUDA code for 9.0a")
    assert tool is not None, "no cuobjdump: it comes with the CUDA toolkit and with Triton"
    return static_evidence.read_kernels(path, tool)


def test_the_build_keeps_the_rules(kernels: Sequence[Kernel]) -> None:
    assert len(kernels) > 200 and sum(kernel.is_vectorised for kernel in kernels) > 40
    assert static_evidence.broken_rules(list(kernels)) == []


def test_the_table_is_that_of_the_build(kernels: Sequence[Kernel]) -> None:
    """To the letter, where the compiler is the one that the table names, else kernel by kernel;
    `make static-evidence` renews it."""
    path = static_evidence.library()
    assert path is not None
    compiler, committed = static_evidence.compiler_of(path), static_evidence.TABLE.read_text()
    assert re.findall(r"^\| `(.*?)` \|", committed, re.M) == [kernel.name for kernel in kernels]
    if f"by {compiler}." in committed:
        assert static_evidence.table(list(kernels), compiler) == committed


def kernel(name: str, local: int = 0, loads: dict[int, int] | None = None) -> Kernel:
    return Kernel(name, 32, local, 0, {16: 1} if loads is None else loads, {4: 1})


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (kernel("channels_forward<float, 4, true>"), None),
        (kernel("channels_forward<float, 4, true>", local=2), "2 accesses of local memory"),
        (kernel("slerp_weights<float>", local=5), None),
        (kernel("channels_forward<BFloat16, 8, true>", loads={8: 3, 2: 1}), "no access of 16 bytes"),
        (kernel("channels_forward<BFloat16, 1, true>", loads={2: 1}), None),
        (kernel("critic_loss_planes<BFloat16, 4, 8>", loads={8: 1}), None),
    ],
    ids=str,
)
def test_rules(made: Kernel, message: str | None) -> None:
    broken = static_evidence.broken_rules([made])
    assert broken == [] if message is None else len(broken) == 1 and message in broken[0]


@pytest.mark.parametrize(
    ("modifiers", "size"),
    [
        (".E.128.CONSTANT", 16),
        (".E.BYPASS.LTC128B.128", 16),
        (".E.64", 8),
        (".E", 4),
        (".E.U16.CONSTANT", 2),
        (".E.U8", 1),
    ],
)
def test_widths(modifiers: str, size: int) -> None:
    assert static_evidence._bytes(modifiers) == size
