"""A contender's results against float64, on the very input that is timed: values without and with gradients recorded,
and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jdm_fast.bench.contenders import Function, Sample

#: Largest allowed norm of the error over the norm of the exact result; a single element may be wrong by
#: :data:`ELEMENT` times that, in units of the largest magnitude. Eager rounds several times in float16 and bfloat16.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
ELEMENT = 8
# Bytes: one step at a tie, on few.
BYTE_MEAN = 1e-3

Named = list[tuple[str, Tensor]]


def evaluate(function: Function, sample: Sample, dy: Tensor | None, gradients: bool) -> Named:
    """The results of a call, named; and with ``gradients`` those of the first one in each leaf."""
    leaves = [argument.detach().requires_grad_(gradients) for argument in sample.arguments[: sample.leaves]]
    with torch.set_grad_enabled(gradients):
        results = _as_tuple(function(*leaves, *sample.arguments[sample.leaves :]))
    named = [("result" if len(results) == 1 else f"result {i}", y.detach()) for i, y in enumerate(results)]
    if gradients:
        slopes = torch.autograd.grad(results[0], leaves, dy)
        named += [(f"gradient {i}", slope) for i, slope in enumerate(slopes)]
    return named


def exact(function: Function, sample: Sample, dy: Tensor | None, gradients: bool) -> Named:
    """:func:`evaluate` in float64."""
    arguments = tuple(_double(argument) for argument in sample.arguments)
    return evaluate(function, Sample(arguments, sample.leaves), None if dy is None else dy.double(), gradients)


def difference(actual: Sequence[tuple[str, Tensor]], expected: Named, dtype: torch.dtype) -> str | None:
    """What is wrong with ``actual``, or None. ``expected`` may have more: gradients, which come last."""
    for (name, value), (_, right) in zip(actual, expected, strict=False):
        if value.shape != right.shape:
            return f"{name} has the shape {list(value.shape)} instead of {list(right.shape)}"
        if right.numel() == 0:
            continue
        if right.dtype == torch.uint8:
            steps = (value.int() - right.int()).abs()
            mean = steps.double().mean().item()
            if value.dtype != torch.uint8 or steps.max() > 1 or mean > BYTE_MEAN:
                return f"{name} is off by up to {steps.max().item()} steps of a byte, {mean:.2g} on average"
            continue
        error = value.double() - right
        whole = (error.norm() / right.norm().clamp(min=1e-30)).item()
        largest = (error.abs().max() / right.abs().max().clamp(min=1e-30)).item()
        tolerance = TOLERANCE[dtype]
        if not (whole <= tolerance and largest <= ELEMENT * tolerance):  # NaN is wrong
            return (
                f"{name} is off by {whole:.2g} of its norm and up to {largest:.2g} of its largest value"
                f" (allowed: {tolerance:g}, {ELEMENT * tolerance:g})"
            )
    return None


def _as_tuple(results: Any) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


def _double(argument: Any) -> Any:
    return argument.double() if isinstance(argument, Tensor) and argument.is_floating_point() else argument
