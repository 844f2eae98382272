"""``jdm-fast doctor`` sees a wrong kernel, a missing extension and a GPU that the build does not cover."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from jdm_fast import _doctor, _extension, ops
from jdm_fast.cli import main


def run_doctor() -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=160)
    status = _doctor.doctor(console)
    return status, console.file.getvalue()


def test_all_is_well_here() -> None:
    status, text = run_doctor()
    assert status == 0, text
    assert "All is well." in text and "FAILED" not in text
    assert torch.__version__ in text and "loaded; built by" in text


def test_every_op_is_checked_in_both_directions() -> None:
    """Whatever jdm_fast.ops offers, the doctor runs; an op without a gradient only forward."""
    checks = list(_doctor.check_kernels("cpu"))
    directions: dict[str, set[str]] = {}
    for check in checks:
        directions.setdefault(check.op.split(" ")[0], set()).add(check.direction)
    assert set(directions) == set(ops.__all__) - {"reference", "plan", "Plan", "Gpu", "GPUS"}
    for op in ("frames_to_uint8", "interpolate_instance_norm"):
        assert directions.pop(op) == {"forward"}
    assert all(found == {"forward", "backward"} for found in directions.values())
    assert all(check.ok for check in checks)
    assert {check.dtype for check in checks} == set(_doctor.TOLERANCE)


def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ops.instance_norm
    monkeypatch.setattr(ops, "instance_norm", lambda *args, **kwargs: right(*args, **kwargs) * 1.001)
    status, text = run_doctor()
    failed = [line for line in text.splitlines() if "FAILED" in line]
    assert status == 1
    assert len(failed) == 2 and all("instance_norm" in line and "float32" in line for line in failed), text
    assert "Problem: 2 of " in text


def test_a_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ops.interpolate_latents
    monkeypatch.setattr(
        ops, "interpolate_latents", lambda z, n, mode: right(z, n, mode) + 0 * z.sum() + (z - z.detach()).sum()
    )
    wrong = {(check.op, check.direction) for check in _doctor.check_kernels("cpu") if not check.ok}
    assert wrong == {(f"interpolate_latents ({mode})", "backward") for mode in ("lerp", "slerp")}


def test_wrong_bytes_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ops.frames_to_uint8
    monkeypatch.setattr(ops, "frames_to_uint8", lambda x: right(x.flip(1)))
    wrong = {check.op for check in _doctor.check_kernels("cpu") if not check.ok}
    assert wrong == {"frames_to_uint8"}


def test_a_kernel_that_raises_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("no kernel image is available\nsecond line")

    monkeypatch.setattr(ops, "frames_to_uint8", broken)
    status, text = run_doctor()
    assert status == 1
    assert "RuntimeError: no kernel image is available" in text and "second line" not in text


def test_a_missing_extension_is_a_problem_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_extension, "available", False)
    monkeypatch.setattr(_extension, "_module", None)
    monkeypatch.setattr(
        _extension, "reason", f"the package was installed without its compiled kernels; {_extension.REBUILD}"
    )
    status, text = run_doctor()
    assert status == 1
    assert "Problem: the compiled kernels are not loaded: the package was installed without" in text
    assert "pip install --no-build-isolation -e ." in text


def test_an_extension_left_out_on_purpose_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_extension, "available", False)
    monkeypatch.setattr(_extension, "_module", None)
    monkeypatch.setattr(_extension, "reason", "JDM_FAST_DISABLE_EXTENSION is set in the environment")
    status, text = run_doctor()
    assert status == 0
    assert "plain PyTorch runs instead: JDM_FAST_DISABLE_EXTENSION is set" in text


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], architectures: str) -> None:
    config = {**_extension.build_config(), "cuda": bool(architectures), "cuda_architectures": architectures}
    monkeypatch.setattr(_extension, "build_config", lambda: config)
    monkeypatch.setattr(_extension, "has_cuda", lambda: bool(architectures))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=0: capability)


def test_a_gpu_the_build_does_not_cover_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, (12, 0), "8.0;9.0a")
    (problem,) = _doctor.gpu_problems()
    assert "built for 8.0;9.0a, which does not run on GPU 0" in problem and "TORCH_CUDA_ARCH_LIST=12.0" in problem
    pretend_gpu(monkeypatch, (9, 0), "8.0;9.0a")
    assert list(_doctor.gpu_problems()) == []


def test_a_gpu_without_cuda_kernels_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, (9, 0), "")
    assert "built without CUDA kernels" in str(_doctor.extension_problem())


@pytest.mark.parametrize(
    ("architectures", "capability", "expected"),
    [
        ("8.0", (8, 0), True),
        ("8.0", (8, 9), True),  # a later minor version runs it
        ("8.6", (8, 0), False),
        ("8.0", (9, 0), False),  # another major version does not
        ("9.0a", (9, 0), True),
        ("9.0a", (10, 0), False),
        ("8.0+PTX", (12, 0), True),  # compiled by the driver
        ("10.0+PTX", (9, 0), False),
        ("8.0;9.0a;10.0+PTX", (12, 1), True),
        ("8.0 8.6", (8, 6), True),  # spaces separate as well
        ("", (8, 0), False),
    ],
)
def test_covers(architectures: str, capability: tuple[int, int], expected: bool) -> None:
    assert _doctor.covers(architectures, capability) == expected


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.endswith("ok") for line in map(str.rstrip, lines)) == len(list(_doctor.check_kernels("cpu")))
    assert "…" not in "".join(lines)  # nothing is cut off on a narrow terminal
