"""Measures cells: inputs, the check, the race, and a copy of as many bytes in the same race."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor

from jdm_fast.bench import check
from jdm_fast.bench.clock import Call, Times, input_sets, race, stage
from jdm_fast.bench.contenders import COMPILE, EAGER, OPS, OURS, Function, Op, Sample
from jdm_fast.bench.matrix import Cell, cases
from jdm_fast.errors import first_line

COPY = "copy"
SECONDS = {"cpu": 0.25, "cuda": 0.02}  # of all rounds of one contender of a cell
LARGE_COPY = {"cpu": 128 << 20, "cuda": 1 << 30}  # bytes moved by the copy that a machine is known by
_LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Result:
    """What was measured in one cell.

    Attributes:
        device: "cpu" or "cuda".
        bytes: the least that must be read and written.
        rotated: bytes of all sets of inputs that the calls rotate through.
        copy: times of a copy that moves ``bytes``. times: of each contender.
        problems: why a contender has no times: it is wrong, does not compile, or raised.
    """

    cell: Cell
    device: str
    bytes: int
    rotated: int
    copy: Times
    times: dict[str, Times]
    problems: dict[str, str] = field(default_factory=dict)

    def gigabytes_per_second(self, contender: str) -> float:
        """Rate at which a contender gets through the least bytes."""
        return self.bytes / self.times[contender].median / 1e9

    def of_copy(self, contender: str) -> float:
        """That rate over the rate of the copy."""
        return self.copy.median / self.times[contender].median

    def ratio(self, contender: str) -> float | None:
        """A contender's time over that of jdm_fast; above 1 is slower. None if jdm_fast has no time."""
        return self.times[contender].median / self.times[OURS].median if OURS in self.times else None


def measure_cells(
    cells: Sequence[Cell],
    contenders: Sequence[str] = (OURS, EAGER),
    device: torch.device | str = "cpu",
    *,
    seconds: float | None = None,
    on_case: Callable[[Cell], object] = lambda cell: None,
) -> Iterator[Result]:
    """Measures every cell, in order. A contender is timed only where it agrees with float64.

    Args:
        cells: from :func:`jdm_fast.bench.matrix.select`.
        contenders: some of "jdm_fast", "eager", "compile", "unfused"; those that an op does not have are left out.
        device: where to run.
        seconds: of timing a contender of a cell; by default 0.25 on a CPU and 0.02 on a GPU.
        on_case: told the first cell of each case before it is measured.
    """
    device = torch.device(device)
    for group in cases(cells):
        on_case(group[0])
        # Compiled code must not reuse what a backward reads: the backward is timed many times on one graph.
        with stage(device), torch._functorch.config.patch(donated_buffer=False):
            some = _measure_case(group, contenders, device, SECONDS[device.type] if seconds is None else seconds)
        yield from some
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            if free < total // 2:
                gc.collect()
                torch.cuda.empty_cache()


def copy_times(device: torch.device | str, moved: int | None = None, seconds: float = 0.3) -> tuple[int, Times]:
    """(bytes moved, times) of a large copy: the bandwidth of the machine."""
    device = torch.device(device)
    moved = LARGE_COPY[device.type] if moved is None else moved
    with stage(device):
        times, raised = race({COPY: _copy_call(moved, 2, device)}, 2, device, seconds)
    for error in raised.values():
        raise error
    return moved, times[COPY]


def _measure_case(cells: list[Cell], contenders: Sequence[str], device: torch.device, seconds: float) -> list[Result]:
    case = cells[0]
    op, dtype = OPS[case.op], getattr(torch, case.dtype)
    samples = _samples(op, case, dtype, device)
    functions, problems = _functions(op, case.variant, contenders), {}
    gradients = any(cell.direction != "forward" for cell in cells)
    dy = op.blunt(samples[0])
    right = check.exact(op.exact(case.variant), samples[0], dy, gradients)
    for name, function in list(functions.items()):
        problem = _problem(name, function, samples[0], dy, gradients, right, dtype)
        if problem is not None:
            problems[name] = problem
            del functions[name]
    del right
    traffic = op.traffic(case.shape, case.variant, dtype.itemsize)
    results = []
    for cell in cells:
        calls: dict[str, Call] = {COPY: _copy_call(traffic[cell.direction], len(samples), device)}
        failed = dict(problems)
        for name, function in functions.items():
            try:
                calls[name] = _call(function, samples, cell.direction)
            except Exception as error:  # no memory for what a backward needs
                failed[name] = f"failed: {first_line(error)}"
        times, raised = race(calls, len(samples), device, seconds)
        failed |= {name: f"failed: {first_line(error)}" for name, error in raised.items()}
        if COPY in raised:
            raise raised[COPY]
        copy = times.pop(COPY)
        rotated = sum(_set_bytes(sample, cell.direction) for sample in samples)
        results.append(Result(cell, device.type, traffic[cell.direction], rotated, copy, times, failed))
    return results


