"""The CUDA sources as plain C++.

:func:`build` compiles sources with g++ into ``build/emulation``, under a name made of everything the result depends on,
so a second run compiles nothing.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KERNELS = sorted((ROOT / "csrc" / "kernels").glob("*.cu"))
EMULATION = sorted((ROOT / "csrc" / "emulation").glob("*.cpp"))
FLAGS = ("-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-fPIC")


def build(sources: Sequence[Path], flags: Sequence[str], name: str) -> Path:
    """Compiles ``sources`` (C++, or CUDA as C++) and links them to ``build/emulation/<hash>/<name>``."""
    compiler = os.environ.get("CXX", "g++")
    headers = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in {".h", ".cuh", ".cu"}]
    digest = hashlib.sha256(repr((compiler, flags, name)).encode())
    for path in sorted({*headers, *sources}):
        digest.update(path.as_posix().encode() + path.read_bytes())
    folder = ROOT / "build" / "emulation" / digest.hexdigest()[:16]
    result = folder / name
    if result.exists():
        return result
    folder.mkdir(parents=True, exist_ok=True)

    def run(*command: str | Path) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr[-4000:]}")

    def compile_one(source: Path) -> Path:
        target = folder / f"{name}.{source.name}.{os.getpid()}.o"
        run(compiler, *FLAGS, *flags, f"-I{ROOT / 'csrc'}", "-x", "c++", "-c", source, "-o", target)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    finished = folder / f"{name}.{os.getpid()}"
    run(compiler, *flags, *(("-shared",) if name.endswith(".so") else ()), *objects, "-o", finished)
    finished.replace(result)  # whole or not at all: another process may be doing the same
    for path in objects:
        path.unlink()
    return result
