"""Commands that a signal ends with a word about what is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from jdm_fast.errors import Stopped


class _Terminated(KeyboardInterrupt):
    pass


@contextmanager
def stopping(kept: str) -> Iterator[None]:
    """Context in which SIGTERM, like Ctrl-C, is raised where the program is, so that it can clean up; then
    :class:`Stopped`, which says what is ``kept``. Outside of the main thread signals keep their meaning."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, terminate) if here else None
    try:
        yield
    except KeyboardInterrupt as error:
        number = signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT
        raise Stopped(number, "stopped", f"; {kept}") from error
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)
