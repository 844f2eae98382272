"""One CMake build for all tests that look at it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tool(name: str) -> str:
    """``name`` beside this Python (cmake, ctest and ninja come as wheels), else on the PATH."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found, f"{name} is missing: pip install 'jdm_fast[dev]'"
    return found


@pytest.fixture(scope="session")
def cmake_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configured build folder: kernels for the CPU and, emulated, for CUDA, with their tests."""
    build = tmp_path_factory.mktemp("cmake")
    command = [tool("cmake"), "-S", ROOT, "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    # -O1 compiles in a fraction of the time; the suite runs the optimised kernels through the extension.
    options = ["-DJDM_FAST_CUDA=OFF", "-DCMAKE_CXX_FLAGS_RELEASE=-O1"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return build
