"""WGAN-GP (Gulrajani et al. 2017): the marginal of each domain, the first step of JointGAN's two-step baseline (§3.1).

A generator G makes images of noise; a critic D, held to be 1-Lipschitz by a penalty, measures how far they are:

    L = E_{x̃~P_g} [D(x̃)] - E_{x~P_r} [D(x)] + λ E_{x̂} [(‖∇_x̂ D(x̂)‖₂ - 1)²]      (eq. 3)

x̂ lies at a random place between a real and a generated image. D minimises L, G minimises -E[D(x̃)]. The domains share
neither parameters nor losses: training them in one run is training each alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from jdm_fast.data.dataset import LETTERS
from jdm_fast.errors import UserError
from jdm_fast.methods._config import is_integer, is_number, require
from jdm_fast.methods._inputs import require_known, require_sides
from jdm_fast.methods.divergences import DIVERGENCES, gradient_penalty
from jdm_fast.methods.lanes import side_by_side
from jdm_fast.methods.noise import normal
from jdm_fast.methods.protocol import Batch, Terms
from jdm_fast.networks.generators import ImageFromVectors
from jdm_fast.networks.initialize import initialize_weights
from jdm_fast.networks.patch_critic import PatchCritic

Init = Literal["normal", "default"]


@dataclass(frozen=True)
class WGANGPConfig:
    """Networks and objective of WGAN-GP; each field says where its default comes from.

    The paper's training has 5 updates of the critic for one of the generator and Adam with learning rate 1e-4 and
    betas (0, 0.9): settings of the trainer.

    Raises:
        UserError: a field has a value it cannot have; the message names field, expectation and value.
    """

    domains: int = 2
    """Number of domains, called x, y, z, …; each has a generator and a critic of its own."""
    channels: int = 3
    """Channels of the images (paper: 3)."""
    noise: int = 100
    """Numbers of noise, N(0, I) (JointGAN: 100; paper: 128)."""
    width: int = 64
    """Channels of a generator at full resolution (paper, DCGAN's: 64); they double with each level below."""
    depth: int = 8
    """log2 of the images' side: 8 for 256x256, 6 for 64 (paper). Sides must be multiples of 2^depth."""
    max_width: int = 512
    """A generator's channels double up to this (paper, DCGAN's: 512)."""
    critic_width: int = 64
    """Channels after the critic's first layer (paper, DCGAN's: 64)."""
    critic_layers: int | None = None
    """Stride-2 convolutions of the critic; unset, depth - 3: each logit then sees a whole image of 2^depth, as the
    paper's critic does. 3 for patches of 70x70."""
    critic_max_width: int = 512
    """The critic's channels double up to this (paper, DCGAN's: 512)."""
    gradient_penalty_weight: float = 10.0
    """λ of eq. (3) (paper: 10)."""
    init: Init = "default"
    """Initial weights: default, PyTorch's own (ours: a critic without norms begins next to zero with std 0.02), or
    normal, N(0, init_std)."""
    init_std: float = 0.02
    """Standard deviation of init=normal (DCGAN: 0.02)."""

    def __post_init__(self) -> None:
        fine = is_integer(self.domains, 1) and self.domains <= len(LETTERS)
        require("domains", fine, f"1 to {len(LETTERS)}", self.domains)
        require("depth", is_integer(self.depth, 2), "an integer of at least 2", self.depth)
        for name in ("channels", "noise", "width", "max_width", "critic_width", "critic_max_width"):
            require(name, is_integer(getattr(self, name), 1), "an integer of at least 1", getattr(self, name))
        require(
            "critic_layers",
            self.critic_layers is None or is_integer(self.critic_layers, 1),
            "an integer of at least 1, or None for depth - 3",
            self.critic_layers,
        )
        for name in ("gradient_penalty_weight", "init_std"):
            require(name, is_number(getattr(self, name)), "a finite number of at least 0", getattr(self, name))
        require("init", self.init in get_args(Init), f"one of {', '.join(get_args(Init))}", self.init)


class WGANGP(nn.Module):
    """A generator and a critic for each domain; the interface is :class:`jdm_fast.methods.protocol.Method`.

    It makes no translations, since it knows nothing of one domain given another.

    Attributes:
        config: what it was built from.
        domains, image_domains: the letters. vectors: none.
        generators: by domain, :class:`ImageFromVectors`.
        critics: by domain, :class:`PatchCritic` without norms, which would tie the samples of a penalty together
            (batch norm) or make the critic blind to contrast (instance norm).
        size_multiple, minimum_size: sides of images are multiples of the one and at least the other.
    """

    pooled: tuple[str, ...] = ()
    together: tuple[tuple[str, ...], ...] = ()

    def __init__(self, config: WGANGPConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or WGANGPConfig()
        self.domains = self.image_domains = tuple(LETTERS[: c.domains])
        self.vectors: dict[str, int] = {}
        self._critic_layers = c.critic_layers or max(1, c.depth - 3)
        self.generators = nn.ModuleDict(
            {name: ImageFromVectors(c.channels, c.width, c.depth, c.max_width, c.noise) for name in self.domains}
        )
        critic = (c.channels, 1, c.critic_width, self._critic_layers, c.critic_max_width, "none")
        self.critics = nn.ModuleDict({name: PatchCritic(*critic) for name in self.domains})
        initialize_weights(self, c.init, c.init_std)
        self.size_multiple = self.minimum_size = 2**c.depth
        self._divergence = DIVERGENCES["wgan-gp"]

    # ---- What the trainer asks for ----------------------------------------------------------------------------------

    def generator_parameters(self) -> list[nn.Parameter]:
        """Parameters of all generators."""
        return list(self.generators.parameters())

    def critic_parameters(self) -> list[nn.Parameter]:
        """Parameters of all critics."""
        return list(self.critics.parameters())

    def regions(self) -> list[nn.Module]:
        """The generators; and the critics, unless the penalty differentiates through them twice."""
        return [*self.generators.values(), *([] if self.config.gradient_penalty_weight > 0 else self.critics.values())]

    def check_size(self, height: int, width: int) -> None:
        """Raise :class:`UserError` if the model cannot be trained on images of ``height`` x ``width``."""
        require_sides(height, width, self.config.depth, self._critic_layers)

    def generate(self, batch: Batch) -> Batch:
        """As many samples of each domain as the batch has images of it, in one call of its generator.

        Args:
            batch: images [N, channels, H, W] in [-1, 1] of every domain. Where a domain belongs to several pairs of the
                data, under ``y_xy`` and ``y_yz``: both are samples of its marginal.

        Returns:
            ``sample_x``, ``sample_y`` …, shaped as the images.
        """
        noise = {}
        for name in self.domains:
            real = self._real(batch, name)
            self.check_size(*real.shape[-2:])
            noise[name] = normal(self._noise_shape(len(real), *real.shape[-2:]), real)
        made = side_by_side({name: (self.generators[name], (noise[name],)) for name in self.domains})
        return {f"sample_{name}": made[name] for name in self.domains}

    def critic_loss(self, batch: Batch, fakes: Batch) -> tuple[Tensor, Terms]:
        """L of eq. (3), summed over the domains. Each critic is called once, on its real and generated images together,
        and once more for its penalty.

        Args:
            batch: as for :meth:`generate`.
            fakes: what :meth:`generate` returned, detached.

        Returns:
            The loss, and the terms ``critic_x``, ``gradient_penalty_x`` … without their weights.
        """
        parts = side_by_side(
            {
                name: (self._critic_part, (name, self._real(batch, name), fakes[f"sample_{name}"]))
                for name in self.domains
            }
        )
        terms: Terms = {}
        for _, own in parts.values():
            terms.update(own)
        return torch.stack([loss for loss, _ in parts.values()]).sum(), terms

    def _critic_part(self, name: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Terms]:
        critic, weight = self.critics[name], self.config.gradient_penalty_weight
        of_real, of_fake = critic(torch.cat([real, fake])).split([len(real), len(fake)])
        loss = self._divergence.critic_loss(of_real, [(1.0, of_fake)])
        terms = {f"critic_{name}": loss.detach()}
        if weight > 0:
            penalty = gradient_penalty(critic, real, [(1.0, fake)])
            terms[f"gradient_penalty_{name}"] = penalty.detach()
            loss = loss + weight * penalty
        return loss, terms

    def generator_loss(self, batch: Batch, fakes: Batch) -> tuple[Tensor, Terms]:
        """-E[D(x̃)], summed over the domains.

        Args:
            batch: not used.
            fakes: what :meth:`generate` returned, with its graph.

        Returns:
            The loss, and the terms ``adversarial_x`` ….
        """
        logits = side_by_side({name: (self.critics[name], (fakes[f"sample_{name}"],)) for name in self.domains})
        losses = {name: self._divergence.generator_loss([(1.0, logits[name])]) for name in self.domains}
        terms = {f"adversarial_{name}": loss.detach() for name, loss in losses.items()}
        return torch.stack(list(losses.values())).sum(), terms

    def _real(self, batch: Batch, name: str) -> Tensor:
        found = [value for key, value in batch.items() if key == name or key.startswith(f"{name}_")]
        if not found:
            raise ValueError(f"batch: expected images of {name}, got the keys {', '.join(batch)}")
        return torch.cat(found) if len(found) > 1 else found[0]

    def _noise_shape(self, count: int, height: int, width: int) -> tuple[int, int, int, int]:
        return count, self.config.noise, height // self.size_multiple, width // self.size_multiple

    # ---- After training ---------------------------------------------------------------------------------------------

    def sample_noise(
        self, count: int, size: tuple[int, int] | None = None, generator: torch.Generator | None = None
    ) -> Batch:
        """N(0, I) for each domain, on the method's device; drawn on that of ``generator``, or on the CPU.

        Args:
            count: number of samples N. size: height and width of the images; by default the smallest, 2^depth.
            generator: to draw from.

        Returns:
            By domain, [N, noise, H / 2^depth, W / 2^depth].
        """
        height, width = size or (self.minimum_size, self.minimum_size)
        require_sides(height, width, self.config.depth)
        device = next(self.parameters()).device
        where = generator.device if generator is not None else torch.device("cpu")
        shape = self._noise_shape(count, height, width)
        return {name: torch.randn(shape, generator=generator, device=where).to(device) for name in self.domains}

    def marginal(self, domain: str, noise: Tensor) -> Tensor:
        """Images [N, channels, H, W] in [-1, 1] of a domain, made of ``noise`` [N, noise, H / 2^depth, W / 2^depth]."""
        require_known([domain], self.domains)
        return self.generators[domain](noise)

    def sample(
        self, noise: Batch, given: Batch | None = None, order: str | None = None, only: str | None = None
    ) -> Batch:
        """Images of each domain or of ``only`` one, drawn apart: they have nothing to do with each other.

        Args:
            noise: from :meth:`sample_noise`. given: nothing. order: changes nothing. only: a domain.

        Raises:
            UserError: ``only`` is unknown, or a domain is ``given``, from which nothing follows for the others.
        """
        if given:
            raise UserError(
                f"{', '.join(given)} cannot be given: wgan-gp has the marginal of each domain alone. Use it with "
                "pix2pix or cyclegan as a TwoStep, or jointgan"
            )
        require_known([] if only is None else [only], self.domains)
        return {name: self.marginal(name, noise[name]) for name in (self.domains if only is None else (only,))}
