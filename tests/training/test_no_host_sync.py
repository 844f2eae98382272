"""The host does not wait for the device in a step."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from jdm_fast.training.engines.graph import WARM_UP_STEPS
from jdm_fast.training.precision import FP32, Precision
from tests.training.engine_cases import (
    BF16,
    EVERYTHING,
    FP16,
    LR,
    build,
    make_batches,
    make_fake,
    make_jwdm,
    on_gpu,
)


class HostReads(TorchDispatchMode):
    """Notes what would make the host wait for a device: reading a value of a tensor, by an operator or a method."""

    OPERATORS = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2")
    METHODS = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__")
    HOST_TENSORS = {"decide"}  # functions that read only what they drew on the host

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.found: list[str] = []
        for name in self.METHODS:
            monkeypatch.setattr(Tensor, name, self._noting(name, getattr(Tensor, name)))

    def _noting(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any, **kwargs: Any) -> Any:
            caller = sys._getframe(1).f_code
            if caller.co_name not in self.HOST_TENSORS:
                self.found.append(
                    f"{name} in {caller.co_qualname if hasattr(caller, 'co_qualname') else caller.co_name}"
                )
            return method(*args, **kwargs)

        return noting

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket.__name__ in self.OPERATORS:
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("divergence", "options"),
    [("gan", {}), ("gan", {"precision": FP16}), ("wgan-gp", EVERYTHING), ("mmd", {"accumulate": 2, "clip_norm": 0.5})],
    ids=["gan", "fp16", "wgan-gp with everything", "mmd in parts"],
)
def test_no_step_reads_a_value(monkeypatch: pytest.MonkeyPatch, divergence: str, options: dict[str, Any]) -> None:
    engine = build("eager", make_jwdm(divergence=divergence), **options)
    batches = make_batches(2)
    engine.step(batches[0], LR)
    with HostReads(monkeypatch) as reads:
        engine.step(batches[1], LR)
    assert reads.found == []


def test_a_step_that_reads_a_value_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make_fake()
    loss = method.critic_loss

    def reading(batch: dict[str, Tensor], fakes: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        total, terms = loss(batch, fakes)
        return (total if total.detach() < 1e9 else total * 0), terms

    method.critic_loss = reading  # type: ignore[method-assign]
    engine = build("eager", method)
    with HostReads(monkeypatch) as reads:
        engine.step(make_batches(1)[0], LR)
    assert any("__bool__" in found for found in reads.found)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["eager", "graph"])
@pytest.mark.parametrize("precision", [FP32, BF16, FP16], ids=lambda precision: precision.name)
def test_no_step_waits_for_the_gpu(name: str, precision: Precision) -> None:
    engine = build(name, make_jwdm().cuda(), precision=precision, clip_norm=1.0, skip_nonfinite=True)
    batches = on_gpu(make_batches(WARM_UP_STEPS + 4))
    for batch in batches[: WARM_UP_STEPS + 1]:
        engine.step(batch, LR)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[WARM_UP_STEPS + 1 :]:
            engine.step(batch, LR)
    finally:
        torch.cuda.set_sync_debug_mode("default")
