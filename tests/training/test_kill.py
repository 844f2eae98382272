"""SIGKILL at many random moments, also while a checkpoint is being written in the background."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

import jdm_fast
from jdm_fast.methods import METHODS, MethodSpec
from jdm_fast.runs import RunFolder
from jdm_fast.training import train
from tests.training.fake_method import FakeConfig, FakeMethod
from tests.training.kill_often import STEPS, config
from tests.training.test_resume import assert_same_training

SEED, KILLS = 20260101, 30


def test_killed_at_many_random_moments_the_bits_are_the_same(
    images: Path, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [sys.executable, "-W", "ignore", "-m", "tests.training.kill_often"]
    process = subprocess.run(
        [*arguments, str(images), str(tmp_path), str(SEED), str(KILLS)],
        cwd=Path(jdm_fast.__file__).parents[1], capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    lives = json.loads(process.stdout)
    assert Counter(life["status"] for life in lives).keys() == {0, -signal.SIGKILL}, process.stderr
    killed = [life for life in lives if life["status"]]
    assert len(killed) == KILLS
    assert sum(life["unfinished"] for life in killed) >= KILLS // 6, "some must die in the middle of a write"
    assert len({tuple(life["steps"]) for life in killed}) >= 3, "at different steps"
    for before, after in zip(lives, lives[1:], strict=False):
        if before["out"] == after["out"] and before["steps"]:
            assert after["steps"][-1] >= before["steps"][-1], "a kill never costs a checkpoint that was there"

    monkeypatch.setitem(METHODS, "fake", MethodSpec(FakeConfig, FakeMethod))
    whole = train(config(images, tmp_path / "whole"), console=console)
    complete = sorted({life["out"] for life in lives if life["status"] == 0})
    for name in complete:
        steps = RunFolder(tmp_path / name).steps()  # an older one may have been left by a kill before its deletion
        assert steps[-2:] == [STEPS - STEPS % 5, STEPS] and len(steps) <= 3
        assert_same_training(tmp_path / name, whole)
