"""``jdm-fast video`` as people run it: killed and run again, by several processes, on folders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jdm_fast
from jdm_fast.cli import main
from jdm_fast.data.video_files import open_frames, read_frames
from jdm_fast.methods import JWDMConfig
from jdm_fast.training import DataConfig, TrainConfig, train
from tests.synthesis.video.films import frame, write_film

REPOSITORY = Path(jdm_fast.__file__).parents[1]
FACTOR = ["--factor", "3", "--segment-frames", "6", "--device", "cpu"]  # two key frames a segment


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    for domain, colour in (("x", (200, 90, 40)), ("y", (30, 90, 180))):
        (root / domain).mkdir()
        for k in range(2):
            Image.new("RGB", (16, 16), tuple(min(255, c + 20 * k) for c in colour)).save(root / domain / f"{k}.png")
    config = TrainConfig(
        method=JWDMConfig(width=4, blocks=1, embedding_kernel=1, critic_width=4, critic_layers=2),
        data=DataConfig(x=root / "x", y=root / "y"),
        out=root / "run",
        preprocess="none",
        crop_size=16,
        n_epochs=1,
        n_epochs_decay=0,
        device="cpu",
    )
    return train(config)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for name, count in (("long", 31), ("short", 2), ("middle", 6)):
        write_film(folder / f"{name}.mp4", map(frame, range(count)))
    return folder


def start(*arguments: object, processes: int = 1) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [sys.executable, *(launcher if processes > 1 else []), "-m", "jdm_fast", "video", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # shells ignore it in the background
    )


def finish(process: subprocess.Popen[str]) -> str:
    printed, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return printed


def assert_same_pictures(one: Path, other: Path) -> None:
    pictures = [np.stack(list(read_frames(path))) for path in (one, other)]
    np.testing.assert_array_equal(*pictures)


def test_killed_and_run_again_gives_the_same(run: Path, films: Path, tmp_path: Path) -> None:
    assert main(["video", str(run), str(films / "long.mp4"), str(tmp_path / "whole.mp4"), *FACTOR]) == 0
    segments = tmp_path / ".out.mp4.segments"
    process = start(run, films / "long.mp4", tmp_path / "out.mp4", *FACTOR, "--resume")
    patience = time.monotonic() + 120
    while len(list(segments.glob("[0-9]*.json"))) < 3:
        assert process.poll() is None and time.monotonic() < patience, process.communicate()
        time.sleep(0.002)
    process.kill()
    process.communicate()
    there = {path.name: path.stat().st_mtime_ns for path in segments.glob("[0-9]*.json")}
    assert 3 <= len(there) < 16 and not (tmp_path / "out.mp4").exists()
    printed = finish(start(run, films / "long.mp4", tmp_path / "out.mp4", *FACTOR, "--resume"))
    assert f"{len(there)} segments of an earlier job" in printed and "91 frames from 31 key frames" in printed
    for suffix in (".mp4", ".x.mp4", ".y.mp4"):
        assert_same_pictures(tmp_path / f"out{suffix}", tmp_path / f"whole{suffix}")
    assert not list(tmp_path.glob(".*")), "nothing is left over"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(run: Path, films: Path, tmp_path: Path, number: signal.Signals) -> None:
    segments = tmp_path / ".out.mp4.segments"
    process = start(run, films / "long.mp4", tmp_path / "out.mp4", *FACTOR, "--preset", "placebo")
    patience = time.monotonic() + 120
    while not list(segments.glob("[0-9]*.json")):
        assert process.poll() is None and time.monotonic() < patience, process.communicate()
        time.sleep(0.002)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert f"stopped by {number.name}; finished segments are kept" in errors and "Traceback" not in errors
    assert not (tmp_path / "out.mp4").exists() and not list(segments.glob(".*")), "no file is left half written"
    finish(start(run, films / "long.mp4", tmp_path / "out.mp4", *FACTOR, "--preset", "placebo", "--resume"))
    assert sum(1 for _ in read_frames(tmp_path / "out.mp4")) == 91


def test_two_processes_make_what_one_makes(run: Path, films: Path, tmp_path: Path) -> None:
    assert main(["video", str(run), str(films), str(tmp_path / "one"), *FACTOR]) == 0
    printed = finish(start(run, films, tmp_path / "two", *FACTOR, processes=2))
    assert printed.count("3 videos in") == 1, "rank 0 alone speaks"
    made = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(made) == 9 and sorted(path.name for path in (tmp_path / "two").iterdir()) == made
    for name in made:
        assert_same_pictures(tmp_path / "one" / name, tmp_path / "two" / name)


def test_two_processes_fail_as_one_does(run: Path, films: Path, tmp_path: Path) -> None:
    process = start(run, films / "none.mp4", tmp_path / "out.mp4", *FACTOR, processes=2)
    _, errors = process.communicate(timeout=240)
    assert process.returncode != 0 and "none.mp4: no such file or folder" in errors
    assert not list(tmp_path.iterdir())


def test_a_folder_with_a_bad_film(run: Path, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/good.mp4").write_bytes((films / "short.mp4").read_bytes())
    (tmp_path / "in/bad.mp4").write_text("no film")
    assert main(["video", str(run), str(tmp_path / "in"), str(tmp_path / "out"), "--to", "y", "--device", "cpu"]) == 2
    said = capsys.readouterr()
    assert "1 videos in" in said.out and "bad.mp4 was not made" in said.err
    assert open_frames(tmp_path / "out/good.mp4").count == 2


def test_dry_run_prints_the_plan(run: Path, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["video", str(run), str(films / "middle.mp4"), str(tmp_path / "out.mp4"), *FACTOR, "--dry-run"]
    assert main(command) == 0
    said = capsys.readouterr().out
    for word in (
        "16 frames, 0.21 s, at 75 frames/s",
        "48x32 a domain",
        "3 of 2 key frames",
        "MiB",
        "libx264",
        "out.y.mp4",
    ):
        assert word in said, said
    assert main(["video", str(run), str(films), str(tmp_path / "out"), *FACTOR, "--dry-run"]) == 0
    assert capsys.readouterr().out.count("key frames") == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options, message",
    [
        (["--scene-cut", "some"], "--scene-cut: expected auto, off or a number, got 'some'"),
        (["--batch", "many"], "--batch: expected auto or an integer, got 'many'"),
        (["--batch", "0"], "batch_size"),
        (["--truth.x", "T", "--to", "y"], "score frames that --factor makes"),
        (["--truth.x", "M", "--factor", "5", "--resume"], "--truth and --report go with one process"),
    ],
)
def test_bad_options(
    run: Path, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    given = {"T": str(films / "short.mp4"), "M": str(films / "middle.mp4")}
    options = [given.get(option, option) for option in options]
    assert main(["video", str(run), str(films / "short.mp4"), str(tmp_path / "out.mp4"), *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())
