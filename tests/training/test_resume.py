"""A training that was interrupted, in whatever way, ends with the same bits as one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import jdm_fast
from jdm_fast import _checkpoint_file
from jdm_fast.errors import UserError
from jdm_fast.methods import JWDMConfig
from jdm_fast.runs import RunFolder, load_run
from jdm_fast.training import DataConfig, Event, Interrupted, TrainConfig, train, trainer
from tests.training.fake_method import FakeConfig, FakeMethod

Configure = Callable[..., TrainConfig[FakeConfig]]
REPOSITORY = Path(jdm_fast.__file__).parents[1]
TOTAL = 21


def final_state(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The last checkpoint without the paths in it, and the log without its times."""
    folder = RunFolder(run)
    document = torch.load(folder.checkpoint(folder.steps()[-1]), weights_only=True)
    assert document.pop("config")["out"] == str(run)
    records = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    for record in records:
        del record["images_per_second"], record["data_wait"]
    return document, records


def assert_same_bits(a: Any, b: Any, where: str = "checkpoint") -> None:
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same_bits(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for index, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_same_bits(left, right, f"{where}[{index}]")
    else:
        assert a == b, where


def assert_same_training(run: Path, uninterrupted: Path) -> None:
    (document, records), (expected, expected_records) = final_state(run), final_state(uninterrupted)
    assert document["step"] == expected["step"]
    assert_same_bits(document, expected)
    assert records == expected_records


def stop_at(step: int, number: signal.Signals = signal.SIGTERM) -> Callable[[Event], None]:
    def callback(event: Event) -> None:
        if event.kind == "log" and event.step == step:
            os.kill(os.getpid(), number)

    return callback


def test_same_seed_same_bits_other_seed_other_bits(configure: Configure, tmp_path: Path, console: Console) -> None:
    before = torch.get_rng_state()
    runs = [
        train(configure(out=tmp_path / name, seed=seed), console=console)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    assert torch.equal(torch.get_rng_state(), before), "the caller's random stream must not move"
    assert_same_training(runs[0], runs[1])
    weights = [final_state(run)[0]["networks"]["generators.x.weight"] for run in runs]
    assert not torch.equal(weights[0], weights[2])


# log_every=1 lets the signal come after any step: 10 has a checkpoint of its own, 3 and 11 are in mid-epoch and in the
# middle of a log window of the comparison below, 7 ends an epoch.
@pytest.mark.parametrize("steps", [(3,), (7,), (10,), (11,), (3, 11, 20)], ids=str)
def test_sigterm_saves_and_the_same_command_continues(
    configure: Configure, tmp_path: Path, console: Console, steps: tuple[int, ...]
) -> None:
    usual = signal.getsignal(signal.SIGTERM)
    config = configure(out=tmp_path / "run", log_every=1)
    for step in steps:
        with pytest.raises(Interrupted, match=f"SIGTERM at step {step} of {TOTAL}.*same command again") as caught:
            train(config, console=console, callback=stop_at(step))
        assert caught.value.exit_status == 128 + signal.SIGTERM
        assert RunFolder(config.out).steps()[-1] == step
        assert signal.getsignal(signal.SIGTERM) is usual
    train(config, console=console)
    assert f"after step {steps[-1]}" in console.file.getvalue()
    assert_same_training(config.out, train(configure(out=tmp_path / "whole", log_every=1), console=console))


def test_interrupted_inside_a_log_window(configure: Configure, tmp_path: Path, console: Console) -> None:
    """The line after the interruption has the means over all its steps, those before it too."""

    def callback(event: Event) -> None:
        if event.kind == "checkpoint" and event.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    config = configure(out=tmp_path / "run", log_every=4)
    with pytest.raises(Interrupted, match="SIGINT at step 6"):
        train(config, console=console, callback=callback)
    train(config, console=console)
    assert_same_training(config.out, train(configure(out=tmp_path / "whole", log_every=4), console=console))


def test_jwdm_too(configure: Configure, tmp_path: Path, images: Path, console: Console) -> None:
    method = JWDMConfig(width=4, blocks=1, embedding_kernel=1, critic_width=4, critic_layers=2, init="default")
    settings = dict(
        method=method, data=DataConfig(root=images), batch_size=2, n_epochs=1, n_epochs_decay=1, log_every=1
    )
    config = configure(out=tmp_path / "run", **settings)
    with pytest.raises(Interrupted):
        train(config, console=console, callback=stop_at(3))
    train(config, console=console)
    whole = train(configure(out=tmp_path / "whole", **settings), console=console)
    assert_same_training(config.out, whole)
    assert final_state(whole)[0]["step"] == 8


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Checkpoints are written so slowly that none is done before this event is set."""
    go_on, write = threading.Event(), _checkpoint_file._WatchedFile.write

    def slow(file: Any, data: Any) -> int:
        while not go_on.wait(0.005) and not file._stop.is_set():
            pass
        return write(file, data)

    monkeypatch.setattr(_checkpoint_file._WatchedFile, "write", slow)
    return go_on


def test_training_goes_on_while_a_checkpoint_is_written(
    configure: Configure, tmp_path: Path, console: Console, slow_disk: threading.Event
) -> None:
    steps: dict[str, list[int]] = {}

    def callback(event: Event) -> None:
        if event.kind == "log" and event.step == 9:  # the checkpoint of step 5 was begun long ago
            steps["meanwhile"] = folder.steps()
            slow_disk.set()
        if event.kind == "end":
            steps["end"] = folder.steps()

    config = configure(out=tmp_path / "run", log_every=1)
    folder = RunFolder(config.out)
    train(config, console=console, callback=callback)
    assert steps == {"meanwhile": [], "end": [20, 21]}
    assert_same_training(config.out, train(configure(out=tmp_path / "whole", log_every=1), console=console))


def test_sigterm_while_a_checkpoint_is_written(
    configure: Configure, tmp_path: Path, console: Console, slow_disk: threading.Event
) -> None:
    """Both the one in the background and the one of the step in progress are saved before it ends."""
    config = configure(out=tmp_path / "run", log_every=1)

    def callback(event: Event) -> None:
        stop_at(7)(event)
        if event.kind == "log" and event.step == 7:
            threading.Timer(0.1, slow_disk.set).start()

    with pytest.raises(Interrupted, match="SIGTERM at step 7"):
        train(config, console=console, callback=callback)
    assert RunFolder(config.out).steps() == [5, 7]
    train(config, console=console)
    assert_same_training(config.out, train(configure(out=tmp_path / "whole", log_every=1), console=console))


def test_a_second_sigint_does_not_wait_for_the_disk(
    configure: Configure, tmp_path: Path, console: Console, slow_disk: threading.Event
) -> None:
    config = configure(out=tmp_path / "run", log_every=1)

    def callback(event: Event) -> None:
        stop_at(7, signal.SIGINT)(event)
        if event.kind == "log" and event.step == 7:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        train(config, console=console, callback=callback)
    assert not slow_disk.is_set()
    assert [path.name for path in RunFolder(config.out).checkpoints.iterdir()] == [], "called off, nothing left"


def test_another_version_of_pytorch_is_told(
    configure: Configure, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(log_every=1)
    with pytest.raises(Interrupted):
        train(config, console=console, callback=stop_at(6))
    now = torch.__version__
    monkeypatch.setattr(torch, "__version__", "9.0")
    train(config, console=console)
    assert f"torch 9.0 (was {now}): training continues, but not to the bit" in console.file.getvalue()


def test_a_disk_that_fills_up_ends_the_training(
    configure: Configure, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the next steps, with the checkpoint before kept; with room again, training goes on as if nothing was."""
    write = _checkpoint_file._WatchedFile.write
    full = True

    def failing(file: Any, data: Any) -> int:
        if full and "step-00000010" in file._file.name:
            raise OSError(28, "No space left on device")
        return write(file, data)

    monkeypatch.setattr(_checkpoint_file._WatchedFile, "write", failing)
    config = configure(out=tmp_path / "run", log_every=1)
    with pytest.raises(UserError, match="step-00000010.pt: cannot be written: No space left on device. Free some"):
        train(config, console=console)
    assert [path.name for path in RunFolder(config.out).checkpoints.iterdir()] == ["step-00000005.pt"]
    full = False
    train(config, console=console)
    assert_same_training(config.out, train(configure(out=tmp_path / "whole", log_every=1), console=console))


@pytest.mark.parametrize("interrupted", [(), (5,), (8,), (6, 13)], ids=str)
def test_the_checkpoint_of_the_best_score_is_kept(
    configure: Configure,
    images: Path,
    console: Console,
    monkeypatch: pytest.MonkeyPatch,
    interrupted: tuple[int, ...],
) -> None:
    """It is saved when it is scored, though no checkpoint is due at that step."""
    monkeypatch.setattr(FakeMethod, "translate", lambda self, pictures, to, source=None: pictures, raising=False)
    scores = {3: 0.5, 6: 0.2, 9: 0.3, 12: 0.2}
    asked: list[int] = []

    def scripted(result: dict[str, Any]) -> dict[str, float]:
        return {"truth/x_to_y/l1": scores.get(asked[-1], 0.4), "truth/y_to_x/l1": 0.01 * asked[-1]}

    monkeypatch.setattr(trainer, "as_numbers", scripted)
    data = DataConfig(root=images, x_test=images / "testA", y_test=images / "testA")
    config = configure(data=data, log_every=1, eval_every=3, save_every_steps=10, keep_last=1)

    def callback(event: Event) -> None:
        if event.kind == "log":
            asked.append(event.step)
        for step in interrupted:
            stop_at(step)(event)

    for _ in interrupted:
        with pytest.raises(Interrupted):
            train(config, console=console, callback=callback)
    train(config, console=console, callback=callback)
    assert RunFolder(config.out).steps() == [6, TOTAL]
    assert json.loads(RunFolder(config.out).best.read_text()) == {"step": 6, "metric": "truth/x_to_y/l1", "value": 0.2}
    assert load_run(config.out, step="best").step == 6


def python(script: str, *arguments: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


CHILD = """
import os, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from jdm_fast.methods import METHODS, MethodSpec
from jdm_fast.training import DataConfig, TrainConfig, train
from tests.training.fake_method import FakeConfig, FakeMethod

METHODS["fake"] = MethodSpec(FakeConfig, FakeMethod)
images, out = map(Path, sys.argv[1:])
PREPARE
config = TrainConfig(
    method=FakeConfig(), data=DataConfig(x=images / "trainA", y=images / "trainB"), out=out, load_size=18, crop_size=16,
    n_epochs=1, n_epochs_decay=2, lr=1e-3, pool_size=3, ema_decay=0.9, seed=3, device="cpu", save_every_steps=5,
    keep_last=2, log_every=2, sample_every=0,
)
train(config)
"""
KILLED = """
rename = os.replace

def killed(source, target):  # when the second checkpoint is written but does not have its name yet
    if "step-00000010" in str(target):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)

os.replace = killed
"""
STUCK = """
from jdm_fast import _checkpoint_file

def stuck(file, data):
    print("writing", flush=True)
    time.sleep(1000)

_checkpoint_file._WatchedFile.write = stuck
"""


def test_a_second_sigterm_does_not_wait_for_the_disk(images: Path, tmp_path: Path) -> None:
    process = python(CHILD.replace("PREPARE", STUCK), images, tmp_path / "run")
    try:
        while (line := process.stdout.readline()) != "writing\n":
            assert line, process.stderr.read()
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == -signal.SIGTERM
    finally:
        process.kill()
        process.communicate()


def test_killed_at_once(configure: Configure, images: Path, tmp_path: Path, console: Console) -> None:
    """SIGKILL in mid-epoch leaves no time to save: training goes on from the last whole checkpoint; no line is logged
    twice."""
    run = tmp_path / "run"
    process = python(CHILD.replace("PREPARE", KILLED), images, run)
    assert process.wait(120) == -signal.SIGKILL, process.communicate()
    process.communicate()
    folder = RunFolder(run)
    assert folder.steps() == [5]
    logged = [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()]
    assert max(logged) > 5, "there must be lines to drop"
    assert len(list(folder.checkpoints.glob(".*.tmp"))) == 1, "the unfinished checkpoint"
    with folder.metrics.open("a") as file:
        file.write('{"step": 9, "los')  # and a line that was cut short
    train(configure(out=run, log_every=2), console=console)
    assert not list(folder.checkpoints.glob(".*.tmp"))
    assert_same_training(run, train(configure(out=tmp_path / "whole", log_every=2), console=console))


def test_a_checkpoint_cut_short_is_passed_over_with_a_warning(
    configure: Configure, tmp_path: Path, console: Console
) -> None:
    config = configure(out=tmp_path / "run", log_every=1, keep_last=5)
    with pytest.raises(Interrupted):
        train(config, console=console, callback=stop_at(12))
    newest = RunFolder(config.out).checkpoint(12)
    newest.write_bytes(newest.read_bytes()[:-200])
    train(config, console=console)
    printed = console.file.getvalue()
    assert "step-00000012.pt" in printed and "cut short" in printed and "after step 10" in printed
    assert_same_training(config.out, train(configure(out=tmp_path / "whole", log_every=1), console=console))


@pytest.mark.parametrize("length", [0, 1, 100, 1000])
def test_all_checkpoints_cut_short(configure: Configure, tmp_path: Path, console: Console, length: int) -> None:
    config = configure()
    train(config, console=console)
    folder = RunFolder(config.out)
    log = folder.metrics.read_bytes()
    for step in folder.steps():
        folder.checkpoint(step).write_bytes(folder.checkpoint(step).read_bytes()[:length])
    with pytest.raises(UserError, match="none of the checkpoints .steps 20, 21. can be read"):
        train(config, console=console)
    assert folder.metrics.read_bytes() == log, "nothing may be overwritten"


def test_a_complete_run_is_left_alone(configure: Configure, console: Console) -> None:
    config = configure()
    train(config, console=console)
    folder = RunFolder(config.out)
    before = {path: path.stat().st_mtime_ns for path in (folder.metrics, *folder.checkpoints.iterdir())}
    train(config, console=console)
    assert "is complete" in console.file.getvalue()
    assert {path: path.stat().st_mtime_ns for path in (folder.metrics, *folder.checkpoints.iterdir())} == before
