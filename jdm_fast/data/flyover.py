"""Fly-over clips: a camera that pans, turns and zooms over the planet, rendered in every Earth domain at once.

Every domain is sampled at the same points, so each frame has its exact counterpart in the other domains, and the frames
between two key frames are known: the truth that video synthesis is measured against.

Two cameras are ready in :data:`CAMERAS`. ``smooth`` moves without a jerk. ``abrupt`` cuts from place to place, shakes
its heading and jumps in zoom: what a method does with frames that have no smooth way between them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jdm_fast.data.earth import SNOW, Box, Earth, mask_picture
from jdm_fast.errors import UserError

_COURSES_TRIED = 12  # of which the one with the most coast in view is flown
_CURVE_POINTS = 8192
_POINTS_AT_ONCE = 1 << 15  # sampled together: what they need stays in the processor's cache


@dataclass(frozen=True)
class Camera:
    """How the camera moves. The zoom and the turning swing back and forth; what is abrupt is off unless asked for."""

    frames: int = 65  #: frames of the clip; 8 k + 1 leaves no rest after taking every 8th
    size: tuple[int, int] = (64, 64)  #: height and width of a frame, pixels
    motion: float = 1.0  #: pixels of the Earth grid that the centre moves from one frame to the next
    turn: float = 1.0  #: largest change of heading from one frame to the next, degrees
    zoom: float = 1.2  #: the picture shows between 1/zoom and zoom of a frame's size in the grid
    zoom_period: int = 96  #: frames from one closest view to the next
    cut_every: int = 0  #: frames from one cut to another place to the next, on the average; 0: no cuts
    shake: float = 0.0  #: each frame's heading is off by up to this, degrees
    jump_every: int = 0  #: frames from one sudden change of zoom to the next, on the average; 0: none

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
        if self.cut_every < 0 or self.shake < 0 or self.jump_every < 0:
            raise UserError(
                "a camera needs cut_every >= 0, shake >= 0 and jump_every >= 0, got "
                f"{self.cut_every}, {self.shake} and {self.jump_every}"
            )


#: Cameras by name, for frames of 64 pixels; :func:`named_camera` fits them to others.
CAMERAS = {
    "smooth": Camera(),
    "abrupt": Camera(motion=2.0, turn=2.0, zoom=1.5, zoom_period=64, cut_every=24, shake=8.0, jump_every=12),
}


def named_camera(name: str, frames: int = 65, size: int = 64) -> Camera:
    """The camera of this name for square frames; its motion grows with them, so that larger clips look alike.

    Raises:
        UserError: there is none of this name.
    """
    if name not in CAMERAS:
        raise UserError(f"no camera is called {name!r}; there are: {', '.join(CAMERAS)}")
    camera = CAMERAS[name]
    return dataclasses.replace(camera, frames=frames, size=(size, size), motion=camera.motion * size / 64)


@dataclass(frozen=True)
class CameraPath:
    """Where the camera is and how it looks at each frame.

    Attributes:
        rows, columns: of the centre in the Earth grid, float64 [T]. heading: radians, [T]; 0 has north on top, growing
        clockwise turns of the camera. scale: grid pixels a frame pixel, [T].
    """

    rows: np.ndarray
    columns: np.ndarray
    heading: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Clip:
    """``frames[domain]`` uint8 [T, H, W, 3], ``land`` bool [T, H, W], and how the camera flew.

    Attributes:
        region: that the first frame shows. cuts: numbers of the frames that begin at another place, ascending.
        regions: one for each shot, one more than cuts. path: the camera's, over all frames.
    """

    frames: dict[str, np.ndarray]
    land: np.ndarray
    region: Box
    cuts: tuple[int, ...] = ()
    regions: tuple[Box, ...] = ()
    path: CameraPath | None = None


def fly_over(
    earth: Earth,
    domains: Sequence[str] = ("satellite", "topographic"),
    camera: Camera | None = None,
    *,
    tile: int = 64,
    seed: int = 0,
    part: Literal["train", "test"] = "test",
    snow: bool = True,
) -> Clip:
    """A clip over test regions of ``earth.split(tile)``: give the tile size that the training set was cut with.

    Pictures are sampled bilinearly, the mask by its nearest pixel. Equal arguments give equal clips; for each shot,
    ``seed`` draws a few regions, courses and headings, of which the one that shows land and water most evenly is taken
    (open sea would be a dull film and an easy test). A shot stays in one region.

    Args:
        part: ``train`` flies over the regions that train. snow: whether to fly over regions whose centre is north of
            :data:`jdm_fast.data.earth.SNOW` too, where pictures to train on are never cut.

    Raises:
        UserError: the regions are too small for the camera, or a field of it makes no sense.
    """
    camera = camera or Camera()
    camera.check()
    random = np.random.default_rng(seed)
    split = earth.split(tile, val=True)  # the regions that train in all layouts; those that test are always the same
    regions = split.test if part == "test" else split.train_regions
    if not snow:
        regions = [region for region in regions if region.top + region.size / 2 >= (90 - SNOW) / 180 * earth.height]
    lengths = _shot_lengths(camera, random)
    frames = {domain: np.empty((camera.frames, *camera.size, 3), np.uint8) for domain in domains}
    land = np.empty((camera.frames, *camera.size), bool)
    shots: list[tuple[Box, CameraPath]] = []
    start = 0
    for length in lengths:
        elsewhere = [region for region in regions if not shots or region != shots[-1][0]] or regions
        region, path = _best_shot(earth, elsewhere, camera, length, random)
        _render(earth, region, path, frames, land, start)
        shots.append((region, path))
        start += length
    whole = CameraPath(
        *(np.concatenate([getattr(path, field.name) for _, path in shots]) for field in dataclasses.fields(CameraPath))
    )
    cuts = tuple(np.cumsum(lengths[:-1]).tolist())
    return Clip(frames, land, shots[0][0], cuts, tuple(region for region, _ in shots), whole)


def _shot_lengths(camera: Camera, random: np.random.Generator) -> list[int]:
    """Frames of each shot: from half to one and a half times ``cut_every``, and at the end what is left."""
    if not camera.cut_every:
        return [camera.frames]
    lengths, left = [], camera.frames
    while left:
        low, high = max(1, camera.cut_every // 2), max(1, camera.cut_every * 3 // 2)
        lengths.append(min(left, int(random.integers(low, high, endpoint=True))))
        left -= lengths[-1]
    return lengths


def _best_shot(
    earth: Earth, regions: Sequence[Box], camera: Camera, length: int, random: np.random.Generator
) -> tuple[Box, CameraPath]:
    """Of a few regions and paths, those that see land and water most evenly."""
    best, best_coast = None, -1.0
    every = max(1, min(camera.size) // 64)  # of large frames, fewer pixels tell as well where the coast is
    for _ in range(_COURSES_TRIED):
        region = regions[random.integers(len(regions))]
        path = camera_path(camera, region, random, length)
        seen = np.ascontiguousarray(earth.land[region.slices])
        share = np.concatenate(
            [_land_at(seen, region, *points).mean(axis=(1, 2)) for _, points in _chunks(path, camera.size, every)]
        )
        coast = float(np.minimum(share, 1 - share).mean())
        if coast > best_coast:
            best, best_coast = (region, path), coast
    return best


def camera_path(camera: Camera, region: Box, random: np.random.Generator, length: int | None = None) -> CameraPath:
    """A path of ``length`` frames (default: the camera's) on which no pixel leaves ``region``.

    Raises:
        UserError: the region is too small for the camera.
    """
    height, width = camera.size
    reach = camera.zoom * math.hypot(height - 1, width - 1) / 2  # no pixel is ever further from the centre than this
    free = (region.size - 1) / 2 - reach  # how far the centre may go from the region's
    if free < 0 or (free == 0 and camera.motion):
        raise UserError(
            f"a test region of {region.size} pixels is too small for frames of {height}x{width} pixels at zoom "
            f"{camera.zoom}: it must measure over {2 * reach + 1:.0f} pixels; use smaller frames, less zoom or a "
            "larger tile"
        )
    time = np.arange(camera.frames if length is None else length)
    down, right = _course(free, camera.motion * time, random)
    # heading and zoom are sines of time: their slopes are bounded by amplitude * 2 pi / period
    period = 1.5 * camera.zoom_period
    swing = math.radians(camera.turn) * period / (2 * math.pi)
    heading = random.uniform(0, 2 * math.pi) + swing * np.sin(2 * math.pi * (time / period + random.uniform()))
    phase = random.uniform()
    if camera.jump_every:  # a jump goes to another place in the swing of the zoom
        jumps = np.cumsum((random.uniform(size=len(time)) < 1 / camera.jump_every) & (time > 0))
        phase = np.concatenate([[phase], random.uniform(size=len(time))])[jumps]
    scale = camera.zoom ** np.sin(2 * math.pi * (time / camera.zoom_period + phase))
    if camera.shake:
        heading = heading + math.radians(camera.shake) * random.uniform(-1, 1, len(time))
    middle = (region.size - 1) / 2
    return CameraPath(region.top + middle + down, region.left + middle + right, heading, scale)


def _course(free: float, travelled: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The centre's offset (down, right) from the region's centre after each distance ``travelled`` along an ellipse."""
    angle = np.linspace(0, 2 * math.pi, _CURVE_POINTS + 1) * random.choice([-1, 1]) + random.uniform(0, 2 * math.pi)
    down = free * random.uniform(0.6, 1) * np.sin(angle)
    right = free * random.uniform(0.6, 1) * np.cos(angle)
    along = np.concatenate([[0], np.cumsum(np.hypot(np.diff(down), np.diff(right)))])
    place = travelled % along[-1] if along[-1] else np.zeros(len(travelled))
    return np.interp(place, along, down), np.interp(place, along, right)


# ---- rendering ------------------------------------------------------------------------------------------------------


def sample_points(
    path: CameraPath, size: tuple[int, int], frames: slice = slice(None), every: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Grid rows and columns, float64 [T, H, W] each, of the pixels of the chosen frames.

    With ``every``, only of each ``every``-th row and column of a frame.
    """
    height, width = size
    heading, scale = path.heading[frames], path.scale[frames]
    cos, sin = (scale * np.cos(heading))[:, None, None], (scale * np.sin(heading))[:, None, None]
    v, u = np.mgrid[0:height:every, 0:width:every].astype(np.float64)
    v, u = v - (height - 1) / 2, u - (width - 1) / 2
    rows = path.rows[frames][:, None, None] + sin * u + cos * v
    columns = path.columns[frames][:, None, None] + cos * u - sin * v
    return rows, columns


def _chunks(
    path: CameraPath, size: tuple[int, int], every: int = 1
) -> Iterator[tuple[slice, tuple[np.ndarray, np.ndarray]]]:
    """The frames in parts small enough for the processor's cache: (slice, sample points) of each."""
    step = max(1, _POINTS_AT_ONCE * every**2 // (size[0] * size[1]))
    for start in range(0, len(path.rows), step):
        frames = slice(start, min(start + step, len(path.rows)))
        yield frames, sample_points(path, size, frames, every)


def _render(
    earth: Earth, region: Box, path: CameraPath, frames: dict[str, np.ndarray], land: np.ndarray, start: int
) -> None:
    """Fill in the frames from ``start`` on: all domains at the same points, with the same weights."""
    sampled = [domain for domain in frames if domain != "mask"]
    stacked = np.concatenate([earth.crop(domain, region) for domain in sampled], axis=2) if sampled else None
    seen = np.ascontiguousarray(earth.land[region.slices])
    for part, (rows, columns) in _chunks(path, land.shape[1:]):
        place = slice(start + part.start, start + part.stop)
        land[place] = _land_at(seen, region, rows, columns)
        if stacked is not None:
            rendered = _bilinear(stacked, region, rows, columns)
            for k, domain in enumerate(sampled):
                frames[domain][place] = rendered[..., 3 * k : 3 * k + 3]
        if "mask" in frames:
            frames["mask"][place] = mask_picture(land[place])


def _land_at(land: np.ndarray, region: Box, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """``land`` [S, S] of ``region`` at the pixels nearest to grid points [T, H, W]: bool [T, H, W]."""
    flat = np.rint(rows)
    flat -= region.top
    flat *= region.size
    flat += np.rint(columns)
    flat -= region.left
    return land.reshape(-1).take(flat.astype(np.intp))


def _bilinear(picture: np.ndarray, region: Box, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """``picture`` [S, S, C] of ``region`` sampled at grid points [T, H, W] -> uint8 [T, H, W, C]."""
    rows, columns = rows - region.top, columns - region.left
    top, left = np.floor(rows), np.floor(columns)
    np.clip(top, 0, region.size - 2, out=top)
    np.clip(left, 0, region.size - 2, out=left)
    down, right = (rows - top).astype(np.float32)[..., None], (columns - left).astype(np.float32)[..., None]
    corner = (top * region.size + left).astype(np.intp)
    pixels = picture.reshape(region.size**2, -1)  # one look-up fetches all channels of all domains
    upper = pixels.take(corner, axis=0) * (1 - right)
    upper += pixels.take(corner + 1, axis=0) * right
    corner += region.size
    lower = pixels.take(corner, axis=0) * (1 - right)
    lower += pixels.take(corner + 1, axis=0) * right
    upper *= 1 - down
    lower *= down
    upper += lower
    return np.rint(upper, out=upper).astype(np.uint8)
