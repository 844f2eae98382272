"""What setup.py decides: which CUDA toolkit, which architectures, and what it says when it cannot."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.utils import cpp_extension  # before any test fakes a toolkit: it looks for one when imported

from jdm_fast import _toolchain

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("CUDA_HOME", "CUDA_PATH", "CXX", "DEBUG", "JDM_FAST_CUDA", "JDM_FAST_EXTENSION", "TORCH_CUDA_ARCH_LIST")
    for name in names:
        monkeypatch.setenv(name, "")  # so that what setup.py sets is undone as well
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "path", list(sys.path))


def load_setup() -> ModuleType:
    """setup.py as a module; it builds nothing unless it is the main program."""
    spec = importlib.util.spec_from_file_location("jdm_fast_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_toolkit(home: Path, release: str = "13.0", known: tuple[int, ...] = (80, 90), headers: bool = True) -> Path:
    """A folder that looks like a CUDA toolkit, with an nvcc that answers the three questions it is asked."""
    (home / "bin").mkdir(parents=True)
    (home / "include").mkdir()
    if headers:
        (home / "include/cuda_runtime.h").touch()
    nvcc = home / "bin/nvcc"
    lines = "\n".join(f"compute_{number}" for number in known)
    nvcc.write_text(
        f"""#!/bin/sh
case "$1" in
  --version) echo "Cuda compilation tools, release {release}, V{release}.88" ;;
  --list-gpu-arch) echo "{lines}" ;;
  --dryrun) echo "#\\$ TOP={home}/bin/.." >&2 ;;
esac
"""
    )
    nvcc.chmod(0o755)
    return home


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Hides the toolkits of this machine; returns a function that shows the given ones instead."""

    def show(*, path: Path | None = None, wheels: Path | None = None) -> None:
        monkeypatch.setenv("PATH", f"{path}:/usr/bin:/bin" if path else "/nowhere")
        spec = SimpleNamespace(submodule_search_locations=[str(wheels)]) if wheels else None
        monkeypatch.setattr(_toolchain.importlib.util, "find_spec", lambda name: spec)
        monkeypatch.setattr(_toolchain, "DEFAULT_TOOLKIT", tmp_path / "usr-local-cuda")

    show()
    return show


@pytest.mark.parametrize(("value", "expected"), [("", None), ("0", False), ("1", True)])
def test_switch(monkeypatch: pytest.MonkeyPatch, value: str, expected: bool | None) -> None:
    monkeypatch.setenv("JDM_FAST_CUDA", value)
    assert _toolchain.switch("JDM_FAST_CUDA") is expected


def test_switch_refuses_other_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JDM_FAST_CUDA", "yes")
    with pytest.raises(SystemExit, match="JDM_FAST_CUDA must be 0, 1 or unset; it is 'yes'"):
        _toolchain.switch("JDM_FAST_CUDA")


def test_cuda_home_is_found_and_is_the_only_candidate(monkeypatch, tmp_path, only) -> None:
    good, other = make_toolkit(tmp_path / "good"), make_toolkit(tmp_path / "other")
    only(path=other / "bin")
    monkeypatch.setenv("CUDA_HOME", str(good))
    assert _toolchain.find_cuda("13.0") == (good, "13.0")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "empty"))
    home, reason = _toolchain.find_cuda("13.0")
    assert home is None and "empty lacks bin/nvcc" in reason and "other" not in reason


def test_nvcc_on_the_path_may_be_a_wrapper_script(tmp_path, only) -> None:
    toolkit = make_toolkit(tmp_path / "toolkit")
    wrapper = tmp_path / "bin/nvcc"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {toolkit}/bin/nvcc "$@"\n')
    wrapper.chmod(0o755)
    only(path=wrapper.parent)
    assert _toolchain.find_cuda("13.0") == (toolkit, "13.0")


def test_wheels_are_found_where_nothing_is_installed(tmp_path, only) -> None:
    toolkit = make_toolkit(tmp_path / "nvidia/cu13", release="13.0")
    only(wheels=tmp_path / "nvidia")
    assert _toolchain.find_cuda("13.0") == (toolkit, "13.0")


def test_a_toolkit_of_another_major_version_is_passed_over(tmp_path, only) -> None:
    old = make_toolkit(tmp_path / "old", release="12.4")
    new = make_toolkit(tmp_path / "nvidia/cu13", release="13.2")
    only(path=old / "bin", wheels=tmp_path / "nvidia")
    assert _toolchain.find_cuda("13.0") == (new, "13.2")
    home, reason = _toolchain.find_cuda("11.8")
    assert home is None and "is CUDA 12.4 and PyTorch needs 11.x" in reason and "jdm_fast[nvcc]" in reason


