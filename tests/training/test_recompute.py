from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor

from jdm_fast.methods import JWDM
from jdm_fast.training.precision import FP32, Precision
from jdm_fast.training.recompute import Recipe, Recompute
from tests.training.engine_cases import build, make_batches, make_jwdm, same_state, steps


def generator_gradients(method: JWDM, batch: dict[str, Tensor], saving: Any = None) -> Tensor:
    torch.manual_seed(0)
    for parameter in method.parameters():
        parameter.grad = None
    if saving is None:
        fakes = method.generate(batch)
    else:
        with saving:
            fakes = method.generate(batch)
    method.generator_loss(batch, fakes)[0].backward()
    return torch.cat([parameter.grad.flatten() for parameter in method.generator_parameters()])


@pytest.mark.parametrize("residual_convs", [1, 2])
def test_the_same_gradients_to_the_bit(residual_convs: int) -> None:
    method, batch = make_jwdm(blocks=2, residual_convs=residual_convs), make_batches(1)[0]
    expected = generator_gradients(method, batch)
    recompute = Recompute(method)
    assert torch.equal(generator_gradients(method, batch, recompute.saving()), expected)
    assert torch.equal(generator_gradients(method, batch), expected), "outside of the context all is as ever"


@pytest.mark.parametrize("precision", [FP32, Precision("bf16", torch.bfloat16)], ids=lambda precision: precision.name)
def test_the_same_training_to_the_bit(precision: Precision) -> None:
    batches = make_batches(3)
    full = build("eager", make_jwdm(), precision=precision)
    recompute = build("eager", make_jwdm(), precision=precision, activation_memory="recompute")
    assert steps(recompute, batches) == steps(full, batches)
    assert same_state(recompute, full)


def kept_bytes(
    method: JWDM, batch: dict[str, Tensor], pack: Callable[[Tensor], Any], inside: AbstractContextManager[None]
) -> tuple[int, int]:
    """Bytes of memory that the backward pass of ``generate`` keeps, and how many activations are recipes."""
    kept: list[Any] = []

    def note(tensor: Tensor) -> Any:
        kept.append(pack(tensor))
        return kept[-1]

    with inside, torch.autograd.graph.saved_tensors_hooks(note, Recompute.unpack):
        method.generate(batch)
    own = {parameter.untyped_storage().data_ptr() for parameter in method.parameters()}
    tensors = [item.x if isinstance(item, Recipe) else item for item in kept]
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(size for place, size in sizes.items() if place not in own), sum(isinstance(k, Recipe) for k in kept)


def test_a_third_less_is_kept() -> None:
    """Of the paper's blocks: of each norm without a residual one tensor instead of two."""
    method, batch = make_jwdm(blocks=6, width=8, identity_weight=0.0), make_batches(1, side=32)[0]
    full, none = kept_bytes(method, batch, lambda tensor: tensor.detach(), torch.enable_grad())
    recompute = Recompute(method)
    less, recipes = kept_bytes(method, batch, recompute.pack, recompute.saving())
    assert none == 0
    # Four calls of encoders and of decoders: down 3, up 3, six blocks; and two cycles decode a latent as it is.
    assert recipes == 4 * (3 + 6) + 4 * (3 + 6) + 2
    assert less < 0.68 * full  # 6.6 MB become 4.5


def test_nothing_is_noted_outside_or_without_gradients() -> None:
    method, batch = make_jwdm(), make_batches(1)[0]
    recompute = Recompute(method)
    made: list[Any] = []
    recompute.pack = lambda tensor: made.append(tensor) or tensor.detach()  # type: ignore[method-assign]
    method.generate(batch)
    with torch.no_grad(), recompute.saving():
        method.generate(batch)
    assert made == []


def test_memory_goes_when_the_graph_goes() -> None:
    method, batch = make_jwdm(), make_batches(1)[0]
    recompute = Recompute(method)
    with recompute.saving():
        fakes = method.generate(batch)
    gc.collect()
    gc.disable()
    try:
        watched = torch._C._WeakTensorRef(fakes["cycle_x"])
        del fakes
        assert watched.expired(), "no reference cycle may hold the graph"
    finally:
        gc.enable()


@pytest.mark.gpu
def test_less_memory_on_the_gpu() -> None:
    peaks = []
    for choice in ("full", "recompute"):
        method = make_jwdm(width=32, blocks=6).cuda()
        engine = build("eager", method, activation_memory=choice, pool_size=0)
        batch = {name: images.cuda() for name, images in make_batches(1, count=4, side=128)[0].items()}
        engine.step(batch, 1e-4)
        torch.cuda.reset_peak_memory_stats()
        engine.step(batch, 1e-4)
        peaks.append(torch.cuda.max_memory_allocated())
        del engine, method
    assert peaks[1] < 0.85 * peaks[0]
