"""Fly-over clips: a camera that pans, turns and zooms over a test region, rendered in every Earth domain at once.

Every domain is sampled at the same points, so each frame has its exact counterpart in the other domains, and the frames
between two key frames are known: the truth that video synthesis is measured against.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jdm_fast.data.earth import Box, Earth, mask_picture
from jdm_fast.errors import UserError

_COURSES_TRIED = 12  # of which the one with the most coast in view is flown
_CURVE_POINTS = 8192


@dataclass(frozen=True)
class Camera:
    """How the camera moves. All motions are smooth; the zoom and the turning swing back and forth."""

    frames: int = 65  #: frames of the clip; 8 k + 1 leaves no rest after taking every 8th
    size: tuple[int, int] = (64, 64)  #: height and width of a frame, pixels
    motion: float = 1.0  #: pixels of the Earth grid that the centre moves from one frame to the next
    turn: float = 1.0  #: largest change of heading from one frame to the next, degrees
    zoom: float = 1.2  #: the picture shows between 1/zoom and zoom of a frame's size in the grid
    zoom_period: int = 96  #: frames from one closest view to the next

    def check(self) -> None:
        """UserError for a field that makes no sense."""
        if self.frames < 1 or min(self.size) < 2:
            raise UserError(
                f"a clip needs at least 1 frame of at least 2x2 pixels, got {self.frames} frames of {self.size}"
            )
        if self.motion < 0 or self.turn < 0 or self.zoom < 1 or self.zoom_period < 2:
            raise UserError(
                "a camera needs motion >= 0, turn >= 0, zoom >= 1 and zoom_period >= 2, got "
                f"{self.motion}, {self.turn}, {self.zoom} and {self.zoom_period}"
            )


@dataclass(frozen=True)
class Clip:
    """``frames[domain]`` uint8 [T, H, W, 3], ``land`` bool [T, H, W], and where the camera flew."""

    frames: dict[str, np.ndarray]
    land: np.ndarray
    region: Box


def fly_over(
    earth: Earth,
    domains: Sequence[str] = ("satellite", "topographic"),
    camera: Camera | None = None,
    *,
    tile: int = 64,
    seed: int = 0,
) -> Clip:
    """A clip over a test region of ``earth.split(tile)``: give the tile size that the training set was cut with.

    Pictures are sampled bilinearly, the mask by its nearest pixel. Equal arguments give equal clips; ``seed`` draws a
    few regions, courses and headings, of which the one that shows land and water most evenly is taken (open sea would
    be a dull film and an easy test). Raises UserError if the regions are too small for the camera.
    """
    camera = camera or Camera()
    camera.check()
    random = np.random.default_rng(seed)
    regions = earth.split(tile).test
    best, best_coast = None, -1.0
    for _ in range(_COURSES_TRIED):
        region = regions[random.integers(len(regions))]
        rows, columns = _sample_points(camera, region, random)  # each [T, H, W]
        land = earth.land[np.rint(rows).astype(np.intp), np.rint(columns).astype(np.intp)]
        share = land.mean(axis=(1, 2))
        coast = float(np.minimum(share, 1 - share).mean())
        if coast > best_coast:
            best, best_coast = (region, rows, columns, land), coast
    region, rows, columns, land = best
    frames = {
        domain: mask_picture(land) if domain == "mask" else _bilinear(earth.crop(domain, region), region, rows, columns)
        for domain in domains
    }
    return Clip(frames, land, region)


def _sample_points(camera: Camera, region: Box, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Grid rows and columns, [T, H, W] each, of every pixel of every frame."""
    height, width = camera.size
    reach = camera.zoom * math.hypot(height - 1, width - 1) / 2  # no pixel is ever further from the centre than this
    free = (region.size - 1) / 2 - reach  # how far the centre may go from the region's
    if free < 0 or (free == 0 and camera.motion):
        raise UserError(
            f"a test region of {region.size} pixels is too small for frames of {height}x{width} pixels at zoom "
            f"{camera.zoom}: it must measure over {2 * reach + 1:.0f} pixels; use smaller frames, less zoom or a "
            "larger tile"
        )
    time = np.arange(camera.frames)
    down, right = _course(free, camera.motion * time, random)
    # heading and zoom are sines of time: their slopes are bounded by amplitude * 2 pi / period
    period = 1.5 * camera.zoom_period
    swing = math.radians(camera.turn) * period / (2 * math.pi)
    heading = random.uniform(0, 2 * math.pi) + swing * np.sin(2 * math.pi * (time / period + random.uniform()))
    scale = camera.zoom ** np.sin(2 * math.pi * (time / camera.zoom_period + random.uniform()))
    cos, sin = (scale * np.cos(heading))[:, None, None], (scale * np.sin(heading))[:, None, None]
    v, u = np.mgrid[0:height, 0:width].astype(np.float64)
    v, u = v - (height - 1) / 2, u - (width - 1) / 2
    middle = (region.size - 1) / 2
    rows = region.top + middle + down[:, None, None] + sin * u + cos * v
    columns = region.left + middle + right[:, None, None] + cos * u - sin * v
    return rows, columns


def _course(free: float, travelled: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The centre's offset (down, right) from the region's centre after each distance ``travelled`` along an ellipse."""
    angle = np.linspace(0, 2 * math.pi, _CURVE_POINTS + 1) * random.choice([-1, 1]) + random.uniform(0, 2 * math.pi)
    down = free * random.uniform(0.6, 1) * np.sin(angle)
    right = free * random.uniform(0.6, 1) * np.cos(angle)
    along = np.concatenate([[0], np.cumsum(np.hypot(np.diff(down), np.diff(right)))])
    place = travelled % along[-1] if along[-1] else np.zeros(len(travelled))
    return np.interp(place, along, down), np.interp(place, along, right)


def _bilinear(picture: np.ndarray, region: Box, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """``picture`` [S, S, 3] of ``region`` sampled at grid points [T, H, W] -> uint8 [T, H, W, 3]."""
    rows, columns = rows - region.top, columns - region.left
    top = np.clip(np.floor(rows).astype(np.intp), 0, region.size - 2)
    left = np.clip(np.floor(columns).astype(np.intp), 0, region.size - 2)
    down, right = (rows - top).astype(np.float32)[..., None], (columns - left).astype(np.float32)[..., None]
    upper = picture[top, left] * (1 - right) + picture[top, left + 1] * right
    lower = picture[top + 1, left] * (1 - right) + picture[top + 1, left + 1] * right
    return np.rint(upper * (1 - down) + lower * down).astype(np.uint8)
