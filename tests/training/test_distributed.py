"""Several processes train as one with the same global batch, and end together, saying whose fault it was."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

import jdm_fast
from jdm_fast.errors import UserError
from jdm_fast.methods.noise import normal_like, share_of_batch, uniform
from jdm_fast.training.distributed import Processes
from jdm_fast.training.lifeline import Failure, Lifeline
from jdm_fast.training.rng import rng_state, set_rng_state
from tests.training.two_processes import METHODS, trained

REPOSITORY = Path(jdm_fast.__file__).parents[1]
CPU = torch.device("cpu")


def run_two(case: str, folder: Path) -> list[tuple[int, str]]:
    """Exit status and standard error of each of two processes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.two_processes", case, str(folder)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        ended = [(process.communicate(timeout=120)[1], process) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, errors) for errors, process in ended]


# ---- working together


def test_two_processes_train_as_one_until_one_raises(tmp_path: Path) -> None:
    assert_rank_1_is_named(run_two("raises", tmp_path), 2, "stopped: picture 7 is damaged")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name in METHODS:
        alone = trained(name, Processes(CPU))
        start = METHODS[name]().double().state_dict()
        assert list(first[name]) == list(alone)
        for key, value in alone.items():
            assert torch.equal(first[name][key], second[name][key]), f"{name}: {key} of the two processes"
            torch.testing.assert_close(first[name][key], value, rtol=1e-7, atol=1e-9, msg=f"{name}: {key}")
        assert all(not torch.equal(start[key], alone[key]) for key in start), "training must have done something"


def test_a_rank_that_is_killed_ends_all_and_is_named(tmp_path: Path) -> None:
    why = "died: a signal, the system for want of memory, or a crash"
    assert_rank_1_is_named(run_two("killed", tmp_path), -signal.SIGKILL, why)


def assert_rank_1_is_named(ended: list[tuple[int, str]], status: int, why: str) -> None:
    (other_status, other_errors), (own_status, own_errors) = ended
    assert own_status == status, own_errors
    assert other_status == 2 and "Traceback" not in other_errors, other_errors
    assert f"rank 1 ({socket.gethostname()}, process " in other_errors
    assert f"{why}; rank 0 ends too. What has been saved is kept" in other_errors


def test_one_process_alone_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with Processes.start("cpu") as processes:
        assert (processes.rank, processes.world_size, processes.reducer) == (0, 1, None)
        assert processes.is_main and processes.share(3) == 3
        assert processes.agree(15) == 15 and processes.any(True) and not processes.any(False)
        assert processes.broadcast_object("a") == "a" and processes.gather("a") == ["a"]
        values = torch.rand(3)
        assert torch.equal(processes.mean(values), values)
    with pytest.raises(KeyError), Processes.start("cpu"):
        raise KeyError("errors of one process are its own")


@pytest.mark.parametrize(
    "environment, message",
    [
        ({}, "LOCAL_RANK, MASTER_ADDR, MASTER_PORT missing in the environment; start them with `torchrun"),
        (
            {"LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"},
            "rank 1: the 2 processes cannot be joined at 127.0.0.1:9: ",
        ),
    ],
)
def test_processes_that_cannot_be_joined(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        Processes.start("cpu", timeout=timedelta(seconds=1))


def test_a_batch_that_cannot_be_shared_evenly() -> None:
    processes = Processes(CPU)
    processes.world_size = 4
    assert processes.share(8) == 2
    with pytest.raises(
        UserError, match="batch_size: the batch of 6 is shared by 4 processes, so it must be a multiple"
    ):
        processes.share(6)


# ---- ending together


def lifelines(**options: float) -> list[Lifeline]:
    store = dist.HashStore()
    made = [Lifeline(store, rank, 2, beat=0.01, **options) for rank in range(2)]
    for each in made:
        each.start()
    return made


def test_all_alive() -> None:
    first, second = lifelines()
    assert first.known() is None and first.diagnose() is None
    first.stop()
    second.stop()


def test_the_first_failure_counts() -> None:
    first, second = lifelines()
    second.report("stopped: the disk is full")
    first.report("stopped: something that follows from it")
    for each in (first, second):
        assert "rank 1" in str(each.known()) and str(each.diagnose()).endswith("stopped: the disk is full")
        each.stop()


def test_a_silent_rank_is_found() -> None:
    first, second = lifelines()
    second.stop()
    failure = first.diagnose()
    assert isinstance(failure, Failure) and failure.who.startswith("rank 1 (") and failure.why.startswith("died")
    assert first.known() == failure
    first.stop()


def test_a_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As in a kernel of NCCL: rank 1 is silent, and the main thread of rank 0 never asks."""
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    first, second = lifelines(patience=20, grace=0.05)
    second.stop()
    first._thread.join(timeout=10)
    assert ended == [1]
    printed = capsys.readouterr().err
    assert printed.startswith("rank 0: rank 1 (") and "no sign of life for 0.2 s; this process ends too" in printed


# ---- random numbers


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("count", [1, 4])
def test_parts_of_noise_make_the_whole(memory_format: torch.memory_format, count: int) -> None:
    like = torch.empty(4 * count, 3, 5, 7).to(memory_format=memory_format)
    torch.manual_seed(1)
    whole, numbers, after = normal_like(like), uniform((4 * count, 1), like), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(whole, torch.randn_like(like)) and torch.equal(numbers, torch.rand(4 * count, 1))
    for rank in range(4):
        torch.manual_seed(1)
        mine = slice(rank * count, (rank + 1) * count)
        with share_of_batch(rank, 4):
            part = normal_like(like[mine])
            assert torch.equal(part, whole[mine])
            assert part.is_contiguous(memory_format=memory_format)
            assert torch.equal(uniform((count, 1), like), numbers[mine])
        assert torch.equal(torch.get_rng_state(), after), "the streams of all processes stay together"


def test_no_such_share() -> None:
    with pytest.raises(ValueError, match="expected 0 to 1 for a world_size of 2, got 2"), share_of_batch(2, 2):
        pass


def test_random_states_come_back(tmp_path: Path) -> None:
    random.gauss(0, 1), np.random.standard_normal()  # each keeps a second number for the next call
    torch.save(rng_state(CPU), tmp_path / "rng.pt")
    expected = [torch.rand(3).tolist(), np.random.standard_normal(3).tolist(), [random.gauss(0, 1) for _ in range(3)]]
    set_rng_state(torch.load(tmp_path / "rng.pt", weights_only=True), CPU)
    again = [torch.rand(3).tolist(), np.random.standard_normal(3).tolist(), [random.gauss(0, 1) for _ in range(3)]]
    assert again == expected
