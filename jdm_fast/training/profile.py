"""Where the time of a training step goes: a trace to look at, and a table."""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity

from jdm_fast._files import make_folder, write_atomically

DATA = "waiting for data"
"""``torch.profiler.record_function`` with this name around whatever waits for a batch tells data from idleness."""

# The first that matches. Names are those of PyTorch's operators on a CPU, and of kernels on a GPU: a captured graph
# replays kernels without operators.
_CATEGORIES: tuple[tuple[str, str], ...] = (
    ("optimiser", r"adam|multi_tensor_apply|optimizer|_foreach_(lerp|norm)|amp_"),
    ("norms", r"(instance|batch|group|layer)_?norm|jdm_fast::.*Norm(Forward|Backward)|parameter_gradients"),
    (
        "convolutions",
        r"conv|fprop|dgrad|wgrad|implicit_gemm|winograd|xmma|cutlass|gemm|addmm|aten::(b?mm|matmul|linear)|cudnn.*engine",
    ),
)
_STEP = "training step"
_ELEMENTWISE, _IDLE, _DATA_ROW = "elementwise, losses, copies", "idle", "data"
_ROWS = ("convolutions", "norms", _ELEMENTWISE, "optimiser", _DATA_ROW, _IDLE)

Interval = tuple[float, float]


@dataclass(frozen=True)
class Share:
    """A row of the table: what, its milliseconds in a step, its share of the step's time, and its dearest parts with
    their milliseconds."""

    name: str
    milliseconds: float
    share: float
    parts: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class StepProfile:
    """Where the time of a step went.

    On a CPU a row is the time that operators took in the training thread, and ``idle`` is Python between them. On a
    GPU a row is the time that kernels took, and ``idle`` is when none ran; kernels that run side by side count in each
    of their rows, so that these may add up to more than the step.
    """

    device: str
    steps: int
    milliseconds: float
    shares: tuple[Share, ...]
    trace: Path | None = None

    def table(self) -> Table:
        """The profile as a table for a console."""
        table = Table(
            title=f"where a step of {self.milliseconds:.1f} ms goes ({self.device}, mean of {self.steps} steps)",
            box=SIMPLE_HEAD,
            title_justify="left",
        )
        table.add_column("part")
        table.add_column("ms a step", justify="right")
        table.add_column("share", justify="right")
        table.add_column("most of it")
        for share in self.shares:
            most = ", ".join(f"{name} {milliseconds:.1f}" for name, milliseconds in share.parts)
            table.add_row(share.name, f"{share.milliseconds:.2f}", f"{share.share:.0%}", most)
        return table


