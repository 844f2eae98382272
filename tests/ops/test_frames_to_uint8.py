"""jdm_fast.ops.frames_to_uint8 against its equation in float64, at ties and limits, in every layout and dtype."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from torch import Tensor

from jdm_fast import ops

module = sys.modules["jdm_fast.ops.frames_to_uint8"]

SHAPES = [
    (1, 3, 1, 1),  # one pixel
    (2, 3, 3, 5),  # smaller than a vector
    (1, 3, 8, 16),  # whole vectors
    (3, 3, 17, 19),  # whole vectors and a rest
    (1, 3, 67, 130),  # several pieces
    (2, 1, 9, 7),  # grey
    (2, 2, 9, 7),
    (2, 4, 9, 7),  # with alpha
    (0, 3, 4, 4),  # no frames
    (2, 3, 0, 4),  # no pixels
]
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


def frames(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, spread: float = 0.7) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (spread * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def plain(x: Tensor, tanh: bool) -> np.ndarray:
    """The equation, in numpy and float64: round((v + 1) * 127.5), clamped, ties to even; NaN to 0; channels last."""
    v = x.double().cpu().numpy()
    v = (np.tanh(v) if tanh else v) + 1
    return np.clip(np.rint(np.nan_to_num(v * 127.5, nan=0.0)), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def distance_from_tie(x: Tensor, tanh: bool) -> np.ndarray:
    """How far (v + 1) * 127.5 is from the nearest half-integer, channels last."""
    v = x.double().cpu().numpy()
    level = ((np.tanh(v) if tanh else v) + 1) * 127.5
    return np.abs(level - np.floor(level) - 0.5).transpose(0, 2, 3, 1)


# ---- values


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@layouts
@pytest.mark.parametrize("tanh", [False, True])
def test_values(
    shape: tuple[int, ...], layout: torch.memory_format, tanh: bool, dtype: torch.dtype, device: torch.device
) -> None:
    """The exact byte, but that float32 arithmetic may fall on the other side of a tie it comes within 1e-4 of."""
    x = frames(shape, dtype).to(device).contiguous(memory_format=layout)
    y = ops.frames_to_uint8(x, tanh=tanh)
    assert y.dtype == torch.uint8
    assert y.is_contiguous()
    expected = plain(x, tanh)
    assert y.shape == expected.shape
    difference = np.abs(y.cpu().numpy().astype(int) - expected)
    close_to_a_tie = distance_from_tie(x, tanh) < (1e-10 if dtype == torch.float64 else 1e-4)
    assert (difference <= close_to_a_tie).all()
    assert x.numel() < 1000 or close_to_a_tie.mean() < 0.01


@layouts
def test_equal_to_the_reference(layout: torch.memory_format, dtype: torch.dtype, device: torch.device) -> None:
    x = frames((2, 3, 31, 45), dtype).to(device).contiguous(memory_format=layout)
    assert torch.equal(ops.frames_to_uint8(x), ops.reference.frames_to_uint8(x))


@layouts
def test_every_byte_and_every_tie(layout: torch.memory_format, device: torch.device) -> None:
    """Bytes survive the way to [-1, 1] and back; a level of exactly k + 1/2 goes to the even byte."""
    byte = torch.arange(256, dtype=torch.float64)
    x = (byte / 127.5 - 1).float().view(1, 1, 16, 16).expand(1, 3, 16, 16)
    y = ops.frames_to_uint8(x.to(device).contiguous(memory_format=layout))
    assert torch.equal(y.cpu(), byte.to(torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3))

    # Only v = 0 is a tie by itself (127.5); the others are made by the rounding of the float32 product.
    v = (np.arange(1, 510, 2) / 255 - 1).astype(np.float32)
    level = (v + np.float32(1)) * np.float32(127.5)
    ties = level % 1 == 0.5
    assert ties.sum() > 50
    x = torch.from_numpy(v[ties]).view(1, 1, 1, -1).to(device).contiguous(memory_format=layout)
    y = ops.frames_to_uint8(x).cpu().flatten()
    assert (y % 2 == 0).all()
    assert np.array_equal(y.numpy(), np.rint(level[ties]).astype(np.uint8))
    assert ops.frames_to_uint8(torch.zeros(1, 1, 1, 1, device=device)).item() == 128


@layouts
@pytest.mark.parametrize("tanh", [False, True])
def test_limits(layout: torch.memory_format, tanh: bool, dtype: torch.dtype, device: torch.device) -> None:
    special = {
        float("nan"): 0,
        -float("nan"): 0,
        float("inf"): 255,
        -float("inf"): 0,
        1e4: 255,
        -1e4: 0,
        torch.finfo(dtype).max: 255,
        torch.finfo(dtype).min: 0,
        -0.0: 128,
        torch.finfo(dtype).tiny: 128,
    }
    values = torch.tensor(list(special), dtype=dtype)
    for width in (1, 7, 40):  # one by one, in the rest of a vector, in whole vectors
        x = values.view(-1, 1, 1, 1).expand(-1, 3, 2, width).to(device).contiguous(memory_format=layout)
        y = ops.frames_to_uint8(x, tanh=tanh).cpu()
        for row, expected in zip(y, special.values(), strict=True):
            assert (row == expected).all(), (row.unique(), expected)


def test_tanh_is_accurate(device: torch.device) -> None:
    """Over all magnitudes; at most one level off, and only within 1e-4 of a tie."""
    positive = torch.logspace(-8, 2, 20_000)
    x = torch.cat([positive, -positive]).view(1, 1, 200, 200).to(device)
    difference = np.abs(ops.frames_to_uint8(x, tanh=True).cpu().numpy().astype(int) - plain(x, True))
    assert (difference <= (distance_from_tie(x, True) < 1e-4)).all()


def test_nothing_is_written_beyond_the_result(device: torch.device) -> None:
    """Each frame ends with a rest of a vector, whose store must not reach into the next frame."""
    for channels in (1, 2, 3, 4):
        for pixels in (1, 5, 15, 16, 17, 33, 100):
            x = frames((7, channels, 1, pixels)).to(device)
            for layout in LAYOUTS.values():
                y = ops.frames_to_uint8(x.contiguous(memory_format=layout))
                alone = torch.cat([ops.frames_to_uint8(x[i : i + 1].contiguous()) for i in range(len(x))])
                assert torch.equal(y, alone)


# ---- strides, threads


def test_strided_inputs(device: torch.device) -> None:
    full = frames((4, 6, 10, 14)).to(device)
    last = full.contiguous(memory_format=torch.channels_last)
    views = {
        "sliced": full[::2, 1::2, 2:, ::3],
        "expanded": full[:1, :3].expand(3, -1, -1, -1),
        "transposed": full[:, :3].transpose(2, 3),
        "sliced channels_last": last[:, :3],
        "offset": full.flatten()[7 : 7 + 2 * 3 * 5 * 4].view(2, 3, 5, 4),
        "offset channels_last": last.permute(0, 2, 3, 1).flatten()[5 : 5 + 120].view(2, 5, 4, 3).permute(0, 3, 1, 2),
    }
    for name, x in views.items():
        assert torch.equal(ops.frames_to_uint8(x), ops.reference.frames_to_uint8(x.contiguous())), name


@layouts
def test_threads_do_not_change_a_bit(layout: torch.memory_format, threads: Callable[[int], None]) -> None:
    x = frames((3, 3, 150, 161)).contiguous(memory_format=layout)
    results = []
    for count in (1, 2, 5):
        threads(count)
        results.append(ops.frames_to_uint8(x, tanh=True))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


# ---- torch.library, torch.compile, autocast, no gradient


@layouts
@pytest.mark.parametrize("tanh", [False, True])
def test_fallback_agrees_with_the_kernel(layout: torch.memory_format, tanh: bool) -> None:
    for shape in ((2, 3, 6, 7), (2, 1, 1, 1), (0, 3, 4, 4)):
        x = frames(shape, torch.float64).contiguous(memory_format=layout)
        ours, fallback = torch.ops.jdm_fast.frames_to_uint8(x, tanh), module._reference(x, tanh)
        assert torch.equal(ours, fallback)
        assert ours.is_contiguous()
        assert fallback.is_contiguous()


@layouts
def test_opcheck(layout: torch.memory_format) -> None:
    for shape in ((2, 3, 5, 4), (1, 1, 4, 4), (0, 3, 4, 4)):
        x = frames(shape).contiguous(memory_format=layout)
        torch.library.opcheck(torch.ops.jdm_fast.frames_to_uint8.default, (x, True))
        torch.library.opcheck(torch.ops.jdm_fast.frames_to_uint8.default, (x.requires_grad_(), False))


def test_compile_fullgraph_without_recompiling() -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda x: ops.frames_to_uint8(x * 2, tanh=True).flip(1), fullgraph=True, dynamic=False, backend=counter
    )
    for seed in range(3):
        x = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(compiled(x), ops.frames_to_uint8(x * 2, tanh=True).flip(1))
    assert counter.frame_count == 1, "compiled again for inputs that differ only in their values"


def test_bytes_carry_no_gradient() -> None:
    x = frames((1, 3, 4, 4)).requires_grad_()
    assert not ops.frames_to_uint8(x).requires_grad


def test_autocast_changes_nothing() -> None:
    x = frames((1, 3, 16, 16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ops.frames_to_uint8(x), ops.reference.frames_to_uint8(x))


# ---- bad arguments

BAD_ARGUMENTS: list[tuple[Any, type[Exception], str]] = [
    (torch.zeros(3, 4, 4), ValueError, r"x must be \[N, C, H, W\], got \[3, 4, 4\]"),
    (torch.zeros(1, 5, 4, 4), ValueError, r"x must have 1 to 4 channels, got \[1, 5, 4, 4\]"),
    (torch.zeros(1, 0, 4, 4), ValueError, r"x must have 1 to 4 channels, got \[1, 0, 4, 4\]"),
    (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), TypeError, "x must be float32, float16, bfloat16 or float64, got"),
]


@pytest.mark.parametrize(
    ("x", "error", "message"), BAD_ARGUMENTS, ids=[message[:30] for _, _, message in BAD_ARGUMENTS]
)
def test_bad_arguments(x: Tensor, error: type[Exception], message: str) -> None:
    """The kernel and the plain implementation refuse the same things in the same words."""
    for function in (ops.frames_to_uint8, module._check):
        with pytest.raises(error, match="frames_to_uint8: " + message):
            function(x)
