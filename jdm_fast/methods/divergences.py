"""Divergences between a real distribution P and a generated one Q, estimated by a critic D (JWDM eqs. 6, 8, 19, 20).

Q is a mixture, as in eqs. (19) and (20): a sequence of ``(weight, logits)`` pairs whose weights sum to one, for example
``[(λ, D(cycle)), (1 - λ, D(translation))]``; written Σ_i w_i Q_i below. Every logit of a critic's map is one sample, so
all of this works at batch size 1. Losses are to be minimised: ``critic_loss`` is the divergence with its sign turned,
since the critic ascends. They are computed in float32 (float64 for float64 logits), whatever autocast makes of the
networks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from jdm_fast.methods.noise import uniform

Mixture = Sequence[tuple[float, Tensor]]
"""(weight, samples or logits) pairs; the weights sum to one."""


def full_precision(value: Tensor) -> Tensor:
    """``value`` in float32, or as it is if it is float64."""
    return value if value.dtype == torch.float64 else value.float()


class Divergence(ABC):
    """One divergence d(P, Q), as the losses of the two players.

    Attributes:
        penalised: the critic's loss needs :func:`gradient_penalty` beside it.
        generator_needs_real: :meth:`generator_loss` must be given the critic's logits of real samples.
    """

    penalised: bool = False
    generator_needs_real: bool = False

    @abstractmethod
    def critic_loss(self, real: Tensor, fakes: Mixture) -> Tensor:
        """What the critic minimises: a scalar from the logits of real samples and of each part of Q."""

    @abstractmethod
    def generator_loss(self, fakes: Mixture, real: Tensor | None = None) -> Tensor:
        """What the generators minimise: a scalar from the logits of each part of Q."""


class ExpectationDivergence(Divergence):
    """Divergences whose losses are expectations of a function of one logit, so that a mixture is a weighted sum:

    critic     E_P[real_term(D)] + Σ_i w_i E_Qi[fake_term(D)]
    generator  Σ_i w_i E_Qi[generator_term(D)]
    """

    @abstractmethod
    def real_term(self, logits: Tensor) -> Tensor:
        """The critic's loss for each real logit."""

    @abstractmethod
    def fake_term(self, logits: Tensor) -> Tensor:
        """The critic's loss for each generated logit."""

    @abstractmethod
    def generator_term(self, logits: Tensor) -> Tensor:
        """The generators' loss for each generated logit."""

    def critic_loss(self, real: Tensor, fakes: Mixture) -> Tensor:
        loss = self.real_term(full_precision(real)).mean()
        for weight, logits in fakes:
            loss = loss + weight * self.fake_term(full_precision(logits)).mean()
        return loss

    def generator_loss(self, fakes: Mixture, real: Tensor | None = None) -> Tensor:
        terms = [weight * self.generator_term(full_precision(logits)).mean() for weight, logits in fakes]
        return torch.stack(terms).sum()


class GAN(ExpectationDivergence):
    """The original GAN, eq. (8), with s the sigmoid: d = max_D E_P[log s(D)] + E_Q[log(1 - s(D))].

    The critic minimises -d. The generators maximise E_Q[log s(D)], the non-saturating form of the same game, which is
    what CycleGAN's code (whose settings the paper follows) does. log s(t) = -softplus(-t), log(1 - s(t)) =
    -softplus(t).
    """

    def real_term(self, logits: Tensor) -> Tensor:
        return F.softplus(-logits)

    def fake_term(self, logits: Tensor) -> Tensor:
        return F.softplus(logits)

    def generator_term(self, logits: Tensor) -> Tensor:
        return F.softplus(-logits)


class LeastSquares(ExpectationDivergence):
    """Least squares (Mao et al. 2017), scaled as in CycleGAN's code.

    critic E_P[(D - 1)²] + E_Q[D²], generators E_Q[(D - 1)²].
    """

    def real_term(self, logits: Tensor) -> Tensor:
        return (logits - 1).square()

    def fake_term(self, logits: Tensor) -> Tensor:
        return logits.square()

    def generator_term(self, logits: Tensor) -> Tensor:
        return (logits - 1).square()


class Hinge(ExpectationDivergence):
    """The hinge loss (Lim & Ye 2017): critic E_P[max(0, 1 - D)] + E_Q[max(0, 1 + D)], generators -E_Q[D]."""

    def real_term(self, logits: Tensor) -> Tensor:
        return F.relu(1 - logits)

    def fake_term(self, logits: Tensor) -> Tensor:
        return F.relu(1 + logits)

    def generator_term(self, logits: Tensor) -> Tensor:
        return -logits


