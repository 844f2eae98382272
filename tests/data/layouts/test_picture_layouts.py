"""Layouts of folders of pictures: small trees with the names of the real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jdm_fast.data.dataset import Group, ImageFiles, Layout
from jdm_fast.data.layouts import find_layout, fitting_layouts
from jdm_fast.errors import UserError

Paint = Callable[..., Path]


def names(group: Group) -> dict[str, list[str]]:
    return {name: [path.name for path in domain.paths] for name, domain in group.domains.items()}


def found(root: Path, layout: str, domains: tuple[str, ...]) -> Layout:
    assert fitting_layouts(root)[0] == layout
    result = find_layout(root)
    assert result.name == layout and result.domains == domains and result.root == root
    return result


# ---- cyclegan -------------------------------------------------------------------------------------------------------


def test_cyclegan(tmp_path: Path, paint: Paint) -> None:
    """horse2zebra's names: unpaired, in training and in test."""
    for name in (
        "trainA/n02381460_2.jpg", "trainA/n02381460_11.jpg", "trainB/n02391049_4.jpg",
        "testA/n02381460_20.jpg", "testB/n02391049_80.jpg", "testB/n02391049_100.jpg",
    ):  # fmt: skip
        paint(tmp_path / name)
    layout = found(tmp_path, "cyclegan", ("A", "B"))
    assert [names(group) for group in layout.splits["train"]] == [
        {"A": ["n02381460_11.jpg", "n02381460_2.jpg"]},
        {"B": ["n02391049_4.jpg"]},
    ]
    assert [names(group) for group in layout.splits["test"]] == [
        {"A": ["n02381460_20.jpg"]},
        {"B": ["n02391049_100.jpg", "n02391049_80.jpg"]},
    ]
    assert [list(group.domains) for group in layout.groups("train", ("B", "A"))] == [["y"], ["x"]]


@pytest.mark.parametrize(
    "a, b, paired",
    [
        (["1.png", "2.png"], ["1.png", "2.png"], True),
        (["1.jpg", "2.jpg"], ["1.png", "2.png"], True),  # photographs and label pictures
        (["1_A.jpg", "2_A.jpg"], ["1_B.jpg", "2_B.jpg"], True),  # maps, facades
        (["1.png", "2.png"], ["1.png", "3.png"], False),
        (["1.png", "2.png"], ["1.png"], False),
        (["1_B.jpg"], ["1_A.jpg"], False),
    ],
)
def test_cyclegan_test_pictures_are_pairs_if_their_names_say_so(
    tmp_path: Path, paint: Paint, a: list[str], b: list[str], paired: bool
) -> None:
    for letter, files in (("A", a), ("B", b)):
        for split in ("train", "test"):
            for name in files:
                paint(tmp_path / f"{split}{letter}" / name)
    layout = find_layout(tmp_path)
    assert len(layout.splits["train"]) == 2, "training is unpaired whatever the names"
    assert len(layout.splits["test"]) == (1 if paired else 2)


def test_cyclegan_without_b_and_with_deeper_pictures(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "trainA" / "1.png")
    with pytest.raises(UserError, match="there is no trainB in it; expected CycleGAN's layout"):
        find_layout(tmp_path, "cyclegan")
    paint(tmp_path / "trainB" / "street" / "1.png")
    with pytest.raises(UserError, match="trainB: no image in this folder; .*sub-folders are not searched unless"):
        find_layout(tmp_path)
    assert len(find_layout(tmp_path, recursive=True).splits["train"][1]) == 1


# ---- side by side ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files, width, height",
    [
        (["train/1.jpg", "train/2.jpg", "val/1.jpg", "test/1.jpg"], 512, 256),  # facades
        (["train/1.jpg", "train/10.jpg", "val/1.jpg"], 1200, 600),  # maps
        (["train/1_AB.jpg", "train/10_AB.jpg", "val/100_AB.jpg"], 512, 256),  # edges2shoes, edges2handbags
    ],
    ids=["facades", "maps", "edges2shoes"],
)
def test_side_by_side(tmp_path: Path, paint: Paint, files: list[str], width: int, height: int) -> None:
    for name in files:
        paint(tmp_path / name, width, height)
    layout = found(tmp_path, "side-by-side", ("A", "B"))
    assert set(layout.splits) == {name.split("/")[0] for name in files}
    (group,) = layout.splits["train"]
    assert len(group) == 2 and group.domains["A"].paths == group.domains["B"].paths
    assert (group.domains["A"].region, group.domains["B"].region) == ("left", "right")
    (turned,) = layout.groups("train", ("B", "A"))
    assert turned.domains["x"].region == "right"


