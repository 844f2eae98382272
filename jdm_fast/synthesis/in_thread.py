"""An iterator that runs ahead of its use in a thread of its own, so that reading, computing and writing overlap."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")

_PATIENCE = 0.05  # seconds between two looks at whether anybody still wants the items


def in_thread(items: Iterable[Item], ahead: int, name: str) -> Generator[Item, None, None]:
    """The same items in the same order, made in a thread that is at most ``ahead`` items further than its use.

    The thread starts with the first item that is asked for. What the making of an item raises is raised where that
    item would have come. Closing this closes ``items`` too, in its thread, and waits for that.

    Args:
        items: used in the thread alone.
        ahead: how many items may wait, at least 1.
        name: of the thread.
    """
    ready: queue.Queue[tuple[bool, Item | BaseException | None]] = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def put(more: bool, item: Item | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put((more, item), timeout=_PATIENCE)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            iterator = iter(items)
            try:
                for item in iterator:
                    if not put(True, item):
                        return
            finally:
                close = getattr(iterator, "close", None)
                if close is not None:
                    close()
            put(False, None)
        except BaseException as error:  # raised again where the item is asked for
            put(False, error)

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        while True:
            more, item = ready.get()
            if isinstance(item, BaseException) and not more:
                raise item
            if not more:
                return
            yield item  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()
