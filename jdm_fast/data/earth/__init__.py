"""Earth: pixel-aligned pictures of the planet in four domains, cut into data sets whose truth is known.

=============  ==========================================================
domain         what it is
=============  ==========================================================
satellite      Blue Marble, the planet as seen from space
relief         shaded relief with natural colours, sea in pale blue
topographic    ETOPO1, heights and depths as colours, with relief shading
mask           land in one colour, water (sea and lakes) in another
=============  ==========================================================

All share one equirectangular grid: row 0 is the north pole, column 0 the date line.

:mod:`~jdm_fast.data.earth.planet` reads the domains, :mod:`~jdm_fast.data.earth.split` says which places train and
which test, :mod:`~jdm_fast.data.earth.layouts` lays pictures out as training wants them,
:mod:`~jdm_fast.data.earth.clips` does the same for films, and :mod:`~jdm_fast.data.earth.write` writes them.
"""

from __future__ import annotations

from jdm_fast.data.earth.clips import write_clips
from jdm_fast.data.earth.domains import DOMAINS, LAND_COLOUR, WATER_COLOUR, mask_picture
from jdm_fast.data.earth.layouts import LAYOUTS, write_layout
from jdm_fast.data.earth.planet import MAX_WIDTH, Earth, suitable_width
from jdm_fast.data.earth.split import LATITUDES, SNOW, Box, Split
from jdm_fast.data.earth.write import PictureSet, Written

__all__ = [
    "DOMAINS",
    "LAND_COLOUR",
    "LATITUDES",
    "LAYOUTS",
    "MAX_WIDTH",
    "SNOW",
    "WATER_COLOUR",
    "Box",
    "Earth",
    "PictureSet",
    "Split",
    "Written",
    "mask_picture",
    "suitable_width",
    "write_clips",
    "write_layout",
]
