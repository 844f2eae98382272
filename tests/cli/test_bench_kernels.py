"""``jdm-fast bench kernels``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jdm_fast import ops
from jdm_fast.bench import read_results
from jdm_fast.bench.measure import copy_times
from jdm_fast.cli import bench, bench_kernels
from jdm_fast.cli.bench_kernels import duration, times_as_long
from jdm_fast.errors import UserError

TINY = ["--device", "cpu", "--layouts", "nchw", "--shapes", "1x3x8x8"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_kernels, "SECONDS", {"cpu": 0.0})
    monkeypatch.setattr(bench_kernels, "copy_times", lambda device: copy_times(device, moved=1 << 20, seconds=0))


def test_the_real_command(tmp_path: Path) -> None:
    out = tmp_path / "kernels.json"
    command = ["bench", "kernels", "--ops", "frames_to_uint8/plain", *TINY, "--out", str(out)]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        [sys.executable, "-m", "jdm_fast", *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"a copy moving 128 MiB runs at [\d.e+]+ GB/s; 1 cell\n", done.stdout)
    assert "frames_to_uint8, plain; float32, nchw, forward" in done.stdout
    assert re.search(r"shape +jdm_fast +IQR +GB/s +of copy +eager +ratio", done.stdout)
    assert re.search(r"1x3x8x8 +\d[\d.]* [um]s +\d+% +[\d.]+ +[\d.]+ +\d[\d.]* [um]s +[\d.]+x", done.stdout)
    assert f"written to {out}" in done.stdout
    (result,) = read_results(out)
    assert set(result.times) == {"jdm_fast", "eager"}
    about = json.loads(out.read_text())
    assert about["command"] == f"jdm-fast {' '.join(command)}"
    assert about["copy"]["gigabytes_per_second"] > 0 and about["machine"]["torch"] == torch.__version__
    assert about["revision"] and about["device"] == "cpu"


def test_tables_of_several_ops(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["--ops", "instance_norm/relu,interpolate_latents/lerp", "--dtypes", "float32,bfloat16"]
    assert bench.run(["kernels", *names, *TINY[:4], "--shapes", "2x3x8x8", "--contenders", "eager", "unfused"]) == 0
    text = capsys.readouterr().out
    first, second = text.index("instance_norm, relu; nchw"), text.index("interpolate_latents, lerp; nchw")
    assert first < second
    assert "unfused" in text[first:second]
    assert text[first:second].count("2x3x8x8") == 1 and text[first:second].count("bf16") == 1
    assert text[first:second].count("backward") == 2
    assert "ratios of all cells" in text and "unfused, both" in text


def test_a_narrow_terminal_gets_the_ratios_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["kernels", "--ops", "frames_to_uint8/tanh", *TINY, "--contenders", "eager,unfused"]
    for columns, header in (
        ("100", ["shape", "jdm_fast", "IQR", "GB/s", "of", "copy", "eager", "ratio", "unfused", "ratio"]),
        ("55", ["shape", "jdm_fast", "GB/s", "of", "copy", "eager", "unfused"]),
    ):
        monkeypatch.setenv("COLUMNS", columns)
        assert bench.run(command) == 0
        lines = capsys.readouterr().out.splitlines()
        (at,) = [number for number, line in enumerate(lines) if line.split()[:2] == ["shape", "jdm_fast"]]
        assert lines[at].split() == header
        # the unit of each time is a word of its own, "of copy" is two words of one column
        assert len(lines[at + 2].replace(" us", "us").replace(" ms", "ms").split()) == len(header) - 1


def test_a_busy_machine_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for load, said in ((1000.0, True), (0.0, False)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, load, load))
        assert bench.run(["kernels", "--ops", "frames_to_uint8/plain", *TINY]) == 0
        assert ("This machine is busy: 1000.0 programs" in capsys.readouterr().out) == said


def test_a_wrong_kernel_is_not_timed_and_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = ops.frames_to_uint8
    monkeypatch.setattr(ops, "frames_to_uint8", lambda x: 255 - right(x))
    assert bench.run(["kernels", "--ops", "frames_to_uint8/plain", *TINY]) == 1
    text = capsys.readouterr().out
    assert re.search(r"1x3x8x8 +wrong", text)
    assert "jdm_fast wrong: result is off by up to" in text and "ratios of all cells" not in text


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.run(["kernels", "--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in ("ops", "shapes", "dtypes", "layouts", "directions", "contenders", "quick", "device", "out"):
        assert f"--{option}" in text


def test_bad_input(tmp_path: Path) -> None:
    for arguments, message in (
        (["--ops", "norm"], "ops: expected some of instance_norm"),
        (["--contenders", "jax"], "contenders: expected some of eager, compile, unfused, got 'jax'"),
        (["--dtypes", "float8"], "dtypes: expected some of float32"),
        (["--quick", "--shapes", "core"], "leave out --shapes, or leave out --quick"),
        ([*TINY, "--out", str(tmp_path)], "is a folder; name a file"),
        ([*TINY, "--out", str(tmp_path / "no" / "file.json")], "no does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            bench.run(["kernels", *arguments])


def test_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device: no GPU is visible to PyTorch"):
        bench.run(["kernels", "--device", "cuda"])


def test_numbers_for_people() -> None:
    given = (1.234e-7, 1.234e-6, 9.996e-6, 1.234e-5, 9.9949e-4, 1.2e-3, 0.5, 2.0)
    assert [duration(seconds) for seconds in given] == [
        *("0.12 us", "1.23 us", "10.0 us", "12.3 us", "999 us", "1.20 ms", "500 ms", "2.00 s")
    ]
    assert [times_as_long(ratio) for ratio in (0.512, 9.994, 9.996, 45.67, 173.8)] == [
        *("0.51x", "9.99x", "10.0x", "45.7x", "174x")
    ]
