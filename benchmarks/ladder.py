"""Steps of a training, timed as a ladder: what ``bench_train.py`` and ``bench_jointgan.py`` have in common."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FirstStep = Callable[[str, Any], None]


class TimedSteps:
    """Loops that all begin with the weights of one method and go on with one batch, their peaks and their times."""

    def __init__(
        self, rungs: Mapping[str, Callable[[Any], Any]], method: nn.Module, batch: Any, first_step: FirstStep
    ) -> None:
        """Makes every loop and lets it take a first step, which ``first_step(name, loop)`` does and checks, and a
        second, whose peak of memory is kept."""
        self.batch = batch
        self.loops: dict[str, Any] = {}
        self.peaks: dict[str, int] = {}
        self.times: dict[str, list[float]] = {}
        for name, make in rungs.items():
            before = torch.cuda.memory_allocated() if DEVICE.type == "cuda" else 0
            if DEVICE.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            loop = self.loops[name] = make(copy.deepcopy(method))
            torch.manual_seed(1)
            first_step(name, loop)
            loop.step(batch)
            if DEVICE.type == "cuda":
                self.peaks[name] = torch.cuda.max_memory_allocated() - before
            else:
                self.peaks[name] = loop.kept() + cpu_peak(lambda loop=loop: loop.step(batch))

    def run(self, name: str) -> None:
        """One timed step of a loop."""
        begin = time.perf_counter()
        self.loops[name].step(self.batch)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        self.times.setdefault(name, []).append(time.perf_counter() - begin)

    def last(self, rounds: int) -> dict[str, list[float]]:
        """Seconds of each loop's last rounds, the warm-up left out."""
        return {name: self.times[name][-rounds:] for name in self.loops}


def cpu_peak(call: Callable[[], Any]) -> int:
    """The most bytes that a call takes at a time on top of what there was, as PyTorch's profiler is told."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it complains of every machine without a GPU
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profile:
        call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most
