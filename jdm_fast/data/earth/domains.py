"""The four domains: their names, and the colours of the one that is made rather than photographed or drawn."""

from __future__ import annotations

import numpy as np

from jdm_fast.errors import UserError

DOMAINS = ("satellite", "relief", "topographic", "mask")
LAND_COLOUR = (216, 192, 136)
WATER_COLOUR = (40, 80, 160)

_MASK_COLOURS = np.array([WATER_COLOUR, LAND_COLOUR], np.uint8)


def mask_picture(land: np.ndarray) -> np.ndarray:
    """Land or water, bool [..., H, W], as a picture in two colours, uint8 [..., H, W, 3]."""
    return _MASK_COLOURS[land.astype(np.intp)]


def known_domain(domain: str) -> str:
    """The domain itself. Raises UserError if there is none of this name."""
    if domain not in DOMAINS:
        raise UserError(f"no Earth domain is called {domain!r}; there are: {', '.join(DOMAINS)}")
    return domain
