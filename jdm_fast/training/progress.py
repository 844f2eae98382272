"""What a person sees while training: a live line in a terminal, plain lines in a file or a pipe."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from jdm_fast.metrics import Score
from jdm_fast.metrics.held_out import MEAN_COLOUR

_SECONDS_BETWEEN_LINES = 5.0


class ProgressDisplay:
    """Step, losses, images/s and time left. Use as a context manager.

    Args:
        console: where to.
        start, total: the step training begins after, and its last.
    """

    def __init__(self, console: Console, start: int, total: int) -> None:
        self._console, self._start, self._total = console, start, total
        self._began = self._printed = time.monotonic()
        self._live: Progress | None = None
        if console.is_terminal:
            self._live = Progress(
                TextColumn("training"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[losses]}", markup=False),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
                refresh_per_second=4,
                speed_estimate_period=120,
            )
            self._task = self._live.add_task("training", completed=start, total=total, losses="")

    def __enter__(self) -> ProgressDisplay:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def advance(self, step: int) -> None:
        """``step`` steps are done."""
        if self._live:
            self._live.update(self._task, completed=step)

    def show(self, step: int, metrics: dict[str, float]) -> None:
        """Show the newest line of the log."""
        losses = "  ".join(
            f"{name.removesuffix('_loss')} {metrics[name]:.3f}"
            for name in ("critic_loss", "generator_loss")
            if name in metrics  # not where no step of the window had a finite one
        )
        speed = f"{metrics['images_per_second']:.1f} images/s  data {metrics['data_wait']:.0%}"
        if "gpu_peak_mb" in metrics:
            speed += f"  GPU {metrics['gpu_peak_mb'] / 1024:.1f} GB"
        if self._live:
            self._live.update(self._task, completed=step, losses=f"{losses}  {speed}")
            return
        now = time.monotonic()
        if now - self._printed < _SECONDS_BETWEEN_LINES and step < self._total:
            return
        self._printed = now
        left = (now - self._began) / max(1, step - self._start) * (self._total - step)
        self.message(f"step {step}/{self._total}  epoch {metrics['epoch']}  {losses}  {speed}  {_duration(left)} left")

    def show_scores(self, step: int, scores: Mapping[str, Score]) -> None:
        """Show how near translations of held-out pictures are to the truth, beside the answer of one colour."""
        parts = [
            f"{name.replace('_to_', ' to ')} L1 {score.l1:.3f} (mean colour {scores[f'{name}/{MEAN_COLOUR}'].l1:.3f})"
            for name, score in scores.items()
            if f"{name}/{MEAN_COLOUR}" in scores
        ]
        self.message(f"step {step}/{self._total}  against the truth: {'  '.join(parts)}")

    def message(self, text: str, style: str = "") -> None:
        """A line of its own, above the live one."""
        say(self._console, text, style)


def say(console: Console, text: str, style: str = "") -> None:
    """Print ``text`` as it is: paths may hold what rich would take for markup."""
    console.print(Text(text, style=style), soft_wrap=True, highlight=False)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
