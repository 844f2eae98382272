"""The loop that ``bench_jointgan.py`` compares our engines with: a JointGAN step, source by source, with levers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.train_loops import Batch, Levers, Loop
from jdm_fast.methods import JointGAN, Terms
from jdm_fast.methods.sources import Source
from jdm_fast.networks.layers import InstanceNorm, ModulatedInstanceNorm

# ---- Norms ----------------------------------------------------------------------------------------------------------


class PlainNorm(nn.Module):
    """The arithmetic of :class:`InstanceNorm` and :class:`ModulatedInstanceNorm` as separate PyTorch layers."""

    def __init__(self, fused: InstanceNorm | ModulatedInstanceNorm) -> None:
        super().__init__()
        self.modulation = fused.modulation if isinstance(fused, ModulatedInstanceNorm) else None
        inner = fused.norm if isinstance(fused, ModulatedInstanceNorm) else fused
        self.norm = nn.InstanceNorm2d(inner.num_features, eps=inner.eps, affine=inner.affine)
        if inner.affine:  # the parameters themselves, so that the optimisers go through them in the same order
            self.norm.weight, self.norm.bias = inner.weight, inner.bias
        self.activation = {
            "relu": nn.ReLU(inplace=True),
            "leaky_relu": nn.LeakyReLU(inner.negative_slope, inplace=True),
            "none": nn.Identity(),
        }[inner.activation]

    def forward(self, x: Tensor, style: Tensor | None = None) -> Tensor:
        x = self.norm(x)
        if self.modulation is not None:
            scale, shift = self.modulation(style)[:, :, None, None].chunk(2, dim=1)
            x = x * (1 + scale) + shift
        return self.activation(x)


def with_plain_norms(module: nn.Module) -> nn.Module:
    """``module`` with every fused norm replaced, in place."""
    for name, child in module.named_children():
        if isinstance(child, InstanceNorm | ModulatedInstanceNorm):
            setattr(module, name, PlainNorm(child))
        else:
            with_plain_norms(child)
    return module


# ---- Eqs. (10) to (12), source by source ----------------------------------------------------------------------------


def draw_sources(method: JointGAN, batch: Batch) -> Batch:
    """What ``method.generate`` returns: every source and cycle drawn alone, one generator call after the other.

    The noise is drawn in the order in which ``method.generate`` draws it, so that the two can be compared.
    """
    first = next(iter(batch.values()))
    noise = {}
    for call in method._calls:
        shape = method._noise_shape(call.domain, len(first), first.shape[-2:])
        for step in call.steps:
            noise[step] = torch.randn(shape, dtype=first.dtype, device=first.device)
    fakes: Batch = {}
    for k, source in enumerate(method.sources):
        values = method._observed(batch, source.given)
        for place, domain in enumerate(source.made):
            values[domain] = fakes[f"{source.name}_{domain}"] = _draw(method, domain, values, noise[k, place])
        if method._is_cycled(source):
            domain, made = source.order[0], {name: values[name] for name in source.made}
            fakes[f"cycle_{source.name}_{domain}"] = _draw(method, domain, made, noise[k, len(source.made)])
    return fakes


def _draw(method: JointGAN, domain: str, given: Batch, noise: Tensor) -> Tensor:
    like = next(iter(given.values()), None)
    if like is None:
        like = noise.new_empty(len(noise), method.config.channels, *method._image_size(domain, noise, []))
    others = [given.get(name, torch.zeros_like(like)) for name in method.domains if name != domain]
    return method.generators[domain](torch.cat(others, dim=1) if len(others) > 1 else others[0], noise)


def cross_entropy(method: JointGAN, source: Source, batch: Batch, fakes: Batch) -> Tensor:
    """-E_{p_k} [log g[k]] of one source, by one call of the critic."""
    values = method._observed(batch, source.given)
    values |= {name: fakes[f"{source.name}_{name}"] for name in source.made}
    logits = method.critic(torch.cat([values[name] for name in method.domains], dim=1))
    place = method.sources.index(source)
    return F.cross_entropy(logits, torch.full_like(logits[:, 0], place, dtype=torch.int64))


def critic_loss(method: JointGAN, batch: Batch, fakes: Batch) -> Tensor:
    """Eq. (11) for the critic, one call a source."""
    return torch.stack([cross_entropy(method, source, batch, fakes) for source in method.sources]).sum()


def generator_loss(method: JointGAN, batch: Batch, fakes: Batch) -> Tensor:
    """Eqs. (11) and (12) for the generators (``minimax``), one call of the critic a source."""
    made = [source for source in method.sources if not source.is_real]
    total = -torch.stack([cross_entropy(method, source, batch, fakes) for source in made]).sum()
    for source in method.sources:
        if method._is_cycled(source):
            domain = source.order[0]
            truth = method._observed(batch, source.given)[domain]
            total = total + method.cycle_weight * F.l1_loss(fakes[f"cycle_{source.name}_{domain}"], truth)
    return total


# ---- Loops ----------------------------------------------------------------------------------------------------------


class CriticCallASource(JointGAN):
    """JointGAN but for the critic, which is called once a source."""

    def critic_loss(self, batch: Batch, fakes: Batch) -> tuple[Tensor, Terms]:
        return critic_loss(self, batch, fakes), {}

    def generator_loss(self, batch: Batch, fakes: Batch) -> tuple[Tensor, Terms]:
        return generator_loss(self, batch, fakes), {}


@dataclass(frozen=True)
class JointLevers(Levers):
    """What a loop does otherwise than the plain one; ``batched`` is of the generators."""

    one_critic_call: bool = False


class JointLoop(Loop):
    """A step of JointGAN as a reading of the paper gives it, for the objective ``minimax``."""

    method: JointGAN
    levers: JointLevers

    def __init__(self, method: JointGAN, levers: JointLevers) -> None:
        super().__init__(with_plain_norms(method), levers)

    def step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        self._random = random_state(next(iter(batch.values())).device)
        return super().step(batch)

    def _generate(self, batch: Batch) -> Batch:
        # Where the fakes are made anew for the generators, they are the same: all rungs compute one update.
        set_random_state(self._random)
        return self.method.generate(batch) if self.levers.batched else draw_sources(self.method, batch)

    def _critic_loss(self, batch: Batch, fakes: Batch) -> Tensor:
        if self.levers.one_critic_call:
            return self.method.critic_loss(batch, fakes)[0]
        return critic_loss(self.method, batch, fakes)

    def _generator_loss(self, batch: Batch, fakes: Batch) -> Tensor:
        if self.levers.one_critic_call:
            return self.method.generator_loss(batch, fakes)[0]
        return generator_loss(self.method, batch, fakes)


def random_state(device: torch.device) -> tuple[torch.device, Tensor]:
    """The state of the device's random numbers."""
    return device, torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_random_state(state: tuple[torch.device, Tensor]) -> None:
    """Go back to what :func:`random_state` returned."""
    device, numbers = state
    if device.type == "cuda":
        torch.cuda.set_rng_state(numbers, device)
    else:
        torch.set_rng_state(numbers)
