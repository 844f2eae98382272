"""The loops that ``bench_train.py`` compares: a plain one with levers, and our engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jdm_fast.methods import JWDM
from jdm_fast.networks.layers import InstanceNorm
from jdm_fast.training.engines import make_engine
from jdm_fast.training.live_memory import tensor_bytes
from jdm_fast.training.precision import FP32, Precision, numerics

LR, BETAS = 2e-4, (0.5, 0.999)
Batch = dict[str, Tensor]


class PlainInstanceNorm(nn.Module):
    """The fused layer's arithmetic as separate PyTorch layers."""

    def __init__(self, fused: InstanceNorm) -> None:
        super().__init__()
        dtype = next(fused.parameters()).dtype
        self.norm = nn.InstanceNorm2d(fused.num_features, eps=fused.eps, affine=fused.affine, dtype=dtype)
        self.norm.load_state_dict(fused.state_dict())
        self.activation = {"relu": nn.ReLU(), "none": nn.Identity()}[fused.activation]

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        x = self.activation(self.norm(x))
        return x if residual is None else x + residual


def with_plain_norms(module: nn.Module) -> nn.Module:
    """``module`` with every fused norm replaced, in place."""
    for name, child in module.named_children():
        if isinstance(child, InstanceNorm):
            setattr(module, name, PlainInstanceNorm(child).to(child.weight.device))
        else:
            with_plain_norms(child)
    return module


@dataclass(frozen=True)
class Levers:
    """What a loop does otherwise than (a)."""

    once: bool = False
    frozen: bool = False
    batched: bool = False
    fused_adam: bool = False
    channels_last: bool = False
    precision: Precision = FP32
    compiled: bool = False


class Loop:
    """Algorithm 1 line by line, for the divergence ``gan`` and no identity term."""

    def __init__(self, method: JWDM, levers: Levers) -> None:
        self.method, self.levers = with_plain_norms(method), levers
        if levers.channels_last:
            self.method.to(memory_format=torch.channels_last)
        how = {"fused": True} if levers.fused_adam else {"foreach": False}
        self.critics = torch.optim.Adam(method.critic_parameters(), lr=LR, betas=BETAS, **how)
        self.generators = torch.optim.Adam(method.generator_parameters(), lr=LR, betas=BETAS, **how)
        if levers.compiled:
            for networks in (method.encoders, method.decoders, method.critics):
                for network in networks.values():
                    network.compile(dynamic=False)

    def step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        levers, device = self.levers, batch["x"].device
        if levers.channels_last:
            batch = {name: images.to(memory_format=torch.channels_last) for name, images in batch.items()}
        with numerics(levers.precision, device):
            with torch.set_grad_enabled(levers.once), levers.precision.autocast(device):
                fakes = self._generate(batch)
            self.critics.zero_grad()
            with levers.precision.autocast(device):
                critic_loss = self._critic_loss(batch, {name: fake.detach() for name, fake in fakes.items()})
            critic_loss.backward()
            self.critics.step()
            self.generators.zero_grad()
            for parameter in self.method.critic_parameters():
                parameter.requires_grad_(not levers.frozen)
            with levers.precision.autocast(device):
                generator_loss = self._generator_loss(batch, fakes if levers.once else self._generate(batch))
            generator_loss.backward()
            self.generators.step()
            for parameter in self.method.critic_parameters():
                parameter.requires_grad_(True)
        return critic_loss.detach(), generator_loss.detach()

    def _generate(self, batch: Batch) -> Batch:
        if self.levers.batched:
            return self.method.generate(batch)
        E1, E2 = self.method.encoders["x"], self.method.encoders["y"]
        G1, G2 = self.method.decoders["x"], self.method.decoders["y"]
        z1, z2 = E1(batch["x"]), E2(batch["y"])
        translation_x, translation_y = G1(z2), G2(z1)
        return {
            "latent_x": z1, "latent_y": z2, "reconstruction_x": G1(z1), "reconstruction_y": G2(z2),
            "translation_x": translation_x, "translation_y": translation_y,
            "cycle_x": G1(E2(translation_y)), "cycle_y": G2(E1(translation_x)),
        }  # fmt: skip

    def _critic_loss(self, batch: Batch, fakes: Batch) -> Tensor:
        if self.levers.batched:
            return self.method.critic_loss(batch, fakes)[0]
        c, D = self.method.config, self.method.critics
        prior = self.method.sample_prior(fakes["latent_x"])
        share = c.cycle_fake_weight
        total = c.lambda_z * (2 * real(D["latent"](prior)) + fake(D["latent"](fakes["latent_x"])))
        total = total + c.lambda_z * fake(D["latent"](fakes["latent_y"]))
        for name, weight in (("x", c.lambda_x), ("y", c.lambda_y)):
            generated = share * fake(D[name](fakes[f"cycle_{name}"]))
            generated = generated + (1 - share) * fake(D[name](fakes[f"translation_{name}"]))
            total = total + weight * (real(D[name](batch[name])) + generated)
        return total

    def _generator_loss(self, batch: Batch, fakes: Batch) -> Tensor:
        if self.levers.batched:
            return self.method.generator_loss(batch, fakes)[0]
        c, D = self.method.config, self.method.critics
        share = c.cycle_fake_weight
        total = c.lambda_z * (real(D["latent"](fakes["latent_x"])) + real(D["latent"](fakes["latent_y"])))
        for name, weight in (("x", c.lambda_x), ("y", c.lambda_y)):
            total = total + c.reconstruction_weight * F.l1_loss(fakes[f"reconstruction_{name}"], batch[name])
            total = total + c.cycle_weight * F.l1_loss(fakes[f"cycle_{name}"], batch[name])
            adversarial = share * real(D[name](fakes[f"cycle_{name}"]))
            adversarial = adversarial + (1 - share) * real(D[name](fakes[f"translation_{name}"]))
            total = total + weight * adversarial
        return total

    def kept(self) -> int:
        """Bytes that live from step to step."""
        states = [self.critics.state, self.generators.state]
        moments = [value for state in states for values in state.values() for value in values.values()]
        return tensor_bytes([*self.method.parameters(), *moments])


class Ours:
    """One of our engines."""

    def __init__(self, method: JWDM, engine: str, precision: Precision = FP32, **options: Any) -> None:
        self.method = method
        self.engine, _ = make_engine(engine, method, lr=LR, betas=BETAS, precision=precision, **options)

    def step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        terms = self.engine.step(batch, LR)
        return terms["critic_loss"], terms["generator_loss"]

    def kept(self) -> int:
        """Bytes that live from step to step."""
        state = self.engine.state_dict()
        sides = (state["critic_optimizer"]["state"], state["generator_optimizer"]["state"])
        moments = [value for side in sides for values in side.values() for value in values.values()]
        return tensor_bytes([*self.method.parameters(), *(value for value in moments if isinstance(value, Tensor))])


def real(logits: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))


def fake(logits: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))
