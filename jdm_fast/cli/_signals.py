"""Commands that a signal ends with a word about what is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from jdm_fast.errors import UserError


class Stopped(UserError):
    """The command was ended by a signal; ``exit_status`` is what shells expect then, 128 + the signal's number."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; {message}")
        self.exit_status = 128 + number


class _Terminated(KeyboardInterrupt):
    pass


@contextmanager
def stopping(message: str) -> Iterator[None]:
    """Context in which SIGTERM, like Ctrl-C, is raised where the program is, so that it can clean up; then
    :class:`Stopped` with ``message``. Outside of the main thread signals keep their meaning."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, terminate) if here else None
    try:
        yield
    except KeyboardInterrupt as error:
        raise Stopped(signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT, message) from error
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)
