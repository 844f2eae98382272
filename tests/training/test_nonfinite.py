from __future__ import annotations

import pytest
import torch
from torch import nn

from jdm_fast.training.nonfinite import hold_back_unless_finite


def make(device: str = "cpu") -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, device=device)) for shape in ((3, 5), (7,), (2, 2), (4,))]
    return parameters, torch.optim.Adam(parameters, lr=0.1, fused=True)


def everything(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Weights, moments and step counts."""
    states = optimizer.state_dict()["state"].values()
    moments = [value for state in states for value in state.values()]
    return [tensor.detach().clone() for tensor in (*parameters, *moments)]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def gradients(parameters: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters[:-1]:  # the last one takes no part
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.device)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_update_with_one_bad_gradient_is_as_if_it_had_never_been(value: float, device: str) -> None:
    parameters, optimizer = make(device)
    twins, plain = make(device)
    for step in range(4):
        if step == 2:
            before = everything(parameters, optimizer)
            gradients(parameters, seed=99)
            assert parameters[1].grad is not None
            parameters[1].grad[6] = value
            assert hold_back_unless_finite(optimizer).item() == 1
            optimizer.step()
            assert same(everything(parameters, optimizer), before)
        gradients(parameters, step)
        gradients(twins, step)
        flag = hold_back_unless_finite(optimizer)
        assert flag.item() == 0 and flag.dtype == torch.float32 and flag.device.type == device
        optimizer.step()
        plain.step()
    assert same(everything(parameters, optimizer), everything(twins, plain)), "the guard changes no good update"


def test_bfloat16_gradients_are_seen_too() -> None:
    parameter = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = torch.optim.Adam([parameter], lr=0.1, fused=True)
    parameter.grad = torch.tensor([1.0, float("nan"), 2.0], dtype=torch.bfloat16)
    assert hold_back_unless_finite(optimizer).item() == 1
