"""The Makefile's face."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ["venv", "data", "data-seasons", "demo", "test", "lint", "bench", "static-evidence", "gpu-check", "clean"]


def test_make_alone_lists_the_targets() -> None:
    done = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.findall(r"^  make (\S+) +\S", done.stdout, re.M) == TARGETS
    assert len(done.stdout.splitlines()) == len(TARGETS)


def test_continuous_integration_runs_the_suite() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, ".ci/run must be executable"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert "make test" in script.read_text()
