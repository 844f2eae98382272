"""How often the ops other than instance norm touch each element of their tensors on the emulated GPU, against the
floors of docs/kernels.md. Instance norm has a plan that says it: test_emulated_bytes.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from jdm_fast.ops import reference
from jdm_fast.ops.reference import accumulation_dtype
from tests.emulation import test_emulated_frames_to_uint8 as frames
from tests.emulation import test_emulated_interpolate_instance_norm as between
from tests.emulation import test_emulated_softmax_critic_loss as critic
from tests.emulation.harness import EmulatedGpu
from tests.emulation.structs import DTYPES

layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels_last"])
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
REGISTER_CLASSES = 8  # softmax_critic_loss.cuh


@pytest.fixture
def counting_gpu(emulated_gpu: EmulatedGpu) -> Iterator[EmulatedGpu]:
    emulated_gpu.set_order("forward")
    emulated_gpu.touched = {}
    yield emulated_gpu
    emulated_gpu.touched = None


def times(gpu: EmulatedGpu, name: str) -> Tensor:
    """How often each element of a tensor was read or written, in memory order."""
    assert gpu.touched is not None
    return gpu.touched[name]


@layouts
@dtypes
@pytest.mark.parametrize("case", critic.CASES)
def test_critic_loss_reads_the_logits_once(
    counting_gpu: EmulatedGpu, case: str, dtype: torch.dtype, channels_last: bool
) -> None:
    """Planes of more classes than registers hold are read again by each of the passes, from cache."""
    logits, source, sources = critic.make(case, dtype)
    again = not channels_last and (logits.shape[1] > REGISTER_CLASSES or dtype == torch.float64)
    layout = {"channels_last": channels_last, "offset": critic.CASES[case][-1]}
    counting_gpu.softmax_critic_loss(logits, source, sources, **layout)
    assert bool((times(counting_gpu, "logits") == (3 if again else 1)).all())
    assert bool((times(counting_gpu, "dlogits") == 1).all())
    counting_gpu.softmax_critic_loss(logits, source, sources, needs_grad=False, **layout)
    assert bool((times(counting_gpu, "logits") == (2 if again else 1)).all())


@layouts
@dtypes
@pytest.mark.parametrize("case", critic.CASES)
def test_critic_loss_backward(counting_gpu: EmulatedGpu, case: str, dtype: torch.dtype, channels_last: bool) -> None:
    dlogits, source, sources = critic.make(case, dtype)
    layout = {"channels_last": channels_last, "offset": critic.CASES[case][-1]}
    for factor in (None, torch.ones(sources, dtype=accumulation_dtype(dtype))):
        one = torch.ones(1, dtype=accumulation_dtype(dtype))
        counting_gpu.softmax_critic_loss_backward(dlogits, source, one, factor, **layout)
        assert bool((times(counting_gpu, "dlogits") == 1).all())
        assert bool((times(counting_gpu, "result") == 1).all())
        assert len(counting_gpu.kernels) == 1


@layouts
@dtypes
@pytest.mark.parametrize("offsets", frames.OFFSETS.values(), ids=frames.OFFSETS.keys())
@pytest.mark.parametrize("shape", frames.SHAPES.values(), ids=frames.SHAPES.keys())
def test_frames_to_uint8(
    counting_gpu: EmulatedGpu,
    shape: tuple[int, ...],
    offsets: tuple[int, int],
    dtype: torch.dtype,
    channels_last: bool,
) -> None:
    counting_gpu.frames_to_uint8(torch.zeros(shape, dtype=dtype), channels_last=channels_last, offsets=offsets)
    assert bool((times(counting_gpu, "x") == 1).all())
    assert bool((times(counting_gpu, "y") == 1).all())
    assert len(counting_gpu.kernels) == 1


@dtypes
@pytest.mark.parametrize("elements", [40, 37])
@pytest.mark.parametrize("keys, n", [(1, 3), (2, 1), (2, 9), (5, 4)])
def test_interpolate_latents(counting_gpu: EmulatedGpu, keys: int, n: int, elements: int, dtype: torch.dtype) -> None:
    """Few latents: every interval has threads of its own, which read both of its keys, and backward the frames on both
    sides of theirs."""
    counting_gpu.interpolate_latents(torch.randn(2, keys, elements).to(dtype), None, n)
    reads = torch.full((keys,), 2, dtype=torch.int32)  # by the interval that ends with a key and by what begins there
    reads[0] = 1
    assert torch.equal(times(counting_gpu, "z"), reads.view(1, -1, 1).expand(2, -1, elements))
    assert bool((times(counting_gpu, "y") == 1).all())
    counting_gpu.interpolate_latents_backward(torch.randn(2, (keys - 1) * n + 1, elements).to(dtype), n, keys)
    count = times(counting_gpu, "dy")
    assert bool((count[:, : (keys - 1) * n] == (2 if keys > 1 else 1)).all())
    assert bool((count[:, (keys - 1) * n :] == 1).all())
    assert bool((times(counting_gpu, "dz") == 1).all())


def test_many_latents_are_read_in_longer_ranges(counting_gpu: EmulatedGpu) -> None:
    """Enough blocks without it: only the frames before every fourth key are read by two."""
    counting_gpu.interpolate_latents_backward(torch.randn(128, 5 * 2 + 1, 3), 2, 6)
    count = times(counting_gpu, "dy")[:, :, 0]
    assert bool((count == torch.tensor([1, 1, 1, 1, 1, 1, 2, 2, 1, 1, 1])).all())


@layouts
@dtypes
@pytest.mark.parametrize("case", between.CASES.values(), ids=between.CASES.keys())
def test_interpolate_instance_norm(
    counting_gpu: EmulatedGpu, case: between.Case, dtype: torch.dtype, channels_last: bool
) -> None:
    """A key is read once for each pair that it is of, twice where its sums take a kernel of their own; its first pixel,
    which others are measured from, may be read more often. Every frame is written once."""
    keys, channels = case.shape[:2]
    positions = reference.frame_positions(case.positions, keys, torch.device("cpu"))
    counting_gpu.interpolate_instance_norm(
        torch.randn(case.shape).to(dtype),
        positions,
        channels_last=channels_last,
        offset=case.offset,
        multiprocessors=case.multiprocessors,
    )
    assert bool((times(counting_gpu, "y") == 1).all())
    passes = 1 if len(counting_gpu.kernels) == 1 else 2
    pairs = torch.full((keys,), 2)
    pairs[0] = pairs[-1] = 2 if keys == 1 else 1  # a lone key is both keys of its pair
    by_pixel = (keys, -1, channels) if channels_last else (keys, channels, -1)
    read = times(counting_gpu, "u").reshape(by_pixel)
    rest = read[:, 1:] if channels_last else read
    assert bool((rest == (pairs * passes).view(-1, 1, 1)).all())
