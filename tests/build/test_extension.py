"""The compiled extension is there, holds what it says it holds, and the package lives without it."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import jdm_fast as jf
from jdm_fast import _extension, _toolchain

ROOT = Path(__file__).resolve().parents[2]

#: The operators a build must have kernels for.
OPERATORS = sorted(
    {
        name
        for path in (ROOT / "csrc" / "bindings").glob("*.cpp")
        for name in re.findall(r'm\.impl\(\s*"(\w+)"', path.read_text())
    }
)

EVERY_OP = """
import jdm_fast as jf, torch
x = torch.randn(2, 3, 8, 8, requires_grad=True)
jf.ops.instance_norm(x, torch.ones(3), torch.zeros(3), residual=x, activation="relu").sum().backward()
jf.ops.interpolate_latents(x, 4, "slerp").sum().backward()
jf.ops.interpolate_instance_norm(x.detach(), [0.0, 0.4], torch.ones(3), activation="relu")
jf.ops.frames_to_uint8(x.detach(), tanh=True)
jf.ops.softmax_critic_loss(x, torch.tensor([0, 1]), 2)[0].backward()
assert torch.isfinite(x.grad).all()
"""


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-W", "always::RuntimeWarning", "-c", code]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def test_extension_is_built() -> None:
    assert _extension.available, _extension.reason
    assert _extension.reason is None
    config = _extension.build_config()
    assert config["torch_version"].split("+")[0] == torch.__version__.split("+")[0]
    assert config["compiler"] and config["cpu_capabilities"] and config["cpu_capability"] in config["cpu_capabilities"]


def test_cuda_is_in_the_build_where_it_can_be_compiled() -> None:
    if os.environ.get("JDM_FAST_CUDA") == "0":
        expected = False
    else:
        expected = _toolchain.find_cuda(torch.version.cuda)[0] is not None
    assert _extension.has_cuda() == expected, "the extension is not of this tree's making: make clean venv"


def device_code(library: Path) -> set[tuple[str, int]]:
    """("sm" or "compute", number) of every piece of device code in ``library``, read off its fat binaries' headers."""
    content = library.read_bytes()
    found, position = set(), 0
    while (position := content.find(b"\x50\xed\x55\xba", position)) >= 0:
        version, header, size = struct.unpack_from("<HHQ", content, position + 4)
        if (version, header) != (1, 16):  # the same four bytes elsewhere: the pointer to a fat binary
            position += 4
            continue
        entry, position = position + header, position + header + size
        while entry < position:
            kind, _, entry_header, entry_size = struct.unpack_from("<HHIQ", content, entry)
            (architecture,) = struct.unpack_from("<I", content, entry + 28)
            found.add(("compute" if kind == 1 else "sm", architecture))
            entry += entry_header + entry_size
    return found


def test_binary_holds_the_architectures_it_names() -> None:
    (library,) = (ROOT / "jdm_fast").glob(f"_C.{sys.implementation.cache_tag}*.so")
    expected = set()
    for name in filter(None, _extension.build_config()["cuda_architectures"].split(";")):
        number = int(re.sub(r"[.af]|\+PTX", "", name))
        expected |= {("sm", number), ("compute", number)} if name.endswith("+PTX") else {("sm", number)}
    assert device_code(library) == expected
    assert bool(expected) == _extension.has_cuda()


def test_every_operator_has_its_compiled_kernels() -> None:
    """Asked of a process that loaded the extension alone, before the package adds its PyTorch implementations."""
    assert OPERATORS, "no m.impl(...) found in csrc/bindings"
    code = f"""
import jdm_fast._extension, torch
has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
for name in {OPERATORS!r}:
    print(name, *(has_kernel(f"jdm_fast::{{name}}", key) for key in ("CPU", "CUDA")))
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name} True {_extension.has_cuda()}" for name in OPERATORS]


def warnings_in(text: str) -> list[str]:
    return [line for line in text.splitlines() if "RuntimeWarning" in line]


def test_every_op_runs_without_a_warning() -> None:
    done = run_python(EVERY_OP)
    assert done.returncode == 0, done.stderr
    assert warnings_in(done.stderr) == []


def test_package_works_without_the_extension_and_warns_once() -> None:
    done = run_python(EVERY_OP, JDM_FAST_DISABLE_EXTENSION="1")
    assert done.returncode == 0, done.stderr
    (warning,) = warnings_in(done.stderr)
    assert "plain PyTorch" in warning and "JDM_FAST_DISABLE_EXTENSION" in warning and "jdm-fast doctor" in warning


@pytest.mark.parametrize(
    ("stub", "reason"),
    [
        ("sys.modules['jdm_fast._C'] = None", "installed without its compiled kernels"),
        # What a build for another torch looks like: the dynamic linker misses a symbol.
        (
            "sys.meta_path.insert(0, Unloadable())",
            "undefined symbol: _ZN3c10. It may have been built for another torch",
        ),
    ],
)
def test_reason_and_remedy_when_the_extension_cannot_load(stub: str, reason: str) -> None:
    code = f"""
import sys
class Unloadable:
    def find_spec(self, name, path=None, target=None):
        if name == "jdm_fast._C":
            raise ImportError("undefined symbol: _ZN3c10")
{stub}
import jdm_fast._extension as e
assert not e.available and not e.has_cuda() and e.build_config()["compiler"] == ""
print(e.reason)
{EVERY_OP}
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert reason in done.stdout and "pip install --no-build-isolation -e ." in done.stdout
    assert len(warnings_in(done.stderr)) == 1


def test_import_is_light() -> None:
    code = """
import sys, jdm_fast
heavy = {"torch", "numpy", "tyro", "av", "rich", "PIL"} & set(sys.modules)
assert not heavy, heavy
assert jdm_fast.__version__ and "load" in dir(jdm_fast)
try:
    jdm_fast.nonsense
except AttributeError as error:
    print(error)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert "no attribute 'nonsense'; public names: " in done.stdout


def test_public_names() -> None:
    for name in (
        "instance_norm",
        "interpolate_instance_norm",
        "softmax_critic_loss",
        "interpolate_latents",
        "frames_to_uint8",
    ):
        assert callable(getattr(jf.ops, name)) and callable(getattr(jf.ops.reference, name))
    assert jf.methods.JWDM and jf.methods.JWDMConfig and callable(jf.load)
    assert issubclass(jf.errors.UserError, ValueError)
