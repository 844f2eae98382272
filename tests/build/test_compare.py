"""benchmarks/compare.py: it finds a planted regression, is silent on noise, and says why files cannot be compared."""

from __future__ import annotations

import copy
import importlib.util
import json
import random
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jdm_fast.bench import select, write_results
from jdm_fast.bench.clock import Times
from jdm_fast.bench.measure import Result

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("jdm_fast_benchmarks_compare", ROOT / "benchmarks" / "compare.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def times(median: float, noise: random.Random, spread: float = 0.05) -> Times:
    return Times.of([median * (1 + spread * noise.uniform(-1, 1)) for _ in range(15)], "wall")


def write(path: Path, seed: int, planted: float = 1.0, machine: float = 1.0, wrong: bool = False) -> Path:
    """A file of 8 cells; jdm_fast takes ``planted`` times as long in the first one, everyone ``machine`` times."""
    noise = random.Random(seed)
    results = []
    for number, cell in enumerate(select(ops=["frames_to_uint8"], shapes=["core"])):
        ours = {"jdm_fast": times(1e-3 * machine * (planted if number == 0 else 1), noise)}
        problems = {"jdm_fast": "wrong: result is off"} if wrong and number == 0 else {}
        both = {} if problems else ours
        eager = times(5e-3 * machine, noise)
        results.append(Result(cell, "cpu", 100, 100, eager, both | {"eager": eager}, problems))
    assert len(results) == 8
    write_results(path, results, {"machine": {"cpu": "one", "threads": 2, "torch": "2", "gpus": []}})
    return path


def test_noise_is_no_change(compare: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = write(tmp_path / "old.json", 0)
    for seed in range(1, 6):
        assert compare.main([str(old), str(write(tmp_path / "new.json", seed))]) == 0
        assert capsys.readouterr().out == "8 cells compared, none changed by more than 1.1 and its spread\n"


def test_a_planted_regression(compare: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = write(tmp_path / "old.json", 0), write(tmp_path / "new.json", 1, planted=1.3)
    assert compare.main([str(old), str(new)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "slower: 1 of 8" and len(lines) == 2
    assert "frames_to_uint8 plain forward [1, 3, 64, 64] float32 nchw on cpu" in lines[1]
    assert 1.2 < float(lines[1].split("x")[0]) < 1.4
    assert compare.main([str(new), str(old)]) == 0  # the other way round it is a gain
    assert capsys.readouterr().out.startswith("quicker: 1 of 8")
    assert compare.main([str(old), str(new), "--threshold", "1.5"]) == 0


def test_a_wide_spread_hides_no_large_change_but_a_small_one(compare: ModuleType) -> None:
    def results(median: float, q1: float, q3: float) -> Any:
        return compare.Results(Path("x"), "m", {("cell", "jdm_fast"): compare.Spread(median, q1, q3)}, frozenset())

    old = results(1.0, 0.8, 1.4)
    assert not compare.changes(old, results(1.3, 1.3, 1.5), 1.1, [])
    (change,) = compare.changes(old, results(1.6, 1.5, 1.7), 1.1, [])
    assert change.ratio == 1.6


def test_a_kernel_that_got_wrong_is_a_regression(
    compare: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = write(tmp_path / "old.json", 0), write(tmp_path / "new.json", 1, wrong=True)
    assert compare.main([str(old), str(new)]) == 1
    assert "no time any more: frames_to_uint8 plain forward [1, 3, 64, 64]" in capsys.readouterr().out


def test_a_slower_machine_is_said(compare: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = write(tmp_path / "old.json", 0), write(tmp_path / "new.json", 1, machine=2)
    content = json.loads(new.read_text())
    content["machine"]["cpu"] = "another"
    new.write_text(json.dumps(content))
    assert compare.main([str(old), str(new)]) == 1
    text = capsys.readouterr().out
    assert "Other machines or versions" in text and "new: another, 2 threads, torch 2" in text
    assert "The other contenders took 2.0" in text and "slower: 8 of 8" in text
    assert compare.main([str(old), str(new), "--contenders", "all"]) == 1
    assert "slower: 16 of 16" in capsys.readouterr().out


def test_ratios_take_the_machine_out(compare: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = write(tmp_path / "old.json", 0)
    assert compare.main([str(old), str(write(tmp_path / "new.json", 1, machine=2)), "--over", "eager"]) == 0
    assert capsys.readouterr().out.startswith("8 cells compared, none changed")
    new = write(tmp_path / "new.json", 1, machine=2, planted=1.5)
    assert compare.main([str(old), str(new), "--over", "eager"]) == 1
    text = capsys.readouterr().out
    assert "slower: 1 of 8" in text and re.search(r"1\.[45]\d?x +0\.\d+ eager -> +0\.\d+ eager  frames_to_uint8", text)
    assert compare.main([str(old), str(new), "--over", "compile"]) == 2
    assert "no times over those of 'compile'; contenders there: eager, jdm_fast" in capsys.readouterr().err


def benchmark(name: str, median: float, implementation: str | None, group: str | None) -> dict[str, Any]:
    info = {} if implementation is None else {"implementation": implementation}
    stats = {"median": median, "q1": median * 0.98, "q3": median * 1.02}
    return {"group": group, "fullname": f"benchmarks/x.py::{name}", "extra_info": info, "stats": stats}


def test_files_of_pytest_benchmark(compare: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = {
        "benchmarks": [
            benchmark("a", 1.0, "jdm_fast", "race"),
            benchmark("b", 4.0, "eager", "race"),
            benchmark("alone", 2.0, None, None),
        ]
    }
    new = copy.deepcopy(old)
    for entry, factor in zip(new["benchmarks"], (1.0, 3.0, 2.0), strict=True):
        entry["stats"] = {name: value * factor for name, value in entry["stats"].items()}
    (tmp_path / "old.json").write_text(json.dumps(old))
    (tmp_path / "new.json").write_text(json.dumps({"steps": [], "benchmarks": new}))  # as in gpu-check.json
    assert compare.main([str(tmp_path / "old.json"), str(tmp_path / "new.json")]) == 1
    text = capsys.readouterr().out
    assert "slower: 1 of 2" in text and "benchmarks/x.py::alone" in text


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "cannot be read: No such file"),
        ("not json", "is not JSON"),
        ("[1]", "these are no results|a part of the results is missing"),
        ('{"lines": []}', "these are no results; expected what `jdm-fast bench kernels --out` or `make bench` writes"),
        ('{"kind": "jdm_fast bench kernels"}', "a part of the results is missing: 'cells'"),
        ('{"benchmarks": []}', "no cell of jdm_fast, single benchmarks in common"),
    ],
)
def test_what_cannot_be_compared(
    compare: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    old, new = write(tmp_path / "old.json", 0), tmp_path / "new.json"
    if content is not None:
        new.write_text(content)
    assert compare.main([str(old), str(new)]) == 2
    error = capfd.readouterr().err
    assert any(part in error for part in message.split("|")) and str(new) in error


def test_a_bad_threshold(compare: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compare.main(["a", "b", "--threshold", "0.5"])
    assert "expected a number of at least 1, got '0.5'" in capfd.readouterr().err


def test_what_pytest_and_the_command_measure_can_be_compared(tmp_path: Path) -> None:
    """Both faces of the matrix in their real form, on its smallest cell."""
    cell = ["--benchmark-only", "-k", "plain-1x3x64x64-float32-nchw and cpu", f"--benchmark-json={tmp_path / 'a.json'}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "benchmarks/bench_frames_to_uint8.py", *cell],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout + done.stderr
    assert "of copy" in done.stdout
    benchmarks = json.loads((tmp_path / "a.json").read_text())["benchmarks"]
    assert [entry["extra_info"]["implementation"] for entry in benchmarks] == ["jdm_fast", "eager"]
    for entry in benchmarks:
        assert entry["group"] == "frames_to_uint8 plain forward [1, 3, 64, 64] float32 nchw on cpu"
        assert len(entry["stats"]["data"]) >= 5 and entry["extra_info"]["clock"] == "wall"
        assert 1e-7 < entry["stats"]["min"] <= entry["stats"]["q1"] <= entry["stats"]["median"] < 0.5
    done = subprocess.run(
        [sys.executable, "benchmarks/compare.py", tmp_path / "a.json", tmp_path / "a.json", "--contenders", "all"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.startswith("2 cells compared"), done.stdout + done.stderr
