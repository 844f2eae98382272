"""Finds the compilers. Used by setup.py and by ``jdm-fast doctor``; needs nothing but the standard library."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

#: A100, RTX 30, RTX 40, H100 and H200, B200. The last one that is not specific to its chip ("a") also gets PTX, which
#: newer GPUs compile when the kernels are first used.
ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0a", "10.0")

DEFAULT_TOOLKIT = Path("/usr/local/cuda")


def switch(name: str) -> bool | None:
    """The environment variable ``name`` as False ("0"), True ("1") or None (unset); SystemExit for any other value."""
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"jdm_fast: {name} must be 0, 1 or unset; it is {value!r}.")
    return None if value == "" else value == "1"


def _output_of(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def missing_for_cpu() -> str | None:
    """What the build of the CPU kernels lacks on this machine and how to get it, or None."""
    compiler = (os.environ.get("CXX") or "c++").split()[0]
    if shutil.which(compiler) is None:
        return f"no C++ compiler ({compiler}) was found; install one (Debian, Ubuntu: apt-get install g++)"
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        return f"{header} is missing; install Python's headers (Debian, Ubuntu: apt-get install python3-dev)"
    return None


def cuda_candidates() -> Iterator[Path]:
    """Folders that may hold a CUDA toolkit, best first. A CUDA_HOME in the environment is the only candidate."""
    if home := os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        yield Path(home)
        return
    if nvcc := shutil.which("nvcc"):
        # It may be a link or a wrapper script, so the folder above it proves nothing: nvcc itself says where it lives.
        if top := re.search(r"TOP=(\S+)", _output_of(nvcc, "--dryrun", "-x", "cu", "-c", os.devnull)):
            yield Path(top[1]).resolve()
    if spec := importlib.util.find_spec("nvidia"):  # NVIDIA's wheels, beside the CUDA libraries of PyTorch
        for place in spec.submodule_search_locations or ():
            yield from sorted(Path(place).glob("cu[0-9]*"), reverse=True)
    yield DEFAULT_TOOLKIT


def find_cuda(torch_cuda: str | None) -> tuple[Path | None, str]:
    """(toolkit folder, its version) for a PyTorch built for CUDA ``torch_cuda``, or (None, why there is none)."""
    if torch_cuda is None:
        return None, "this PyTorch was built without CUDA"
    major = torch_cuda.split(".")[0]
    reasons = []
    for home in cuda_candidates():
        if not (home / "bin/nvcc").is_file() or not (home / "include/cuda_runtime.h").is_file():
            reasons.append(f"{home} lacks bin/nvcc or include/cuda_runtime.h")
        elif not (release := re.search(r"release (\d+)\.(\d+)", _output_of(home / "bin/nvcc", "--version"))):
            reasons.append(f"{home}/bin/nvcc does not run")
        elif release[1] != major:
            reasons.append(f"{home} is CUDA {release[1]}.{release[2]} and PyTorch needs {major}.x")
        else:
            return home, f"{release[1]}.{release[2]}"
    return None, f"no fitting CUDA compiler ({'; '.join(reasons)}); install one with: pip install 'jdm_fast[nvcc]'"


def architectures(nvcc: Path, capabilities: Sequence[tuple[int, int]]) -> str:
    """The GPU architectures to compile for, in the form of TORCH_CUDA_ARCH_LIST.

    What the user set in that variable; else those of the GPUs present, given by their ``capabilities``; else what
    ``nvcc`` can compile of :data:`ARCHITECTURES`.
    """
    if asked := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return asked
    if capabilities:
        return ";".join(sorted({"9.0a" if pair == (9, 0) else "{}.{}".format(*pair) for pair in capabilities}))
    known = re.findall(r"compute_(\d+)", _output_of(nvcc, "--list-gpu-arch"))
    chosen = [name for name in ARCHITECTURES if name.rstrip("a").replace(".", "") in known]
    newest = max((name for name in chosen if not name.endswith("a")), key=float, default=None)
    return ";".join(f"{name}+PTX" if name == newest else name for name in chosen)
