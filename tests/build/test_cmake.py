"""CMakeLists.txt compiles the sources that setup.py compiles, and its C++ tests pass."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

from tests.build.conftest import ROOT, tool
from tests.build.test_toolchain import load_setup


def compiled_by_cmake(build: Path) -> list[Path]:
    return [Path(entry["file"]) for entry in json.loads((build / "compile_commands.json").read_text())]


def test_cpu_sources_are_the_same(cmake_build: Path) -> None:
    setup = load_setup()
    kernels = {
        path.relative_to(ROOT).as_posix()
        for path in compiled_by_cmake(cmake_build)
        if path.is_relative_to(ROOT / "csrc" / "kernels")
    }
    assert kernels == set(setup.files(*setup.CPU_SOURCES))


def test_cuda_sources_are_the_same(cmake_build: Path) -> None:
    """Compiled as C++ here: one generated file for each .cu, which includes it."""
    setup = load_setup()
    wrappers = [path for path in compiled_by_cmake(cmake_build) if path.is_relative_to(cmake_build / "emulated")]
    included = {re.search(r'#include "(.*)"', path.read_text())[1] for path in wrappers}
    assert included == {str(ROOT / source) for source in setup.files(*setup.CUDA_SOURCES)}
    assert len(wrappers) == len(included) > 0


def test_every_source_is_of_some_build() -> None:
    """A file that no glob matches would be forgotten silently."""
    setup = load_setup()
    built = set(setup.files(*setup.CPU_SOURCES, *setup.CUDA_SOURCES, *setup.BINDING_SOURCES))
    tools = set(setup.files("csrc/tests/*.cpp", "csrc/benchmarks/*.cpp", "csrc/emulation/*.cpp"))
    assert built | tools == set(setup.files("csrc/**/*.cpp", "csrc/**/*.cu"))


def test_cpp_tests_pass(cmake_build: Path) -> None:
    jobs = str(os.cpu_count())
    build = subprocess.run(
        [tool("cmake"), "--build", cmake_build, "-j", jobs], capture_output=True, text=True, check=False
    )
    assert build.returncode == 0, build.stdout[-4000:]
    command = [tool("ctest"), "--test-dir", cmake_build, "--output-on-failure", "-j", jobs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    tests = len(list((ROOT / "csrc" / "tests").glob("test_*.cpp")))
    assert re.search(rf"100% tests passed.* out of {2 * tests}\n", done.stdout), done.stdout[-4000:]
