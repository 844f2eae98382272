"""jdm_fast.ops.softmax_critic_loss against its equation in float64, and its derivatives of every order."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor

from jdm_fast import ops

module = sys.modules["jdm_fast.ops.softmax_critic_loss"]

CASES = [  # shape of logits, sources, S
    ((1, 1, 1, 1), [0], 1),  # one class: loss 0
    ((2, 2, 1, 1), [1, 0], 2),  # one patch
    ((5, 5, 3, 3), [0, 1, 2, 3, 4], 5),  # a sample a source, smaller than a vector
    ((6, 5, 8, 8), [2, 0, 2, 1, 2, 0], 5),  # uneven, unordered, and sources 3 and 4 absent
    ((4, 6, 7, 11), [0, 1, 2, 2], 3),  # more classes than sources; a rest of a vector
    ((2, 3, 37, 31), [1, 1], 2),  # several pieces; source 0 absent
    ((2, 64, 9, 8), [63, 0], 64),  # most classes
    ((0, 4, 3, 3), [], 3),  # no samples
]
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


def make_logits(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float64,
    layout: torch.memory_format = torch.contiguous_format,
    *,
    scale: float = 2.0,
    seed: int = 0,
) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    x = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    return x.to(dtype).contiguous(memory_format=layout)


def equation(logits: Tensor, sources: list[int], num_sources: int) -> tuple[Tensor, Tensor, Tensor]:
    """The definition, source by source: mean of -log softmax(logits)[s] over its patches, share of argmax = s."""
    losses, accuracies = [], []
    log_p = logits - logits.logsumexp(dim=1, keepdim=True)
    for s in range(num_sources):
        of_source = [m for m, source in enumerate(sources) if source == s]
        if not of_source:
            losses.append(logits.sum() * 0)
            accuracies.append(0.0)
            continue
        losses.append(-log_p[of_source, s].mean())
        best = logits[of_source].movedim(1, -1).flatten(0, 2).tolist()
        accuracies.append(sum(row.index(max(row)) == s for row in best) / len(best))
    losses = torch.stack(losses)
    return losses.sum(), losses, torch.tensor(accuracies, dtype=logits.dtype, device=logits.device)


def index(sources: list[int], device: torch.device | str = "cpu") -> Tensor:
    return torch.tensor(sources, dtype=torch.int64, device=device)


# ---- values and gradients


@pytest.mark.parametrize(("shape", "sources", "num_sources"), CASES, ids=str)
@layouts
def test_values_and_gradients(
    shape: tuple[int, ...],
    sources: list[int],
    num_sources: int,
    layout: torch.memory_format,
    dtype: torch.dtype,
    device: torch.device,
    assert_accurate: Callable,
) -> None:
    logits = make_logits(shape, dtype, layout).to(device).requires_grad_()
    source = index(sources, device)
    loss, source_loss, accuracy = ops.softmax_critic_loss(logits, source, num_sources)
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    assert loss.dtype == source_loss.dtype == accuracy.dtype == sums
    assert loss.shape == ()
    assert source_loss.shape == accuracy.shape == (num_sources,)
    assert not accuracy.requires_grad

    exact_logits = logits.detach().double().requires_grad_()
    exact = equation(exact_logits, sources, num_sources)
    own_logits = logits.detach().clone().requires_grad_()
    own = ops.reference.softmax_critic_loss(own_logits, source, num_sources)
    assert_accurate("loss", loss.detach(), exact[0].detach(), own[0].detach())
    assert_accurate("source_loss", source_loss.detach(), exact[1].detach(), own[1].detach())
    torch.testing.assert_close(accuracy.double(), exact[2], rtol=1e-6, atol=0)

    # Weights of all sources differ, so that a gradient sent to the wrong one shows. Errors are relative to the largest
    # gradient, which is far below 1.
    weight = torch.linspace(0.5, 2, num_sources, dtype=torch.float64, device=device)

    def gradient(result: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        total = 3 * result[0] + (result[1] * weight.to(result[1].dtype)).sum()
        return torch.autograd.grad(total, logits)[0]

    ours = gradient((loss, source_loss), logits)
    assert ours.dtype == dtype
    assert ours.numel() == 0 or ours.stride() == logits.stride()
    expected = gradient(exact, exact_logits)
    if expected.numel() and expected.abs().max() > 0:
        unit = 1 / expected.abs().max()
        assert_accurate("d_logits", ours.double() * unit, expected * unit, gradient(own, own_logits).double() * unit,
                        floor=4 * torch.finfo(dtype).eps)  # fmt: skip
    else:
        assert (ours == 0).all()


@layouts
@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_huge_logits(layout: torch.memory_format, scale: float, device: torch.device) -> None:
    """exp of the logits would overflow by far; so would a difference that is not taken from the largest."""
    logits = make_logits((6, 5, 9, 8), torch.float32, layout, scale=scale).to(device).requires_grad_()
    sources = [0, 1, 2, 3, 4, 0]
    loss, source_loss, accuracy = ops.softmax_critic_loss(logits, index(sources, device), 5)
    exact_logits = logits.detach().double().requires_grad_()
    exact_loss, exact_source_loss, exact_accuracy = equation(exact_logits, sources, 5)
    torch.testing.assert_close(loss.double(), exact_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(source_loss.double(), exact_source_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(accuracy.double(), exact_accuracy, rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(loss, logits)
    (exact_gradient,) = torch.autograd.grad(exact_loss, exact_logits)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-4, atol=1e-9)


@layouts
def test_confident_logits_keep_their_small_loss(layout: torch.memory_format, device: torch.device) -> None:
    """log(1 + tiny): the loss of a critic that is nearly sure, down to where 1 + tiny is 1."""
    for lead in (5.0, 10.0, 14.0, 100.0):
        logits = torch.zeros(1, 2, 4, 5)
        logits[:, 1] = lead
        loss = ops.softmax_critic_loss(logits.contiguous(memory_format=layout).to(device), index([1], device), 2)[0]
        # softmax has to round 1 + exp(-lead) to float32 first, so the error is about half an epsilon, absolute
        assert abs(loss.item() - math.log1p(math.exp(-lead))) < 1.3e-7


@layouts
@pytest.mark.parametrize("classes", [1, 2, 5, 64])
@pytest.mark.parametrize("value", [0.0, -3.0, 1e4])
def test_identical_logits(layout: torch.memory_format, classes: int, value: float, device: torch.device) -> None:
    """A critic that cannot tell has loss log K a source, and gives every tie to class 0."""
    logits = torch.full((classes, classes, 5, 7), value).contiguous(memory_format=layout).to(device)
    loss, source_loss, accuracy = ops.softmax_critic_loss(logits, torch.arange(classes, device=device), classes)
    torch.testing.assert_close(source_loss, torch.full_like(source_loss, math.log(classes)))
    torch.testing.assert_close(loss, torch.full_like(loss, classes * math.log(classes)))
    assert accuracy.tolist() == [1.0] + [0.0] * (classes - 1)


@layouts
def test_accuracy_of_ties(layout: torch.memory_format, dtype: torch.dtype, device: torch.device) -> None:
    rows = torch.tensor([[2, 2, 1], [1, 2, 2], [2, 1, 2], [2, 2, 2], [0, 0, 1]], dtype=dtype)  # argmax 0 1 0 0 2
    logits = rows.T.reshape(1, 3, 1, 5).repeat(3, 1, 1, 1).contiguous(memory_format=layout).to(device)
    accuracy = ops.softmax_critic_loss(logits, index([0, 1, 2], device), 3)[2]
    torch.testing.assert_close(
        accuracy.cpu().double(), torch.tensor([0.6, 0.2, 0.2], dtype=torch.float64), rtol=1e-6, atol=0
    )


@layouts
def test_infinite_and_nan_logits(layout: torch.memory_format, device: torch.device) -> None:
    """As PyTorch's own: -inf is a class of probability 0, +inf and NaN give NaN; other sources do not notice."""
    inf, nan = float("inf"), float("nan")
    for special, target, expected in ((-inf, 0, math.log(2)), (-inf, 1, inf), (inf, 0, nan), (nan, 2, nan)):
        logits = torch.zeros(2, 3, 3, 7)
        logits[0, 1] = special
        logits = logits.contiguous(memory_format=layout).to(device).requires_grad_()
        other = 1 if target != 1 else 0
        result = ops.softmax_critic_loss(logits, index([target, other], device), 3)
        source_loss = result[1].detach().cpu().double()
        exact = torch.tensor([expected, math.log(3)], dtype=torch.float64)
        torch.testing.assert_close(source_loss[[target, other]], exact, rtol=1e-6, atol=0, equal_nan=True)
        (gradient,) = torch.autograd.grad(result[1][other], logits)
        assert gradient[1].isfinite().all()


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_sums_over_many_patches_stay_accurate(offset: float) -> None:
    """Two million patches: a running float32 sum of them would be wrong in its fourth digit."""
    logits = make_logits((2, 2, 1024, 1024), torch.float32)
    logits[:, 0] += offset
    sources = [0, 1]
    loss, source_loss, _ = ops.softmax_critic_loss(logits, index(sources), 2)
    log_p = logits.double() - logits.double().logsumexp(1, keepdim=True)
    exact = torch.stack([-log_p[s, s].mean() for s in sources])
    torch.testing.assert_close(source_loss.double(), exact, rtol=3e-7, atol=1e-12)
    torch.testing.assert_close(loss.double(), exact.sum(), rtol=3e-7, atol=0)


