"""CycleGAN (Zhu et al. 2017): the conditionals of JointGAN's two-step baseline where the data are no pairs (§3.1).

    L_GAN(G, D_Y, X, Y) = E_y [log D_Y(y)] + E_x [log(1 - D_Y(G(x)))]                        (eq. 1)
    L_cyc(G, F) = E_x [‖F(G(x)) - x‖₁] + E_y [‖G(F(y)) - y‖₁]                                (eq. 2)
    L(G, F, D_X, D_Y) = L_GAN(G, D_Y, X, Y) + L_GAN(F, D_X, Y, X) + λ L_cyc(G, F)            (eq. 3)
    L_identity(G, F) = E_y [‖G(y) - y‖₁] + E_x [‖F(x) - x‖₁]                                 (§5.2)

In place of the logs stand least squares (§4): D_Y minimises E_y [(D_Y(y) - 1)²] + E_x [D_Y(G(x))²] and G minimises
E_x [(D_Y(G(x)) - 1)²]. In this file G, D_Y are ``generators["y"]``, ``critics["y"]`` and F, D_X those of ``"x"``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from jdm_fast.methods._config import is_number, require
from jdm_fast.methods._translators import OTHER, TranslatorConfig, Translators
from jdm_fast.methods.divergences import LeastSquares, full_precision
from jdm_fast.methods.lanes import side_by_side
from jdm_fast.methods.protocol import Batch, Terms
from jdm_fast.networks.initialize import initialize_weights


@dataclass(frozen=True)
class CycleGANConfig(TranslatorConfig):
    """Networks and objective of CycleGAN. "Theirs" is CycleGAN's code with ``--netG unet_256``: the paper has residual
    networks, JointGAN, which this is compared with, has U-nets.

    Raises:
        UserError: a field has a value it cannot have; the message names field, expectation and value.
    """

    cycle_weight: float = 10.0
    """λ of eq. (3), the L1 norm as a mean over elements (paper: 10)."""
    identity_weight: float = 5.0
    """Weight of L_identity (CycleGAN's code: 0.5 of the cycle weight 10; paper: the same, for some data sets)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("cycle_weight", "identity_weight"):
            require(name, is_number(getattr(self, name)), "a finite number of at least 0", getattr(self, name))


class CycleGAN(Translators):
    """The networks of CycleGAN and its objective; the interface is :class:`jdm_fast.methods.protocol.Method`.

    Attributes, and how images are translated after training: :class:`jdm_fast.methods._translators.Translators`.
    """

    pooled: tuple[str, ...] = ("translation_x", "translation_y")
    together: tuple[tuple[str, ...], ...] = ()

    def __init__(self, config: CycleGANConfig | None = None) -> None:
        c = config or CycleGANConfig()
        super().__init__(c, 1, LeastSquares())
        initialize_weights(self, c.init, c.init_std)

    def generate(self, batch: Batch) -> Batch:
        """Translations, and their cycles; identities go through the U-nets' first call with the translations.

        Args:
            batch: ``x`` and ``y``, both [N, channels, H, W] in [-1, 1].

        Returns:
            Shaped as ``x``: ``translation_y`` = G(x), ``cycle_x`` = F(G(x)), with an ``identity_weight`` also
            ``identity_y`` = G(y); the same for the other domain.

        Raises:
            ValueError: ``x`` and ``y`` differ in shape.
            UserError: their size does not fit the networks.
        """
        self._pair(batch)
        kinds = ("translation", "identity") if self.config.identity_weight > 0 else ("translation",)
        given = {
            name: torch.cat([batch[OTHER[name]], batch[name]]) if len(kinds) > 1 else batch[OTHER[name]]
            for name in self.domains
        }
        made = side_by_side({name: (self.generators[name], (given[name],)) for name in self.domains})
        fakes: Batch = {}
        for name in self.domains:
            for kind, images in zip(kinds, made[name].chunk(len(kinds)), strict=True):
                fakes[f"{kind}_{name}"] = images
        again = {name: (self.generators[name], (fakes[f"translation_{OTHER[name]}"],)) for name in self.domains}
        cycles = side_by_side(again)
        return fakes | {f"cycle_{name}": cycles[name] for name in self.domains}

    def generator_loss(self, batch: Batch, fakes: Batch) -> tuple[Tensor, Terms]:
        """E[(D(G(x)) - 1)²] both ways, λ L_cyc and the identity term.

        Args:
            batch: as for :meth:`generate`.
            fakes: what :meth:`generate` returned, with its graph.

        Returns:
            The loss, and the terms ``adversarial_…``, ``cycle_…`` and ``identity_…`` of x and y without weights.
        """
        adversarial = self._adversarial(batch, fakes)
        terms = {f"adversarial_{name}": loss.detach() for name, loss in adversarial.items()}
        total = torch.stack(list(adversarial.values())).sum()
        for kind, weight in (("cycle", self.config.cycle_weight), ("identity", self.config.identity_weight)):
            for name in self.domains:
                made = fakes.get(f"{kind}_{name}")
                if made is not None:
                    distance = F.l1_loss(full_precision(made), full_precision(batch[name]))
                    terms[f"{kind}_{name}"] = distance.detach()
                    total = total + weight * distance
        return total, terms