def test_pictures_that_are_no_two(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "train" / "1.png", 40, 40)
    with pytest.raises(UserError, match=r"train/1.png: 40x40 is not two pictures side by side; expected train/"):
        find_layout(tmp_path)


def test_a_bad_first_file_does_not_hide_the_others(tmp_path: Path, paint: Paint) -> None:
    for number in range(3):
        paint(tmp_path / "train" / f"{number}.png", 80, 40)
    (tmp_path / "train" / "0.png").write_bytes(b"hello")
    assert len(find_layout(tmp_path).splits["train"][0]) == 3
    for number in (1, 2):
        (tmp_path / "train" / f"{number}.png").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"train: none of the 3 picture\(s\) in it can be read"):
        find_layout(tmp_path)


# ---- cityscapes -----------------------------------------------------------------------------------------------------


def cityscapes(root: Path, paint: Paint, kind: str) -> None:
    for split, city, frame in (
        ("train", "aachen", "000000_000019"), ("train", "aachen", "000001_000019"),
        ("train", "zurich", "000121_000019"), ("val", "munster", "000173_000019"), ("test", "berlin", "000000_000019"),
    ):  # fmt: skip
        name = f"{split}/{city}/{city}_{frame}"
        paint(root / "leftImg8bit" / f"{name}_leftImg8bit.png", 64, 32)
        paint(root / "gtFine" / f"{name}_gtFine_instanceIds.png", 64, 32, "L")
        if "color" in kind:
            paint(root / "gtFine" / f"{name}_gtFine_color.png", 64, 32, "RGBA")
        if "labelIds" in kind:
            paint(root / "gtFine" / f"{name}_gtFine_labelIds.png", 64, 32, "L")


@pytest.mark.parametrize("kind, expected", [("color labelIds", "color"), ("color", "color"), ("labelIds", "labelIds")])
def test_cityscapes(tmp_path: Path, paint: Paint, kind: str, expected: str) -> None:
    cityscapes(tmp_path, paint, kind)
    layout = found(tmp_path, "cityscapes", ("photo", "labels"))
    assert set(layout.splits) == {"train", "val"} and layout.sequences is None
    (group,) = layout.splits["train"]
    frames = ("aachen_000000_000019", "aachen_000001_000019", "zurich_000121_000019")
    assert names(group) == {
        "photo": [f"{frame}_leftImg8bit.png" for frame in frames],
        "labels": [f"{frame}_gtFine_{expected}.png" for frame in frames],
    }
    photo, labels = group.domains.values()
    assert isinstance(photo, ImageFiles) and isinstance(labels, ImageFiles)
    assert labels.labels and not photo.labels and photo.root == tmp_path / "leftImg8bit" / "train"
    if expected == "color":
        assert labels.palette is None
    else:
        # the official colours of road, sky, person, car and bicycle, by their numbers
        assert [labels.palette[number] for number in (7, 23, 24, 26, 33)] == [
            (128, 64, 128), (70, 130, 180), (220, 20, 60), (0, 0, 142), (119, 11, 32),
        ]  # fmt: skip
        assert len(labels.palette) == 34


def test_cityscapes_sequences(tmp_path: Path, paint: Paint) -> None:
    cityscapes(tmp_path, paint, "color")
    frames = [("000000", range(0, 4)), ("000001", range(4, 7)), ("000001", range(20, 22))]
    for sequence, numbers in frames:
        for number in numbers:
            name = f"train/aachen/aachen_{sequence}_{number:06d}_leftImg8bit.png"
            paint(tmp_path / "leftImg8bit_sequence" / name, 64, 32)
    layout = find_layout(tmp_path)
    assert {name: len(paths) for name, paths in layout.sequences["photo"].items()} == {
        "train/aachen_000000_000000": 4,
        "train/aachen_000001_000004": 3,
        "train/aachen_000001_000020": 2,  # a gap begins a new run
    }


def test_cityscapes_of_sequences_alone_uses_the_labelled_frames(tmp_path: Path, paint: Paint) -> None:
    for number in range(18, 21):
        paint(tmp_path / "leftImg8bit_sequence/train/ulm" / f"ulm_000007_{number:06d}_leftImg8bit.png", 64, 32)
    paint(tmp_path / "gtFine/train/ulm/ulm_000007_000019_gtFine_color.png", 64, 32)
    layout = found(tmp_path, "cityscapes", ("photo", "labels"))
    assert names(layout.splits["train"][0])["photo"] == ["ulm_000007_000019_leftImg8bit.png"]


