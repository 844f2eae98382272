"""A training step of JWDM at CPU size, against the loop that a straightforward reading of the paper gives.

The straightforward loop steps as the public CycleGAN code does: every network is called for one batch at a time, the
fakes are made anew for each of the two updates, gradients of the critics' weights are computed in the generator
update too and thrown away, Adam goes from tensor to tensor, and norms are ``nn.InstanceNorm2d`` followed by an
activation and an addition. Both compute the same update, which is checked before anything is timed.
"""

from __future__ import annotations

import copy
import statistics
import time
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jdm_fast.methods import JWDM, JWDMConfig
from jdm_fast.networks.layers import InstanceNorm
from jdm_fast.training.step import EagerEngine

LR, BETAS = 2e-4, (0.5, 0.999)
ROUNDS = 10


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
            setattr(module, name, PlainInstanceNorm(child))
        else:
            with_plain_norms(child)
    return module


class StraightforwardLoop:
    """Algorithm 1 line by line, for the divergence ``gan`` and no identity term."""

    def __init__(self, method: JWDM) -> None:
        self.method = with_plain_norms(method)
        self.critics = torch.optim.Adam(method.critic_parameters(), lr=LR, betas=BETAS, foreach=False)
        self.generators = torch.optim.Adam(method.generator_parameters(), lr=LR, betas=BETAS, foreach=False)

    def step(self, batch: dict[str, Tensor]) -> None:
        with torch.no_grad():
            fakes = self._generate(batch)
        self.critics.zero_grad()
        self._critic_loss(batch, fakes).backward()
        self.critics.step()
        self.generators.zero_grad()
        self._generator_loss(batch, self._generate(batch)).backward()
        self.generators.step()

    def _generate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        E1, E2 = self.method.encoders["x"], self.method.encoders["y"]
        G1, G2 = self.method.decoders["x"], self.method.decoders["y"]
        z1, z2 = E1(batch["x"]), E2(batch["y"])
        translation_x, translation_y = G1(z2), G2(z1)
        return {
            "latent_x": z1, "latent_y": z2, "reconstruction_x": G1(z1), "reconstruction_y": G2(z2),
            "translation_x": translation_x, "translation_y": translation_y,
            "cycle_x": G1(E2(translation_y)), "cycle_y": G2(E1(translation_x)),
        }  # fmt: skip

    def _critic_loss(self, batch: dict[str, Tensor], fakes: dict[str, Tensor]) -> Tensor:
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

    def _generator_loss(self, batch: dict[str, Tensor], fakes: dict[str, Tensor]) -> Tensor:
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


def real(logits: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))


def fake(logits: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))


class Case:
    """Both loops from the same weights, and a batch."""

    def __init__(self, width: int, residual_convs: int, batch_size: int) -> None:
        torch.manual_seed(0)
        method = JWDM(JWDMConfig(width=width, critic_width=width, residual_convs=residual_convs))
        self.batch = {name: torch.rand(batch_size, 3, 64, 64) * 2 - 1 for name in ("x", "y")}
        check_same_update(
            copy.deepcopy(method).double(), {name: images.double() for name, images in self.batch.items()}
        )
        self.plain = StraightforwardLoop(copy.deepcopy(method))
        self.engine = EagerEngine(method, lr=LR, betas=BETAS)

    def run_ours(self) -> None:
        self.engine.step(self.batch, LR)

    def run_plain(self) -> None:
        self.plain.step(self.batch)


def check_same_update(method: JWDM, batch: dict[str, Tensor]) -> None:
    """One step of both loops, in double precision, changes the networks' answers alike.

    In single precision Adam's first step would tell little: it is the gradient's sign, which rounding decides where the
    gradient is next to nothing.
    """
    plain = StraightforwardLoop(copy.deepcopy(method))
    before = answers(method, batch)
    torch.manual_seed(1)
    EagerEngine(method, lr=LR, betas=BETAS).step(batch, LR)
    torch.manual_seed(1)
    plain.step(batch)
    ours = answers(method, batch)
    change = (ours - before).norm()
    assert change > 1e-3 * before.norm(), "the step must have done something"
    difference = (ours - answers(plain.method, batch)).norm() / change
    assert difference < 1e-4, f"the two loops must compute the same update, they differ by {difference:.1e} of it"


@torch.no_grad()
def answers(method: JWDM, batch: dict[str, Tensor]) -> Tensor:
    """All that the networks make of a batch."""
    scores = [method.critics[name](batch[name]).flatten() for name in ("x", "y")]
    return torch.cat([*(made.flatten() for made in method.generate(batch).values()), *scores])


CASES = [
    pytest.param((16, 1, 1), id="width 16, one-conv blocks"),
    pytest.param((16, 2, 4), id="width 16, two-conv blocks, batch 4"),
    pytest.param((32, 1, 1), id="width 32, one-conv blocks"),
]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param)


@pytest.mark.parametrize("implementation", ["straightforward loop", "jdm_fast"])
def test_train_step(benchmark: Any, request: pytest.FixtureRequest, case: Case, implementation: str) -> None:
    """For ``jdm_fast`` each timed step comes after one of the other loop, so that both see the same moments of a busy
    machine; ``extra_info["ratio"]`` is of those pairs' medians."""
    benchmark.group = f"training step, 64x64, {request.node.callspec.id.rsplit('-', 1)[0]}"
    benchmark.extra_info["implementation"] = implementation
    if implementation != "jdm_fast":
        benchmark.pedantic(case.run_plain, rounds=ROUNDS, warmup_rounds=2)
        return
    other: list[float] = []

    def run_other() -> None:
        begin = time.perf_counter()
        case.run_plain()
        other.append(time.perf_counter() - begin)

    benchmark.pedantic(case.run_ours, setup=run_other, rounds=ROUNDS, warmup_rounds=2)
    if benchmark.stats is not None:  # None with --benchmark-disable
        benchmark.extra_info["ratio"] = round(statistics.median(other[-ROUNDS:]) / benchmark.stats.stats.median, 3)
        benchmark.extra_info["images_per_second"] = round(2 * len(case.batch["x"]) / benchmark.stats.stats.median, 2)
