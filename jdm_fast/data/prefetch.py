"""An iterator that runs ahead of its use, in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, nullcontext

import torch
from torch import Tensor

Batch = dict[str, Tensor]


class Prefetcher:
    """Batches made ahead of their use in one thread, in order, so that nothing depends on timing.

    Use as a context manager, which gives the iterator; leaving it ends the thread, also after an exception. Iterating
    raises what the making of a batch raised, where that batch would have come.

    Args:
        make: gives the batches; called and used in the thread, and closed at the end.
        ahead: how many may wait.
        device: with CUDA, batches are made on a stream of their own, so that this does not wait for training, nor
            training for this.
    """

    def __init__(self, make: Callable[[], Generator[Batch, None, None]], ahead: int, device: torch.device) -> None:
        self._make, self._device = make, device
        self._ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=max(1, ahead))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="jdm_fast-loader", daemon=True)

    def __enter__(self) -> Iterator[Batch]:
        self._thread.start()
        return self._take()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _take(self) -> Iterator[Batch]:
        while (item := self._ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            if self._device.type == "cuda":
                for tensor in item.values():  # its memory is not to be used again before this stream is done with it
                    tensor.record_stream(torch.cuda.current_stream(self._device))
            yield item

    def _work(self) -> None:
        on_gpu = self._device.type == "cuda"
        try:
            with (
                torch.cuda.stream(torch.cuda.Stream(self._device)) if on_gpu else nullcontext(),
                closing(self._make()) as batches,
            ):
                for batch in batches:
                    if on_gpu:
                        torch.cuda.current_stream(self._device).synchronize()  # ready, for whatever stream takes it
                    if not self._put(batch):
                        return
            self._put(None)
        except BaseException as error:  # raised again where the batch is asked for
            self._put(error)

    def _put(self, item: Batch | BaseException | None) -> bool:
        """Put an item where it can be taken; False if nobody will."""
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.05)
                return True
            except queue.Full:
                continue
        return False
