"""Builds ``jdm_fast._C`` from csrc/: CPU kernels always, CUDA kernels where PyTorch has CUDA and an nvcc is found.

Whether a GPU is present does not matter. All else about the package stands in pyproject.toml. Environment variables:

    JDM_FAST_CUDA=0|1        leave the CUDA kernels out | fail, saying why, if they cannot be built
    JDM_FAST_EXTENSION=0     build nothing: a pure Python package that runs on its PyTorch implementations
    TORCH_CUDA_ARCH_LIST     GPU architectures, e.g. "8.0;9.0a" (default: the GPUs present, else a common list)
    CUDA_HOME, CXX, MAX_JOBS, DEBUG=1 (no optimisation, debug symbols)
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from glob import glob
from pathlib import Path
from typing import Any

from setuptools import setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from jdm_fast import _toolchain  # noqa: E402

CPU_SOURCES = ("csrc/kernels/*_cpu.cpp", "csrc/kernels/cpu/*.cpp")  # CMakeLists.txt globs the same patterns
CUDA_SOURCES = ("csrc/kernels/*.cu",)
BINDING_SOURCES = ("csrc/bindings/*.cpp",)
HEADERS = ("csrc/**/*.h", "csrc/**/*.cuh", "csrc/**/*.inl")


def files(*patterns: str) -> list[str]:
    """What matches ``patterns``, relative to this folder, sorted."""
    return sorted(path for pattern in patterns for path in glob(pattern, root_dir=ROOT, recursive=True))


def import_torch() -> bool:
    """Whether torch can be imported. pip hides the environment's packages from an isolated build; look there before
    downloading a second PyTorch, which would also be the wrong one to build against."""
    if importlib.util.find_spec("torch") is None:
        sys.path.append(sysconfig.get_path("purelib"))
    return importlib.util.find_spec("torch") is not None


def cudart_folder(home: Path) -> list[str]:
    """Where the linker finds libcudart.so. NVIDIA's wheel has only libcudart.so.<major>, so that one gets a link."""
    if any((home / lib / "libcudart.so").exists() for lib in ("lib64", "lib")):
        return []
    folder = ROOT / "build" / "cudart"
    folder.mkdir(parents=True, exist_ok=True)
    for library in (home / "lib").glob("libcudart.so.*"):
        (folder / "libcudart.so").unlink(missing_ok=True)
        (folder / "libcudart.so").symlink_to(library)
    return [str(folder)]


def extension_arguments() -> dict[str, Any]:
    """The arguments of setup() that build the extension."""
    if missing := _toolchain.missing_for_cpu():
        raise SystemExit(
            f"jdm_fast: {missing}. Or set JDM_FAST_EXTENSION=0 for a pure Python package that runs on its slower "
            "PyTorch implementations."
        )
    import pybind11
    import torch

    wanted = _toolchain.switch("JDM_FAST_CUDA")
    home, found = (None, "JDM_FAST_CUDA=0") if wanted is False else _toolchain.find_cuda(torch.version.cuda)
    if wanted and home is None:
        raise SystemExit(f"jdm_fast: JDM_FAST_CUDA=1, but the CUDA kernels cannot be built: {found}.")
    optimise = ["-O0", "-g"] if os.environ.get("DEBUG") == "1" else ["-O3", "-g0"]
    flags = {"cxx": [*optimise, "-fopenmp", "-fvisibility=hidden", "-Wall", "-Wno-maybe-uninitialized"]}
    macros: list[tuple[str, str | None]] = []
    if home is None:
        print(f"jdm_fast: CPU kernels only: {found}")
    else:
        gpus = [torch.cuda.get_device_capability(gpu) for gpu in range(torch.cuda.device_count())]
        names = _toolchain.architectures(home / "bin/nvcc", gpus)
        os.environ.update(CUDA_HOME=str(home), TORCH_CUDA_ARCH_LIST=names)
        flags["nvcc"] = [*optimise[:1], "-lineinfo", "--expt-relaxed-constexpr"]
        macros = [("JDM_FAST_WITH_CUDA", "1"), ("JDM_FAST_CUDA_ARCHITECTURES", f'"{names}"')]
        print(f"jdm_fast: CPU kernels, and CUDA kernels for {names} with CUDA {found} from {home}")
    from torch.utils import cpp_extension  # reads CUDA_HOME when it is imported

    class Build(cpp_extension.BuildExtension):
        def finalize_options(self) -> None:
            """Keeps the objects between builds, editable ones too: ninja then compiles only what changed."""
            super().finalize_options()
            self.build_temp = str(ROOT / "build" / f"{sys.implementation.cache_tag}-torch-{torch.__version__}")

    extension = (cpp_extension.CUDAExtension if home else cpp_extension.CppExtension)(
        "jdm_fast._C",
        sources=files(*CPU_SOURCES, *BINDING_SOURCES, *(CUDA_SOURCES if home else ())),
        depends=files(*HEADERS),
        include_dirs=[str(ROOT / "csrc"), pybind11.get_include()],
        library_dirs=cudart_folder(home) if home else [],
        define_macros=macros,
        extra_compile_args=flags,
        extra_link_args=["-fopenmp"],
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": Build}}


if __name__ == "__main__":
    if _toolchain.switch("JDM_FAST_EXTENSION") is False:
        print("jdm_fast: JDM_FAST_EXTENSION=0: no compiled kernels")
        setup()
    elif import_torch():
        setup(**extension_arguments())
    elif "egg_info" in sys.argv:  # pip asks what its isolated build needs
        setup(setup_requires=["torch>=2.11"])
    else:
        raise SystemExit("jdm_fast: the build needs PyTorch: first pip install 'torch>=2.11'")
