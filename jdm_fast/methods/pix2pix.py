"""pix2pix (Isola et al. 2017), each way between two domains: the conditionals of JointGAN's two-step baseline where the
data are pairs (§3.1).

    L_cGAN(G, D) = E_{x,y} [log D(x, y)] + E_{x,z} [log(1 - D(x, G(x, z)))]      (eq. 1)
    L_L1(G) = E_{x,y,z} [‖y - G(x, z)‖₁]                                         (eq. 3)
    G* = arg min_G max_D  L_cGAN(G, D) + λ L_L1(G)                               (eq. 4)

In this file G from x to y is ``generators["y"]`` and its critic ``critics["y"]``; those of ``"x"`` go from y to x. As
in the paper, G maximises log D(x, G(x, z)) instead, and the noise z is dropout, in training and after it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jdm_fast.methods._config import is_number, require
from jdm_fast.methods._translators import OTHER, TranslatorConfig, Translators
from jdm_fast.methods.divergences import GAN, full_precision
from jdm_fast.methods.lanes import side_by_side
from jdm_fast.methods.noise import uniform
from jdm_fast.methods.protocol import Batch, Terms
from jdm_fast.networks.initialize import initialize_weights


@dataclass(frozen=True)
class Pix2PixConfig(TranslatorConfig):
    """Networks and objective of pix2pix. "Theirs" is pix2pix's code; its batch norm is instance norm at the paper's
    batch size of 1, which is used here.

    Raises:
        UserError: a field has a value it cannot have; the message names field, expectation and value.
    """

    paired_weight: float = 100.0
    """λ of eq. (4), the L1 norm as a mean over elements (paper: 100)."""
    dropout: float = 0.5
    """Probability of dropout in the three innermost levels of the decoder, in training and after it (paper: 0.5). 0
    makes the translation a function of the image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("paired_weight", is_number(self.paired_weight), "a finite number of at least 0", self.paired_weight)
        require("dropout", is_number(self.dropout) and self.dropout < 1, "a number from 0 to below 1", self.dropout)


class Pix2Pix(Translators):
    """The networks of pix2pix and its objective; the interface is :class:`jdm_fast.methods.protocol.Method`.

    Attributes, and how images are translated after training: :class:`jdm_fast.methods._translators.Translators`.
    """

    pooled: tuple[str, ...] = ()
    together: tuple[tuple[str, ...], ...] = (("x", "y"),)

    def __init__(self, config: Pix2PixConfig | None = None) -> None:
        c = config or Pix2PixConfig()
        super().__init__(c, 2, GAN())
        initialize_weights(self, c.init, c.init_std)
        if c.dropout > 0:
            for generator in self.generators.values():
                generator.dropout = Dropout(c.dropout)

    def generate(self, batch: Batch) -> Batch:
        """Translations each way, one call of each U-net.

        Args:
            batch: pairs ``x`` and ``y``, both [N, channels, H, W] in [-1, 1].

        Returns:
            ``translation_y`` = G(x), ``translation_x`` = G(y), shaped as ``x``.

        Raises:
            ValueError: ``x`` and ``y`` differ in shape.
            UserError: their size does not fit the networks.
        """
        self._pair(batch)
        made = side_by_side({name: (self.generators[name], (batch[OTHER[name]],)) for name in self.domains})
        return {f"translation_{name}": made[name] for name in self.domains}

    def generator_loss(self, batch: Batch, fakes: Batch) -> tuple[Tensor, Terms]:
        """-E[log D(x, G(x))] + λ L_L1(G), eq. (4), summed over both ways.

        Args:
            batch: as for :meth:`generate`.
            fakes: what :meth:`generate` returned, with its graph.

        Returns:
            The loss, and the terms ``adversarial_…`` and ``paired_…`` (the L1 distance) of x and y without weights.
        """
        terms: Terms = {}
        total: Tensor | float = 0.0
        for name, adversarial in self._adversarial(batch, fakes).items():
            distance = F.l1_loss(full_precision(fakes[f"translation_{name}"]), full_precision(batch[name]))
            terms |= {f"adversarial_{name}": adversarial.detach(), f"paired_{name}": distance.detach()}
            total = total + adversarial + self.config.paired_weight * distance
        return total, terms

    def _shown(self, name: str, images: Tensor, batch: Batch) -> Tensor:
        """Images and what they belong to, the critic's condition."""
        return torch.cat([batch[OTHER[name]], images], dim=1)

    @contextmanager
    def _fixed(self, to: str, count: int, noise: Tensor | None) -> Iterator[None]:
        dropout = self.generators[to].dropout
        if dropout is None:
            yield
            return
        seeds = [0] * count
        if noise is not None:
            samples = noise.detach().to("cpu", torch.float32).contiguous()
            seeds = [zlib.crc32(sample.numpy().tobytes()) for sample in samples]
        with dropout.seeded(seeds):
            yield


class Dropout(nn.Module):
    """Dropout that is noise: there after training too. Its masks are each sample's own, however many processes share
    the batch (:mod:`jdm_fast.methods.noise`).

    Args:
        p: probability that an element becomes 0; the others are divided by 1 - p.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self._generators: list[torch.Generator] | None = None

    @contextmanager
    def seeded(self, seeds: list[int]) -> Iterator[None]:
        """Context in which the masks come from one seed for each sample of a batch."""
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        try:
            yield
        finally:
            self._generators = None

    def forward(self, feature: Tensor) -> Tensor:
        """``feature`` [N, ...]."""
        if self._generators is None:
            numbers = uniform(feature.shape, torch.empty(0, device=feature.device))
        else:
            drawn = [torch.rand(feature.shape[1:], generator=generator) for generator in self._generators]
            numbers = torch.stack(drawn).to(feature.device)
        return feature * ((numbers >= self.p) / (1 - self.p)).to(feature.dtype)

    def extra_repr(self) -> str:
        return f"p={self.p}"
