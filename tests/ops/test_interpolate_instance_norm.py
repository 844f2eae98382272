"""jdm_fast.ops.interpolate_instance_norm against frames that are interpolated and normalised one by one in float64."""

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

module = sys.modules["jdm_fast.ops.interpolate_instance_norm"]

CASES = [  # shape of u, positions
    ((2, 4, 3, 3), 4),  # one pair
    ((5, 3, 4, 5), 3),  # several pairs
    ((3, 2, 3, 4), 1),  # n = 1: the keys themselves
    ((1, 3, 4, 5), 3),  # T = 1: an int
    ((1, 3, 4, 5), (0.0, 0.0)),  # T = 1: the one key, twice
    ((3, 2, 1, 1), 2),  # one pixel: variance 0
    ((3, 16, 8, 8), 8),  # whole vectors
    ((2, 5, 37, 31), 3),  # odd everything
    ((2, 2, 67, 71), (0.25, 0.75, 1.0)),  # more than one span of a plane
    ((3, 70, 17, 19), (0.1, 1.9)),  # several pieces of rows, more channels than a vector
    ((4, 3, 5, 6), (0.0, 0.1, 0.1, 2.0, 2.999, 3.0)),  # uneven, repeated, a pair without frames, the very last
    ((4, 3, 5, 6), (1.5,)),  # the middle of a middle pair
    ((3, 3, 4, 4), ()),  # no frames
    ((3, 0, 4, 4), 2),  # no channels
    ((3, 3, 0, 4), 2),  # no pixels
]
layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])


