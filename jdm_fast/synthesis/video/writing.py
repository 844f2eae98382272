"""Frames into the files of segments, each of an output's files in a thread of its own.

Converting and encoding the files go on side by side, and beside what computes the frames; while the last frames of a
segment are still being encoded, the next one's may come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from jdm_fast.data.video_files import FrameWriter
from jdm_fast.synthesis.video.store import SegmentStore

WAITING = 2  #: parts that may wait for the slowest file

Part = dict[str, np.ndarray]


class SegmentWriters:
    """Writes the segments of a :class:`SegmentStore`, one after the other.

    As a context manager: on leaving, also by an exception, segments that were ended are finished if they can be; one
    that was not is discarded. Used by one thread.

    Args:
        store: where they go.
        writer: makes the writer of one file.
    """

    def __init__(self, store: SegmentStore, writer: Callable[[Path], FrameWriter]) -> None:
        self._store, self._writer = store, writer
        self._threads = {name: ThreadPoolExecutor(1, f"jdm_fast-writer-{name}") for name in store.names}
        self._waiting: deque[list[Future[None]]] = deque()
        self._open: _Segment | None = None
        self._ended: deque[_Segment] = deque()

    def write(self, number: int, part: Part) -> None:
        """The next frames of a segment, by domain uint8 [b, H, W, 3]. Raises what writing earlier ones raised."""
        segment = self._open = self._open or _Segment(number)
        segment.frames += len(next(iter(part.values())))
        self._waiting.append(self._everywhere(self._append, segment, part))
        while len(self._waiting) > WAITING:
            _wait(self._waiting.popleft())

    def end(self, number: int, note: Mapping[str, Any]) -> None:
        """The segment has all its frames, none perhaps; ``note`` is kept with it."""
        segment, self._open = self._open or _Segment(number), None
        segment.note = {**note, "frames": segment.frames}
        segment.ending = self._everywhere(self._finish, segment)
        self._ended.append(segment)
        while len(self._ended) > 1:
            self._publish_first()

    def __enter__(self) -> SegmentWriters:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._ended:
                try:
                    self._publish_first()
                except Exception:
                    if kind is None:
                        raise
                    break  # the first exception is the one to tell
        finally:
            for thread in self._threads.values():
                thread.shutdown(cancel_futures=True)
            for segment in filter(None, (self._open, *self._ended)):
                segment.discard()

    def _everywhere(self, work: Callable[..., None], *arguments: Any) -> list[Future[None]]:
        return [thread.submit(work, name, *arguments) for name, thread in self._threads.items()]

    def _publish_first(self) -> None:
        segment = self._ended[0]
        _wait(segment.ending)
        for writer in segment.writers.values():
            writer.publish()
        self._store.mark(segment.number, segment.note)
        self._ended.popleft()

    # ---- in the thread of one file ----------------------------------------------------------------------------------

    def _append(self, name: str, segment: _Segment, part: Part) -> None:
        if name not in segment.writers:
            segment.writers[name] = self._writer(self._store.make_way(segment.number, name))
        segment.writers[name].write(np.concatenate(list(part.values()), axis=2) if name == "both" else part[name])

    @staticmethod
    def _finish(name: str, segment: _Segment) -> None:
        if name in segment.writers:
            segment.writers[name].finish()


class _Segment:
    def __init__(self, number: int) -> None:
        self.number, self.frames = number, 0
        self.writers: dict[str, FrameWriter] = {}
        self.note: Mapping[str, Any] = {}
        self.ending: list[Future[None]] = []

    def discard(self) -> None:
        for writer in self.writers.values():
            writer.discard()


def _wait(futures: list[Future[None]]) -> None:
    for future in futures:
        future.result()
