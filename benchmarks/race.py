"""A race of one op against the same function composed of PyTorch's own operators, for benchmarks/bench_<op>.py."""

from __future__ import annotations

import ctypes
import functools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

OURS, EAGER = "jdm_fast", "eager"
CACHE_BYTES = 64 << 20  # of inputs to rotate through, so that no run finds its input in a cache
ROUNDS = 15
MAX_SETS = 32


def input_sets(bytes_of_one: int) -> int:
    """How many sets of inputs to rotate through."""
    return max(2, min(MAX_SETS, -(-CACHE_BYTES // max(1, bytes_of_one))))


@functools.cache
def keep_freed_memory() -> None:
    """Makes glibc keep freed blocks over 32 MB, which it would give back to the system at once: every large output
    would be a new mapping, and its page faults, the same for all contenders, would take longer than the arithmetic."""
    if sys.platform == "linux":
        m_trim_threshold, m_mmap_max = -1, -4
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Wall time of one call, the device's work included."""
    begin = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def race(
    benchmark: Any,
    implementation: str,
    contenders: dict[str, Callable[[int], Any]],
    *,
    group: str,
    bytes_moved: int,
    device: torch.device,
) -> None:
    """Times ``contenders[implementation]``; each contender takes the number of the run, to pick its input by.

    ``bytes_moved`` is the least that must be read and written. In the run of jdm_fast both are also timed in
    alternating rounds, so that a disturbance meets both: ``extra_info["speedup"]`` is eager's median over ours.
    """
    keep_freed_memory()
    # A round runs long enough for the clock.
    repeat = max(1, round(0.003 / seconds(lambda: [contenders[EAGER](i) for i in range(3)], device) * 3))
    benchmark.group = f"{group} on {device.type}"
    benchmark.extra_info.update(implementation=implementation, bytes=bytes_moved, threads=torch.get_num_threads())
    if implementation == OURS:
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for round_index in range(ROUNDS + 1):
            for name, contender in contenders.items():
                first = round_index * repeat
                elapsed = seconds(lambda c=contender, f=first: [c(f + i) for i in range(repeat)], device)
                if round_index > 0:  # the first is the warm-up
                    times[name].append(elapsed / repeat)
        medians = {name: statistics.median(values) for name, values in times.items()}
        benchmark.extra_info.update(
            speedup=medians[EAGER] / medians[OURS],
            speedup_of_best=min(times[EAGER]) / min(times[OURS]),
            gigabytes_per_second=bytes_moved / medians[OURS] / 1e9,
        )
        print(
            f"\n{benchmark.group}: eager {medians[EAGER] * 1e3:.3f} ms, jdm_fast {medians[OURS] * 1e3:.3f} ms,"
            f" {medians[EAGER] / medians[OURS]:.2f}x, {bytes_moved / medians[OURS] / 1e9:.1f} GB/s"
        )
    counter = iter(range(10**9))
    benchmark.pedantic(
        lambda: seconds(lambda: contenders[implementation](next(counter)), device),
        rounds=ROUNDS,
        iterations=repeat,
        warmup_rounds=1,
    )