def key_maps(shape: tuple[int, ...], dtype: torch.dtype, *, channels_last: bool = False, mean: float = 0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    u = (torch.randn(shape, generator=generator, dtype=torch.float64) + mean).to(dtype)
    return u.contiguous(memory_format=torch.channels_last) if channels_last else u


def parameters(channels: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(channels)
    return torch.rand(channels, generator=generator) + 0.5, torch.randn(channels, generator=generator)


def frame_by_frame(
    u: Tensor, positions: Any, weight: Tensor | None, bias: Tensor | None, activation: str, slope: float
) -> Tensor:
    """float64, by the definition."""
    u = u.double().cpu()
    if isinstance(positions, int):
        positions = [k / positions for k in range((len(u) - 1) * positions + 1)]
    frames = []
    for p in positions:
        k = min(math.floor(p), len(u) - 1)
        t = p - k
        frame = u[k] if t == 0 else (1 - t) * u[k] + t * u[k + 1]
        flat = frame.flatten(1)
        if flat.numel() == 0:
            frames.append(frame)
            continue
        mean = flat.mean(1)[:, None, None]
        var = flat.var(1, correction=0)[:, None, None]
        value = (frame - mean) / torch.sqrt(var + 1e-5)
        if weight is not None:
            value = value * weight.double().cpu()[:, None, None]
        if bias is not None:
            value = value + bias.double().cpu()[:, None, None]
        if activation != "none":
            value = torch.where(value > 0, value, value * (slope if activation == "leaky_relu" else 0))
        frames.append(value)
    return torch.stack(frames) if frames else u[:0]


# ---- values


@pytest.mark.parametrize(("shape", "positions"), CASES, ids=str)
@layouts
def test_values(
    shape: tuple[int, ...],
    positions: Any,
    channels_last: bool,
    dtype: torch.dtype,
    device: torch.device,
    assert_accurate: Callable,
) -> None:
    u = key_maps(shape, dtype, channels_last=channels_last).to(device)
    weight, bias = (parameter.to(device) for parameter in parameters(shape[1]))
    for activation, affine in (("none", (None, None)), ("relu", (weight, bias)), ("leaky_relu", (weight, None))):
        y = ops.interpolate_instance_norm(u, positions, *affine, activation, 0.3)
        exact = frame_by_frame(u, positions, *affine, activation, 0.3)
        assert y.dtype == dtype
        if y.numel() == 0:
            assert y.shape == exact.shape
            continue
        own = ops.reference.interpolate_instance_norm(u, positions, *affine, activation, 0.3)
        assert y.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        assert_accurate(activation, y.cpu(), exact, own.cpu())


@pytest.mark.parametrize("mean", [1e4, -1e4])
@layouts
def test_a_large_mean_does_no_harm(mean: float, channels_last: bool, device: torch.device) -> None:
    """Spread 1 around 1e4 in float32: the input itself holds three digits after the point, and so must the result."""
    u = key_maps((3, 8, 33, 64), torch.float32, channels_last=channels_last, mean=mean).to(device)
    y = ops.interpolate_instance_norm(u, 4)
    assert (y.cpu() - frame_by_frame(u, 4, None, None, "none", 0)).abs().max() < 2e-3  # an ulp of 1e4, twice


@layouts
def test_opposite_keys_cancel(channels_last: bool, device: torch.device) -> None:
    """b = -a: the frame in the middle is constant, its variance 0, not a negative number."""
    a = key_maps((1, 4, 16, 16), torch.float32).to(device)
    u = torch.cat([a, -a])
    u = u.contiguous(memory_format=torch.channels_last) if channels_last else u
    y = ops.interpolate_instance_norm(u, (0.0, 0.5, 1.0))
    assert y.isfinite().all()
    assert y[1].abs().max() < 1e-3
    torch.testing.assert_close(y[0], -y[2])


@layouts
def test_key_frames_are_those_of_instance_norm(channels_last: bool, dtype: torch.dtype, device: torch.device) -> None:
    u = key_maps((3, 16, 9, 8), dtype, channels_last=channels_last).to(device)
    weight, bias = (parameter.to(device) for parameter in parameters(16))
    y = ops.interpolate_instance_norm(u, 4, weight, bias, "relu")
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        y[::4], ops.instance_norm(u, weight, bias, activation="relu"), rtol=tolerance, atol=tolerance
    )


def test_ways_to_give_positions(device: torch.device) -> None:
    u = key_maps((3, 2, 4, 4), torch.float32).to(device)
    y = ops.interpolate_instance_norm(u, 2)
    for same in ([0, 0.5, 1, 1.5, 2], torch.tensor([0, 0.5, 1, 1.5, 2], device=device)):
        assert torch.equal(ops.interpolate_instance_norm(u, same), y)


def test_strides_are_free(device: torch.device) -> None:
    u = key_maps((6, 8, 5, 7), torch.float32).to(device)
    expected = ops.interpolate_instance_norm(u[::2, ::2].contiguous(), 3)
    assert torch.equal(ops.interpolate_instance_norm(u[::2, ::2], 3), expected)


def test_nan_stays_in_its_channel_and_pairs(device: torch.device) -> None:
    u = key_maps((4, 2, 3, 3), torch.float32).to(device)
    u[3, 0, 0, 0] = float("nan")
    bad = ops.interpolate_instance_norm(u, 2).isnan().flatten(2).any(2)
    assert not bad[:4].any() and not bad[:, 1].any()
    assert bad[5:, 0].all()


@pytest.mark.parametrize("shape", [(3, 64, 64, 64), (4, 37, 65, 67)], ids=str)
@layouts
def test_threads_do_not_change_the_result(
    shape: tuple[int, ...], channels_last: bool, threads: Callable[[int], None]
) -> None:
    u = key_maps(shape, torch.float32, channels_last=channels_last)
    one = ops.interpolate_instance_norm(u, 3)
    threads(3)
    assert torch.equal(ops.interpolate_instance_norm(u, 3), one)


# ---- as an operator


@layouts
def test_opcheck(channels_last: bool, device: torch.device) -> None:
    u = key_maps((3, 4, 5, 6), torch.float32, channels_last=channels_last).to(device)
    positions = torch.tensor([0.0, 0.5, 1.25], dtype=torch.float64, device=device)
    weight = parameters(4)[0].to(device)
    torch.library.opcheck(
        torch.ops.jdm_fast.interpolate_instance_norm, (u, positions, weight, None, "leaky_relu", 0.2, 1e-5)
    )


@pytest.mark.parametrize("positions", [3, (0.0, 0.4, 1.9)], ids=str)
def test_compile_is_one_graph(positions: Any, device: torch.device) -> None:
    u = key_maps((3, 4, 5, 6), torch.float32).to(device)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda u, p: ops.interpolate_instance_norm(u, p, activation="relu"), fullgraph=True, backend=counter
    )
    for _ in range(2):
        torch.testing.assert_close(
            compiled(u, positions), ops.interpolate_instance_norm(u, positions, activation="relu")
        )
    assert counter.frame_count == 1


def test_a_tensor_of_positions_compiles_once(device: torch.device) -> None:
    u = key_maps((3, 4, 5, 6), torch.float32).to(device)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda u, p: ops.interpolate_instance_norm(u, p), fullgraph=True, backend=counter)
    for numbers in ([0.0, 0.5], [1.0, 1.75]):
        positions = torch.tensor(numbers, dtype=torch.float64, device=device)
        torch.testing.assert_close(compiled(u, positions), ops.interpolate_instance_norm(u, numbers))
    assert counter.frame_count == 1


def test_autocast_leaves_it_alone(device: torch.device) -> None:
    u = key_maps((2, 4, 5, 6), torch.float32).to(device)
    expected = ops.interpolate_instance_norm(u, 3)
    with torch.autocast(device.type, torch.bfloat16):
        assert torch.equal(ops.interpolate_instance_norm(u, 3), expected)