@pytest.mark.parametrize(
    "gone, message",
    [
        ("gtFine/train/aachen/aachen_000001_000019_gtFine_color.png",
         r"aachen_000001_000019_leftImg8bit.png: has no counterpart aachen_000001_000019_gtFine_color.png or _lab"),
        ("leftImg8bit/train/zurich/zurich_000121_000019_leftImg8bit.png",
         r"zurich_000121_000019_gtFine_color.png: has no counterpart zurich_000121_000019_leftImg8bit.png in "),
    ],
    ids=["labels", "photo"],
)  # fmt: skip
def test_an_incomplete_cityscapes(tmp_path: Path, paint: Paint, gone: str, message: str) -> None:
    cityscapes(tmp_path, paint, "color")
    (tmp_path / gone).unlink()
    with pytest.raises(UserError, match=message):
        find_layout(tmp_path)


# ---- synthia --------------------------------------------------------------------------------------------------------


def test_synthia(tmp_path: Path, paint: Paint) -> None:
    for sequence in (
        "SYNTHIA-SEQS-01-SUMMER",
        "SYNTHIA-SEQS-01-WINTER",
        "SYNTHIA-SEQS-02-SUMMER",
        "SYNTHIA-SEQS-04-RAINNIGHT",
    ):
        for frame in range(3):
            for camera in ("Stereo_Left/Omni_F", "Stereo_Left/Omni_B", "Stereo_Right/Omni_F"):
                paint(tmp_path / sequence / "RGB" / camera / f"{frame:06d}.png")
            paint(tmp_path / sequence / "GT/COLOR/Stereo_Left/Omni_F" / f"{frame:06d}.png")
    layout = found(tmp_path, "synthia", ("summer", "winter", "rainnight"))
    sizes = {name: len(domain) for group in layout.splits["train"] for name, domain in group.domains.items()}
    assert sizes == {"summer": 6, "winter": 3, "rainnight": 3}, "sequences of a season are one domain"
    used = [path for group in layout.splits["train"] for domain in group.domains.values() for path in domain.paths]
    assert all("RGB/Stereo_Left/Omni_F" in path.as_posix() for path in used)
    assert {domain: list(runs) for domain, runs in layout.sequences.items()} == {
        "summer": ["SYNTHIA-SEQS-01-SUMMER", "SYNTHIA-SEQS-02-SUMMER"],
        "winter": ["SYNTHIA-SEQS-01-WINTER"],
        "rainnight": ["SYNTHIA-SEQS-04-RAINNIGHT"],
    }
    x, y = layout.groups("train", ("winter", "summer"))
    assert [len(group) for group in (x, y)] == [6, 3] and list(x.domains) == ["y"]


def test_a_synthia_sequence_without_pictures(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "SYNTHIA-SEQS-01-FALL/RGB/Stereo_Left/Omni_F/000000.png")
    (tmp_path / "SYNTHIA-SEQS-01-SPRING/RGB").mkdir(parents=True)
    with pytest.raises(UserError, match="SEQS-01-SPRING: no picture in RGB/Stereo_Left/Omni_F"):
        find_layout(tmp_path)


# ---- tuples ---------------------------------------------------------------------------------------------------------


def test_tuples_of_pix2pix_sets(tmp_path: Path, paint: Paint) -> None:
    """facades and labels, labels and cityscapes: pairs (x, y) and (y, z), never (x, z)."""
    for number in range(3):
        paint(tmp_path / "facades_labels/train" / f"{number}.jpg", 80, 40)
    for number in range(2):
        paint(tmp_path / "cityscapes_labels/train" / f"{number}.jpg", 80, 40)
        paint(tmp_path / "cityscapes_labels/val" / f"{number}.jpg", 80, 40)
    layout = found(tmp_path, "tuples", ("cityscapes", "labels", "facades"))
    assert [{name: domain.region for name, domain in group.domains.items()} for group in layout.splits["train"]] == [
        {"cityscapes": "left", "labels": "right"},
        {"facades": "left", "labels": "right"},
    ]
    assert [len(group) for group in layout.splits["train"]] == [2, 3]
    assert [len(group) for group in layout.splits["val"]] == [2]
    groups = layout.groups("train", ("facades", "labels", "cityscapes"))
    assert sorted("".join(group.domains) for group in groups) == ["xy", "yz"]


def test_tuples_whose_truth_is_known_in_test(tmp_path: Path, paint: Paint) -> None:
    for pair in ("a_b", "b_c"):
        for split in ("train", "test"):
            paint(tmp_path / pair / split / "1.png", 80, 40)
    for domain in "abc":
        paint(tmp_path / "test" / domain / "7.png")
    layout = found(tmp_path, "tuples", ("a", "b", "c"))
    assert len(layout.splits["train"]) == 2
    assert [names(group) for group in layout.splits["test"]] == [{"a": ["7.png"], "b": ["7.png"], "c": ["7.png"]}]


