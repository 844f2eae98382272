"""``jdm-fast doctor``: what is installed, why something is missing, and whether the kernels compute the right thing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

import jdm_fast
from jdm_fast._toolchain import find_cuda

with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # a missing extension is what the doctor itself reports
    from jdm_fast import _extension, ops

PACKAGES = ("numpy", "pillow", "av", "tyro", "rich", "triton", "ninja", "pybind11")
DALI_PACKAGES = ("nvidia-dali-cuda130", "nvidia-dali-cuda120")

#: Largest error allowed, over the largest magnitude of the exact result: two roundings of the dtype, sums in float32.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-7}


@dataclass(frozen=True)
class KernelCheck:
    """One run of one op against its reference in float64."""

    op: str
    direction: str
    device: str
    dtype: torch.dtype
    error: float
    """Largest difference over the largest magnitude of the exact result; NaN if the op raised."""
    problem: str | None = None
    """What the op raised."""

    @property
    def ok(self) -> bool:
        return self.problem is None and self.error <= TOLERANCE[self.dtype]


def doctor(console: Console) -> int:
    """Print the state of this installation to ``console``. 0 if all is well, 1 if something needs attention."""
    problems = [problem for problem in (extension_problem(), *gpu_problems()) if problem]
    console.print(_facts())
    checks = [check for device in _devices() for check in check_kernels(device)]
    console.print(_kernel_table(checks))
    failed = sum(not check.ok for check in checks)
    if failed:
        problems.append(f"{failed} of {len(checks)} kernel checks failed")
    for problem in problems:
        console.print(f"[bold red]Problem:[/] {escape(problem)}", soft_wrap=True)
    if not problems:
        console.print("[bold green]All is well.[/]")
    return 1 if problems else 0


def covers(architectures: str, capability: tuple[int, int]) -> bool:
    """Whether code for ``architectures`` (as in TORCH_CUDA_ARCH_LIST) runs on a GPU of compute ``capability``."""
    for entry in architectures.replace(" ", ";").split(";"):
        name, _, ptx = entry.partition("+")
        if not name:
            continue
        if name.endswith("a"):  # specific to one chip
            if name[:-1] == "{}.{}".format(*capability):
                return True
            continue
        major, minor = map(int, name.rstrip("f").split("."))
        if (major == capability[0] and minor <= capability[1]) or (ptx and (major, minor) <= capability):
            return True
    return False


def check_kernels(device: str) -> Iterator[KernelCheck]:
    """Runs every op forward, and backward where it has a gradient, on ``device`` in float32 and bfloat16."""
    for dtype in TOLERANCE:
        for name, (fast, exact, inputs) in _cases().items():
            forward, backward = _compare(fast, exact, inputs, device, dtype)
            yield KernelCheck(name, "forward", device, dtype, *forward)
            if backward is not None:
                yield KernelCheck(name, "backward", device, dtype, *backward)


Op = Callable[..., Tensor]


def _cases() -> dict[str, tuple[Op, Op, list[Tensor]]]:
    """Each op: (the op, its reference, float64 inputs)."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    source = torch.arange(10) % 5

    def instance_norm(function: Callable[..., Tensor]) -> Op:
        return lambda x, w, b, r: function(x, w, b, residual=r, activation="leaky_relu", negative_slope=0.2)

    def critic_loss(function: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> Op:
        return lambda logits: torch.cat([value.view(-1) for value in function(logits, source.to(logits.device), 5)[:2]])

    def between(function: Callable[..., Tensor]) -> Op:  # has no gradient
        return lambda u, w, b: function(u.detach(), 8, w.detach(), b.detach(), "relu")

    reference = ops.reference
    image = [normal(2, 16, 33, 31), normal(16), normal(16), normal(2, 16, 33, 31)]
    latents = [normal(3, 2, 8, 5, 7)]
    cases: dict[str, tuple[Op, Op, list[Tensor]]] = {
        "instance_norm": (instance_norm(ops.instance_norm), instance_norm(reference.instance_norm), image),
        "interpolate_instance_norm": (
            between(ops.interpolate_instance_norm),
            between(reference.interpolate_instance_norm),
            [normal(3, 16, 33, 31), normal(16), normal(16)],
        ),
        "softmax_critic_loss": (
            critic_loss(ops.softmax_critic_loss),
            critic_loss(reference.softmax_critic_loss),
            [normal(10, 5, 9, 7)],
        ),
        "frames_to_uint8": (ops.frames_to_uint8, reference.frames_to_uint8, [normal(2, 3, 33, 31)]),
    }
    for mode in ("lerp", "slerp"):
        cases[f"interpolate_latents ({mode})"] = (
            lambda z, mode=mode: ops.interpolate_latents(z, 8, mode),
            lambda z, mode=mode: reference.interpolate_latents(z, 8, mode),
            latents,
        )
    return cases


Outcome = tuple[float, "str | None"]


def _compare(
    fast: Op, exact: Op, inputs: list[Tensor], device: str, dtype: torch.dtype
) -> tuple[Outcome, Outcome | None]:
    """(error, problem) of the forward and, unless the result has no gradient, the backward pass."""
    given = [value.to(device, dtype).requires_grad_() for value in inputs]
    wanted = [value.detach().to("cpu", torch.float64).requires_grad_() for value in given]
    expected = exact(*wanted)
    differentiable = expected.requires_grad
    forward: Outcome = (float("nan"), None)
    try:
        actual = fast(*given)
        # A byte that differs by one level of 255 where rounding falls on a tie is not an error of the kernel.
        bytes_of_frames = not expected.is_floating_point()
        forward = (_level_error(actual, expected) if bytes_of_frames else _error(actual, expected), None)
        if not differentiable:
            return forward, None
        direction = torch.linspace(-1, 2, expected.numel(), dtype=torch.float64).view(expected.shape)
        # The reference gets the gradient that the op gets: rounded to the dtype of the op's result.
        direction = direction.to(actual.dtype)
        gradients = torch.autograd.grad(actual, given, direction.to(device))
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        problem = (float("nan"), f"{type(error).__name__}: {str(error).splitlines()[0]}")
        return (problem, problem) if forward[0] != forward[0] else (forward, problem)
    exact_gradients = torch.autograd.grad(expected, wanted, direction.to(torch.float64))
    return forward, (max(map(_error, gradients, exact_gradients)), None)


def _error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest magnitude of ``expected``."""
    difference = (actual.detach().to("cpu", torch.float64) - expected.detach()).abs().max()
    return (difference / expected.detach().abs().max()).item()


def _level_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference in levels beyond one, over 255."""
    difference = (actual.to("cpu", torch.float64) - expected.to(torch.float64)).abs().max()
    return max(0.0, difference.item() - 1) / 255


def _devices() -> list[str]:
    return ["cpu"] + [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def extension_problem() -> str | None:
    """What is wrong with the extension; having been left out on purpose is not."""
    if not _extension.available and "JDM_FAST_DISABLE_EXTENSION" not in str(_extension.reason):
        return f"the compiled kernels are not loaded: {_extension.reason}"
    if _extension.available and not _extension.has_cuda() and torch.cuda.is_available():
        home, found = find_cuda(torch.version.cuda)
        remedy = f"CUDA {found} is in {home}: {_extension.REBUILD}" if home else found
        return f"a GPU is there, but the extension was built without CUDA kernels; {remedy}"
    return None


def gpu_problems() -> Iterator[str]:
    """GPUs that the extension has no code for."""
    compiled = _extension.build_config()["cuda_architectures"]
    for index in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(index)
        if _extension.has_cuda() and not covers(compiled, capability):
            yield (
                f"the extension was built for {compiled}, which does not run on GPU {index}, of compute capability "
                f"{capability[0]}.{capability[1]}; set TORCH_CUDA_ARCH_LIST={capability[0]}.{capability[1]} and "
                f"{_extension.REBUILD}"
            )


def _facts() -> Table:
    config = _extension.build_config()
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")

    def row(name: str, value: str) -> None:
        table.add_row(name, escape(value))

    row("jdm_fast", f"{jdm_fast.__version__} in {os.path.dirname(jdm_fast.__file__)}")
    row("Python", f"{platform.python_version()} on {platform.platform()}")
    row("PyTorch", f"{torch.__version__}, {_cuda_of_torch()}")
    row("packages", ", ".join(f"{name} {_version(name) or 'missing'}" for name in PACKAGES))
    if _extension.available:
        row("extension", f"loaded; built by {config['compiler']} with torch {config['torch_version']}")
        row("CUDA kernels", f"for {config['cuda_architectures']}" if config["cuda"] else _why_no_cuda_kernels())
    else:
        row("extension", f"not loaded, plain PyTorch runs instead: {_extension.reason}")
    row("CPU", f"{cpu_name()}, {torch.get_num_threads()} threads of {os.cpu_count()} processors")
    if _extension.available:
        best = ", ".join(config["cpu_capabilities"])
        row("instructions", f"{config['cpu_capability']} of {best} (JDM_FAST_CPU_CAPABILITY chooses)")
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        row(f"GPU {index}", f"{gpu.name}, sm_{gpu.major}{gpu.minor}, {gpu.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        row("GPU", "none visible to PyTorch")
    dali = next((f"{name} {found}" for name in DALI_PACKAGES if (found := _version(name))), None)
    row("DALI", dali or "not installed (the image pipeline needs it): pip install nvidia-dali-cuda130")
    return table


def _cuda_of_torch() -> str:
    return f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"


def _why_no_cuda_kernels() -> str:
    home, found = find_cuda(torch.version.cuda)
    return f"not built; CUDA {found} is in {home}: {_extension.REBUILD}" if home else f"not built: {found}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's model name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _kernel_table(checks: list[KernelCheck]) -> Table:
    title = "Largest error of every kernel, against its reference in float64"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("kernel", "direction", "device", "dtype"):
        table.add_column(column, no_wrap=True)
    for column in ("error", "allowed"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    for check in checks:
        verdict = "[green]ok[/]" if check.ok else f"[bold red]FAILED[/] {escape(check.problem or '')}".rstrip()
        error = "-" if check.error != check.error else f"{check.error:.1e}"
        dtype = str(check.dtype).removeprefix("torch.")
        table.add_row(check.op, check.direction, check.device, dtype, error, f"{TOLERANCE[check.dtype]:.1e}", verdict)
    return table