def test_backward_says_that_there_is_none() -> None:
    u = key_maps((2, 4, 5, 6), torch.float32).requires_grad_()
    y = ops.interpolate_instance_norm(u, 3)
    with pytest.raises(NotImplementedError, match="no derivative: it is for inference.*interpolate_latents"):
        y.sum().backward()


@pytest.mark.gpu
@pytest.mark.gpu
@layouts
def test_a_cuda_graph_replays_other_times(channels_last: bool) -> None:
    """With a tensor of positions: the times are read when the graph runs, not when it is recorded."""
    u = key_maps((4, 8, 16, 16), torch.float32, channels_last=channels_last).cuda()
    positions = torch.tensor([0.0, 0.5, 1.0, 2.5], dtype=torch.float64, device="cuda")
    with torch.no_grad():
        ops.interpolate_instance_norm(u, positions)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = ops.interpolate_instance_norm(u, positions)
        for times in ([0.0, 0.5, 1.0, 2.5], [0.25, 0.5, 0.75, 3.0], [2.0, 2.1, 2.2, 2.3]):
            positions.copy_(torch.tensor(times, dtype=torch.float64))
            graph.replay()
            torch.testing.assert_close(y, ops.interpolate_instance_norm(u, times))


@layouts
def test_the_plain_implementation(channels_last: bool, dtype: torch.dtype) -> None:
    """What runs without the compiled extension: the same values in the same layout."""
    u = key_maps((3, 5, 6, 7), dtype, channels_last=channels_last)
    weight, bias = parameters(5)
    positions = torch.tensor([0.0, 0.3, 1.7, 2.0], dtype=torch.float64)
    y = module._reference(u, positions, weight, bias, "leaky_relu", 0.2, 1e-5)
    expected = ops.interpolate_instance_norm(u, positions, weight, bias, "leaky_relu")
    assert y.stride() == expected.stride()
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=16 * torch.finfo(torch.float32).eps + tolerance)


# ---- errors

U = torch.zeros(3, 4, 2, 2)
ERRORS = [
    ((torch.zeros(3, 4, 2), 2), ValueError, r"u must be \[T, C, h, w\], got \[3, 4, 2\]"),
    ((torch.zeros(0, 4, 2, 2), 2), ValueError, r"at least one key map.*\[0, 4, 2, 2\]"),
    ((U.int(), 2), TypeError, "u must be float32.*int32"),
    ((U, 0), ValueError, "at least 1, got 0"),
    ((U, "2"), TypeError, "sequence of numbers, a tensor or an int, got str"),
    ((U, True), TypeError, "got bool"),
    ((U, 1.5), TypeError, "got float"),
    ((U, [0.0, 2.5]), ValueError, r"in \[0, 2\], got 2.5 at index 1"),
    ((U, [-0.1]), ValueError, r"in \[0, 2\], got -0.1 at index 0"),
    ((U, [float("nan")]), ValueError, r"in \[0, 2\], got nan"),
    ((U, [1.0, 0.5]), ValueError, "must not decrease, got 0.5 after 1"),
    ((U, torch.tensor([0.0, 2.5])), ValueError, r"in \[0, 2\], got 2.5 at index 1"),
    ((U, torch.tensor([1.0, 0.5])), ValueError, "must not decrease, got 0.5 after 1"),
    ((U, torch.tensor([[1.0]])), ValueError, r"positions must be \[F\], got \[1, 1\]"),
    ((U, torch.tensor([1])), TypeError, "positions must be floating, got torch.int64"),
    ((U, 2, torch.ones(3)), ValueError, r"weight must be \[4\], got \[3\]"),
    ((U, 2, None, torch.ones(3, 4)), ValueError, r"bias must be \[4\], got \[3, 4\]"),
    ((U, 2, torch.ones(4).int()), TypeError, "weight must be"),
    ((U, 2, torch.ones(4, device="meta")), ValueError, "weight must be on cpu like u, got meta"),
    ((U, 2, None, None, "gelu"), ValueError, "activation must be one of none, relu, leaky_relu, got 'gelu'"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), ERRORS, ids=[message for _, _, message in ERRORS])
def test_errors(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.interpolate_instance_norm(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [case for case in ERRORS if not isinstance(case[0][1], (list, str, float, Tensor)) and case[0][1] is not True],
    ids=lambda value: None,
)
def test_errors_of_the_fake(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    """On the meta device the same checks speak, as they do under torch.compile."""
    moved = [a.to("meta") if isinstance(a, Tensor) and a.device.type == "cpu" else a for a in arguments]
    if "on cpu" in message:
        moved[2], message = torch.ones(4), "weight must be on meta like u, got cpu"
    with pytest.raises(error, match=message):
        ops.interpolate_instance_norm(*moved)
