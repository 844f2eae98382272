"""What pix2pix and CycleGAN have in common: a U-net each way between two domains, and a critic of each result."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from jdm_fast.errors import UserError
from jdm_fast.methods._config import is_integer, is_number, require
from jdm_fast.methods._inputs import require_known, require_sides
from jdm_fast.methods.divergences import ExpectationDivergence
from jdm_fast.methods.lanes import side_by_side
from jdm_fast.methods.protocol import Batch, Terms
from jdm_fast.networks.patch_critic import PatchCritic
from jdm_fast.networks.unet import UNet

Init = Literal["normal", "default"]
OTHER = {"x": "y", "y": "x"}
"""The domain that a domain is made of."""


@dataclass(frozen=True)
class TranslatorConfig:
    """Networks of pix2pix and CycleGAN's code (one repository, where a default is said to be "theirs").

    Raises:
        UserError: a field has a value it cannot have; the message names field, expectation and value.
    """

    channels: int = 3
    """Channels of the images of both domains (theirs: 3)."""
    width: int = 64
    """Channels after a U-net's first convolution (theirs: 64)."""
    depth: int = 8
    """Stride-2 convolutions of a U-net: 8 for 256x256 (theirs), 7 for 128, 6 for 64, 5 for 32. Sides of images must be
    multiples of 2^depth."""
    max_width: int = 512
    """A U-net's channels double with each level up to this (theirs: 512)."""
    critic_width: int = 64
    """Channels after the critics' first layer (theirs: 64)."""
    critic_layers: int = 3
    """Stride-2 convolutions of the critics: 3 for patches of 70x70 (both papers), 2 for 34x34, 1 for 16x16."""
    critic_max_width: int = 512
    """The critics' channels double up to this (theirs: 512)."""
    init: Init = "normal"
    """Initial weights: normal, N(0, init_std) (both papers), or default, PyTorch's own (ours)."""
    init_std: float = 0.02
    """Standard deviation of init=normal (both papers: 0.02)."""

    def __post_init__(self) -> None:
        require("depth", is_integer(self.depth, 2), "an integer of at least 2", self.depth)
        for name in ("channels", "width", "max_width", "critic_width", "critic_layers", "critic_max_width"):
            require(name, is_integer(getattr(self, name), 1), "an integer of at least 1", getattr(self, name))
        require("init", self.init in get_args(Init), f"one of {', '.join(get_args(Init))}", self.init)
        require("init_std", is_number(self.init_std), "a finite number of at least 0", self.init_std)


