"""Two processes started by torchrun, from the command line to the checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

import jdm_fast
from jdm_fast.runs import RunFolder
from tests.training.test_resume import assert_same_training

REPOSITORY = Path(jdm_fast.__file__).parents[1]
TOTAL = 40
OPTIONS = (
    "--method.width 4 --method.blocks 0 --method.critic-width 4 --method.critic-layers 2 --batch-size 4 "
    "--preprocess resize --load-size 16 --n-epochs 10 --n-epochs-decay 10 --pool-size 6 --save-every-steps 2 "
    "--sample-every 0 --device cpu"
)


def start(images: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "jdm_fast"]
    train = ["train", "jwdm-small", "--data.root", str(images), "--out", str(out), *OPTIONS.split(), *options]
    return subprocess.Popen(
        [*run, *train],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    printed, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return printed


def test_interrupted_and_continued_by_two_processes(images: Path, tmp_path: Path) -> None:
    finish(start(images, tmp_path / "whole"))
    folder = RunFolder(tmp_path / "run")
    process = start(images, folder.path)
    patience = time.monotonic() + 180
    while len(folder.steps()) < 2:  # two are kept: the second is that of step 4
        assert process.poll() is None and time.monotonic() < patience, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    stopped = folder.steps()[-1]
    assert 4 <= stopped < TOTAL
    printed = finish(start(images, folder.path))
    assert f"continuing {folder.path} after step {stopped}, {TOTAL} steps on 2 processes, cpu" in printed
    assert printed.count("the run is in") == 1, "rank 0 alone speaks"
    assert_same_training(folder.path, tmp_path / "whole")
    document = torch.load(folder.checkpoint(TOTAL), weights_only=True)
    assert len(document["rng"]) == 2 and len(document["pools_of_others"]) == 1


def test_a_batch_that_two_cannot_share_is_refused_once(images: Path, tmp_path: Path) -> None:
    process = start(images, tmp_path / "run", "--batch-size", "3")
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "the batch of 3 is shared by 2 processes" in errors and not (tmp_path / "run").exists()
