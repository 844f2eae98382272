"""Joint Wasserstein Distribution Matching (JWDM): two auto-encoders with one latent space.

Theorem 1 of the paper turns the Wasserstein distance between the joint distributions P_A(X, Y') and P_B(X', Y) into two
reconstruction losses under three constraints, P_X = Q_X, P_Y = Q_Y and P_Z = Q_Z (eq. 5). Each constraint becomes a
divergence with a critic of its own (eq. 6):

    min_F  R_x(F) + R_y(F) + λx d(P_X, Q_X) + λy d(P_Y, Q_Y) + λz d(P_Z, Q_Z),      F = {E1, E2, G1, G2}

The paper's letters in this file: E1, G1, Dx are ``encoders["x"]``, ``decoders["x"]``, ``critics["x"]``; E2, G2, Dy
those of ``"y"``; Dz is ``critics["latent"]``. Supplementary material: eqs. (19), (20) and Tables 4, 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jdm_fast.errors import UserError
from jdm_fast.methods._config import is_integer, is_number, require
from jdm_fast.methods.divergences import DIVERGENCES, Mixture, full_precision, gradient_penalty
from jdm_fast.methods.lanes import side_by_side
from jdm_fast.methods.noise import normal_like
from jdm_fast.methods.protocol import Batch, Terms
from jdm_fast.networks.autoencoder import SIZE_MULTIPLE, Decoder, Encoder, minimum_side
from jdm_fast.networks.critics import Critic, LatentCritic, PixelLatentCritic
from jdm_fast.networks.initialize import initialize_weights

DivergenceName = Literal["gan", "lsgan", "hinge", "wgan-gp", "mmd"]
LatentActivation = Literal["relu", "none"]
LatentCriticKind = Literal["patch", "pixel"]
Init = Literal["normal", "default"]


@dataclass(frozen=True)
class JWDMConfig:
    """Networks and objective of JWDM. The defaults are the paper's; each field says where its default comes from.

    Raises:
        UserError: a field has a value it cannot have; the message names field, expectation and value.
    """

    channels: int = 3
    """Channels of the images of both domains (paper: 3)."""
    width: int = 64
    """Channels after the auto-encoders' first convolution; the bottleneck has four times as many (paper: 64)."""
    blocks: int = 6
    """Residual blocks in each encoder and in each decoder (paper, Table 4: 6)."""
    residual_convs: int = 2
    """Convolutions in a residual block: 2 (authors' other code) or 1 (Table 4 read literally)."""
    latent_channels: int | None = None
    """Channels of the latent, N_z (paper: 256); unset, 4 * width, which is the paper's 256 at width 64."""
    embedding_kernel: int = 8
    """Side of the embedding layer's kernel (paper: 8; for small images 1 to 4). Images need sides of 4 * (this + 1)."""
    latent_activation: LatentActivation = "relu"
    """Ends the encoder: relu (paper, Table 4), with the prior max(0, N(0, I)), or none, with N(0, I) (ours)."""
    critic_width: int = 64
    """Channels after a critic's first convolution (paper, Table 5: 64)."""
    critic_layers: int = 6
    """Stride-2 convolutions in an image critic (paper, Table 5: 6). Images need sides of 2^critic_layers."""
    critic_max_width: int = 2048
    """A critic's channels double with each layer up to this (paper, Table 5: 2048)."""
    negative_slope: float = 0.01
    """Slope of the critics' LeakyReLU (authors' other code: 0.01)."""
    latent_critic: LatentCriticKind = "patch"
    """Critic of the latent (ours; the paper gives none): patch sees neighbourhoods, pixel each position alone."""
    divergence: DivergenceName = "gan"
    """The divergence d of eq. (6) (paper: the original GAN, non-saturating as in CycleGAN; the others are ours)."""
    reconstruction_weight: float = 1.0
    """Weight of the auto-encoder terms of eq. (7) (paper: 1)."""
    cycle_weight: float = 1.0
    """Weight of the cycle terms of eq. (7) (paper: 1)."""
    lambda_x: float = 0.1
    """Weight of d(P_X, Q_X) in eq. (6) (paper: 0.1)."""
    lambda_y: float = 0.1
    """Weight of d(P_Y, Q_Y) in eq. (6) (paper: 0.1)."""
    lambda_z: float = 0.1
    """Weight of d(P_Z, Q_Z) in eq. (6) (paper: 0.1, Table 3)."""
    cycle_fake_weight: float = 0.5
    """λ of eqs. (19), (20): the share of cycles among the fakes (ours; paper: in (0, 1)). 0 is CycleGAN's."""
    identity_weight: float = 0.0
    """Weight of G2(E1(y)) ≈ y and G1(E2(x)) ≈ x (ours, after CycleGAN; off). It stops inverted colours."""
    gradient_penalty_weight: float = 10.0
    """Weight of the gradient penalty of the divergences wgan-gp and mmd (WGAN-GP paper: 10)."""
    init: Init = "normal"
    """Initial weights: normal, N(0, init_std) (CycleGAN, as the paper), or default, PyTorch's own (ours)."""
    init_std: float = 0.02
    """Standard deviation of init=normal (CycleGAN: 0.02)."""

    def __post_init__(self) -> None:
        for name in ("channels", "width", "embedding_kernel", "critic_width", "critic_layers", "critic_max_width"):
            self._require(name, is_integer(getattr(self, name), 1), "an integer of at least 1")
        self._require("blocks", is_integer(self.blocks, 0), "an integer of at least 0")
        self._require("residual_convs", self.residual_convs in (1, 2), "1 or 2")
        self._require(
            "latent_channels",
            self.latent_channels is None or is_integer(self.latent_channels, 1),
            "an integer of at least 1, or None for 4 * width",
        )
        for name, choices in (
            ("latent_activation", LatentActivation),
            ("latent_critic", LatentCriticKind),
            ("divergence", DivergenceName),
            ("init", Init),
        ):
            self._require(name, getattr(self, name) in get_args(choices), f"one of {', '.join(get_args(choices))}")
        for field in fields(self):
            if isinstance(field.default, float):
                self._require(field.name, is_number(getattr(self, field.name)), "a finite number of at least 0")
        self._require("cycle_fake_weight", self.cycle_fake_weight <= 1, "a number between 0 and 1")

    def _require(self, name: str, condition: bool, expected: str) -> None:
        require(name, condition, expected, getattr(self, name))