def test_tuples_of_folders(tmp_path: Path, paint: Paint) -> None:
    for pair, domains in (
        ("sat_map", ("sat", "map")),
        ("map_mask", ("map", "mask")),
        ("mask_sketch", ("mask", "sketch")),
    ):
        for domain in domains:
            paint(tmp_path / pair / "train" / domain / "1.png")
    layout = found(tmp_path, "tuples", ("sketch", "mask", "map", "sat"))
    assert [list(group.domains) for group in layout.splits["train"]] == [
        ["map", "mask"],
        ["mask", "sketch"],
        ["map", "sat"],
    ]


def test_tuples_whose_names_do_not_agree(tmp_path: Path, paint: Paint) -> None:
    for pair, domains in (("a_b", ("a", "b")), ("b_c", ("b", "d"))):
        for domain in domains:
            paint(tmp_path / pair / domain / "1.png")
    with pytest.raises(UserError, match=r"b_c: expected folders called b and c, as its name says; found folder\(s\) b"):
        find_layout(tmp_path)
    (tmp_path / "b_c").rename(tmp_path / "d_c")
    with pytest.raises(UserError, match="folders of pairs in it: a_b, d_c; expected some that share domains"):
        find_layout(tmp_path, "tuples")


# ---- aligned, folders -----------------------------------------------------------------------------------------------


def test_aligned(tmp_path: Path, paint: Paint) -> None:
    for split, number in (("train", "10"), ("train", "9"), ("test", "1")):
        for domain, suffix in (("mask", "png"), ("photo", "jpg"), ("relief", "png")):
            paint(tmp_path / split / domain / f"{number}.{suffix}")
    layout = found(tmp_path, "aligned", ("mask", "photo", "relief"))
    assert names(layout.splits["train"][0]) == {
        "mask": ["10.png", "9.png"], "photo": ["10.jpg", "9.jpg"], "relief": ["10.png", "9.png"],
    }  # fmt: skip
    assert len(layout.splits["test"][0]) == 1


def test_names_that_sort_otherwise_with_their_endings_stay_aligned(tmp_path: Path, paint: Paint) -> None:
    for name in ("one/a.png", "one/a.b.png", "two/a.JPG", "two/a.b.tif"):  # a.b is first in one, a in two
        paint(tmp_path / name)
    group = find_layout(tmp_path, "aligned").splits["train"][0]
    stems = [[path.stem for path in domain.paths] for domain in group.domains.values()]
    assert stems == [["a", "a.b"]] * 2


def test_an_incomplete_aligned_set(tmp_path: Path, paint: Paint) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        paint(tmp_path / "train" / name)
    assert fitting_layouts(tmp_path) == ("folders",)
    with pytest.raises(UserError, match=r"train: a and b belong together by file name, but 1 name\(s\) .* first is 2"):
        find_layout(tmp_path, "aligned")
    paint(tmp_path / "train" / "b" / "2.png")
    paint(tmp_path / "train" / "b" / "2.jpg")
    with pytest.raises(UserError, match="train: b has the name 2 twice, with different endings; remove one"):
        find_layout(tmp_path, "aligned")


@pytest.mark.parametrize("under", ["", "train"])
def test_folders(tmp_path: Path, paint: Paint, under: str) -> None:
    for name in ("cats/1.png", "cats/2.png", "dogs/rex.png", "notes/deeper/1.png", ".trash/1.png"):
        paint(tmp_path / under / name)
    (tmp_path / under / "notes" / "readme.txt").write_text("no picture beside me")
    layout = found(tmp_path, "folders", ("cats", "dogs"))
    assert [names(group) for group in layout.splits["train"]] == [{"cats": ["1.png", "2.png"]}, {"dogs": ["rex.png"]}]
    assert find_layout(tmp_path, "folders", recursive=True).domains == ("cats", "dogs", "notes")


def test_folders_have_pairs_in_test_if_names_say_so(tmp_path: Path, paint: Paint) -> None:
    for name in ("train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/3.png", "val/a/4.png", "val/b/5.png"):
        paint(tmp_path / name)
    layout = found(tmp_path, "folders", ("a", "b"))
    assert {split: len(groups) for split, groups in layout.splits.items()} == {"train": 2, "test": 1, "val": 2}


def test_folders_named_after_splits_are_no_domains(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "test" / "1.png")
    paint(tmp_path / "val" / "2.png")
    assert fitting_layouts(tmp_path) == ()
