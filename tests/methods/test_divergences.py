"""Each divergence against its formula, written out in float64 over single logits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from jdm_fast.methods.divergences import DIVERGENCES, MMD, gradient_penalty

WEIGHT = 0.3


def maps(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a real batch and of two generated ones, on both sides of every kink."""
    generator = torch.Generator().manual_seed(0)
    return tuple(2 * torch.randn(2, 1, 3, 4, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3))


def mean(logits: Tensor, term) -> float:
    return sum(term(t) for t in logits.flatten().tolist()) / logits.numel()


def sigmoid(t: float) -> float:
    return 1 / (1 + math.exp(-t))


FORMULAS = {  # name: (critic's term for real, for generated, generators' term)
    "gan": (lambda t: -math.log(sigmoid(t)), lambda t: -math.log(1 - sigmoid(t)), lambda t: -math.log(sigmoid(t))),
    "lsgan": (lambda t: (t - 1) ** 2, lambda t: t**2, lambda t: (t - 1) ** 2),
    "hinge": (lambda t: max(0.0, 1 - t), lambda t: max(0.0, 1 + t), lambda t: -t),
    "wgan-gp": (lambda t: -t, lambda t: t, lambda t: -t),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_expectations(name: str) -> None:
    real, cycle, translation = maps()
    real_term, fake_term, generator_term = FORMULAS[name]
    mixture = [(WEIGHT, cycle), (1 - WEIGHT, translation)]
    critic = mean(real, real_term) + WEIGHT * mean(cycle, fake_term) + (1 - WEIGHT) * mean(translation, fake_term)
    generator = WEIGHT * mean(cycle, generator_term) + (1 - WEIGHT) * mean(translation, generator_term)
    divergence = DIVERGENCES[name]
    assert divergence.critic_loss(real, mixture).item() == pytest.approx(critic, rel=1e-12)
    assert divergence.generator_loss(mixture).item() == pytest.approx(generator, rel=1e-12)


def test_only_lipschitz_critics_are_penalised() -> None:
    assert {name for name, divergence in DIVERGENCES.items() if divergence.penalised} == {"wgan-gp", "mmd"}


def test_gan_of_a_sure_critic_is_finite() -> None:
    far = torch.full((1, 1, 1, 1), 200.0)
    assert DIVERGENCES["gan"].critic_loss(far, [(1.0, far)]).item() == pytest.approx(200)
    assert DIVERGENCES["gan"].generator_loss([(1.0, -far)]).item() == pytest.approx(200)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_float32_losses(name: str, dtype: torch.dtype) -> None:
    real, cycle, translation = maps(dtype)
    divergence = DIVERGENCES[name]
    mixture = [(WEIGHT, cycle), (1 - WEIGHT, translation)]
    exact = [(weight, logits.double()) for weight, logits in mixture]
    for got, expected in [
        (divergence.critic_loss(real, mixture), divergence.critic_loss(real.double(), exact)),
        (divergence.generator_loss(mixture, real), divergence.generator_loss(exact, real.double())),
    ]:
        assert got.dtype == torch.float32
        assert got.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)


# ---- MMD


def kernel(a: float, b: float) -> float:
    return sum(math.exp(-((a - b) ** 2) / (2 * sigma**2)) for sigma in (1, 2, 4, 8, 16)) / 5


def mean_kernel(a: Tensor, b: Tensor) -> float:
    values = [kernel(s, t) for s in a.flatten().tolist() for t in b.flatten().tolist()]
    return sum(values) / len(values)


def plain_mmd(real: Tensor, fakes: list[tuple[float, Tensor]]) -> float:
    value = mean_kernel(real, real)
    for weight, fake in fakes:
        value -= 2 * weight * mean_kernel(real, fake)
        value += sum(weight * other * mean_kernel(fake, second) for other, second in fakes)
    return value


def test_mmd_formula() -> None:
    real, cycle, translation = maps()
    translation = translation[:1] + 1  # the parts of a mixture need not be equally many
    mixture = [(WEIGHT, cycle), (1 - WEIGHT, translation)]
    expected = plain_mmd(real, mixture)
    assert DIVERGENCES["mmd"].generator_loss(mixture, real).item() == pytest.approx(expected, rel=1e-9)
    assert DIVERGENCES["mmd"].critic_loss(real, mixture).item() == pytest.approx(-expected, rel=1e-9)