class JWDM(nn.Module):
    """The networks of JWDM and its objective; the interface is :class:`jdm_fast.methods.protocol.Method`.

    Attributes:
        config: what it was built from.
        domains: ``("x", "y")``.
        encoders, decoders: by domain, :class:`Encoder` and :class:`Decoder`.
        critics: :class:`Critic` of ``"x"`` and ``"y"``, :class:`LatentCritic` or
            :class:`PixelLatentCritic` of ``"latent"``.
        size_multiple: :meth:`encode` and :meth:`translate` take images whose sides are multiples of this,
        minimum_size: and at least this. Training may need larger ones for the critics: :meth:`check_size`.
    """

    domains: tuple[str, ...] = ("x", "y")

    def __init__(self, config: JWDMConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or JWDMConfig()
        shape = (c.channels, c.width, c.blocks, c.residual_convs, c.latent_channels, c.embedding_kernel)
        self.encoders = nn.ModuleDict({name: Encoder(*shape, c.latent_activation) for name in self.domains})
        self.decoders = nn.ModuleDict({name: Decoder(*shape) for name in self.domains})
        image = (c.channels, c.critic_width, c.critic_layers, c.critic_max_width, c.negative_slope)
        channels = c.latent_channels or 4 * c.width
        if c.latent_critic == "pixel":
            latent: nn.Module = PixelLatentCritic(channels, c.negative_slope)
        else:
            latent = LatentCritic(channels, c.critic_width, c.critic_max_width, c.negative_slope)
        self.critics = nn.ModuleDict({"x": Critic(*image), "y": Critic(*image), "latent": latent})
        initialize_weights(self, c.init, c.init_std)
        self.divergence = DIVERGENCES[c.divergence]
        self.size_multiple = SIZE_MULTIPLE
        self.minimum_size = minimum_side(c.embedding_kernel)

    @property
    def pooled(self) -> tuple[str, ...]:
        """Image fakes the critics see, which the trainer may pass through its image pool before the critic update."""
        return tuple(name for domain in self.domains for _, name in self._fake_names(domain))

    def generator_parameters(self) -> list[nn.Parameter]:
        """Parameters of E1, E2, G1 and G2."""
        return [*self.encoders.parameters(), *self.decoders.parameters()]

    def critic_parameters(self) -> list[nn.Parameter]:
        """Parameters of Dx, Dy and Dz."""
        return list(self.critics.parameters())

    def regions(self) -> list[nn.Module]:
        """E1, E2, G1, G2; and the critics, unless a gradient penalty differentiates through them twice."""
        twice = self.divergence.penalised and self.config.gradient_penalty_weight > 0
        return [*self.encoders.values(), *self.decoders.values(), *([] if twice else self.critics.values())]

    def check_size(self, height: int, width: int) -> None:
        """Raise :class:`UserError` if the model cannot be trained on images of ``height`` x ``width``."""
        for_critics = 2**self.config.critic_layers
        reasons = {
            f"method.embedding_kernel={self.config.embedding_kernel}": self.minimum_size,
            f"method.critic_layers={self.config.critic_layers}": for_critics,
        }
        self._check_sides(height, width, reasons)

    # ---- Algorithm 1 ------------------------------------------------------------------------------------------------

    def generate(self, batch: Batch) -> Batch:
        """One forward pass of E1, E2, G1 and G2 for both updates: the generators do not change between them.

        Each network is called twice, the least the cycles allow: instance norm works on each sample alone, so several
        batches can go through one call and come out as they would one by one.

        Args:
            batch: ``x`` and ``y``, both [N, channels, H, W] in [-1, 1].

        Returns:
            ``latent_x`` = E1(x), ``latent_y`` = E2(y), [N, latent_channels, h, w]; and images shaped as ``x``:
            ``reconstruction_x`` = G1(E1(x)), ``translation_x`` = G1(E2(y)), ``cycle_x`` = G1(E2(G2(E1(x)))), the same
            for y; with an ``identity_weight`` also ``identity_x`` = G1(E2(x)) and ``identity_y`` = G2(E1(y)).

        Raises:
            ValueError: ``x`` and ``y`` differ in shape.
            UserError: their size does not fit the networks.
        """
        x, y = batch["x"], batch["y"]
        if x.shape != y.shape:
            raise ValueError(f"batch: x and y must have the same shape, got {list(x.shape)} and {list(y.shape)}")
        self.check_size(*x.shape[-2:])
        E1, E2 = self.encoders["x"], self.encoders["y"]
        G1, G2 = self.decoders["x"], self.decoders["y"]
        n = len(x)
        identity: Batch = {}
        if self.config.identity_weight > 0:
            z = side_by_side({"x": (E1, (torch.cat([x, y]),)), "y": (E2, (torch.cat([y, x]),))})
            z1, z1_of_y = z["x"].split(n)
            z2, z2_of_x = z["y"].split(n)
            for_x, for_y = torch.cat([z1, z2, z2_of_x]), torch.cat([z1, z2, z1_of_y])
            made = side_by_side({"x": (G1, (for_x,)), "y": (G2, (for_y,))})
            reconstruction_x, translation_x, identity["identity_x"] = made["x"].split(n)
            translation_y, reconstruction_y, identity["identity_y"] = made["y"].split(n)
        else:
            z = side_by_side({"x": (E1, (x,)), "y": (E2, (y,))})
            z1, z2 = z["x"], z["y"]
            latents = torch.cat([z1, z2])
            made = side_by_side({"x": (G1, (latents,)), "y": (G2, (latents,))})
            reconstruction_x, translation_x = made["x"].split(n)
            translation_y, reconstruction_y = made["y"].split(n)
        # Each network keeps to its lane, see jdm_fast.methods.lanes.
        again = side_by_side({"y": (E2, (translation_y,)), "x": (E1, (translation_x,))})
        cycle = side_by_side({"x": (G1, (again["y"],)), "y": (G2, (again["x"],))})
        return {
            "latent_x": z1,
            "latent_y": z2,
            "reconstruction_x": reconstruction_x,
            "reconstruction_y": reconstruction_y,
            "translation_x": translation_x,
            "translation_y": translation_y,
            "cycle_x": cycle["x"],
            "cycle_y": cycle["y"],
            **identity,
        }

    def critic_loss(self, batch: Batch, fakes: Batch) -> tuple[Tensor, Terms]:
        """First line of Algorithm 1, its sign turned: -(λx d(P_X, Q_X) + λy d(P_Y, Q_Y) + λz d(P_Z, Q_Z)).

        The divergences are those of eqs. (8), (19), (20). Each critic is called once, on its real and generated samples
        together, and once more for a gradient penalty.

        Args:
            batch: as for :meth:`generate`.
            fakes: what :meth:`generate` returned, detached; images named in ``pooled`` may be older ones.

        Returns:
            The loss, and the terms ``critic_x``, ``critic_y``, ``critic_latent`` (and ``gradient_penalty_…``) without
            their weights.
        """
        weights = self._divergence_weights()
        parts = side_by_side({name: (self._critic_part, (name, batch, fakes)) for name in weights})
        total: Tensor | float = 0.0
        terms: Terms = {}
        for name, weight in weights.items():
            loss, own_terms = parts[name]
            terms.update(own_terms)
            total = total + weight * loss
        return total, terms

    def _critic_part(self, name: str, batch: Batch, fakes: Batch) -> tuple[Tensor, Terms]:
        """The loss of one critic, unweighted, and its terms."""
        critic, real, mixtures = self.critics[name], self._real(name, batch, fakes), self._generated(name, fakes)
        real_logits, fake_logits = _logits(critic, real, mixtures)
        loss = torch.stack([self.divergence.critic_loss(real_logits, logits) for logits in fake_logits]).sum()
        terms = {f"critic_{name}": loss.detach()}
        if self.divergence.penalised and self.config.gradient_penalty_weight > 0:
            penalty = gradient_penalty(critic, real, [part for mixture in mixtures for part in mixture])
            terms[f"gradient_penalty_{name}"] = penalty.detach()
            loss = loss + self.config.gradient_penalty_weight * penalty
        return loss, terms

    def generator_loss(self, batch: Batch, fakes: Batch) -> tuple[Tensor, Terms]:
        """Second line of Algorithm 1: eq. (6), with R_x and R_y of eq. (7) and the divergences of eqs. (19) and (20).

        The L1 norm is the mean over elements. The critics should be frozen (``requires_grad_(False)``), see the
        protocol.

        Args:
            batch: as for :meth:`generate`.
            fakes: what :meth:`generate` returned, with its graph.

        Returns:
            The loss, and the terms ``reconstruction_…``, ``cycle_…``, ``identity_…`` (of x and y) and ``adversarial_…``
            (of x, y and latent) without their weights.
        """
        c = self.config
        weights = {"reconstruction": c.reconstruction_weight, "cycle": c.cycle_weight, "identity": c.identity_weight}
        total: Tensor | float = 0.0
        terms: Terms = {}
        for kind, weight in weights.items():
            for domain in self.domains:
                name = f"{kind}_{domain}"
                if name in fakes:
                    distance = F.l1_loss(full_precision(fakes[name]), full_precision(batch[domain]))
                    terms[name] = distance.detach()
                    total = total + weight * distance
        divergence_weights = self._divergence_weights()
        parts = side_by_side({name: (self._adversarial_part, (name, batch, fakes)) for name in divergence_weights})
        for name, weight in divergence_weights.items():
            terms[f"adversarial_{name}"] = parts[name].detach()
            total = total + weight * parts[name]
        return total, terms

    def _adversarial_part(self, name: str, batch: Batch, fakes: Batch) -> Tensor:
        """The generators' loss against one critic, unweighted."""
        real = self._real(name, batch, fakes) if self.divergence.generator_needs_real else None
        real_logits, fake_logits = _logits(self.critics[name], real, self._generated(name, fakes))
        return torch.stack([self.divergence.generator_loss(logits, real_logits) for logits in fake_logits]).sum()

    def sample_prior(self, like: Tensor) -> Tensor:
        """A sample of P_Z shaped as the latent ``like``: max(0, N(0, I)) if latents end in a ReLU, else N(0, I)."""
        noise = normal_like(like)
        return noise.relu() if self.config.latent_activation == "relu" else noise

    def _divergence_weights(self) -> dict[str, float]:
        """λx, λy and λz of eq. (6), by critic."""
        return {"x": self.config.lambda_x, "y": self.config.lambda_y, "latent": self.config.lambda_z}

    def _fake_names(self, domain: str) -> list[tuple[float, str]]:
        """Q of eqs. (19), (20): cycle reconstructions with weight λ, translations with 1 - λ, no parts of weight 0.

        (The third term of both equations is printed without its log; eq. (8) has it.)
        """
        share = self.config.cycle_fake_weight
        parts = [(share, f"cycle_{domain}"), (1 - share, f"translation_{domain}")]
        return [(weight, name) for weight, name in parts if weight > 0]

    def _generated(self, name: str, fakes: Batch) -> list[Mixture]:
        """Samples of Q for critic ``name``. The latent has two, since d(P_Z, Q_Z) is d(P_Z, Q_Z1) + d(P_Z, Q_Z2)."""
        if name == "latent":
            return [[(1.0, fakes["latent_x"])], [(1.0, fakes["latent_y"])]]
        return [[(weight, fakes[fake]) for weight, fake in self._fake_names(name)]]

    def _real(self, name: str, batch: Batch, fakes: Batch) -> Tensor:
        """Samples of P for critic ``name``."""
        return self.sample_prior(fakes["latent_x"]) if name == "latent" else batch[name]

    # ---- After training ---------------------------------------------------------------------------------------------

    def encode(self, images: Tensor, domain: str) -> Tensor:
        """Latents [N, latent_channels, h, w] of ``images`` [N, channels, H, W] in [-1, 1] of ``domain``."""
        encoder = self.encoders[self._domain(domain)]
        height, width = images.shape[-2:]
        self._check_sides(height, width, {f"method.embedding_kernel={self.config.embedding_kernel}": self.minimum_size})
        return encoder(images)

    def decode(self, latent: Tensor, domain: str) -> Tensor:
        """Images [N, channels, H, W] in [-1, 1] of ``domain`` from latents of either domain."""
        return self.decoders[self._domain(domain)](latent)

    def expand(self, latent: Tensor, domain: str) -> Tensor:
        """The linear first layer of ``domain``'s decoder alone, for :meth:`decode_between`: [T, channels, h, w]."""
        return self.decoders[self._domain(domain)].expand(latent)

    def decode_between(self, feature: Tensor, positions: int | Sequence[float] | Tensor, domain: str) -> Tensor:
        """Images [F, channels, H, W] of ``domain`` between key frames, Algorithm 2 with the first layer done once.

        Args:
            feature: [T, channels, h, w], :meth:`expand` of the key frames' latents, in time order, for this domain.
            positions: of the F images, from 0 (the first key frame) to T - 1; or an int n for 0, 1/n, ... T - 1
                (:func:`jdm_fast.ops.interpolate_instance_norm`).
        """
        return self.decoders[self._domain(domain)].decode_between(feature, positions)

    def translate(self, images: Tensor, to: str, source: str | None = None) -> Tensor:
        """``images`` [N, channels, H, W] of ``source`` (unset: the other domain) as images of ``to``, eq. (9)."""
        if source is None:
            source = "y" if self._domain(to) == "x" else "x"
        return self.decode(self.encode(images, source), to)

    def _domain(self, domain: str) -> str:
        if domain not in self.domains:
            raise ValueError(f"domain: expected one of {', '.join(self.domains)}, got {domain!r}")
        return domain

    def _check_sides(self, height: int, width: int, minima: dict[str, int]) -> None:
        multiple, minimum = self.size_multiple, max(minima.values())
        if height % multiple == 0 and width % multiple == 0 and min(height, width) >= minimum:
            return
        because = ", ".join(f"{field} needs {side}" for field, side in minima.items())
        field = max(minima, key=minima.__getitem__).split("=")[0]
        raise UserError(
            f"images of height {height} and width {width} do not fit the networks: both must be multiples of {multiple}"
            f" and at least {minimum} ({because}). Use images or crops of that size, or a model with a smaller {field}"
        )


def _logits(critic: nn.Module, real: Tensor | None, mixtures: Sequence[Mixture]) -> tuple[Tensor | None, list[Mixture]]:
    """The critic's logits of all samples, from one call, in the shape its samples came in."""
    samples = [] if real is None else [real]
    samples += [sample for mixture in mixtures for _, sample in mixture]
    logits = iter(critic(torch.cat(samples)).split([len(sample) for sample in samples]))
    real_logits = None if real is None else next(logits)
    return real_logits, [[(weight, next(logits)) for weight, _ in mixture] for mixture in mixtures]