class StepProfiler:
    """Profiles some steps of a training that is already warm.

    Args:
        folder: ``trace.json`` goes there, for Perfetto (ui.perfetto.dev) or chrome://tracing.
        device: where the networks are.
        tell: given the profile when it is done.
        first: the first step profiled, counted from 1 at the first call of :meth:`step`; those before it warm up.
        count: how many steps.
    """

    FIRST, COUNT = 11, 10

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        tell: Callable[[StepProfile], None],
        *,
        first: int = FIRST,
        count: int = COUNT,
    ) -> None:
        self._folder, self._device, self._tell = folder, device, tell
        self._first, self._count = first, count
        self._step = 0
        self._seconds = 0.0
        self._profiler: torch.profiler.profile | None = None

    @contextmanager
    def step(self) -> Iterator[None]:
        """Context of one step, the waiting for its data included (under the name :data:`DATA`).

        What comes between two of these, as the log and checkpoints do, is not profiled.
        """
        self._step += 1
        if self._step == self._first:
            activities = [ProfilerActivity.CPU]
            if self._device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._synchronize()
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it complains of every machine without a GPU
            self._profiler = torch.profiler.profile(activities=activities, acc_events=True)
            self._profiler.start()
        if self._profiler is None:
            yield
            return
        began = time.perf_counter()
        with torch.profiler.record_function(_STEP):
            yield
            self._synchronize()  # so that kernels of this step do not count in the next
        self._seconds += time.perf_counter() - began
        if self._step == self._first + self._count - 1:
            self._finish()

    def close(self) -> None:
        """Finish with as many steps as there were, if the training ended early."""
        if self._profiler is not None:
            self._finish()

    def _finish(self) -> None:
        profiler, self._profiler = self._profiler, None
        assert profiler is not None
        profiler.stop()
        steps = self._step - self._first + 1
        make_folder(self._folder)
        path = self._folder / "trace.json"
        write_atomically(path, lambda file: profiler.export_chrome_trace(file.name))
        events = profiler.events() or []
        self._tell(summarize(events, steps, self._seconds, self._device.type, path))

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def summarize(
    events: Iterable[FunctionEvent], steps: int, seconds: float, device: str, trace: Path | None = None
) -> StepProfile:
    """Sort a profiler's events into the rows of the table.

    Args:
        events: of ``steps`` steps, each within a ``record_function`` of this module's making.
        steps, seconds: how many steps, and how long all of them took together.
        device: ``cpu`` or ``cuda``.
        trace: the file that the events were written to.
    """
    events = list(events)
    marks = [event for event in events if event.name == _STEP and event.device_type == DeviceType.CPU]
    threads = {event.thread for event in marks}
    waits = [event for event in events if event.name == DATA and event.device_type == DeviceType.CPU]
    parts: dict[str, dict[str, float]] = {row: defaultdict(float) for row in _ROWS}
    waited = [(event.time_range.start, event.time_range.end) for event in waits]
    within = [(event.time_range.start, event.time_range.end) for event in marks]
    if device == "cuda":
        kernels = [event for event in events if event.device_type == DeviceType.CUDA and not _is_mark(event.name)]
        for event in kernels:
            parts[_category(event.name)][_short(event.name)] += event.time_range.elapsed_us()
        busy = [(event.time_range.start, event.time_range.end) for event in kernels]
        # Waiting for data matters only as far as the GPU has nothing to do meanwhile.
        waiting = _length(_without(waited, busy))
        idle = _length(_without(within, busy)) - waiting
    else:
        for event in events:
            if event.thread in threads and not _is_mark(event.name) and event.device_type == DeviceType.CPU:
                parts[_category(event.name)][_short(event.name)] += event.self_cpu_time_total
        waiting = _length(waited)
        idle = seconds * 1e6 - waiting - sum(sum(some.values()) for some in parts.values())
    parts[_DATA_ROW] = {"": waiting}
    parts[_IDLE] = {"": max(0.0, idle)}
    shares = tuple(_share(row, parts[row], steps, seconds) for row in _ROWS)
    return StepProfile(device, steps, seconds * 1e3 / steps, shares, trace)


def _share(row: str, parts: dict[str, float], steps: int, seconds: float) -> Share:
    total = sum(parts.values())
    dearest = sorted(((us / 1e3 / steps, name) for name, us in parts.items() if name), reverse=True)[:2]
    return Share(row, total / 1e3 / steps, total / 1e6 / seconds, tuple((name, ms) for ms, name in dearest))


def _category(name: str) -> str:
    for category, pattern in _CATEGORIES:
        if re.search(pattern, name, re.IGNORECASE):
            return category
    return _ELEMENTWISE


def _is_mark(name: str) -> bool:
    """Names of ours and the profiler's own, whose time is that of others."""
    return name in (_STEP, DATA) or name.startswith(("ProfilerStep", "## Call", "Torch-Compiled Region", "gpu_memory"))


def _short(name: str) -> str:
    """A kernel's name without what makes it unreadable."""
    name = name.removeprefix("aten::").removeprefix("autograd::engine::evaluate_function: ")
    name = re.sub(r"^void |^Optimizer\.|<.*|\(.*", "", name)
    return name.rsplit("::", 1)[-1][:40]


def _merged(intervals: Iterable[Interval]) -> list[Interval]:
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _without(intervals: Iterable[Interval], others: Iterable[Interval]) -> list[Interval]:
    """The parts of ``intervals`` that none of ``others`` covers."""
    left = []
    taken = _merged(others)
    first = 0
    for start, end in _merged(intervals):
        while first < len(taken) and taken[first][1] <= start:
            first += 1
        index = first
        while index < len(taken) and taken[index][0] < end:
            if taken[index][0] > start:
                left.append((start, taken[index][0]))
            start = max(start, taken[index][1])
            index += 1
        if start < end:
            left.append((start, end))
    return left


def _length(intervals: Iterable[Interval]) -> float:
    return sum(end - start for start, end in _merged(intervals))
