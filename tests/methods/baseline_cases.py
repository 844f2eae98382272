"""Shared by the tests of the two-step baseline: small models and batches, and what holds for each of its methods."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from jdm_fast.methods import WGANGP, CycleGAN, CycleGANConfig, Pix2Pix, Pix2PixConfig, WGANGPConfig

SMALL: dict[str, Any] = {"width": 4, "depth": 3, "max_width": 8, "critic_width": 4, "critic_layers": 1}
SIZE = (8, 16)


def make_wgan_gp(dtype: torch.dtype = torch.float64, **options: Any) -> WGANGP:
    torch.manual_seed(0)
    return WGANGP(WGANGPConfig(**{**SMALL, "noise": 5, **options})).to(dtype)


def make_pix2pix(dtype: torch.dtype = torch.float64, **options: Any) -> Pix2Pix:
    torch.manual_seed(0)
    return Pix2Pix(Pix2PixConfig(**{**SMALL, "init": "default", **options})).to(dtype)


def make_cyclegan(dtype: torch.dtype = torch.float64, **options: Any) -> CycleGAN:
    torch.manual_seed(0)
    return CycleGAN(CycleGANConfig(**{**SMALL, "init": "default", **options})).to(dtype)


def make_batch(n: int = 2, dtype: torch.dtype = torch.float64, keys: Any = "xy", channels: int = 3, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    shape = (n, channels, *SIZE)
    return {key: torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype) * 2 - 1 for key in keys}


def detach(fakes: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in fakes.items()}


def average(values: list[Tensor]) -> Tensor:
    return sum(values) / len(values)


def l1(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean()


def alone(network: nn.Module):
    """A network as a function of one sample without a batch."""
    return lambda *sample: network(*(value[None] for value in sample))[0]


def count_calls(model: nn.Module) -> Counter[str]:
    """Counts calls of ``Gx``, ``Gy``, ``Dx``, ``Dy`` from now on."""
    calls: Counter[str] = Counter()
    for letter, networks in (("G", model.generators), ("D", model.critics)):
        for name, network in networks.items():
            network.register_forward_hook(lambda *_, called=f"{letter}{name}": calls.update([called]))
    return calls


def assert_each_update_reaches_its_own_parameters(model: Any, batch: dict[str, Tensor]) -> None:
    generators, critics = model.generator_parameters(), model.critic_parameters()
    assert not set(generators) & set(critics) and {*generators, *critics} == set(model.parameters())
    fakes = model.generate(batch)
    model.critic_loss(batch, detach(fakes))[0].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in critics)
    assert all(p.grad.any() for p in critics if p.dim() > 1)  # WGAN-GP's last bias cancels
    assert all(p.grad is None for p in generators)
    model.zero_grad(set_to_none=True)
    for p in critics:
        p.requires_grad_(False)
    model.generator_loss(batch, fakes)[0].backward()
    assert all(p.grad is None for p in critics)
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in generators)


def assert_losses_are_float32(model: Any, batch: dict[str, Tensor]) -> None:
    """Under autocast, and near those without it."""
    losses = []
    for enabled in (False, True):
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            fakes = model.generate(batch)
            results = [model.critic_loss(batch, detach(fakes)), model.generator_loss(batch, fakes)]
        values = [loss for loss, _ in results]
        terms = [term for _, own in results for term in own.values()]
        assert {value.dtype for value in (*values, *terms)} == {torch.float32}
        assert not any(term.requires_grad for term in terms)
        losses.append(torch.stack(values).detach())
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0.05)
