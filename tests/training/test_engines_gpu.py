"""The engines on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jdm_fast.methods.lanes import Lanes
from jdm_fast.training.engines import GraphEngine, make_engine
from jdm_fast.training.precision import choose_precision, numerics
from tests.training.engine_cases import (
    BETAS,
    BF16,
    EVERYTHING,
    FP16,
    LR,
    build,
    make_batches,
    make_jwdm,
    on_gpu,
    steps,
)


@pytest.mark.gpu
@pytest.mark.parametrize("divergence", ["gan", "wgan-gp"])
@pytest.mark.parametrize(
    "options",
    [{}, {"precision": BF16}, {"precision": FP16, "clip_norm": 1.0}, EVERYTHING],
    ids=["fp32", "bf16", "fp16", "all"],
)
def test_the_graph_trains_alike(divergence: str, options: dict[str, Any]) -> None:
    """The same noise, learning rates and pool decisions, on parallel streams; rounding differs by choice of kernels."""
    batches = on_gpu(make_batches(12))
    expected = steps(build("eager", make_jwdm(divergence=divergence).cuda(), **options), batches)
    engine = build("graph", make_jwdm(divergence=divergence).cuda(), **options)
    assert isinstance(engine, GraphEngine)
    for got, want in zip(steps(engine, batches), expected, strict=True):
        assert got == pytest.approx(want, rel=0.05, abs=0.02)


@pytest.mark.gpu
def test_branches_in_lanes_agree_with_those_in_a_row() -> None:
    """Branches on streams of their own give what branches in a row give."""
    device = torch.device("cuda")
    with numerics(choose_precision("fp32", device), device):  # TF32 differs more than a mistake would
        check_lanes()


def check_lanes() -> None:
    method, batch = make_jwdm(width=8).cuda(), on_gpu(make_batches(1, side=64))[0]
    expected = method.generate(batch)
    lanes = Lanes(torch.device("cuda"))
    with lanes.active():
        made = method.generate(batch)
    for name, value in expected.items():
        torch.testing.assert_close(made[name], value, rtol=1e-3, atol=1e-3)
    gradients = []
    for fakes in (expected, made):
        method.zero_grad()
        method.generator_loss(batch, fakes)[0].backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in method.generator_parameters()]))
    difference = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    assert difference < 1e-3  # single small gradients differ by more


@pytest.mark.gpu
def test_the_gpu_gets_the_graph_and_channels_last() -> None:
    method = make_jwdm().cuda()
    engine, why = make_engine("auto", method, lr=LR, betas=BETAS, precision=BF16)
    assert isinstance(engine, GraphEngine) and why.startswith("graph: on a GPU")
    weight = method.encoders["x"].down_sampling[2].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
