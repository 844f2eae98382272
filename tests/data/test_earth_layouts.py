"""Earth pictures in every layout: what is written, what is disjoint, and that it is found as what it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jdm_fast.data.dataset import ImageFiles
from jdm_fast.data.earth import DOMAINS, LAYOUTS, Box, Earth, Written, write_clips, write_layout
from jdm_fast.data.flyover import Camera, fly_over, named_camera
from jdm_fast.data.layouts import find_layout
from jdm_fast.data.video_files import open_frames
from jdm_fast.errors import UserError

SIZE, WIDTH = 32, 1350
THREE = ("satellite", "topographic", "mask")
Write = Callable[..., tuple[Path, Written]]


@pytest.fixture(scope="module")
def earth() -> Earth:
    return Earth.load(WIDTH)


@pytest.fixture(scope="module")
def write(earth: Earth, tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Writes a layout once for all tests, few pictures of it, and gives its root and what was told about it."""
    made: dict[object, tuple[Path, Written]] = {}

    def once(layout: str, domains: tuple[str, ...], **options: bool) -> tuple[Path, Written]:
        key = (layout, domains, *options)
        if key not in made:
            root = tmp_path_factory.mktemp(layout) / "earth"
            made[key] = root, write_layout(earth, root, layout, domains, SIZE, count=40, held_out=6, **options)
        return made[key]

    return once


