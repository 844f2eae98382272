"""Ending a training from outside without losing it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from jdm_fast.errors import Stopped


class Interrupted(Stopped):
    """Training was asked to end, and has saved its state.

    Attributes beside the signal's:
        path: the run's folder. step: steps done.
    """

    def __init__(self, path: Path, step: int, total: int, number: int) -> None:
        kept = f" at step {step} of {total}; everything is saved. Run the same command again to continue"
        super().__init__(number, f"{path}: stopped", kept)
        self.path, self.step = path, step


_ENDING = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class StopRequest:
    """Whether SIGINT (Ctrl-C) or SIGTERM has come: ``number`` is the signal's, or None."""

    def __init__(self) -> None:
        self.number: int | None = None

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Context in which a first signal is noted and a second one acts as usual, at once.

        Only the main thread can listen; in another one signals keep their meaning.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def note(number: int, frame: FrameType | None) -> None:
            self.number = number
            for (
                each,
                handler,
            ) in usual.items():  # a shell starts background jobs with SIGINT ignored: not the second one
                signal.signal(each, _ENDING[each] if handler is signal.SIG_IGN else handler)

        for number in usual:
            signal.signal(number, note)
        try:
            yield self
        finally:
            for number, handler in usual.items():
                signal.signal(number, handler)
