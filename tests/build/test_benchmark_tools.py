"""The tools around the benchmarks: the table of ratios, and what ``make gpu-check`` does with its steps."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def load(stem: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"jdm_fast_benchmarks_{stem}", ROOT / "benchmarks" / f"{stem}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_ratios_are_over_our_own_median_in_each_group() -> None:
    def result(group: str | None, name: str, median: float, **info: object) -> dict[str, object]:
        return {"group": group, "name": name, "extra_info": info, "stats": {"median": median}}

    rows = load("conftest").ratio_rows(
        [
            result("a", "one", 0.003, implementation="eager", bytes=6_000_000, of_copy=0.25),
            result("a", "two", 0.001, implementation="jdm_fast", bytes=6_000_000, of_copy=0.75),
            result("b", "three", 0.5, implementation="eager"),
            result(None, "alone", 1.0),
        ]
    )
    assert rows == [
        ("a", "jdm_fast", 0.001, 1.0, pytest.approx(6.0), 0.75),
        ("a", "eager", 0.003, pytest.approx(3.0), pytest.approx(2.0), 0.25),
        ("b", "eager", 0.5, None, None, None),
        ("alone", "alone", 1.0, None, None, None),
    ]


def test_gpu_check_runs_the_emulated_tests_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    gpu_check = load("gpu_check")
    ran = []

    def run(name: str, command: list[str], environment: object = None):
        ran.append(command)
        return gpu_check.Step(name, ok=len(ran) == 1, seconds=0, output="")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu_check, "run", run)
    assert gpu_check.main() == 0
    assert "No NVIDIA GPU is visible" in capsys.readouterr().out
    assert [command[1:] for command in ran] == [["-m", "pytest", "-q", "tests/emulation"]]
    assert gpu_check.main() == 1  # the second run fails, and so does the check


def test_gpu_check_writes_what_it_found_and_fails_if_a_step_did(monkeypatch, tmp_path, capsys) -> None:
    gpu_check = load("gpu_check")
    steps = [
        gpu_check.Step("doctor", True, 1.5, "fine"),
        gpu_check.Step("C++ benchmarks", False, 2.0, "copy 4.3 TB/s\n"),
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(gpu_check, "check_steps", lambda benchmark_json: steps)
    monkeypatch.setattr(gpu_check, "BUILD", tmp_path / "build")
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    assert gpu_check.main() == 1
    text = (tmp_path / "out/gpu-check.txt").read_text()
    assert "NVIDIA H200" in text and "copy 4.3 TB/s" in text
    assert [line.split()[-3] for line in text.splitlines() if line.endswith(" s")] == ["ok", "FAILED"]
    assert '"name": "doctor"' in (tmp_path / "out/gpu-check.json").read_text()
    monkeypatch.setattr(gpu_check, "check_steps", lambda benchmark_json: steps[:1])
    assert gpu_check.main() == 0


def test_a_step_reports_its_output_and_status() -> None:
    gpu_check = load("gpu_check")
    step = gpu_check.run("fails", [sys.executable, "-c", "import sys; print('said'); sys.exit(3)"])
    assert not step.ok and step.output == "said\n"
    assert gpu_check.run("passes", [sys.executable, "-c", "pass"]).ok
    missing = gpu_check.run("missing", ["/nowhere/compute-sanitizer"])
    assert not missing.ok and "/nowhere/compute-sanitizer" in missing.output
