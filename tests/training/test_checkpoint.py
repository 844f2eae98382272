"""Checkpoints written in the background: of which moment they are, which are kept, and what goes wrong."""

from __future__ import annotations

import math
import random
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jdm_fast import _checkpoint_file
from jdm_fast.errors import UserError
from jdm_fast.runs import FORMAT, RunFolder, read_best, read_checkpoint, write_checkpoint
from jdm_fast.training.checkpoint import CheckpointWriter, changed_versions, restore, versions
from jdm_fast.training.distributed import Processes
from jdm_fast.training.log import LossWindow, NonFiniteLoss
from jdm_fast.training.rng import own_random_streams, rng_state, set_rng_state
from jdm_fast.training.snapshot import Snapshot
from jdm_fast.training.step import EagerEngine
from tests.training.fake_method import FakeConfig, FakeMethod

STEP_10 = "step-00000010.pt"
MB = 2**20
CPU = torch.device("cpu")


class Weights:
    """As much of an engine as a checkpoint needs: 1 MB of networks."""

    def __init__(self) -> None:
        self.weight = torch.arange(MB // 4, dtype=torch.float32)

    def state_dict(self) -> dict[str, Any]:
        return {"networks": {"weight": self.weight}, "ema": None}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    return folder


@pytest.fixture
def stalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Writes of checkpoints stop after their first bytes until this event is set."""
    go_on, write = threading.Event(), _checkpoint_file._WatchedFile.write

    def slow(file: Any, data: Any) -> int:
        written = write(file, data)
        while not go_on.wait(0.005) and not (file._stop is not None and file._stop.is_set()):
            pass
        return written

    monkeypatch.setattr(_checkpoint_file._WatchedFile, "write", slow)
    yield go_on
    go_on.set()


def wait_until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit, "it never happened"
        time.sleep(0.002)


def unfinished(folder: RunFolder) -> list[Path]:
    return list(folder.checkpoints.glob(".*.tmp"))


def test_training_goes_on_while_a_checkpoint_is_written(folder: RunFolder, stalled: threading.Event) -> None:
    """``save`` is back long before the write is done, and what is written is the state at the call."""
    method = FakeMethod(FakeConfig())
    engine = EagerEngine(method, lr=0.1, betas=(0.5, 0.9), pool_size=2, ema_decay=0.5)
    batch = {name: torch.rand(1, 3, 8, 8) for name in "xy"}
    engine.step(batch, 0.1)
    expected = Snapshot({**engine.state_dict(), "rng": [rng_state(CPU)]}).get()
    with CheckpointWriter(folder, "fake", keep_last=1) as writer:
        path = writer.save(1, engine, {"window": {"rows": torch.ones(2)}})
        for _ in range(3):
            engine.step(batch, 0.1)
        torch.rand(3)
        wait_until(lambda: unfinished(folder))
        writer.check()
        assert not path.exists(), "still being written"
        stalled.set()
        writer.wait()
        document = read_checkpoint(path, "fake")
    assert str({key: document[key] for key in expected}) == str(expected)
    assert torch.equal(document["networks"]["generators.x.weight"], expected["networks"]["generators.x.weight"])
    assert not torch.equal(method.generators["x"].weight, expected["networks"]["generators.x.weight"])


def test_a_second_save_waits_for_the_first(folder: RunFolder, stalled: threading.Event) -> None:
    engine = Weights()
    with CheckpointWriter(folder, "fake", keep_last=5) as writer:
        writer.save(1, engine)
        threading.Timer(0.1, stalled.set).start()
        writer.save(2, engine)
        assert 1 in folder.steps(), "every checkpoint asked for is written"
    assert folder.steps() == [1, 2]


def test_everything_is_in_it(folder: RunFolder) -> None:
    engine = EagerEngine(FakeMethod(FakeConfig()), lr=0.1, betas=(0.5, 0.9), pool_size=2, ema_decay=0.5)
    ranks = [rng_state(CPU), rng_state(CPU)]
    with CheckpointWriter(folder, "fake", keep_last=1, config={"lr": 0.1}) as writer:
        path = writer.save(3, engine, {"window": {}}, rng=ranks)
    document = read_checkpoint(path, "fake")
    assert set(document) == {
        "format", "jdm_fast", "method", "step", "config", "versions", "rng", "window",
        "networks", "ema", "critic_optimizer", "generator_optimizer", "pools", "scalers",
    }  # fmt: skip
    assert (document["step"], document["config"], document["versions"]) == (3, {"lr": 0.1}, versions())
    assert len(document["rng"]) == 2 and document["format"] == FORMAT
    assert changed_versions(document) == []
    document["versions"]["torch"] = "1.0"
    assert changed_versions(document) == [f"torch {torch.__version__} (was 1.0)"]


@pytest.mark.parametrize(
    "metric, values, kept, best",
    [
        (None, [3.0, 1.0, 2.0, 2.5], [3, 4], None),
        ("truth/x_to_y/l1", [3.0, 1.0, 2.0, 2.5], [2, 3, 4], (2, 1.0)),
        ("truth/x_to_y/l1", [3.0, 2.0, 1.0, 2.5], [3, 4], (3, 1.0)),
        ("truth/x_to_y/l1", [1.0, 1.0, 1.0, 1.0], [1, 3, 4], (1, 1.0)),
        ("truth/x_to_y/l1", [math.nan, None, 5.0, math.nan], [3, 4], (3, 5.0)),
        ("truth/x_to_y/ssim", [0.1, 0.9, 0.2, 0.3], [2, 3, 4], (2, 0.9)),
    ],
)
def test_the_newest_and_the_best_are_kept(
    folder: RunFolder, metric: str | None, values: list[float | None], kept: list[int], best: tuple | None
) -> None:
    with CheckpointWriter(folder, "fake", keep_last=2, keep_best=metric) as writer:
        for step, value in enumerate(values, start=1):
            writer.save(step, Weights(), value=value)
    assert folder.steps() == kept
    found = read_best(folder)
    assert (found and (found.step, found.value)) == best


@pytest.mark.parametrize("start, kept, best", [(4, [2, 5, 6], 2), (1, [5, 6], 6)])
def test_the_best_is_remembered_by_a_continued_training(
    folder: RunFolder, start: int, kept: list[int], best: int
) -> None:
    """But not one of a later step, which a training that went back will reach again."""
    with CheckpointWriter(folder, "fake", keep_last=2, keep_best="l1") as writer:
        for step, value in enumerate((3.0, 1.0, 2.0, 2.0), start=1):
            writer.save(step, Weights(), value=value)
    with CheckpointWriter(folder, "fake", keep_last=2, keep_best="l1", start=start) as writer:
        assert writer.is_better(1.5) == (start == 1) and not writer.is_better(math.nan)
        for step, value in ((5, 1.9), (6, 1.8)):
            writer.save(step, Weights(), value=value)
    assert folder.steps() == kept
    assert read_best(folder).step == best


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """Files cannot grow beyond ``size`` bytes: the system's own error, in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 700, MB // 2, MB])
def test_a_full_disk_is_said_and_keeps_what_there_is(folder: RunFolder, size: int) -> None:
    engine = Weights()
    writer = CheckpointWriter(folder, "fake", keep_last=1)
    writer.save(5, engine)
    writer.wait()
    with full_after(size):
        writer.save(10, engine)  # the call succeeds: the disk fails later, in the thread
        assert writer.kept() == [5]
    with pytest.raises(UserError, match=f"{STEP_10}: cannot be written: File too large. Free some space"):
        writer.check()
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-00000005.pt"], "no unfinished file may stay"
    writer.check()  # once is enough
    writer.save(15, engine)
    writer.close()
    assert folder.steps() == [15]


@pytest.mark.parametrize("call", ["check", "save", "wait", "close", "exit"])
def test_the_next_call_says_what_went_wrong(folder: RunFolder, call: str) -> None:
    folder.checkpoints.rmdir()
    folder.checkpoints.write_text("in the way")
    writer = CheckpointWriter(folder, "fake", keep_last=1)
    writer.save(10, Weights())
    wait_until(lambda: writer._failure is not None)
    calls: dict[str, Callable[[], object]] = {
        "check": writer.check,
        "save": lambda: writer.save(11, Weights()),
        "wait": writer.wait,
        "close": writer.close,
        "exit": lambda: writer.__exit__(None, None, None),
    }
    with pytest.raises(UserError, match=f"{STEP_10}: cannot be written: Not a directory"):
        calls[call]()


def test_an_old_checkpoint_that_cannot_be_deleted(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = CheckpointWriter(folder, "fake", keep_last=1)
    writer.save(5, Weights())
    writer.wait()

    def unlink(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", unlink)
    writer.save(10, Weights())
    with pytest.raises(UserError, match="step-00000005.pt: this older checkpoint cannot be deleted: Permission denied"):
        writer.wait()
    assert folder.steps() == [5, 10]


def test_weights_that_are_not_finite_are_not_written(folder: RunFolder) -> None:
    engine = Weights()
    writer = CheckpointWriter(folder, "fake", keep_last=1)
    writer.save(5, engine)
    engine.weight[7] = float("nan")
    writer.save(10, engine)
    with pytest.raises(NonFiniteLoss, match="step 10: the weights weight are no longer finite"):
        writer.wait()
    assert folder.steps() == [5]


def test_an_error_that_ends_the_training_waits_for_the_checkpoint(folder: RunFolder, stalled: threading.Event) -> None:
    with pytest.raises(RuntimeError, match="something else"), CheckpointWriter(folder, "fake", keep_last=1) as writer:
        writer.save(10, Weights())
        threading.Timer(0.05, stalled.set).start()
        raise RuntimeError("something else")
    assert folder.steps() == [10]


def test_of_two_errors_both_are_told(folder: RunFolder) -> None:
    told: list[str] = []
    folder.checkpoints.rmdir()
    with (
        pytest.raises(RuntimeError, match="something else"),
        CheckpointWriter(folder, "fake", keep_last=1, warn=told.append) as writer,
    ):
        writer.save(10, Weights())
        raise RuntimeError("something else")
    assert len(told) == 1 and f"{STEP_10}: cannot be written" in told[0]


def test_a_second_signal_does_not_wait(folder: RunFolder, stalled: threading.Event) -> None:
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), CheckpointWriter(folder, "fake", keep_last=1) as writer:
        writer.save(10, Weights())
        wait_until(lambda: unfinished(folder))
        raise KeyboardInterrupt
    assert time.monotonic() - began < 2 and not stalled.is_set()
    assert folder.steps() == [] and unfinished(folder) == []


def test_the_log_is_flushed_first(folder: RunFolder) -> None:
    seen: list[list[int]] = []
    with CheckpointWriter(folder, "fake", keep_last=1, before_write=lambda: seen.append(folder.steps())) as writer:
        writer.save(1, Weights())
    assert seen == [[]]


@pytest.mark.parametrize(
    "value, where",
    [
        ({"a": [1, {2}]}, r"state\['a'\]\[1\]: .* got a set"),
        ({"a": {"b": np.float64(1)}}, r"state\['a'\]\['b'\]: .* got a float64"),
        ({"a": np.zeros(2)}, r"state\['a'\]: .* got a ndarray"),
        ({(1, 2): 0}, r"state: a checkpoint's names are strings or numbers, got \(1, 2\)"),
    ],
    ids=["set", "numpy scalar", "array", "key"],
)
def test_what_could_not_be_loaded_again_is_refused_at_once(value: dict, where: str) -> None:
    with pytest.raises(TypeError, match=where):
        Snapshot(value)


def test_a_snapshot_takes_over_the_memory_of_the_one_before() -> None:
    state = {"a": torch.ones(2, 3), "b": [torch.ones(4)], "c": torch.ones(2, 3, 4, 4)}
    first = Snapshot(state)
    places = {name: value.data_ptr() for name, value in first.get().items() if name != "b"}
    state["a"] += 1
    state["b"][0] = torch.full((5,), 7.0)  # grown, like an image pool
    state["c"] = state["c"].to(memory_format=torch.channels_last)
    second = Snapshot(state, instead_of=first).get()
    assert second["a"].data_ptr() == places["a"] and second["a"].eq(2).all()
    assert second["b"][0].tolist() == [7.0] * 5
    assert second["c"].is_contiguous(memory_format=torch.channels_last) and second["c"].eq(1).all()


def test_names_are_not_taken_twice(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match="the names networks, rng, step are taken"):
        CheckpointWriter(folder, "fake", keep_last=1).save(1, Weights(), {"networks": 1, "step": 2, "rng": 3})


def test_all_random_streams_are_saved_and_left_alone() -> None:
    def draw() -> list[float]:
        return [torch.rand(()).item(), float(np.random.rand()), random.random(), random.gauss(0, 1), np.random.randn()]

    outside = rng_state(CPU)
    with own_random_streams(5, CPU):
        first = draw()
        middle = rng_state(CPU)
        second = draw()
        set_rng_state(middle, CPU)
        assert draw() == second
    assert str(rng_state(CPU)) == str(outside)
    with own_random_streams(5, CPU):
        assert draw() == first


@pytest.mark.parametrize("rank, world_size, stream", [(0, 2, 0), (1, 2, 1), (2, 3, 0), (0, 1, 0)])
def test_each_process_goes_on_with_its_own_streams(folder: RunFolder, rank: int, world_size: int, stream: int) -> None:
    processes = Processes(CPU)
    processes.rank, processes.world_size = rank, world_size
    engine, window, states, draws = (
        EagerEngine(FakeMethod(FakeConfig()), lr=0.1, betas=(0.5, 0.9)),
        LossWindow(),
        [],
        [],
    )
    for seed in (1, 2):
        with own_random_streams(seed, CPU):
            states.append(rng_state(CPU))
            draws.append(torch.rand(()).item())
    with CheckpointWriter(folder, "fake", keep_last=1) as writer:
        extra = {"window": window.state_dict(), "pools_of_others": [engine.state_dict()["pools"]]}
        path = writer.save(4, engine, extra, rng=states)
    with own_random_streams(0, CPU):
        assert restore(read_checkpoint(path, "fake"), engine, window, 0, processes) == 4
        assert torch.rand(()).item() == draws[stream]


def test_an_older_format_is_not_continued(folder: RunFolder) -> None:
    path = write_checkpoint(folder, "fake", 4, {"networks": {}, "rng": {}})
    document = {**read_checkpoint(path, "fake"), "format": FORMAT - 1}
    engine = EagerEngine(FakeMethod(FakeConfig()), lr=0.1, betas=(0.5, 0.9))
    with pytest.raises(UserError, match=f"step 4 was written in format {FORMAT - 1} by .*cannot be continued"):
        restore(document, engine, LossWindow(), 0, Processes(CPU))


@pytest.mark.gpu
def test_a_snapshot_on_a_gpu_is_of_its_moment_and_nobody_waits() -> None:
    weight = torch.zeros(2**24, device="cuda")
    Snapshot({"weight": weight}).get()  # the page-locked memory is there from now on
    torch.cuda.synchronize()
    for _ in range(400):  # some 20 ms of work that is asked for, not done
        weight += 1
    snapshot = Snapshot({"weight": weight})
    done = torch.cuda.Event()
    done.record()
    assert not done.query(), "the call must not wait for the device"
    weight += 1000
    assert snapshot.get()["weight"].eq(400).all() and weight.eq(1400).all()
