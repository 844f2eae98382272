"""Checks of what methods are given: names of domains and sides of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jdm_fast.errors import UserError
from jdm_fast.networks.patch_critic import PatchCritic


def require_known(names: Iterable[str], domains: Sequence[str]) -> None:
    """Raise UserError unless every name is one of ``domains``."""
    unknown = [name for name in names if name not in domains]
    if unknown:
        raise UserError(f"there is no domain {', '.join(unknown)}; the domains are {', '.join(domains)}")


def require_sides(height: int, width: int, depth: int, critic_layers: int | None = None) -> None:
    """Raise UserError unless images of ``height`` x ``width`` fit a generator of ``depth`` and, where it is given, a
    :class:`PatchCritic` of ``critic_layers``."""
    multiple = 2**depth
    if height % multiple or width % multiple or min(height, width) < multiple:
        raise UserError(
            f"images of height {height} and width {width} do not fit the networks: method.depth={depth} needs sides "
            f"that are multiples of {multiple}. Use images or crops of that size, or another depth"
        )
    least = 0 if critic_layers is None else PatchCritic.minimum_side(critic_layers)
    if min(height, width) < least:
        raise UserError(
            f"images of height {height} and width {width} are too small for the critic: "
            f"method.critic_layers={critic_layers} needs sides of at least {least}. Use larger images, or fewer layers"
        )
