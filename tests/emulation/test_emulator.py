"""The emulator itself: what is right runs right, and each mistake in ``emulator_programs.cpp`` is shown."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.emulation.building import ROOT, build
from tests.emulation.harness import ORDERS, EmulatedGpu

SOURCES = [ROOT / "tests" / "emulation" / "emulator_programs.cpp", ROOT / "csrc" / "emulation" / "cuda_emulation.cpp"]
SANITIZE = ["-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
THREADS = 64


@pytest.fixture(scope="session")
def programs() -> Path:
    return build(SOURCES, ["-O1"], "emulator_programs")


@pytest.fixture(scope="session")
def portable_programs() -> Path:
    return build(SOURCES, ["-O0", "-DJDM_EMULATION_UCONTEXT"], "emulator_programs")


@pytest.fixture(scope="session")
def sanitized_programs() -> Path:
    return build(SOURCES, SANITIZE, "emulator_programs")


def run(program: Path, name: str, order: str = "forward") -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, name, order], capture_output=True, text=True, check=False, timeout=60)


def output(program: Path, name: str, order: str = "forward") -> str:
    done = run(program, name, order)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def primitives() -> np.ndarray:
    """What the kernel of that name writes, from the CUDA documentation of each operation."""
    t = np.arange(THREADS)
    lane, warp = t % 32, t // 32 * 32
    down8 = np.where(t % 8 + 3 < 8, t + 3, t)
    half = np.where(lane < 16, t ^ 8, 0xAAAA0000 - (1 << 32))
    return np.stack(
        [
            t ^ 5,
            np.where(lane >= 3, t - 3, t),
            np.where(lane + 3 < 32, t + 3, t),
            warp + 7,
            t ^ 2,
            down8,
            [int(np.uint32(sum(1 << i for i in range(32) if (w + i) % 3 == 0)).astype(np.int32)) for w in warp],
            (t ^ 1) * 4 + 1,
            half,
            np.full(THREADS, sum(i % 5 == 0 for i in range(THREADS))),
            np.full(THREADS, 2),
        ]
    ).ravel()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("build_name", ["programs", "portable_programs", "sanitized_programs"])
def test_right_kernels_run_right(build_name: str, order: str, request: pytest.FixtureRequest) -> None:
    program = request.getfixturevalue(build_name)
    assert [int(v) for v in output(program, "primitives", order).split()] == primitives().tolist()
    assert [float(v) for v in output(program, "atomics", order).split()] == [384, 576, 96, 48]
    expected = [block * 1000 + thread for block in range(12) for thread in range(24)]
    assert [int(v) for v in output(program, "indices", order).split()] == expected
    assert output(program, "reversed_through_shared", order) == "0 wrong"
    assert output(program, "after_an_error", order) == "0 wrong"
    assert output(program, "copies_in_groups", order) == "0 wrong"
    of_thread = [[3 * (block * THREADS + t) for block in range(8)] for t in range(THREADS)]
    sums = [sum(of_thread[t][block // 4 * 4 :][:4]) for block in range(8) for t in range(THREADS)]
    assert [float(v) for v in output(program, "sums_over_clusters", order).split()] == sums
    numbers = [4 * (block // 4 * 4) + 6 for block in range(8) for _ in range(THREADS)]
    assert [float(v) for v in output(program, "numbers_handed_over", order).split()] == numbers


@pytest.mark.parametrize(
    "name, in_forward, in_reverse",
    [
        ("missing_barrier", "32 wrong", "32 wrong"),
        ("missing_barrier_before_reuse", "32 wrong", "32 wrong"),
        ("missing_barrier_hidden_by_order", "0 wrong", "63 wrong"),  # why one order is not enough
        ("missing_warp_barrier", "32 wrong", "32 wrong"),
        ("copy_not_waited_for", "64 wrong", "64 wrong"),
        ("blocks_depend_on_each_other", "1.000000 2.000000 3.000000 4.000000", "1.000000 1.000000 1.000000 1.000000"),
    ],
)
def test_missing_synchronisation_gives_wrong_values(
    programs: Path, name: str, in_forward: str, in_reverse: str
) -> None:
    assert output(programs, name, "forward") == in_forward
    assert output(programs, name, "reverse") == in_reverse
    if name.startswith(("missing", "copy")):
        assert output(programs, name, "random") != "0 wrong"


@pytest.mark.parametrize("name", ["uninitialised_shared", "uninitialised_dynamic_shared"])
def test_uninitialised_shared_memory_is_nan(programs: Path, name: str) -> None:
    assert set(output(programs, name).replace("-nan", "nan").split()) == {"nan"}


def test_value_of_an_absent_lane_is_nan(programs: Path) -> None:
    values = output(programs, "value_of_absent_lane").replace("-nan", "nan").split()
    assert values == (["nan"] * 16 + ["0.000000"] * 16) * 2


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "barrier_in_one_branch",
            "divergent barrier: threads of the block wait at different __syncthreads; 32 threads",
        ),
        (
            "return_before_barrier",
            "divergent barrier: 40 of 64 threads wait at __syncthreads, the others have returned",
        ),
        ("barrier_against_warp_operation", "deadlock: 32 threads wait at __syncthreads ("),
        ("different_masks", "meet in different operations or with different masks"),
        ("lane_outside_its_mask", "a lane calls a warp operation whose mask leaves it out"),
        ("misaligned_vector", "misaligned access of 16 bytes"),
        ("too_much_static_shared", "49156 bytes of static shared memory, allowed 49152"),
    ],
)
@pytest.mark.parametrize("order", ORDERS)
def test_wrong_kernels_are_named(programs: Path, name: str, message: str, order: str) -> None:
    text = output(programs, name, order)
    assert text.startswith("error: kernel ") and ", block (0, 0, 0): " in text, text
    assert message in text
    kernel = {"too_much_static_shared": "large_static_shared"}.get(name, name)
    assert kernel in text.split(",")[0]


@pytest.mark.parametrize(
    "name, message",
    [
        ("too_many_threads", "block (32, 33, 1) has more than 1024 threads"),
        ("too_deep_block", "block (1, 1, 65) has more than 1024 threads (or more than 64 along z)"),
        ("cluster_of_16_without_asking", "a cluster of 16 blocks, allowed 8"),
        ("grid_that_clusters_do_not_divide", "grid (3, 1, 1) is not a multiple of the cluster"),
        ("cluster_on_an_older_device", "clusters need compute capability 9.0"),
        ("empty_grid", "grid (0, 1, 1) has an empty side"),
        ("too_wide_grid", "grid (4294967295, 1, 1) is too large"),
        ("too_tall_grid", "grid (1, 65536, 1) is too large"),
        ("dynamic_shared_without_asking", "49153 bytes of dynamic shared memory, allowed 49152"),
        ("more_dynamic_shared_than_there_is", "233472 bytes of dynamic shared memory, the hardware has 232448"),
    ],
)
def test_launches_beyond_the_hardware_are_refused(programs: Path, name: str, message: str) -> None:
    text = output(programs, name)
    assert text.startswith("error: ") and message in text, text


@pytest.mark.parametrize(
    "name, messages",
    [
        ("cluster_without_barrier", ("of the cluster has not yet reached that shared array",)),
        ("handed_over_before_others_begin", ("of the cluster has not yet reached that shared array",)),
        ("cluster_leaves_too_early", ("reaches into the shared memory of block 1 of the cluster, which has returned",)),
        ("cluster_arrives_twice", ("arrives at the cluster barrier twice without waiting",)),
        ("cluster_waits_without_arriving", ("waits at the cluster barrier without having arrived",)),
        ("barrier_that_keeps_the_cluster_waiting", ("deadlock: ", "threads wait for their cluster (")),
    ],
)
@pytest.mark.parametrize("order", ORDERS)
def test_wrong_clusters_are_named(programs: Path, name: str, messages: tuple[str, ...], order: str) -> None:
    text = output(programs, name, order)
    assert text.startswith(f"error: kernel {{anonymous}}::{name}, block ("), text
    assert all(message in text for message in messages), text


def test_large_clusters_can_be_asked_for(programs: Path) -> None:
    assert output(programs, "cluster_of_16_after_asking") == "ran"


def test_dynamic_shared_memory_can_be_asked_for(programs: Path) -> None:
    assert output(programs, "dynamic_shared_after_asking") == "ran"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["write_past_end", "read_past_end", "write_past_shared", "write_past_dynamic_shared"])
def test_out_of_bounds_is_reported_by_the_sanitizer(sanitized_programs: Path, name: str, order: str) -> None:
    done = run(sanitized_programs, name, order)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
    assert name in done.stderr  # the kernel, in the stack trace
    assert ("READ" if name == "read_past_end" else "WRITE") + " of size 4" in done.stderr


def test_every_kernel_stays_in_bounds() -> None:
    """All launchers, all dtypes and layouts, all orders, on memory of exact size under both sanitizers."""
    sources = [
        ROOT / "tests" / "emulation" / "sanitize_kernels.cpp",
        ROOT / "csrc" / "emulation" / "cuda_emulation.cpp",
        *sorted((ROOT / "csrc" / "kernels").glob("*.cu")),
    ]
    program = build(sources, SANITIZE, "sanitize_kernels")
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout.endswith("results checked\n")


def test_16_bit_conversions_are_exact(emulated_gpu: EmulatedGpu) -> None:
    """Every half to float; floats at, beside and between all halves and bfloat16s back, against PyTorch."""
    library = emulated_gpu.library
    bits = torch.arange(65536, dtype=torch.int32).to(torch.uint16)
    values = torch.empty(65536)
    library.emulation_half_to_float(*(_pointer(t) for t in (bits, values)), _count(65536))
    expected = bits.view(torch.float16).float()
    assert torch.equal(values.isnan(), expected.isnan())
    assert torch.equal(values.nan_to_num(), expected.nan_to_num())
    for dtype, name in ((torch.float16, "half"), (torch.bfloat16, "bfloat16")):
        exact = bits.view(dtype).float()
        between = (exact.double() + exact.roll(-1).double()).mul(0.5).float()
        floats = torch.cat(
            [exact, between, *(t.nextafter(torch.tensor(s)) for t in (exact, between) for s in (-1e38, 1e38))]
        )
        result = torch.empty(floats.shape, dtype=torch.uint16)
        getattr(library, f"emulation_float_to_{name}")(_pointer(floats), _pointer(result), _count(floats.numel()))
        wanted = floats.to(dtype)
        number = ~wanted.isnan()
        assert torch.equal(result.view(torch.int16)[number], wanted.view(torch.int16)[number])
        assert bool(result.view(dtype)[~number].isnan().all())


def _pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _count(number: int) -> ctypes.c_int64:
    return ctypes.c_int64(number)
