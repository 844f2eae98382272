"""The progress bar of commands that count things."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def counting(console: Console, what: str, unit: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar with count, rate and time left; yields ``on_progress(done, total)``, total None while it is not known.

    Where the console is no terminal there is none: rich would leave an empty line of it.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    hidden = not console.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(what, total=None, rate="")

        def on_progress(done: int, total: int | None) -> None:
            elapsed = progress.tasks[task].elapsed or 0
            rate = f"{done / elapsed:.1f} {unit}/s" if elapsed > 0 else ""
            progress.update(task, completed=done, total=total, rate=rate)

        yield on_progress
