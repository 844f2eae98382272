"""Who of several processes has failed: so that the others end too, and say who it was.

A process that waits for another in a collective operation cannot tell why the other does not come. So beside the
operations every process has a lifeline: a thread that writes a beat into the store they all share (torchrun's, or that
of rank 0) and looks after the process of the next rank. The first failure that is known is written into the store,
where all the others find it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from dataclasses import asdict, dataclass

from torch.distributed import Store

_FAILED = "failed"


@dataclass(frozen=True)
class Failure:
    """The first failure. ``who``: the process or processes, in words. ``why``: what became of them."""

    who: str
    why: str

    def __str__(self) -> str:
        return f"{self.who} {self.why}"


class Lifeline:
    """Beats, and what is known of the others'.

    The thread ends a process that does not end by itself in time after a failure is known: on a GPU the main thread may
    wait in a kernel of NCCL that nothing can call back. With gloo the operations themselves fail at once, and nobody
    needs to be ended so.

    Args:
        store: shared by all, and used by nobody else in this process: while an operation of a store waits, no other
            can go on.
        rank, world_size: which of how many processes this is.
        beat: seconds between beats.
        patience: beats that may be missed before a process is taken for dead. It may just be busy.
        grace: seconds for a process to end by itself once a failure is known.
    """

    def __init__(
        self, store: Store, rank: int, world_size: int, *, beat: float = 0.5, patience: int = 120, grace: float = 20.0
    ) -> None:
        self._store, self._rank, self._world_size = store, rank, world_size
        self._beat, self._patience, self._grace = beat, patience, grace
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lifeline", daemon=True)

    def start(self) -> None:
        """Introduce this process and begin to beat. Before a failure may be asked for, all must have done so."""
        self._store.set(f"who/{self._rank}", f"{socket.gethostname()}, process {os.getpid()}")
        self._store.set(f"beat/{self._rank}", "0")
        self._thread.start()

    def stop(self) -> None:
        """Beat no more."""
        self._ended.set()
        self._thread.join()

    def report(self, why: str) -> None:
        """Tell the others that this process ends, unless another failure came first. Rank 0, with which the store may
        end, leaves them the time to hear it."""
        try:
            self._write(Failure(self._who([self._rank]), why))
        except RuntimeError:  # the store has ended already, so that the others know
            return
        if self._rank == 0:
            self._ended.wait(3 * self._beat)

    def known(self) -> Failure | None:
        """The first failure, if one has been told of."""
        if not self._store.check([_FAILED]):
            return None
        return Failure(**json.loads(self._store.get(_FAILED)))

    def diagnose(self) -> Failure | None:
        """The first failure; if none has been told of, which processes beat no more. Takes a few beats.

        None if all are alive: then it is the connection that has failed.
        """
        try:
            before = self._beats()
            for _ in range(5):
                if (failure := self.known()) is not None:
                    return failure
                self._ended.wait(self._beat)
            silent = [rank for rank, (old, new) in enumerate(zip(before, self._beats(), strict=True)) if old == new]
            if silent:
                self._write(Failure(self._who(silent), "died: a signal, the system for want of memory, or a crash"))
            return self.known()
        except RuntimeError:  # of the store
            return _STORE_LOST

    def _run(self) -> None:
        count, missed, heard = 0, 0, b""
        neighbour = (self._rank + 1) % self._world_size
        while not self._ended.wait(self._beat):
            count += 1
            try:
                self._store.set(f"beat/{self._rank}", str(count))
                # Beats missed are counted in own beats: time in which all processes were stopped does not count.
                if self._store.check([f"beat/{neighbour}"]):  # it may not have introduced itself yet
                    now = self._store.get(f"beat/{neighbour}")
                    missed, heard = (missed + 1, heard) if now == heard else (0, now)
                if missed > self._patience:
                    seconds = self._patience * self._beat
                    self._write(Failure(self._who([neighbour]), f"has given no sign of life for {seconds:g} s"))
                failure = self.known()
            except RuntimeError:
                failure = _STORE_LOST
            if failure is not None:
                if not self._ended.wait(self._grace):
                    print(f"rank {self._rank}: {failure}; this process ends too", file=sys.stderr, flush=True)
                    os._exit(1)
                return

    def _beats(self) -> list[bytes]:
        return self._store.multi_get([f"beat/{rank}" for rank in range(self._world_size)])

    def _who(self, ranks: list[int]) -> str:
        names = self._store.multi_get([f"who/{rank}" for rank in ranks])
        return " and ".join(f"rank {rank} ({name.decode()})" for rank, name in zip(ranks, names, strict=True))

    def _write(self, failure: Failure) -> None:
        self._store.compare_set(_FAILED, "", json.dumps(asdict(failure)))  # only if there is none


_STORE_LOST = Failure("the process that keeps the addresses of all (rank 0, or torchrun on its machine)", "has ended")
