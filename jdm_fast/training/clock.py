"""How fast a training is, and how long it waits for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Images/s, and the share of time spent waiting for data, since the last lap."""

    def __init__(self, images_per_step: int) -> None:
        self._images_per_step = images_per_step
        self._began = time.perf_counter()
        self._waited = 0.0
        self.steps = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Context of waiting for data."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Context of work that is no part of a step."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def lap(self) -> dict[str, float]:
        """Both since the last lap, for the log."""
        now = time.perf_counter()
        seconds = max(now - self._began, 1e-9)
        figures = {
            "images_per_second": self.steps * self._images_per_step / seconds,
            "data_wait": self._waited / seconds,
        }
        self._began, self._waited, self.steps = now, 0.0, 0
        return {name: round(value, 4) for name, value in figures.items()}
