"""``make gpu-check``: everything that needs a GPU, in one go, with its results written down.

With a GPU: builds the extension for it, runs ``jdm-fast doctor`` and the GPU tests, builds the C++ tests and runs them
plainly and under compute-sanitizer, then all benchmarks. ``gpu-check.json`` and ``gpu-check.txt`` go to the folder in
``$OUT`` if that is set, else, with the GPU's name in front, to benchmarks/results/. Without a GPU: says so and runs the
tests of the CUDA kernels on the emulated GPU. Exits with 0 if every step passed, else 1. Needs no network and no
virtual environment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "gpu-check"
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
TAIL = 4000  # characters of a step's output that are kept


@dataclass(frozen=True)
class Step:
    """One command that was run."""

    name: str
    ok: bool
    seconds: float
    output: str


def run(name: str, command: Sequence[str | Path], environment: dict[str, str] | None = None) -> Step:
    """Runs ``command`` in the project's folder, showing its output as it comes."""
    words = [str(word) for word in command]
    print(f"\n== {name}: {' '.join(words)}", flush=True)
    begin = time.monotonic()
    lines = []
    try:
        with subprocess.Popen(
            words,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        status = process.returncode
    except OSError as error:
        lines.append(f"{error}\n")
        print(error)
        status = 1
    return Step(name, status == 0, round(time.monotonic() - begin, 1), "".join(lines)[-TAIL:])


def without_gpu() -> int:
    """The emulated kernels' tests, for a machine without a GPU."""
    print(
        "No NVIDIA GPU is visible to PyTorch: running the CUDA kernels' tests on the emulated GPU instead.", flush=True
    )
    return 0 if run("emulated", [sys.executable, "-m", "pytest", "-q", "tests/emulation"]).ok else 1


def check_steps(benchmark_json: Path) -> list[Step]:
    """Runs every step, going on after a failed one so that one visit to a GPU machine shows all there is to see."""
    major, minor = torch.cuda.get_device_capability()
    suffix = "a" if (major, minor) == (9, 0) else ""
    here = {"JDM_FAST_CUDA": "1", "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}{suffix}", "PYTHONPATH": _python_path()}
    cmake = [
        *("cmake", "-S", ROOT, "-B", BUILD, "-DJDM_FAST_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={major}{minor}{suffix}"),
        *(("-G", "Ninja") if shutil.which("ninja") else ()),
    ]
    steps = [
        run("build the extension", [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], here),
        run("doctor", [sys.executable, "-m", "jdm_fast", "doctor"], here),
        run("GPU tests", [sys.executable, "-m", "pytest", "-q", "-m", "gpu"], here),
        run("configure the C++ tests", cmake),
        run("build the C++ tests", ["cmake", "--build", BUILD, "--parallel"]),
        run("C++ tests", ["ctest", "--test-dir", BUILD, "--output-on-failure", "-L", "cuda"]),
    ]
    tests = sorted(path for path in BUILD.glob("test_*_cuda") if path.is_file())
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    for tool in SANITIZERS:
        for test in tests:
            command = [sanitizer, "--tool", tool, "--error-exitcode", "1", test]
            steps.append(run(f"{tool} {test.name}", command))
    steps.append(run("C++ benchmarks", [BUILD / "bench_kernels_cuda"]))
    steps.append(run("instance norm, every path", [BUILD / "bench_kernels_cuda", "norm-paths"]))
    pytest_benchmarks = ["-q", "benchmarks", "--benchmark-only", f"--benchmark-json={benchmark_json}"]
    steps.append(run("benchmarks", [sys.executable, "-m", "pytest", *pytest_benchmarks], here))
    return steps


def summary(steps: Sequence[Step]) -> str:
    """A table of the steps, one a line."""
    width = max(len(step.name) for step in steps)
    lines = [f"{step.name:{width}}  {'ok' if step.ok else 'FAILED':6}  {step.seconds:8.1f} s" for step in steps]
    return "\n".join(lines) + "\n"


def main() -> int:
    if not torch.cuda.is_available():
        return without_gpu()
    gpu = torch.cuda.get_device_name()
    out = os.environ.get("OUT")
    folder = Path(out) if out else ROOT / "benchmarks" / "results"
    prefix = "" if out else re.sub(r"[^a-z0-9]+", "-", gpu.lower()) + "-"
    folder.mkdir(parents=True, exist_ok=True)
    BUILD.mkdir(parents=True, exist_ok=True)
    benchmark_json = BUILD / "benchmarks.json"
    benchmark_json.unlink(missing_ok=True)
    steps = check_steps(benchmark_json)
    report: dict[str, Any] = {
        "gpu": gpu,
        "torch": torch.__version__,
        "revision": _revision(),
        "steps": [asdict(step) for step in steps],
        "benchmarks": json.loads(benchmark_json.read_text()) if benchmark_json.is_file() else None,
    }
    (folder / f"{prefix}gpu-check.json").write_text(json.dumps(report, indent=1))
    table = next((step.output for step in steps if step.name == "C++ benchmarks"), "")
    text = f"{gpu}, torch {torch.__version__}, revision {report['revision']}\n\n{summary(steps)}\n{table}"
    (folder / f"{prefix}gpu-check.txt").write_text(text)
    print(f"\n{text}\nwritten to {folder}/{prefix}gpu-check.json and .txt")
    return 0 if all(step.ok for step in steps) else 1


def _python_path() -> str:
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def _revision() -> str:
    """The git revision, or what JDM_FAST_REVISION says where the files travelled without their repository."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or os.environ.get("JDM_FAST_REVISION", "unknown")


if __name__ == "__main__":
    raise SystemExit(main())
