"""Fly-over clips: the truth they show, how the cameras move, and the same frames for the same seed as ever."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from jdm_fast.data.earth import DOMAINS, SNOW, Box, Earth
from jdm_fast.data.flyover import CAMERAS, Camera, Clip, camera_path, fly_over, named_camera, sample_points
from jdm_fast.errors import UserError
from jdm_fast.metrics import land_sea_agreement, read_sea

SIZE = 32  # of tiles, at WIDTH pixels round the equator: the places of 64-pixel tiles at the default 2700
WIDTH = 1350
CAMERA = Camera(frames=17, size=(24, 32), motion=1.5)
ABRUPT = dataclasses.replace(named_camera("abrupt", 129, SIZE), size=(24, 32))


@pytest.fixture(scope="module")
def earth() -> Earth:
    return Earth.load(WIDTH)


@pytest.fixture(scope="module")
def abrupt(earth: Earth) -> Clip:
    return fly_over(earth, DOMAINS, ABRUPT, tile=SIZE)


# ---- any clip -------------------------------------------------------------------------------------------------------


def test_clip_shows_one_place_in_all_domains(earth: Earth) -> None:
    clip = fly_over(earth, DOMAINS, CAMERA, tile=SIZE)
    assert clip.land.shape == (17, 24, 32) and 0.1 < clip.land.mean() < 0.9
    for domain in DOMAINS:
        assert clip.frames[domain].shape == (17, 24, 32, 3) and clip.frames[domain].dtype == np.uint8
        assert land_sea_agreement(clip.frames[domain], domain, clip.land) > 0.93
    shifted = np.roll(clip.land, 4, axis=2)  # the measure notices pictures that do not match
    assert land_sea_agreement(clip.frames["satellite"], "satellite", shifted) < 0.9
    assert (read_sea(clip.frames["mask"], "mask") == ~clip.land).all()


def test_clip_is_deterministic_and_seeds_differ(earth: Earth) -> None:
    first, again, other = (fly_over(earth, ("satellite",), CAMERA, tile=SIZE, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.frames["satellite"], again.frames["satellite"])
    assert (first.frames["satellite"] != other.frames["satellite"]).any()


@pytest.mark.parametrize("seed", range(6))
def test_every_clip_flies_along_a_coast(earth: Earth, seed: int) -> None:
    share = fly_over(earth, (), CAMERA, tile=SIZE, seed=seed).land.mean(axis=(1, 2))
    assert np.minimum(share, 1 - share).mean() > 0.2


def test_clip_sees_nothing_but_its_test_region(earth: Earth) -> None:
    clip = fly_over(earth, ("satellite", "mask"), CAMERA, tile=SIZE, seed=3)
    assert clip.region in earth.split(SIZE).test
    picture = np.full_like(earth.picture("satellite"), 77)  # whatever lies outside must not matter
    picture[clip.region.slices] = earth.crop("satellite", clip.region)
    alone = fly_over(Earth(earth.land, {"satellite": picture}), ("satellite",), CAMERA, tile=SIZE, seed=3)
    np.testing.assert_array_equal(alone.frames["satellite"], clip.frames["satellite"])


def test_course_moves_as_asked_and_stays_inside() -> None:
    region = Box(100, 300, 128)
    camera = Camera(frames=400, size=(33, 33), motion=1.5, turn=2.0, zoom=1.3)
    path = camera_path(camera, region, np.random.default_rng(5))
    rows, columns = sample_points(path, camera.size)
    assert rows.min() >= 100 and rows.max() <= 227 and columns.min() >= 300 and columns.max() <= 427
    steps = np.hypot(np.diff(rows[:, 16, 16]), np.diff(columns[:, 16, 16]))
    np.testing.assert_allclose(steps, 1.5, rtol=0.02)
    down, right = rows[:, 16, 17] - rows[:, 16, 16], columns[:, 16, 17] - columns[:, 16, 16]
    scale, heading = np.hypot(down, right), np.unwrap(np.arctan2(down, right))
    np.testing.assert_allclose(scale, path.scale)
    np.testing.assert_allclose(np.diff(heading), np.diff(path.heading), atol=1e-9)
    assert 1 / 1.3 - 1e-9 <= scale.min() < 0.8 and 1.28 < scale.max() <= 1.3 + 1e-9
    assert 1.9 < np.degrees(np.abs(np.diff(heading)).max()) <= 2.0 + 1e-9
    assert np.abs(np.diff(scale, 2)).max() < 0.01  # no jerk


def test_still_camera(earth: Earth) -> None:
    clip = fly_over(earth, ("relief",), Camera(frames=3, size=(16, 16), motion=0, turn=0, zoom=1), tile=SIZE)
    assert (clip.frames["relief"] == clip.frames["relief"][:1]).all()


@pytest.mark.parametrize(
    "camera, message",
    [
        (Camera(size=(128, 128)), "too small for frames of 128x128"),
        (Camera(frames=0), "at least 1 frame"),
        (Camera(zoom=0.5), "zoom >= 1"),
        (Camera(cut_every=-1), "cut_every >= 0"),
    ],
)
def test_impossible_camera(earth: Earth, camera: Camera, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fly_over(earth, camera=camera, tile=SIZE)


def test_clips_of_the_demo_are_as_ever() -> None:
    """Figures in the README were measured on them: (seed, region, land pixels, first and last row of the centre)."""
    earth = Earth.load(domains=())
    for seed, region, land, rows in (
        (0, Box(353, 1792, 256), 72178, (486.79012372, 539.6026169)),
        (1, Box(97, 2304, 256), 135117, (293.66105786, 257.04794845)),
        (3, Box(353, 512, 256), 96181, (548.56354218, 498.84436673)),
    ):
        clip = fly_over(earth, (), seed=seed)
        assert clip.region == region and clip.land.sum() == land
        np.testing.assert_allclose(clip.path.rows[[0, -1]], rows)


def test_frames_are_the_bilinear_mean_of_four_pixels(earth: Earth) -> None:
    camera = Camera(frames=5, size=(9, 14))
    clip = fly_over(earth, ("relief", "topographic"), camera, tile=SIZE, seed=2)
    rows, columns = sample_points(clip.path, camera.size)
    for domain, frames in clip.frames.items():
        for place in np.ndindex(rows.shape):
            top, left = math.floor(rows[place]), math.floor(columns[place])
            down, right = rows[place] - top, columns[place] - left
            four = earth.picture(domain)[top : top + 2, left : left + 2].astype(float)
            upper, lower = four[:, 0] * (1 - right) + four[:, 1] * right
            np.testing.assert_allclose(frames[place], upper * (1 - down) + lower * down, atol=0.5 + 1e-4)


def test_clips_over_regions_to_train_on(earth: Earth) -> None:
    split = earth.split(SIZE, val=True)
    for seed in range(4):
        clip = fly_over(earth, (), CAMERA, tile=SIZE, seed=seed, part="train")
        assert clip.region in split.train_regions and clip.region not in [*split.test, *split.val]


@pytest.mark.parametrize("snow", [True, False])
def test_clips_that_avoid_the_snow(earth: Earth, snow: bool) -> None:
    camera = dataclasses.replace(ABRUPT, frames=2000, size=(8, 8))
    regions = fly_over(earth, (), camera, tile=10, snow=snow).regions  # 10: small enough for regions in the far north
    middle = [90 - (region.top + region.size / 2) / earth.height * 180 for region in regions]
    assert (max(middle) > SNOW) == snow


# ---- the abrupt camera ----------------------------------------------------------------------------------------------


def test_abrupt_clip_shows_one_place_in_all_domains(abrupt: Clip) -> None:
    for domain in DOMAINS:
        assert abrupt.frames[domain].shape == (129, 24, 32, 3)
        assert land_sea_agreement(abrupt.frames[domain], domain, abrupt.land) > 0.9
    assert (read_sea(abrupt.frames["mask"], "mask") == ~abrupt.land).all()


def test_abrupt_clip_cuts_to_other_test_regions(earth: Earth, abrupt: Clip) -> None:
    starts = (0, *abrupt.cuts, 129)
    lengths = np.diff(starts)
    assert len(abrupt.regions) == len(lengths) >= 4
    assert ((12 <= lengths[:-1]) & (lengths[:-1] <= 36)).all()  # from half to one and a half times cut_every
    assert all(one != next for one, next in zip(abrupt.regions, abrupt.regions[1:], strict=False))
    rows, columns = sample_points(abrupt.path, ABRUPT.size)
    for region, start, stop in zip(abrupt.regions, starts, starts[1:], strict=False):
        assert region in earth.split(SIZE).test
        assert region.top <= rows[start:stop].min() and rows[start:stop].max() <= region.top + region.size - 1
        assert region.left <= columns[start:stop].min() and columns[start:stop].max() <= region.left + region.size - 1


def test_abrupt_clip_changes_most_at_its_cuts(abrupt: Clip) -> None:
    change = np.abs(np.diff(abrupt.frames["topographic"].astype(float), axis=0)).mean(axis=(1, 2, 3))
    at_cuts = np.zeros(len(change), bool)
    at_cuts[np.array(abrupt.cuts) - 1] = True
    assert change[at_cuts].min() > change[~at_cuts].mean()


def test_abrupt_camera_shakes_and_jumps_in_zoom_where_the_smooth_one_does_not(abrupt: Clip, earth: Earth) -> None:
    smooth = fly_over(earth, (), dataclasses.replace(CAMERAS["smooth"], frames=129, size=(24, 32)), tile=SIZE)
    assert smooth.cuts == () and smooth.regions == (smooth.region,)
    inside = np.setdiff1d(np.arange(1, 129), abrupt.cuts)
    for clip, shakes in ((smooth, False), (abrupt, True)):
        turns = np.degrees(np.abs(np.diff(clip.path.heading)))[inside - 1]
        zooms = np.abs(np.diff(np.log(clip.path.scale)))[inside - 1]
        assert (np.median(turns) > 3) == shakes and (turns.max() <= 1 + 1e-9) == (not shakes)
        assert (zooms.max() > 0.2) == shakes
        assert (zooms > 0.1).sum() <= 129 / 4  # jumps, no constant flicker
    assert np.log(1.5) + 1e-9 >= np.abs(np.log(abrupt.path.scale)).max()


def test_named_camera_fits_the_frames() -> None:
    assert named_camera("smooth") == Camera()
    large = named_camera("abrupt", 9, 256)
    assert (large.frames, large.size, large.motion) == (9, (256, 256), 4 * CAMERAS["abrupt"].motion)
    with pytest.raises(UserError, match="'shaky'; there are: smooth, abrupt"):
        named_camera("shaky")
