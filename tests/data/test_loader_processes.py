"""Loaders in processes of their own: side by side, killed and interrupted."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jdm_fast.data.images import save_image
from tests.data import loader_process
from tests.data.loader_process import Line, line, open_loader

COUNTS = {"x": 11, "y": 6}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("processes")
    rng = np.random.default_rng(0)
    for key, count in COUNTS.items():
        (root / key).mkdir()
        for k in range(count):
            image = rng.integers(0, 256, (40, 48, 3), np.uint8)
            image[..., 0] = k
            save_image(root / key / f"{k:02}.png", image)
    return root


class Process:
    """A process that loads pictures. A server that has imported PyTorch once starts them, so that this takes no time,
    and each is as new as one from a command line: nothing has been loaded before."""

    def __init__(self, root: Path, start: int, stop: int, **settings: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([loader_process.__name__])
        self._receiver, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=loader_process.load, args=(sender, root, start, stop, settings))
        self.process.start()
        sender.close()

    def lines(self) -> Iterator[Line]:
        while True:
            try:
                yield self._receiver.recv()
            except EOFError:
                return

    def end(self, signal_number: int) -> int | None:
        """Send a signal; the status with which the process ends."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal_number)
        self.process.join(timeout=10)
        return self.process.exitcode


def in_this_process(root: Path, start: int, stop: int, **settings: Any) -> list[Line]:
    with open_loader(root, **settings).batches(start, stop) as batches:
        return [line(step, batch) for step, batch in enumerate(batches, start)]


def test_two_processes_show_every_file_once_in_a_pass_and_share_one_cache(root: Path) -> None:
    processes = [Process(root, 0, 11, batch_size=2, rank=rank, world_size=2) for rank in (0, 1)]
    shards = [list(process.lines()) for process in processes]
    whole = in_this_process(root, 0, 11, batch_size=4)
    shown: dict[str, list[int]] = {key: [] for key in COUNTS}
    for step in range(11):
        for key in COUNTS:
            together = shards[0][step][1][key] + shards[1][step][1][key]
            assert together == whole[step][1][key], "the global batch does not depend on the number of processes"
            shown[key] += together
    for key, count in COUNTS.items():
        for k in range(44 // count):
            assert sorted(shown[key][k * count : (k + 1) * count]) == list(range(count))
    folder = root / "cache" / "decoded"
    assert len(list(folder.glob("*/pixels.u8"))) == 2 and [path.name for path in folder.glob(".*")] == [".lock"]


@pytest.mark.parametrize("cache_mb", [0, 64])
def test_after_a_kill_in_the_middle_of_an_epoch_the_same_batches_follow(root: Path, cache_mb: int) -> None:
    killed = Process(root, 0, 10**6, batch_size=2, cache_mb=cache_mb)
    before = [next(killed.lines()) for _ in range(9)]
    assert killed.end(signal.SIGKILL) == -signal.SIGKILL
    after = list(Process(root, 9, 25, batch_size=2, cache_mb=cache_mb).lines())
    assert before + after == in_this_process(root, 0, 25, batch_size=2, cache_mb=cache_mb)


def test_an_interrupt_ends_the_process_at_once(root: Path) -> None:
    process = Process(root, 0, 10**6)
    for _ in range(3):
        next(process.lines())
    assert process.end(signal.SIGINT) == 1
