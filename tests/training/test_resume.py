"""A training that was interrupted, in whatever way, ends with the same bits as one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import jdm_fast
from jdm_fast.errors import UserError
from jdm_fast.methods import JWDMConfig
from jdm_fast.runs import RunFolder
from jdm_fast.training import DataConfig, Event, Interrupted, TrainConfig, train
from tests.training.fake_method import FakeConfig

Configure = Callable[..., TrainConfig[FakeConfig]]
REPOSITORY = Path(jdm_fast.__file__).parents[1]
TOTAL = 21


def final_state(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The last checkpoint, and the log without its times."""
    folder = RunFolder(run)
    document = torch.load(folder.checkpoint(folder.steps()[-1]), weights_only=True)
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


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from jdm_fast.methods import METHODS, MethodSpec
from jdm_fast.training import DataConfig, TrainConfig, train
from tests.training.fake_method import FakeConfig, FakeMethod

METHODS["fake"] = MethodSpec(FakeConfig, FakeMethod)
images, out = map(Path, sys.argv[1:])
rename = os.replace

def killed(source, target):  # when the second checkpoint is written but does not have its name yet
    if "step-00000010" in str(target):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)

os.replace = killed
config = TrainConfig(
    method=FakeConfig(), data=DataConfig(x=images / "trainA", y=images / "trainB"), out=out, load_size=18, crop_size=16,
    n_epochs=1, n_epochs_decay=2, lr=1e-3, pool_size=3, ema_decay=0.9, seed=3, device="cpu", save_every_steps=5,
    keep_last=2, log_every=2, sample_every=0,
)
train(config)
"""


def test_killed_at_once(configure: Configure, images: Path, tmp_path: Path, console: Console) -> None:
    """SIGKILL in mid-epoch leaves no time to save: training goes on from the last whole checkpoint; no line is logged
    twice."""
    run = tmp_path / "run"
    arguments = [sys.executable, "-W", "ignore", "-c", KILLED, str(images), str(run)]
    process = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert process.returncode == -signal.SIGKILL, process.stderr
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