def test_a_toolkit_without_headers_or_that_does_not_run_is_passed_over(tmp_path, only) -> None:
    only(path=make_toolkit(tmp_path / "bare", headers=False) / "bin")
    assert "lacks bin/nvcc or include/cuda_runtime.h" in _toolchain.find_cuda("13.0")[1]
    broken = make_toolkit(tmp_path / "nvidia/cu13")
    (broken / "bin/nvcc").write_text("#!/bin/sh\nexit 1\n")
    only(wheels=tmp_path / "nvidia")
    assert "nvcc does not run" in _toolchain.find_cuda("13.0")[1]


def test_no_cuda_for_a_pytorch_without_it() -> None:
    assert _toolchain.find_cuda(None) == (None, "this PyTorch was built without CUDA")


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ((75, 80, 86, 89, 90, 100, 120), "8.0;8.6;8.9;9.0a;10.0+PTX"),
        ((75, 80, 86, 89, 90), "8.0;8.6;8.9+PTX;9.0a"),  # 9.0a is for one chip: its PTX would help no other
        ((90, 100), "9.0a;10.0+PTX"),
    ],
)
def test_architectures_without_a_gpu(tmp_path: Path, known: tuple[int, ...], expected: str) -> None:
    assert _toolchain.architectures(make_toolkit(tmp_path / "t", known=known) / "bin/nvcc", []) == expected


@pytest.mark.parametrize(
    ("capabilities", "expected"), [([(9, 0)], "9.0a"), ([(8, 6), (8, 6)], "8.6"), ([(8, 0), (9, 0)], "8.0;9.0a")]
)
def test_architectures_of_the_gpus_present(capabilities: list[tuple[int, int]], expected: str) -> None:
    assert _toolchain.architectures(Path("/nowhere/nvcc"), capabilities) == expected


def test_architectures_asked_for_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6+PTX")
    assert _toolchain.architectures(Path("/nowhere/nvcc"), [(9, 0)]) == "8.6+PTX"


# ---- setup.py itself


def test_setup_is_short() -> None:
    assert len((ROOT / "setup.py").read_text().splitlines()) < 120


def test_cuda_kernels_left_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("JDM_FAST_CUDA", "0")
    extension = load_setup().extension_arguments()["ext_modules"][0]
    assert "CPU kernels only: JDM_FAST_CUDA=0" in capsys.readouterr().out
    assert extension.name == "jdm_fast._C"
    assert not [source for source in extension.sources if source.endswith(".cu")]
    assert "csrc/kernels/instance_norm_cpu.cpp" in extension.sources
    assert not extension.define_macros


def test_cuda_kernels_that_cannot_be_built_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JDM_FAST_CUDA", "1")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(SystemExit, match="JDM_FAST_CUDA=1, but the CUDA kernels cannot be built: "):
        load_setup().extension_arguments()


def test_cuda_kernels_without_a_gpu(monkeypatch, tmp_path, capsys) -> None:
    home = make_toolkit(tmp_path / "cuda")
    (home / "lib64").mkdir()
    (home / "lib64/libcudart.so").touch()
    monkeypatch.setenv("CUDA_HOME", str(home))
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(home))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    extension = load_setup().extension_arguments()["ext_modules"][0]
    assert "CUDA kernels for 8.0+PTX;9.0a with CUDA 13.0" in capsys.readouterr().out
    assert "csrc/kernels/instance_norm.cu" in extension.sources
    assert ("JDM_FAST_WITH_CUDA", "1") in extension.define_macros
    assert ("JDM_FAST_CUDA_ARCHITECTURES", '"8.0+PTX;9.0a"') in extension.define_macros
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == "8.0+PTX;9.0a"


def test_missing_compiler_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SystemExit, match=r"no-such-compiler.*apt-get install g\+\+.*JDM_FAST_EXTENSION=0"):
        load_setup().extension_arguments()


def test_wheel_of_cudart_gets_a_link(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setup = load_setup()
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    (tmp_path / "cu13/lib").mkdir(parents=True)
    library = tmp_path / "cu13/lib/libcudart.so.13"
    library.touch()
    for _ in range(2):  # again over the link of an earlier build
        (folder,) = setup.cudart_folder(tmp_path / "cu13")
        assert (Path(folder) / "libcudart.so").resolve() == library
    (tmp_path / "cu13/lib/libcudart.so").touch()
    assert setup.cudart_folder(tmp_path / "cu13") == []
