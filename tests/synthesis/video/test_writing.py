"""Files written side by side, segments that overlap, and failures in the threads that write."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jdm_fast.data.video_files import FolderWriter, FrameWriter
from jdm_fast.errors import UserError
from jdm_fast.synthesis.video.store import SegmentStore
from jdm_fast.synthesis.video.writing import WAITING, Part, SegmentWriters

SECONDS = 20  # for what would otherwise never come


def part(count: int, level: int = 0) -> Part:
    return {name: np.full((count, 4, 6, 3), level + k, np.uint8) for k, name in enumerate("xy")}


class Pictures(FolderWriter):
    """Writes pictures, and asks ``before`` for leave to: (what, name of the file, number of the segment)."""

    def __init__(self, path: Path, before: Callable[[str, str, int], None]) -> None:
        super().__init__(path)
        number, name = path.name.split(".")
        self._ask = lambda what: before(what, name, int(number))

    def write(self, frames: np.ndarray) -> None:
        self._ask("write")
        super().write(frames)

    def finish(self) -> None:
        self._ask("finish")
        super().finish()


@pytest.fixture
def store(tmp_path: Path) -> SegmentStore:
    made = SegmentStore(tmp_path / "out", ("both", "x", "y"), "")
    made.open({}, resume=False)
    return made


def writers(store: SegmentStore, before: Callable[[str, str, int], None] = lambda *_: None) -> SegmentWriters:
    def writer(path: Path) -> FrameWriter:
        return Pictures(path, before)

    return SegmentWriters(store, writer)


def pictures(store: SegmentStore, number: int) -> dict[str, int]:
    return {name: len(list(store.path(number, name).glob("*.png"))) for name in store.names}


def no_threads() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name.startswith("jdm_fast-writer")]


def test_segments_are_there_with_their_notes(store: SegmentStore) -> None:
    with writers(store) as writing:
        for number, counts in enumerate([(2, 3), (), (1,)]):
            for count in counts:
                writing.write(number, part(count))
            writing.end(number, {"last": number == 2})
    assert [note["frames"] for note in store.all_finished()] == [5, 0, 1]
    assert pictures(store, 0) == {"both": 5, "x": 5, "y": 5} and pictures(store, 1) == {"both": 0, "x": 0, "y": 0}
    assert json.loads((store.folder / "00002.json").read_text()) == {"last": True, "frames": 1} and no_threads()


def test_files_are_written_side_by_side(store: SegmentStore) -> None:
    together = threading.Barrier(3)
    with writers(store, lambda *_: together.wait(SECONDS) and None) as writing:
        for _ in range(4):
            writing.write(0, part(1))
        writing.end(0, {"last": True})
    assert not together.broken


def test_the_next_segment_begins_while_one_is_still_encoded(store: SegmentStore) -> None:
    begun = threading.Event()

    def before(what: str, name: str, number: int) -> None:
        if (what, number, name) == ("write", 1, "y"):
            begun.set()
        elif (what, number, name) == ("finish", 0, "x"):
            assert begun.wait(SECONDS)

    with writers(store, before) as writing:
        for number in (0, 1):
            writing.write(number, part(1))
            writing.end(number, {"last": number == 1})
    assert len(store.all_finished()) == 2


def test_a_slow_file_is_waited_for(store: SegmentStore) -> None:
    go, handed = threading.Event(), []

    def hand_over() -> None:
        with writers(store, lambda what, name, number: name != "both" or go.wait(SECONDS)) as writing:
            for k in range(8):
                writing.write(0, part(1))
                handed.append(k)
            writing.end(0, {"last": True})

    thread = threading.Thread(target=hand_over)
    thread.start()
    while len(handed) < WAITING:
        assert thread.is_alive()
    thread.join(0.2)
    held = len(handed)
    go.set()
    thread.join(SECONDS)
    assert held == WAITING and len(handed) == 8 and pictures(store, 0)["both"] == 8


@pytest.mark.parametrize("what", ["write", "finish"])
def test_a_file_that_cannot_be_written(store: SegmentStore, what: str) -> None:
    def before(now: str, name: str, number: int) -> None:
        if (now, name, number) == (what, "y", 1):
            raise UserError("the disk is full")

    with pytest.raises(UserError, match="disk is full"), writers(store, before) as writing:
        for number in range(3):
            for _ in range(5):
                writing.write(number, part(1))
            writing.end(number, {"last": number == 2})
    assert sorted(path.name for path in store.folder.iterdir()) == [
        "00000.both", "00000.json", "00000.x", "00000.y", "plan.json",
    ]  # fmt: skip
    assert no_threads()


def test_an_interruption_keeps_what_was_ended(store: SegmentStore) -> None:
    with pytest.raises(KeyboardInterrupt), writers(store) as writing:
        writing.write(0, part(3))
        writing.end(0, {"last": False})
        writing.write(1, part(3))
        raise KeyboardInterrupt
    assert store.finished(0) == {"last": False, "frames": 3} and store.finished(1) is None
    assert not list(store.folder.glob("*.part")) and not list(store.folder.glob("00001.*")) and no_threads()