def _samples(op: Op, cell: Cell, dtype: torch.dtype, device: torch.device) -> list[Sample]:
    """Sets of inputs, the same in every run."""
    generator = torch.Generator(device).manual_seed(0)
    layout = _LAYOUTS[cell.layout]

    def normal(*size: int) -> Tensor:
        values = torch.randn(size, generator=generator, device=device).to(dtype)
        return values.contiguous(memory_format=layout) if values.dim() == 4 else values

    def sample() -> Sample:
        made = op.make(cell.shape, cell.variant, normal, device)
        for leaf in made.arguments[: made.leaves]:
            leaf.requires_grad_()
        return made

    first = sample()
    count = input_sets(_set_bytes(first, "forward"), device)
    return [first, *(sample() for _ in range(count - 1))]


def _set_bytes(sample: Sample, direction: str) -> int:
    tensors = [argument for argument in sample.arguments if isinstance(argument, Tensor)]
    if direction != "forward" and sample.dy is not None:
        tensors.append(sample.dy)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _functions(op: Op, variant: str, contenders: Sequence[str]) -> dict[str, Function]:
    functions = op.functions(variant)
    if COMPILE in contenders:
        torch.compiler.reset()  # one case's shapes are no reason to compile the next one's for any shape
        functions[COMPILE] = torch.compile(functions[EAGER], dynamic=False)
    return {name: functions[name] for name in dict.fromkeys(contenders) if name in functions}


def _problem(
    name: str,
    function: Function,
    sample: Sample,
    dy: Tensor | None,
    gradients: bool,
    right: check.Named,
    dtype: torch.dtype,
) -> str | None:
    """Why a contender is not timed, or None."""
    try:
        for recorded in (False, True) if gradients else (False,):
            wrong = check.difference(check.evaluate(function, sample, dy, recorded), right, dtype)
            if wrong is not None:
                return f"wrong: {wrong}"
    except Exception as error:
        return f"{'does not compile' if name == COMPILE else 'failed'}: {first_line(error)}"
    return None


def _call(function: Function, samples: list[Sample], direction: str) -> Call:
    if direction == "forward":
        return lambda i: _forward(function, samples[i % len(samples)])
    if direction == "both":
        return lambda i: _gradients(function, samples[i % len(samples)])
    recorded = [_recorded(function, sample) for sample in samples]
    return lambda i: recorded[i % len(samples)]()


def _forward(function: Function, sample: Sample) -> Any:
    with torch.no_grad():
        return function(*sample.arguments)


def _first(results: Any) -> Tensor:
    return results[0] if isinstance(results, tuple) else results


def _gradients(function: Function, sample: Sample) -> Any:
    y = _first(function(*sample.arguments))
    return torch.autograd.grad(y, sample.arguments[: sample.leaves], sample.dy)


def _recorded(function: Function, sample: Sample) -> Callable[[], Any]:
    """The backward of one call, to be run again and again."""
    y = _first(function(*sample.arguments))
    return partial(torch.autograd.grad, y, sample.arguments[: sample.leaves], sample.dy, retain_graph=True)


def _copy_call(moved: int, sets: int, device: torch.device) -> Call:
    """Copies that read and write ``moved`` bytes in all, to new memory as the ops' results are."""
    # Filled: memory that was never written is one and the same page of zeros.
    sources = [torch.ones(max(1, moved // 8), dtype=torch.float32, device=device) for _ in range(sets)]
    return lambda i: sources[i % sets].clone()
