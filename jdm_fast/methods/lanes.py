"""Independent branches of a method side by side on a GPU.

At batch size 1 a network of one domain leaves much of a large GPU idle, and what the other domain computes at that
moment does not depend on it. A method says so with :func:`side_by_side`. Each key is a lane of its own, and a network
must always be called in the same lane: what autocast or autograd keep for it is then used by one stream only.

Without :meth:`Lanes.active`, and on a CPU, branches run one after the other, in their order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")
Branch = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function and its arguments. Tensors that it uses must be among them, or parameters."""

_here = threading.local()  # .active: a thread that draws pictures beside the one that trains must not use its streams


def side_by_side(branches: Mapping[str, tuple[Callable[..., Result], tuple[Any, ...]]]) -> dict[str, Result]:
    """The results of independent branches, by lane; each is ``function(*arguments)``."""
    active: Lanes | None = getattr(_here, "active", None)
    if active is None:
        return {lane: function(*arguments) for lane, (function, arguments) in branches.items()}
    return active.run(branches)


class Lanes:
    """CUDA streams by lane. The first lane is the current stream itself, the others have one of their own.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._first: str | None = None
        self._streams: dict[str, torch.cuda.Stream] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Context in which :func:`side_by_side` uses these lanes. It belongs to the thread that trains."""
        before, _here.active = getattr(_here, "active", None), self
        try:
            yield
        finally:
            _here.active = before

    def run(self, branches: Mapping[str, Branch]) -> dict[str, Any]:
        """Start all branches where the current stream stands, and let it go on when all are done."""
        current = torch.cuda.current_stream(self._device)
        streams = {lane: self._stream(lane) for lane in branches}
        # All of them start here, so this comes before the first branch gives the current stream something to do.
        for stream in streams.values():
            if stream is not None:
                stream.wait_stream(current)
        results = {}
        for lane, (function, arguments) in branches.items():
            stream = streams[lane]
            if stream is None:
                results[lane] = function(*arguments)
                continue
            # A tensor's memory is given back to the stream it was made on: tell the allocator who else uses it.
            _record(arguments, stream)
            with torch.cuda.stream(stream):
                results[lane] = function(*arguments)
        for lane, stream in streams.items():
            if stream is not None:
                current.wait_stream(stream)
                _record(results[lane], current)
        return results

    def _stream(self, lane: str) -> torch.cuda.Stream | None:
        if self._first is None:
            self._first = lane
        if lane == self._first:
            return None
        if lane not in self._streams:
            self._streams[lane] = torch.cuda.Stream(self._device)
        return self._streams[lane]


def _record(value: Any, stream: torch.cuda.Stream) -> None:
    if isinstance(value, Tensor):
        value.record_stream(stream)
    elif isinstance(value, Mapping):
        for item in value.values():
            _record(item, stream)
    elif isinstance(value, (tuple, list)):
        for item in value:
            _record(item, stream)