# ---- strides, threads


def test_strided_logits(device: torch.device) -> None:
    full = make_logits((6, 8, 10, 14), torch.float32).to(device)
    views = {
        "sliced": full[::2, 1::2, 2:, ::3],
        "expanded": full[:1].expand(3, -1, -1, -1),
        "transposed": full[:3].transpose(2, 3),
        "offset": full.flatten()[7 : 7 + 3 * 4 * 5 * 4].view(3, 4, 5, 4),
        "sliced channels_last": full.contiguous(memory_format=torch.channels_last)[:3, :6],
    }
    source = index([1, 0, 1, 1], device)[1:]
    for name, logits in views.items():
        ours = ops.softmax_critic_loss(logits, source, 2)
        expected = ops.softmax_critic_loss(logits.contiguous(), source.clone(), 2)
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")
    strided_source = index([0, 9, 1, 9, 1, 9], device)[::2]
    assert torch.equal(
        ops.softmax_critic_loss(full[:3], strided_source, 2)[1], ops.softmax_critic_loss(full[:3], source, 2)[1]
    )


@layouts
def test_threads_do_not_change_a_bit(layout: torch.memory_format, threads: Callable[[int], None]) -> None:
    logits = make_logits((7, 5, 65, 71), torch.float32, layout).requires_grad_()
    results = []
    for count in (1, 2, 5):
        threads(count)
        result = ops.softmax_critic_loss(logits, index([0, 1, 2, 3, 4, 0, 2]), 5)
        results.append([*result, *torch.autograd.grad(result[0], logits)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


# ---- torch.library, torch.compile, autocast


@layouts
def test_fallback_agrees_with_the_kernel(layout: torch.memory_format) -> None:
    for shape, sources, num_sources in CASES:
        for needs_grad in (False, True):
            arguments = make_logits(shape, torch.float32, layout), index(sources), num_sources, needs_grad
            for a, b in zip(
                torch.ops.jdm_fast.softmax_critic_loss(*arguments), module._reference(*arguments), strict=True
            ):
                torch.testing.assert_close(a, b)
                assert a.numel() == 0 or a.stride() == b.stride()


@layouts
def test_opcheck(layout: torch.memory_format) -> None:
    op = torch.ops.jdm_fast.softmax_critic_loss.default
    logits = make_logits((4, 3, 2, 3), torch.float32, layout)
    torch.library.opcheck(op, (logits, index([0, 1, 1, 0]), 2, False))
    torch.library.opcheck(op, (logits.requires_grad_(), index([0, 1, 1, 0]), 2, True))
    torch.library.opcheck(op, (make_logits((0, 3, 2, 3), torch.bfloat16, layout).requires_grad_(), index([]), 2, True))


def test_compile_fullgraph_forward_and_backward() -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    def function(logits: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        loss, source_loss, accuracy = ops.softmax_critic_loss(logits * 2, source, 3)
        return loss + source_loss[1] ** 2, accuracy

    compiled = torch.compile(function, fullgraph=True, dynamic=False, backend=counter)
    for seed in range(3):
        logits = make_logits((4, 3, 5, 6), torch.float32, torch.channels_last, seed=seed).requires_grad_()
        source = torch.randint(3, (4,), generator=torch.Generator().manual_seed(seed))
        results = []
        for candidate in (function, compiled):
            total, accuracy = candidate(logits, source)
            results.append([total, accuracy, *torch.autograd.grad(total, logits)])
        for ours, expected in zip(*results, strict=True):
            torch.testing.assert_close(ours, expected)
    assert counter.frame_count == 1, "compiled again for inputs that differ only in their values"


def test_autocast_sums_in_float32() -> None:
    critic = torch.nn.Conv2d(3, 4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = critic(make_logits((4, 3, 9, 9), torch.float32))
        assert logits.dtype == torch.bfloat16
        loss, source_loss, accuracy = ops.softmax_critic_loss(logits, index([0, 1, 2, 1]), 3)
    assert loss.dtype == source_loss.dtype == accuracy.dtype == torch.float32
    loss.backward()
    assert critic.weight.grad.dtype == torch.float32
    assert critic.weight.grad.abs().sum() > 0


# ---- bad arguments

L, S = torch.zeros(3, 4, 2, 2), torch.zeros(3, dtype=torch.int64)
BAD_ARGUMENTS: list[tuple[tuple[Any, ...], type[Exception], str]] = [
    ((L[0], S, 2), ValueError, r"logits must be \[M, K, h, w\] with h, w >= 1, got \[4, 2, 2\]"),
    ((L[:, :, :0], S, 2), ValueError, r"logits must be \[M, K, h, w\] with h, w >= 1, got \[3, 4, 0, 2\]"),
    ((L.int(), S, 2), TypeError, "logits must be float32, float16, bfloat16 or float64, got"),
    ((torch.zeros(3, 65, 2, 2), S, 2), ValueError, r"logits must have 1 to 64 classes, got \[3, 65, 2, 2\]"),
    ((torch.zeros(3, 0, 2, 2), S, 1), ValueError, r"logits must have 1 to 64 classes, got \[3, 0, 2, 2\]"),
    ((L, S.int(), 2), TypeError, "source must be int64, got"),
    ((L, S[:2], 2), ValueError, r"source must be \[3\], one index a sample, got \[2\]"),
    ((L, S[:, None], 2), ValueError, r"source must be \[3\], one index a sample, got \[3, 1\]"),
    ((L, S.to("meta"), 2), ValueError, "source must be on cpu like logits, got meta"),
    ((L, S, 0), ValueError, "num_sources must be 1 to 4, the classes of logits, got 0"),
    ((L, S, 5), ValueError, "num_sources must be 1 to 4, the classes of logits, got 5"),
    ((L, S - 1, 2), IndexError, r"source must hold indices 0\.\.1, got -1"),
    ((L, S + 2, 2), IndexError, r"source must hold indices 0\.\.1, got 2"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_ARGUMENTS, ids=[m[:35] for _, _, m in BAD_ARGUMENTS])
def test_bad_arguments(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    """The kernel and the plain implementation refuse the same things in the same words."""
    with pytest.raises(error, match="softmax_critic_loss: " + message):
        ops.softmax_critic_loss(*arguments)
    with pytest.raises(error, match="softmax_critic_loss: " + message):
        module._reference(*arguments, True)


@pytest.mark.gpu
def test_bad_source_is_nan_on_cuda() -> None:
    logits = make_logits((3, 4, 5, 5), torch.float32).cuda().requires_grad_()
    loss, _, _ = ops.softmax_critic_loss(logits, index([0, 7, 1], "cuda"), 2)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isnan()
    assert gradient[1].isnan().all()
    assert gradient[[0, 2]].isfinite().all()