def test_mmd_of_large_maps_is_the_mean_over_blocks() -> None:
    real, fake, _ = maps()  # 24 logits each
    blocks = [(real.flatten()[i::5], fake.flatten()[i::5]) for i in range(5)]  # of 5, 5, 5, 5 and 4
    expected = sum(plain_mmd(p, [(1.0, q)]) for p, q in blocks) / 5
    assert MMD(block=5).squared(real, [(1.0, fake)]).item() == pytest.approx(expected, rel=1e-9)


def test_mmd_is_zero_for_equal_samples_and_positive_otherwise() -> None:
    real, other, _ = maps(torch.float32)
    mmd = DIVERGENCES["mmd"]
    permuted = real.flatten()[torch.randperm(real.numel(), generator=torch.Generator().manual_seed(1))]
    assert mmd.squared(real, [(0.5, real), (0.5, permuted)]).item() == pytest.approx(0, abs=1e-6)
    assert mmd.squared(real, [(1.0, other)]).item() > 1e-3
    assert mmd.squared(real, [(1.0, real + 3)]).item() > 0.1
    one = torch.zeros(1, 1, 1, 1)  # one logit a map, batch 1
    assert mmd.squared(one, [(1.0, one + 1)]).item() == pytest.approx(2 - 2 * kernel(0, 1), rel=1e-6)


def test_mmd_generators_need_real_logits() -> None:
    real, fake, _ = maps()
    with pytest.raises(ValueError, match="real logits|logits of real"):
        DIVERGENCES["mmd"].generator_loss([(1.0, fake)])
    assert DIVERGENCES["mmd"].generator_needs_real


# ---- gradient penalty


def linear_critic(weight: Tensor):
    """D(x) = <weight, x> at each of two patches: its gradient is ``weight`` everywhere."""
    return lambda x: torch.stack([(x * weight).flatten(1).sum(1)] * 2, dim=1).view(len(x), 1, 2, 1)


def test_gradient_penalty_of_a_linear_critic() -> None:
    weight = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    real, *fakes = (torch.randn(2, 1, 3, 4, dtype=torch.float64) for _ in range(3))
    penalty = gradient_penalty(linear_critic(weight), real, [(0.3, fakes[0]), (0.7, fakes[1])])
    norm = weight.detach().norm()
    assert penalty.item() == pytest.approx((norm.item() - 1) ** 2, rel=1e-12)
    (gradient,) = torch.autograd.grad(penalty, weight)
    torch.testing.assert_close(gradient, 2 * (norm - 1) * weight.detach() / norm)


def curved_critic() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Softplus(), nn.Conv2d(3, 1, 3)).double()


def test_gradient_penalty_against_finite_differences() -> None:
    critic = curved_critic()
    real, *fakes = (torch.randn(2, 2, 4, 4, dtype=torch.float64) for _ in range(3))
    mixture = list(zip((0.25, 0.75), fakes, strict=True))

    def penalty() -> Tensor:
        torch.manual_seed(1)  # the same interpolates each time
        return gradient_penalty(critic, real, mixture)

    # The value: ∇D at each interpolate by central differences in every pixel.
    torch.manual_seed(1)
    step, expected = 1e-5, 0.0
    for weight, fake in mixture:
        epsilon = torch.rand(2, 1, 1, 1, dtype=torch.float64)
        for point in epsilon * real + (1 - epsilon) * fake:
            offsets = step * torch.eye(point.numel(), dtype=torch.float64).view(-1, *point.shape)
            with torch.no_grad():
                right, left = (critic(point + sign * offsets).flatten(1).mean(1) for sign in (1, -1))
            slopes = (right - left) / (2 * step)
            expected += weight / 2 * (slopes.norm().item() - 1) ** 2
    assert penalty().item() == pytest.approx(expected, rel=1e-7)

    # Its gradient in the critic's weights, along one random direction.
    parameters = [p for name, p in critic.named_parameters() if name != "2.bias"]
    gradients = torch.autograd.grad(penalty(), parameters)
    directions = [torch.randn_like(p) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True)).item()

    def shifted(by: float) -> float:
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.add_(d, alpha=by)
        value = penalty().item()
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.sub_(d, alpha=by)
        return value

    assert slope == pytest.approx((shifted(step) - shifted(-step)) / (2 * step), rel=1e-6)


def test_gradient_penalty_is_float32_under_autocast() -> None:
    critic = curved_critic().float()
    real, fake = torch.randn(2, 1, 2, 4, 4)
    torch.manual_seed(1)
    exact = gradient_penalty(critic, real, [(1.0, fake)])
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(1)
        penalty = gradient_penalty(critic, real, [(1.0, fake)])
    assert penalty.dtype == torch.float32
    torch.testing.assert_close(penalty, exact, rtol=0, atol=0)