class WassersteinGP(ExpectationDivergence):
    """Wasserstein-1 with a gradient penalty (Gulrajani et al. 2017): d = max_{|D|_Lip ≤ 1} E_P[D] - E_Q[D].

    Critic E_Q[D] - E_P[D] beside :func:`gradient_penalty`, generators -E_Q[D].
    """

    penalised = True

    def real_term(self, logits: Tensor) -> Tensor:
        return -logits

    def fake_term(self, logits: Tensor) -> Tensor:
        return logits

    def generator_term(self, logits: Tensor) -> Tensor:
        return -logits


class MMD(Divergence):
    """Maximum mean discrepancy on the critic's logits, the adversarial kernel of Li et al. 2017 ("MMD GAN"):

    d = max_D MMD²(D(P), D(Q)),  MMD² = E k(p, p') - 2 Σ_i w_i E k(p, q_i) + Σ_ij w_i w_j E k(q_i, q_j')

    with k(a, b) the mean of exp(-(a - b)² / 2σ²) over σ in ``bandwidths`` (theirs). It is the biased estimate (also
    theirs): never negative, zero when both samples are the same, defined even for one logit. The samples are the single
    logits of all maps. Above ``block`` of them, the estimate is the mean over blocks that each hold every n-th logit,
    so that time and memory stay linear in the size of the map. The gradient penalty keeps the critic from leaving the
    kernel's range.
    """

    penalised = True
    generator_needs_real = True

    def __init__(self, bandwidths: Sequence[float] = (1.0, 2.0, 4.0, 8.0, 16.0), block: int = 256) -> None:
        self.bandwidths = tuple(bandwidths)
        self.block = block

    def critic_loss(self, real: Tensor, fakes: Mixture) -> Tensor:
        return -self.squared(real, fakes)

    def generator_loss(self, fakes: Mixture, real: Tensor | None = None) -> Tensor:
        if real is None:
            raise ValueError("real: MMD's generator loss needs the critic's logits of real samples, got None")
        return self.squared(real, fakes)

    def squared(self, real: Tensor, fakes: Mixture) -> Tensor:
        """MMD² between logits of any shape, a scalar."""
        # With signed shares, 1/n for each value of P and -w_i/n_i for each of Q_i, MMD² is one quadratic form.
        parts = [(1.0, real), *((-weight, logits) for weight, logits in fakes)]
        counts = [logits.numel() for _, logits in parts]
        blocks = min(-(-max(counts) // self.block), min(counts))
        values, shares = [], []
        for weight, logits in parts:
            value, valid = _every_nth(full_precision(logits).flatten(), blocks)
            values.append(value)
            shares.append(weight * valid / valid.sum(1, keepdim=True))
        value, share = torch.cat(values, dim=1), torch.cat(shares, dim=1)  # [blocks, samples]
        squared_distance = (value[:, :, None] - value[:, None, :]).square()
        kernel = sum(torch.exp(squared_distance / (-2 * sigma**2)) for sigma in self.bandwidths) / len(self.bandwidths)
        return (share[:, :, None] * kernel * share[:, None, :]).sum() / blocks


def _every_nth(values: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """``values`` [L] as n rows, each with every n-th of them, filled up with zeros; and a mask, 0 where filled up."""
    missing = -len(values) % n
    return F.pad(values, (0, missing)).view(-1, n).T, F.pad(torch.ones_like(values), (0, missing)).view(-1, n).T


DIVERGENCES: dict[str, Divergence] = {
    "gan": GAN(),
    "lsgan": LeastSquares(),
    "hinge": Hinge(),
    "wgan-gp": WassersteinGP(),
    "mmd": MMD(),
}
"""Every divergence by its name in a configuration."""


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fakes: Mixture) -> Tensor:
    """Σ_i w_i E[(‖∇ D(x̂_i)‖₂ - 1)²] with x̂_i = ε x + (1 - ε) x̃_i, ε ~ U(0, 1) for each sample (Gulrajani et al. 2017).

    D(x̂) is the mean of the critic's map, the function whose expectations the losses take. Computed in float32 outside
    autocast: the square of a small gradient has no room in half precision. The result can be differentiated in the
    critic's parameters.

    Args:
        critic: maps [N, ...] to logits [N, ...].
        real: samples of P, [N, C, H, W].
        fakes: ``(weight, samples)`` pairs, samples shaped as ``real``.
    """
    with torch.autocast(real.device.type, enabled=False):
        real = full_precision(real.detach())
        points, weights = [], []
        for weight, fake in fakes:
            epsilon = uniform((len(real), *[1] * (real.dim() - 1)), real)
            points.append(torch.lerp(full_precision(fake.detach()), real, epsilon))
            weights.append(real.new_full((len(real),), weight / len(real)))
        interpolates = torch.cat(points).requires_grad_(True)
        values = critic(interpolates).flatten(1).mean(1)
        (gradient,) = torch.autograd.grad(values.sum(), interpolates, create_graph=True)
        norms = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        return (torch.cat(weights) * (norms - 1).square()).sum()