def places(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.png")}


def box_of(path: Path) -> Box:
    return Box(*map(int, path.stem.split("-")), SIZE)


def covered(earth: Earth, *folders: Path) -> np.ndarray:
    """How often each pixel of the planet is shown, by sets of folders."""
    count = np.zeros(earth.land.shape, int)
    for folder in folders:
        once = np.zeros(earth.land.shape, bool)
        for path in folder.glob("*.png"):
            once[box_of(path).slices] = True
        count += once
    return count


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


# ---- what is written ------------------------------------------------------------------------------------------------

CASES = {  # layout, domains, options: the folders and the domains that their files show, left to right
    "cyclegan": (
        ("cyclegan", ("relief", "mask"), {}),
        {"trainA": ("relief",), "trainB": ("mask",), "testA": ("relief",), "testB": ("mask",)},
    ),
    "ab": (
        ("ab", ("satellite", "mask"), {}),
        {part: ("satellite", "mask") for part in ("train", "val", "test")},
    ),
    "aligned": (
        ("aligned", DOMAINS, {}),
        {f"{part}/{domain}": (domain,) for part in ("train", "val", "test") for domain in DOMAINS},
    ),
    "unpaired": (
        ("aligned", THREE, {"unpaired": True}),
        {f"{part}/{domain}": (domain,) for part in ("train", "val", "test") for domain in THREE},
    ),
    "tuples": (
        ("tuples", THREE, {}),
        {f"satellite_topographic/{part}": THREE[:2] for part in ("train", "val", "test")}
        | {f"topographic_mask/{part}": THREE[1:] for part in ("train", "val", "test")}
        | {f"test/{domain}": (domain,) for domain in THREE},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_files_show_the_places_they_are_called_after(earth: Earth, write: Write, case: str) -> None:
    (layout, domains, options), shown = CASES[case]
    root, written = write(layout, domains, **options)
    folders = {path.parent.relative_to(root).as_posix() for path in root.rglob("*.png")}
    assert folders - {"testMask"} == set(shown)
    assert written.counts == {name: len(list((root / name).iterdir())) for name in folders}
    for name, of in shown.items():
        files = sorted((root / name).iterdir())
        assert len(files) == (40 if "train" in name else 6), name
        for path in files:
            np.testing.assert_array_equal(
                pixels(path), np.concatenate([earth.crop(domain, box_of(path)) for domain in of], axis=1)
            )


@pytest.mark.parametrize(
    "case, disjoint",
    [
        ("cyclegan", ("trainA", "trainB", "testA")),
        ("ab", ("train", "val", "test")),
        ("aligned", ("train/relief", "val/relief", "test/relief")),
        ("unpaired", ("train/satellite", "train/topographic", "train/mask", "val/mask", "test/mask")),
        ("tuples", ("satellite_topographic/train", "topographic_mask/train", "topographic_mask/val", "test/mask")),
    ],
)
def test_no_pixel_of_the_planet_is_in_two_parts(
    earth: Earth, write: Write, case: str, disjoint: tuple[str, ...]
) -> None:
    layout, domains, options = CASES[case][0]
    root, _ = write(layout, domains, **options)
    count = covered(earth, *(root / name for name in disjoint))
    assert count.max() == 1 and count.sum() >= 6 * SIZE**2 * len(disjoint)


@pytest.mark.parametrize(
    "case, same",
    [
        ("cyclegan", [("testA", "testB", "testMask")]),
        ("aligned", [tuple(f"{part}/{domain}" for domain in DOMAINS) for part in ("train", "val", "test")]),
        ("unpaired", [tuple(f"{part}/{domain}" for domain in THREE) for part in ("val", "test")]),
        ("tuples", [("satellite_topographic/test", "topographic_mask/test", "test/mask", "test/satellite")]),
    ],
)
def test_what_belongs_together_has_the_same_names(write: Write, case: str, same: list[tuple[str, ...]]) -> None:
    layout, domains, options = CASES[case][0]
    root, _ = write(layout, domains, **options)
    for folders in same:
        assert len({frozenset(places(root / name)) for name in folders}) == 1


def test_all_layouts_are_tested_on_the_same_places(write: Write) -> None:
    tests = {"cyclegan": "testA", "ab": "test", "aligned": "test/mask", "tuples": "test/mask"}
    assert tests.keys() == LAYOUTS.keys()
    shown = {
        layout: places(write(layout, DOMAINS[: LAYOUTS[layout][1]], unpaired=False)[0] / folder)
        if layout in ("aligned", "tuples")
        else places(write(*CASES[layout][0][:2])[0] / folder)
        for layout, folder in tests.items()
    }
    assert len({frozenset(names) for names in shown.values()}) == 1, shown


# ---- how many, from where -------------------------------------------------------------------------------------------


def test_report_on_the_screen_and_in_the_record(earth: Earth, write: Write) -> None:
    root, written = write(*CASES["tuples"][0][:2])
    record = json.loads((root / "earth.json").read_text())
    assert [tuple(of["folders"]) for of in record["sets"]] == [of.folders for of in written.sets]
    assert sorted(name for of in written.sets for name in of.folders) == sorted(written.counts)
    for of in written.sets:
        assert of.crops == written.counts[of.folders[0]]
        assert of.disjoint == of.crops  # 40 of many: far apart
        assert 1 < of.regions <= of.crops
    assert record["map"] == written.map.split("\n")
    split = earth.split(SIZE, 2, val=True)
    assert len(written.map.split("\n")) == split.rows
    for mark, part in (("T", "test"), ("v", "val")):
        assert written.map.count(mark) == len(record["regions"][part]) > 0
    assert "mod 5 = 4" in record["rule"]


@pytest.mark.parametrize("size, width, least", [(32, 5400, 3000), (64, 10800, 3000)])
def test_thousands_of_disjoint_crops(size: int, width: int, least: int) -> None:
    earth = Earth.load(width, ())
    split = earth.split(size)
    assert sum(len(earth.tiles(b, size, land=(0.1, 1.0))) for b in (split.x, split.y, split.test)) >= least


def test_stride_is_halved_until_there_is_enough(earth: Earth, tmp_path: Path) -> None:
    few = write_layout(earth, tmp_path / "few", size=SIZE, count=50)
    many = write_layout(earth, tmp_path / "many", size=SIZE, count=300)
    most = write_layout(earth, tmp_path / "most", size=SIZE)
    strides = [
        json.loads((tmp_path / name / "earth.json").read_text())["settings"]["stride"]
        for name in ("few", "many", "most")
    ]
    assert strides == [SIZE, SIZE // 4, SIZE // 8]
    assert few.sets[0].disjoint == few.sets[0].crops == 50
    assert many.sets[0].disjoint < many.sets[0].crops == 300
    assert most.counts["trainA"] >= 1000


def test_larger_training_pictures(earth: Earth, tmp_path: Path) -> None:
    write_layout(earth, tmp_path / "out", "ab", size=SIZE, train_size=48, count=8, held_out=2)
    sizes = {
        part: {Image.open(path).size for path in (tmp_path / "out" / part).iterdir()} for part in ("train", "test")
    }
    assert sizes == {"train": {(96, 48)}, "test": {(64, 32)}}


@pytest.mark.parametrize("size", [32, 64, 128, 256, 512])
def test_any_size_leaves_places_for_every_part(size: int) -> None:
    earth = Earth.load(10800, ())
    split = earth.split(size, 3, val=True)
    for boxes in (*split.train, split.val, split.test):
        assert len(earth.tiles(boxes, size, land=(0.1, 0.97))) >= 3


def test_enlarged_sources_are_smooth_and_in_place(earth: Earth) -> None:
    """At 10800 pixels, satellite and topographic are enlarged: averaging them down again gives what was there."""
    large, own = Earth.load(10800, ("topographic",)), Earth.load(5400, ("topographic",))
    box = Box(800, 2600, 256)
    twice = large.crop("topographic", Box(1600, 5200, 512)).astype(float)
    back = twice.reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))
    difference = np.abs(back - own.crop("topographic", box))
    assert difference.mean() < 1.5
    assert np.abs(back - own.crop("topographic", Box(801, 2600, 256))).mean() > 4 * difference.mean()


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"layout": "pix2pix"}, "'pix2pix'; there are: cyclegan, ab, aligned, tuples"),
        ({"layout": "ab", "domains": THREE}, "two different domains .* .aligned takes two to four"),
        ({"layout": "aligned", "domains": ("mask",)}, "two to four different domains .* got mask"),
        ({"layout": "tuples"}, "three to four different domains"),
        ({"layout": "tuples", "domains": ("mask", "mask", "relief")}, "three to four different domains"),
        ({"layout": "ab", "unpaired": True}, "unpaired goes with layout aligned"),
        ({"size": 1}, "size must be at least 2"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"count": 0}, "count must be at least 1"),
        ({"held_out": -1}, "held_out must be at least 1"),
        ({"land": (0.99991, 0.99992)}, "no train tile .* larger width than 1350"),
    ],
)
def test_bad_arguments_write_nothing(earth: Earth, tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_layout(earth, tmp_path / "out", **{"size": SIZE, **arguments})
    assert not list(tmp_path.iterdir())


def test_a_folder_is_kept_for_the_same_settings_only(earth: Earth, write: Write) -> None:
    root, written = write(*CASES["ab"][0][:2])
    domains = CASES["ab"][0][1]
    before = (root / "earth.json").stat().st_mtime_ns
    assert write_layout(earth, root, "ab", domains, SIZE, count=40, held_out=6) == written
    assert (root / "earth.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="another count, held_out, stride"):
        write_layout(earth, root, "ab", domains, SIZE)
    with pytest.raises(UserError, match="another layout"):
        write_layout(earth, root, "cyclegan", domains, SIZE, count=40, held_out=6)


# ---- found again ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case, name, train",
    [
        ("cyclegan", "cyclegan", [{"A": 40}, {"B": 40}]),
        ("ab", "side-by-side", [{"A": 40, "B": 40}]),
        ("aligned", "aligned", [{domain: 40 for domain in sorted(DOMAINS)}]),
        ("unpaired", "folders", [{domain: 40} for domain in sorted(THREE)]),
        ("tuples", "tuples", [{"satellite": 40, "topographic": 40}, {"topographic": 40, "mask": 40}]),
    ],
)
def test_found_as_the_layout_it_is(write: Write, case: str, name: str, train: list[dict[str, int]]) -> None:
    layout, domains, options = CASES[case][0]
    root, _ = write(layout, domains, **options)
    found = find_layout(root)
    assert found.name == name
    assert set(found.domains) == {domain for group in train for domain in group}
    assert [{domain: len(files) for domain, files in group.domains.items()} for group in found.splits["train"]] == train
    held_out = {"test"} if layout == "cyclegan" else {"val", "test"}
    assert found.splits.keys() == {"train"} | held_out
    for split in held_out:
        assert {len(group) for group in found.splits[split]} == {6}
    letters = [set(group.domains) for group in found.groups("train", found.domains if case == "aligned" else None)]
    assert set().union(*letters) <= {"x", "y", "z", "u"}


def test_tuples_are_tested_on_places_known_in_all_domains(write: Write) -> None:
    (group,) = find_layout(write(*CASES["tuples"][0][:2])[0]).splits["test"]
    assert set(group.domains) == set(THREE)
    assert len({tuple(path.name for path in files.paths) for files in group.domains.values()}) == 1


def test_halves_of_side_by_side_files_are_the_domains(earth: Earth, write: Write) -> None:
    root, _ = write(*CASES["tuples"][0][:2])
    for group in find_layout(root).splits["train"]:
        for domain, files in group.domains.items():
            assert isinstance(files, ImageFiles) and files.region in ("left", "right")
            wide = pixels(files.paths[0])
            half = wide[:, :SIZE] if files.region == "left" else wide[:, SIZE:]
            np.testing.assert_array_equal(half, earth.crop(domain, box_of(files.paths[0])))


# ---- clips ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips(earth: Earth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips") / "films"
    camera = named_camera("abrupt", frames=40, size=SIZE)
    assert list(write_clips(earth, root, ("relief", "mask"), camera, 2, tile=SIZE, mp4=True)) == [
        "test-000",
        "test-001",
    ]
    return root


def test_frames_written_are_those_of_the_clip(earth: Earth, clips: Path) -> None:
    camera = named_camera("abrupt", frames=40, size=SIZE)
    record = json.loads((clips / "earth.json").read_text())
    for seed in range(2):
        clip = fly_over(earth, ("relief", "mask"), camera, tile=SIZE, seed=seed, snow=False)
        folder = clips / f"test-{seed:03d}"
        for domain in ("relief", "mask"):
            files = sorted((folder / domain).iterdir())
            assert [path.name for path in files] == [f"{number:06d}.png" for number in range(40)]
            np.testing.assert_array_equal(np.stack([pixels(path) for path in files]), clip.frames[domain])
        assert record["clips"][folder.name]["cuts"] == list(clip.cuts)
        path = json.loads((folder / "camera.json").read_text())
        np.testing.assert_allclose(path["centre_row"], clip.path.rows, atol=1e-3)
        assert {len(values) for values in path.values()} == {40}


def test_a_clip_is_an_aligned_data_set_and_the_videos_are_one_of_videos(clips: Path) -> None:
    clip = find_layout(clips / "test-000")
    assert clip.name == "aligned" and set(clip.domains) == {"relief", "mask"}
    assert [len(group) for group in clip.splits["train"]] == [40]
    videos = find_layout(clips / "videos")
    assert videos.name == "videos" and set(videos.domains) == {"relief", "mask"}
    source = open_frames(clips / "videos/relief/test-001.mp4")
    assert source.size == (SIZE, SIZE) and sum(1 for _ in source) == 40


def test_clips_are_kept_for_the_same_settings_only(earth: Earth, clips: Path) -> None:
    camera = named_camera("abrupt", frames=40, size=SIZE)
    before = (clips / "earth.json").stat().st_mtime_ns
    cuts = write_clips(earth, clips, ("relief", "mask"), camera, 2, tile=SIZE, mp4=True)
    assert all(cuts.values()) and (clips / "earth.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="another camera"):
        write_clips(earth, clips, ("relief", "mask"), Camera(frames=40, size=(SIZE, SIZE)), 2, tile=SIZE, mp4=True)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"domains": ("relief",)}, "two to four different domains"),
        ({"domains": ("relief", "fog")}, "'fog'"),
        ({"clips": 0}, "clips must be at least 1"),
        ({"camera": Camera(size=(200, 200))}, "too small for frames of 200x200"),
    ],
)
def test_bad_clips_write_nothing(earth: Earth, tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_clips(earth, tmp_path / "out", tile=SIZE, **arguments)
    assert not list(tmp_path.iterdir())