class Translators(nn.Module):
    """Two U-nets and two critics.

    Args:
        config: of the networks. critic_inputs: images that a critic sees stacked on the channels.
        divergence: between what a critic takes for real and for generated.

    Attributes:
        config: as given. domains, image_domains: x and y. vectors: none.
        generators: by the domain that they make, :class:`UNet`. critics: by the same domain, :class:`PatchCritic`.
        size_multiple, minimum_size: sides of images are multiples of the one and at least the other.
    """

    domains: tuple[str, ...] = ("x", "y")
    image_domains: tuple[str, ...] = ("x", "y")

    def __init__(self, config: TranslatorConfig, critic_inputs: int, divergence: ExpectationDivergence) -> None:
        super().__init__()
        self.config = c = config
        self.vectors: dict[str, int] = {}
        unet = (c.channels, c.channels, c.width, c.depth, c.max_width)
        critic = (critic_inputs * c.channels, 1, c.critic_width, c.critic_layers, c.critic_max_width)
        self.generators = nn.ModuleDict({name: UNet(*unet) for name in self.domains})
        self.critics = nn.ModuleDict({name: PatchCritic(*critic) for name in self.domains})
        self._divergence = divergence
        self.size_multiple = self.minimum_size = 2**c.depth

    # ---- What the trainer asks for ----------------------------------------------------------------------------------

    def generator_parameters(self) -> list[nn.Parameter]:
        """Parameters of both U-nets."""
        return list(self.generators.parameters())

    def critic_parameters(self) -> list[nn.Parameter]:
        """Parameters of both critics."""
        return list(self.critics.parameters())

    def regions(self) -> list[nn.Module]:
        """The U-nets and the critics."""
        return [*self.generators.values(), *self.critics.values()]

    def check_size(self, height: int, width: int) -> None:
        """Raise :class:`UserError` if the model cannot be trained on images of ``height`` x ``width``."""
        require_sides(height, width, self.config.depth, self.config.critic_layers)

    def _pair(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """x and y of a batch. ValueError if they differ in shape, UserError if they do not fit the networks."""
        x, y = batch["x"], batch["y"]
        if x.shape != y.shape:
            raise ValueError(f"batch: x and y must have the same shape, got {list(x.shape)} and {list(y.shape)}")
        self.check_size(*x.shape[-2:])
        return x, y

    def _shown(self, name: str, images: Tensor, batch: Batch) -> Tensor:
        """What a critic sees of ``images`` of its domain."""
        return images

    def critic_loss(self, batch: Batch, fakes: Batch) -> tuple[Tensor, Terms]:
        """Half of what the critics minimise: both papers divide their objective by 2, so that they learn more slowly
        than the generators. Each critic is called once, on real and generated images together.

        Args:
            batch: ``x`` and ``y``, both [N, channels, H, W] in [-1, 1].
            fakes: what ``generate`` returned, detached; images named in ``pooled`` may be older ones.

        Returns:
            The loss, and the terms ``critic_x`` and ``critic_y``, which are not halved.
        """
        samples = {
            name: torch.cat([self._shown(name, image, batch) for image in (batch[name], fakes[f"translation_{name}"])])
            for name in self.domains
        }
        logits = side_by_side({name: (self.critics[name], (samples[name],)) for name in self.domains})
        losses = {}
        for name in self.domains:
            real, fake = logits[name].chunk(2)
            losses[name] = self._divergence.critic_loss(real, [(1.0, fake)])
        terms = {f"critic_{name}": loss.detach() for name, loss in losses.items()}
        return 0.5 * torch.stack(list(losses.values())).sum(), terms

    def _adversarial(self, batch: Batch, fakes: Batch) -> dict[str, Tensor]:
        """The generators' loss against each critic."""
        shown = {name: self._shown(name, fakes[f"translation_{name}"], batch) for name in self.domains}
        logits = side_by_side({name: (self.critics[name], (shown[name],)) for name in self.domains})
        return {name: self._divergence.generator_loss([(1.0, logits[name])]) for name in self.domains}

    # ---- After training ---------------------------------------------------------------------------------------------

    def translate(self, images: Tensor, to: str, source: str | None = None, noise: Tensor | None = None) -> Tensor:
        """``images`` of ``source`` as images of ``to``: the same images, and the same noise, give the same result.

        Args:
            images: [N, channels, H, W] in [-1, 1]. to: a domain. source: the other one, which it is by default.
            noise: [N, ...], chooses among the results for each image where the method has several; unset, one of them.

        Returns:
            [N, channels, H, W] in [-1, 1].

        Raises:
            UserError: an unknown domain, ``source`` is ``to``, or the images do not fit the networks.
        """
        require_known([to] if source is None else [to, source], self.domains)
        if source == to:
            raise UserError(f"source: images of {to} are of {to} already; expected {OTHER[to]}")
        if images.dim() != 4 or images.shape[1] != self.config.channels:
            raise UserError(
                f"images: expected [N, {self.config.channels}, H, W], as method.channels={self.config.channels}, got "
                f"{list(images.shape)}"
            )
        require_sides(*images.shape[-2:], self.config.depth)
        if noise is not None and len(noise) != len(images):
            raise ValueError(f"noise: expected {len(images)} samples, one for each image, got {len(noise)}")
        with self._fixed(to, len(images), noise):
            return self.generators[to](images)

    def _fixed(self, to: str, count: int, noise: Tensor | None) -> AbstractContextManager[None]:
        """Context in which the U-net of ``to`` gives ``count`` images what ``noise`` chooses."""
        return nullcontext()
