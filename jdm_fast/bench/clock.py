"""Timing: contenders take turns in rounds, so that a disturbance meets all of them; medians and quartiles of rounds.

On a CPU a round is as many calls as the clock needs. On a GPU a round is a CUDA graph of calls, timed with events: a
small kernel is shorter than its launch from Python, and only a graph shows it. A call whose kernels take a millisecond
and more is timed as it is, with events around some calls.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

Clock = Literal["wall", "graph", "events"]
Call = Callable[[int], Any]  # takes the number of the call, to pick its input by

CPU_CACHE_BYTES = 64 << 20  # of inputs to rotate through, so that no call finds its input in a cache
CPU_MAX_SETS = 32
GPU_CACHES = 3  # times the L2
GPU_MAX_SETS = 40
MIN_LAUNCHES = 20  # in a graph
LONG_CALL = 1e-3  # seconds of kernels from which on the host's part cannot be seen
ROUND_SECONDS = 3e-3
MIN_ROUNDS, MAX_ROUNDS = 5, 25


@dataclass(frozen=True)
class Times:
    """Seconds of one call: median and quartiles of ``count`` rounds, and the rounds unless read from a file."""

    median: float
    quartiles: tuple[float, float]
    count: int
    clock: Clock
    rounds: tuple[float, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, rounds: Sequence[float], clock: Clock) -> Times:
        """The times of one or more rounds."""
        first, third = rounds[0], rounds[0]
        if len(rounds) > 1:
            first, _, third = statistics.quantiles(rounds, n=4, method="inclusive")
        return cls(statistics.median(rounds), (first, third), len(rounds), clock, tuple(rounds))


@functools.cache
def keep_freed_memory() -> None:
    """Makes glibc keep freed blocks over 32 MB, which it would give back to the system at once: every large output
    would be a new mapping, and its page faults, the same for all contenders, would take longer than the arithmetic."""
    if sys.platform == "linux":
        m_trim_threshold, m_mmap_max = -1, -4
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def input_sets(bytes_of_one: int, device: torch.device) -> int:
    """How many sets of inputs to rotate through: together more than the cache, as far as a limit on the number goes."""
    if device.type == "cuda":
        cache = GPU_CACHES * torch.cuda.get_device_properties(device).L2_cache_size
        most = GPU_MAX_SETS
    else:
        cache, most = CPU_CACHE_BYTES, CPU_MAX_SETS
    return max(2, min(most, math.ceil(cache / max(1, bytes_of_one))))


@functools.cache
def _side_stream(index: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(index)


def stage(device: torch.device) -> AbstractContextManager[Any]:
    """Where inputs are made, contenders checked and timed. On a GPU a stream of its own: autograd runs a backward on
    the stream of its forward, and a CUDA graph cannot be captured on the default stream."""
    if device.type != "cuda":
        keep_freed_memory()
        return nullcontext()
    return torch.cuda.stream(_side_stream(_index(device)))


def race(calls: Mapping[str, Call], sets: int, device: torch.device, seconds: float) -> tuple[dict[str, Times], dict]:
    """Times every call in alternating rounds, inside :func:`stage`.

    Args:
        calls: by name; call number ``i`` uses set ``i % sets`` of its inputs.
        sets: how many there are.
        device: where they run.
        seconds: of all rounds of a contender, about; there are at least 5 rounds and at most 25.

    Returns:
        the times, and for a contender that raised (no memory, say) its exception in their stead.
    """
    rounds: dict[str, Callable[[], float]] = {}
    clocks: dict[str, Clock] = {}
    raised: dict[str, Exception] = {}
    first: dict[str, float] = {}
    for name, call in calls.items():
        try:
            make = _gpu_round if device.type == "cuda" else _cpu_round
            rounds[name], clocks[name] = make(call, sets)
            begin = time.perf_counter()
            rounds[name]()  # warm-up
            first[name] = time.perf_counter() - begin
        except Exception as error:
            raised[name] = error
            rounds.pop(name, None)
    count = max(MIN_ROUNDS, min(MAX_ROUNDS, int(seconds * len(rounds) / max(1e-9, sum(first.values())))))
    taken: dict[str, list[float]] = {name: [] for name in rounds}
    for _ in range(count):
        for name, run in rounds.items():
            taken[name].append(run())
    return {name: Times.of(values, clocks[name]) for name, values in taken.items()}, raised


def _cpu_round(call: Call, sets: int) -> tuple[Callable[[], float], Clock]:
    call(0)  # what is set up once
    begin = time.perf_counter()
    call(1)
    repeat = max(1, math.ceil(ROUND_SECONDS / (time.perf_counter() - begin)))
    counter = itertools.count(2)

    def run() -> float:
        numbers = list(itertools.islice(counter, repeat))
        begin = time.perf_counter()
        for number in numbers:
            call(number)
        return (time.perf_counter() - begin) / repeat

    return run, "wall"


def _gpu_round(call: Call, sets: int) -> tuple[Callable[[], float], Clock]:
    for number in range(2):
        call(number)  # what is set up once
    estimate = _event_seconds(lambda: [call(number) for number in range(2)]) / 2
    if estimate >= LONG_CALL:  # perhaps only on the host, which launches many small kernels or is busy: a graph tells
        once = _capture(call, 1, sets)
        if once is not None:
            once.replay()
            estimate = _event_seconds(once.replay)
    launches = max(MIN_LAUNCHES, sets)
    if estimate < LONG_CALL:
        graph = _capture(call, launches, sets)
        if graph is not None:
            return lambda: _event_seconds(graph.replay) / launches, "graph"
    repeat = max(2, math.ceil(ROUND_SECONDS / estimate))
    counter = itertools.count(2)

    def run() -> float:
        numbers = list(itertools.islice(counter, repeat))
        return _event_seconds(lambda: [call(number) for number in numbers]) / repeat

    return run, "events"


def _event_seconds(work: Callable[[], Any]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def _capture(call: Call, launches: int, sets: int) -> torch.cuda.CUDAGraph | None:
    """A graph of calls number 0 to ``launches`` - 1, or None if they cannot be captured."""
    pool, _ = _graph_memory(torch.cuda.current_device())
    held: deque[Any] = deque(maxlen=sets)  # results get memory of their own: one that is in the cache costs less
    graph = torch.cuda.CUDAGraph()
    # Not by torch.cuda.graph(), which gives all cached memory back to the driver before each of a thousand captures.
    torch.cuda.synchronize()
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
    captured = True
    try:
        for number in range(launches):
            held.append(call(number))
    except RuntimeError:  # a contender that waits for the GPU, or has no memory
        captured = False
    try:
        graph.capture_end()
    except RuntimeError:
        captured = False
    return graph if captured else None


@functools.cache
def _graph_memory(index: int) -> tuple[Any, torch.cuda.CUDAGraph]:
    """One pool for the graphs of all cells, which never run at the same time and whose outputs nobody reads; and a
    graph that keeps the pool alive between two cells."""
    pool = torch.cuda.graph_pool_handle()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
    torch.zeros(1, device=torch.device("cuda", index))
    graph.capture_end()
    return pool, graph


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index
