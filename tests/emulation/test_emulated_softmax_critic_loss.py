"""Every CUDA kernel of softmax_critic_loss on the emulated GPU, against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jdm_fast.ops import reference
from jdm_fast.ops.reference import accumulation_dtype
from tests.emulation.harness import EmulatedGpu, in_every_order, kernels_of
from tests.emulation.structs import DTYPES
from tests.ops.conftest import assert_accurate

CASES = {  # M, K, h, w, S, elements by which logits and dlogits miss a vector's boundary
    "one pixel, one class": (1, 1, 1, 1, 1, 0),
    "vectors of pixels": (10, 5, 4, 6, 5, 0),
    "odd pixels": (6, 4, 5, 7, 3, 0),
    "misaligned": (4, 3, 4, 4, 2, 1),
    "several blocks a sample": (2, 3, 25, 44, 2, 0),
    "several blocks a sample, odd": (1, 2, 23, 45, 1, 0),
    "more classes than registers hold": (3, 9, 4, 8, 3, 0),
    "more classes than registers hold, odd": (3, 9, 3, 5, 3, 0),
    "more classes than are read at once, several tiles": (2, 17, 12, 12, 2, 0),
    "more samples than a block has threads": (300, 2, 1, 3, 2, 0),
    "as many classes and sources as can be": (70, 64, 2, 2, 64, 0),
    "sources that share the warps unevenly": (40, 40, 1, 4, 40, 0),
    "a source without samples": (4, 6, 3, 4, 5, 0),
}


def make(case: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, int]:
    """(logits [M, K, h, w], source [M], S)."""
    samples, classes, height, width, sources, _ = CASES[case]
    logits = (torch.randn(samples, classes, height, width, dtype=torch.float64) * 3).to(dtype)
    source = torch.arange(samples) * 7 % sources
    if case == "a source without samples":
        source = source.masked_fill(source == 2, 1)
    return logits, source, sources


@pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(emulated_gpu: EmulatedGpu, case: str, dtype: torch.dtype, channels_last: bool) -> None:
    logits, source, sources = make(case, dtype)
    offset = CASES[case][-1]
    loss, source_loss, accuracy, dlogits = in_every_order(
        emulated_gpu,
        lambda: emulated_gpu.softmax_critic_loss(logits, source, sources, channels_last=channels_last, offset=offset),
    )
    exact_logits, baseline_logits = logits.double().clone().requires_grad_(), logits.clone().requires_grad_()
    exact = reference.softmax_critic_loss(exact_logits, source, sources)
    baseline = reference.softmax_critic_loss(baseline_logits, source, sources)
    exact[0].backward()
    baseline[0].backward()
    assert_accurate("loss", loss, exact[0].detach(), baseline[0].detach())
    assert_accurate("source loss", source_loss, exact[1].detach(), baseline[1].detach())
    assert_accurate("accuracy", accuracy, exact[2].detach(), baseline[2].detach())
    # The gradient of a mean is as small as its number of pixels is large: compare on its own scale.
    scale = 1 / exact_logits.grad.abs().max().clamp(min=1e-30)
    assert_accurate("dlogits", dlogits.to(scale.dtype) * scale, exact_logits.grad * scale,
                    baseline_logits.grad.double() * scale, floor=FLOORS[dtype])  # fmt: skip


#: float16 gradients below 6e-8 are lost, in every implementation.
FLOORS = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-8}


@pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels_last"])
def test_without_gradient(emulated_gpu: EmulatedGpu, channels_last: bool) -> None:
    logits, source, sources = make("vectors of pixels", torch.float32)
    call = {"channels_last": channels_last}
    with_gradient = emulated_gpu.softmax_critic_loss(logits, source, sources, **call)
    without = emulated_gpu.softmax_critic_loss(logits, source, sources, needs_grad=False, **call)
    assert without[3] is None
    assert all(torch.equal(a, b) for a, b in zip(with_gradient[:3], without[:3], strict=True))


@pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels_last"])
@pytest.mark.parametrize("classes", [5, 12])
def test_of_equal_logits_the_lowest_class_wins(emulated_gpu: EmulatedGpu, classes: int, channels_last: bool) -> None:
    logits = torch.zeros(3, classes, 2, 2)
    _, _, accuracy, _ = emulated_gpu.softmax_critic_loss(logits, torch.arange(3), 3, channels_last=channels_last)
    assert accuracy.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels_last"])
@pytest.mark.parametrize("bad", [-1, 3, 2**40])
def test_unknown_source_is_nan_not_wrong(emulated_gpu: EmulatedGpu, bad: int, channels_last: bool) -> None:
    logits, source = torch.randn(4, 5, 3, 4), torch.tensor([0, 1, bad, 2])
    loss, source_loss, _, dlogits = emulated_gpu.softmax_critic_loss(logits, source, 3, channels_last=channels_last)
    assert loss.isnan()
    assert dlogits.isnan().flatten(1).any(1).tolist() == [False, False, True, False]
    assert dlogits[2].isnan().all()
    good = torch.tensor([0, 1, 3])
    _, expected, _ = reference.softmax_critic_loss(logits[good].double(), source[good], 3)
    assert torch.allclose(source_loss.double(), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (3, 4, 0, 3)], ids=str)
def test_no_pixels_give_zero(emulated_gpu: EmulatedGpu, shape: tuple[int, ...]) -> None:
    source = torch.arange(shape[0]) % 2
    loss, source_loss, accuracy, _ = emulated_gpu.softmax_critic_loss(torch.zeros(shape), source, 2)
    assert loss == 0 and source_loss.tolist() == [0, 0] and accuracy.tolist() == [0, 0]


def test_large_logits_do_not_overflow(emulated_gpu: EmulatedGpu) -> None:
    logits = torch.tensor([60000.0, -60000.0, 0.0]).view(1, 3, 1, 1).expand(2, 3, 2, 2).half()
    loss, source_loss, _, dlogits = emulated_gpu.softmax_critic_loss(logits, torch.tensor([0, 1]), 2)
    assert source_loss.tolist() == [0, 120000] and loss == 120000  # 60000 is a float16
    assert dlogits[:, :, 0, 0].tolist() == [[0, 0, 0], [0.25, -0.25, 0]]


@pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("factors", ["loss", "source losses", "both"])
@pytest.mark.parametrize("case", CASES)
def test_backward(emulated_gpu: EmulatedGpu, case: str, factors: str, dtype: torch.dtype, channels_last: bool) -> None:
    """dlogits times its factor, rounded once: the bits of the product in the accumulation type."""
    dlogits, source, sources = make(case, dtype)
    a = accumulation_dtype(dtype)
    d_loss = torch.tensor([0.7], dtype=a) if factors != "source losses" else None
    d_source_loss = torch.linspace(-1, 2, sources, dtype=a) if factors != "loss" else None
    (result,) = in_every_order(
        emulated_gpu,
        lambda: [
            emulated_gpu.softmax_critic_loss_backward(
                dlogits, source, d_loss, d_source_loss, channels_last=channels_last, offset=CASES[case][-1]
            )
        ],
    )
    scale = torch.zeros(len(source), dtype=a) if d_source_loss is None else d_source_loss[source]
    scale = scale + (0 if d_loss is None else d_loss)
    assert torch.equal(result, (dlogits.to(a) * scale.view(-1, 1, 1, 1)).to(dtype))


def test_backward_of_an_unknown_source_is_nan(emulated_gpu: EmulatedGpu) -> None:
    dlogits, source, factor = torch.ones(4, 2, 3, 4), torch.tensor([0, -1, 1, 2]), torch.tensor([2.0, 3.0])
    result = emulated_gpu.softmax_critic_loss_backward(dlogits, source, None, factor)
    assert result[0].eq(2).all() and result[2].eq(3).all()
    assert result[1].isnan().all() and result[3].isnan().all()


def test_every_kernel_is_in_the_cases(emulated_gpu: EmulatedGpu) -> None:
    """A kernel that no case above launches would be untested."""
    launched: set[str] = set()
    for case in CASES:
        for dtype in DTYPES:
            for channels_last in (False, True):
                emulated_gpu.softmax_critic_loss(
                    *make(case, dtype), channels_last=channels_last, offset=CASES[case][-1]
                )
                launched |= set(emulated_gpu.kernels)
                for factor in (None, torch.ones(64, dtype=accumulation_dtype(dtype))):
                    one = torch.ones(1, dtype=accumulation_dtype(dtype))
                    emulated_gpu.softmax_critic_loss_backward(
                        *make(case, dtype)[:2], one, factor, channels_last=channels_last, offset=CASES[case][-1]
                    )
                    launched |= set(emulated_gpu.kernels)
    kernels = kernels_of(emulated_gpu.path, ["softmax_critic_loss.cuh"])
    assert len(kernels) == 36
    assert kernels == launched
