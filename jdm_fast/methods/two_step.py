"""The two-step baseline of the JointGAN paper (§3.1): marginals first, then conditionals, each trained by itself.

    x̃ ~ p(x), ỹ ~ p(y | x̃)   or   ỹ ~ p(y), x̃ ~ p(x | ỹ)

with WGAN-GP for the marginals and pix2pix (paired data) or CycleGAN (unpaired) for the conditionals. The conditionals
have never seen a generated image, nor do the marginals learn of what is made of theirs: that is the paper's point.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jdm_fast.errors import UserError
from jdm_fast.methods._inputs import require_known
from jdm_fast.methods._translators import Translators
from jdm_fast.methods.protocol import Batch
from jdm_fast.methods.sources import require_order
from jdm_fast.methods.wgan_gp import WGANGP


class TwoStep(nn.Module):
    """Trained marginals and conditionals put together; samples as :class:`jdm_fast.methods.JointGAN` does.

    Args:
        marginals: of x and y. conditionals: :class:`Pix2Pix` or :class:`CycleGAN`.

    Attributes:
        marginals, conditionals: as given. domains, image_domains: x and y. vectors: none.
        size_multiple, minimum_size: sides of images are multiples of the one and at least the other.

    Raises:
        UserError: the two have not the same domains or channels.
    """

    def __init__(self, marginals: WGANGP, conditionals: Translators) -> None:
        super().__init__()
        for what, first, second in (
            ("domains", ", ".join(marginals.domains), ", ".join(conditionals.domains)),
            ("channels", marginals.config.channels, conditionals.config.channels),
        ):
            if first != second:
                raise UserError(
                    f"the marginals and the conditionals of a two-step model need the same {what}, got {first} of the "
                    f"marginals and {second} of the conditionals"
                )
        self.marginals, self.conditionals = marginals, conditionals
        self.domains = self.image_domains = marginals.domains
        self.vectors: dict[str, int] = {}
        self.size_multiple = max(marginals.size_multiple, conditionals.size_multiple)  # both are powers of 2
        self.minimum_size = max(marginals.minimum_size, conditionals.minimum_size)

    def sample_noise(
        self, count: int, size: tuple[int, int] | None = None, generator: torch.Generator | None = None
    ) -> Batch:
        """N(0, I) for each domain; arguments and result as :meth:`WGANGP.sample_noise`.

        Raises:
            UserError: images of that size do not fit the networks.
        """
        size = size or (self.minimum_size, self.minimum_size)
        if any(side % self.size_multiple for side in size):
            raise UserError(
                f"size: images of height {size[0]} and width {size[1]} do not fit the networks, whose sides are "
                f"multiples of {self.size_multiple}"
            )
        return self.marginals.sample_noise(count, size, generator)

    def default_order(self, given: Sequence[str] = ()) -> str:
        """``xy``, or ``yx`` if y alone is given. Raises UserError for an unknown domain."""
        require_known(given, self.domains)
        return "yx" if tuple(given) == ("y",) else "xy"

    def sample(
        self, noise: Batch, given: Batch | None = None, order: str | None = None, only: str | None = None
    ) -> Batch:
        """Pairs: the given domain as it is, or the first of ``order`` from its marginal; the other from that one.

        Args:
            noise: from :meth:`sample_noise`; that of given domains is not used. Of a domain that is drawn from the
                other it chooses pix2pix's dropout; CycleGAN knows no noise.
            given: observed domains, [N, channels, H, W] in [-1, 1], N as in ``noise``.
            order: ``xy`` or ``yx``; the given domains come first. By default :meth:`default_order`.
            only: stop at this domain and return it alone. Without an order it is drawn from the given one or, where
                there is none, from its marginal.

        Returns:
            By domain, [N, channels, H, W] in [-1, 1].

        Raises:
            UserError: unknown domains, an order that does not begin with the given ones or is none, ``only`` is given.
        """
        values = dict(given or {})
        require_known((*values, *([] if only is None else [only])), self.domains)
        if only in values:
            raise UserError(f"only: {only} is given, so there is nothing to draw")
        if order is None:
            first_ones = tuple(values) or (() if only is None else (only,))
            order = self.default_order([name for name in self.domains if name in first_ones])
        require_order(order, "".join(self.domains), "order")
        if set(order[: len(values)]) != set(values):
            raise UserError(
                f"order: {order} must begin with the given domains {', '.join(values)}, as the others are drawn from "
                "what stands before them"
            )
        first, second = order
        if first not in values:
            values[first] = self.marginals.marginal(first, noise[first])
        if second not in values and only != first:
            values[second] = self.conditionals.translate(values[first], second, first, noise[second])
        return {name: values[name] for name in (self.domains if only is None else (only,))}

    def translate(self, images: Tensor, to: str, source: str | None = None) -> Tensor:
        """Of the conditionals: see :meth:`Translators.translate`."""
        return self.conditionals.translate(images, to, source)
