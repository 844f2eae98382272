from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jdm_fast.data.check import check, without_bad
from jdm_fast.data.dataset import Arrays, Features, Group, Layout
from jdm_fast.data.images import read_image
from jdm_fast.data.layouts import find_layout
from jdm_fast.data.preview import preview, read_item
from jdm_fast.data.report import Part, Report
from jdm_fast.data.video_files import write_video
from jdm_fast.errors import UserError


def paint(path: Path, seed: int, width: int = 48, height: int = 40, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Twelve aligned pairs."""
    for number in range(12):
        for seed, domain in enumerate(("map", "photo")):
            paint(tmp_path / "train" / domain / f"{number:02d}.png", 100 * seed + number)
    return tmp_path


def look(root: Path, layout: str = "aligned", **options: bool) -> Report:
    return check(find_layout(root, layout), **options)


def odd(report: Report) -> dict[tuple[str, str], tuple[int, str]]:
    return {
        (part.domain, item.what): (item.count, report.name(item.first)) for part in report.parts for item in part.odd
    }


def test_a_good_data_set(pairs: Path) -> None:
    done: list[tuple[int, int]] = []
    report = check(find_layout(pairs, "aligned"), on_progress=lambda *counts: done.append(counts))
    part = Part("train", "map", ("photo",), "pictures", 12, {(40, 48): 12}, {"RGB": 12})
    assert report.parts == (part, Part("train", "photo", ("map",), "pictures", 12, {(40, 48): 12}, {"RGB": 12}))
    assert report.bad == () and report.same == () and odd(report) == {}
    assert done == [(count, 24) for count in range(1, 25)]


def test_bad_files_are_named_with_the_reason(pairs: Path) -> None:
    cut = pairs / "train/map/03.png"
    cut.write_bytes(cut.read_bytes()[:500])
    (pairs / "train/photo/05.png").write_bytes(b"hello")
    Image.new("F", (48, 40)).save(pairs / "train/photo/07.png", format="TIFF")
    report = look(pairs)
    found = {report.name(item.path): item.reason for item in report.bad}
    assert list(found) == ["train/map/03.png", "train/photo/05.png", "train/photo/07.png"]
    reasons = ("damaged or cut short", "not an image", r"mode F (32-bit float)")
    assert all(text in reason for text, reason in zip(reasons, found.values(), strict=True))
    assert report.parts[0].count == 12 and sum(report.parts[0].sizes.values()) == 11


def test_damage_in_the_middle_needs_decoding(pairs: Path) -> None:
    path = pairs / "train/map/03.png"
    data = bytearray(path.read_bytes())
    data[300:340] = bytes(40)
    path.write_bytes(data)
    assert look(pairs).bad == ()
    (bad,) = look(pairs, decode=True).bad
    assert bad.path == path and "damaged" in bad.reason


def test_odd_files(pairs: Path) -> None:
    paint(pairs / "train/map/01.png", 1, mode="RGBA")
    paint(pairs / "train/map/02.png", 2, mode="L")
    Image.fromarray(np.zeros((40, 48), np.uint16)).save(pairs / "train/map/03.png")
    Image.new("CMYK", (48, 40)).save(pairs / "train/map/04.png", format="TIFF")
    paint(pairs / "train/photo/05.png", 105, width=50)
    paint(pairs / "train/photo/06.png", 106, width=20, height=20)
    Image.new("RGB", (48, 40), "red").save(pairs / "train/photo/07.png")  # of a length that no other file has
    (pairs / "train/photo/08.png").write_bytes((pairs / "train/photo/07.png").read_bytes())
    report = look(pairs)
    assert odd(report) == {
        ("map", "16 bits a channel: the upper 8 are used"): (1, "train/map/03.png"),
        ("map", "CMYK: converted to RGB without a colour profile"): (1, "train/map/04.png"),
        ("map", "with transparency: laid over white"): (1, "train/map/01.png"),
        ("map", "grey among pictures in colour"): (2, "train/map/02.png"),
        ("photo", "smaller than 32 pixels"): (1, "train/photo/06.png"),
        ("photo", "of another size than the map beside it"): (2, "train/photo/05.png"),
    }
    assert [[report.name(path) for path in paths] for paths in report.same] == [
        ["train/photo/07.png", "train/photo/08.png"]
    ]
    paint(pairs / "train/photo/06.png", 106)
    assert ("photo", "of another size than most (48x40)") in odd(look(pairs))


def test_names_twice(tmp_path: Path) -> None:
    for number, name in enumerate(("a/1.png", "a/1.jpg", "a/2.png", "a/2b.png", "b/1.png")):
        paint(tmp_path / name, number)
    report = look(tmp_path, "folders")
    assert odd(report) == {("a", "of the same name but for the ending or capitals"): (2, "a/1.jpg")}


def test_halves_of_files_are_looked_at_once(tmp_path: Path) -> None:
    for number in range(3):
        paint(tmp_path / "train" / f"{number}.png", number, width=81 if number else 96)
    report = look(tmp_path, "side-by-side")
    left, right = report.parts
    assert (left.kind, right.kind) == ("left halves", "right halves")
    assert left.sizes == {(40, 40): 2, (40, 48): 1} == right.sizes
    uneven = "of an odd width: the column in the middle is in neither half"
    assert odd(report) == {(name, uneven): (2, "train/1.png") for name in "AB"}
    assert report.same == (), "a file is not its own duplicate"


def test_class_numbers_without_a_colour_are_bad(tmp_path: Path) -> None:
    for frame, number in (("000000", 7), ("000001", 200)):
        paint(tmp_path / f"leftImg8bit/train/ulm/ulm_{frame}_000019_leftImg8bit.png", number)
        path = tmp_path / f"gtFine/train/ulm/ulm_{frame}_000019_gtFine_labelIds.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (48, 40), number).save(path)
    (bad,) = look(tmp_path, "cityscapes", decode=True).bad
    assert bad.path == path and bad.reason.startswith("the class number 200 is in it; expected numbers from 0 to 33")


def test_films_arrays_and_vectors(tmp_path: Path) -> None:
    for name in ("day/a.mp4", "day/b.mp4", "night/c.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_video(tmp_path / name, np.zeros((3, 32, 48, 3), np.uint8), fps=10)
    day, night = look(tmp_path, "videos", decode=True).parts
    assert (day.kind, day.count, day.sizes) == ("frames of 2 videos", 6, {(32, 48): 6})
    assert night.kind == "frames of 1 video"

    pixels = Arrays(np.zeros((5, 28, 20, 1), np.uint8), tmp_path / "file", quarter_turns=1)
    vectors = np.zeros((5, 10, 64), np.float32)
    group = Group({"image": pixels, "caption": Features(vectors, tmp_path / "features.npy")})
    layout = Layout("cub", tmp_path, ("image", "caption"), {"train": (group,)})
    image, caption = check(layout).parts
    assert (image.sizes, image.modes) == ({(20, 28): 5}, {"L": 5})
    assert caption.kind == "10 vectors of 64" and caption.bad == ()
    vectors[3, 2, 1] = np.nan
    (bad,) = check(layout).bad
    assert bad.path.name == "features.npy" and "not a number" in bad.reason


def test_the_report_as_a_file(pairs: Path, tmp_path: Path) -> None:
    (pairs / "train/photo/05.png").write_bytes(b"hello")
    paint(pairs / "train/map/01.png", 1, mode="RGBA")
    look(pairs).write(tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["layout"], report["domains"], report["bad_files"]) == ("aligned", ["map", "photo"], 1)
    first, second = report["parts"]
    assert first["sizes"] == {"48x40": 12} and first["modes"] == {"RGB": 11, "RGBA": 1}
    assert first["odd"] == [{"what": "with transparency: laid over white", "count": 1, "first": "train/map/01.png"}]
    assert second["bad"][0]["file"] == "train/photo/05.png" and second["paired_with"] == ["map"]
    with pytest.raises(UserError, match="cannot be written"):
        look(pairs).write(tmp_path / "nowhere" / "report.json")


# ---- leaving out bad files ------------------------------------------------------------------------------------------


def test_of_a_pair_both_are_left_out(pairs: Path) -> None:
    (pairs / "train/photo/05.png").write_bytes(b"hello")
    (pairs / "train/map/05.png").write_bytes(b"hello")
    (pairs / "train/map/09.png").write_bytes(b"hello")
    told: list[str] = []
    groups = find_layout(pairs, "aligned").groups("train", ("photo", "map"))
    (group,) = without_bad(groups, lambda path, reason: told.append(f"{path.parent.name}/{path.name}: {reason}"))
    left = [f"{number:02d}.png" for number in range(12) if number not in (5, 9)]
    assert [[path.name for path in domain.paths] for domain in group.domains.values()] == [left, left]
    assert [line[:12] for line in told] == ["photo/05.png", "map/05.png: ", "map/09.png: "]
    assert all("not an image" in line for line in told)


def test_unpaired_domains_lose_their_own_files_only(pairs: Path) -> None:
    (pairs / "train/photo/05.png").write_bytes(b"hello")
    told: list[Path] = []
    groups = find_layout(pairs, "folders").groups("train")
    kept = without_bad(groups, lambda path, reason: told.append(path))
    assert [len(group) for group in kept] == [12, 11] and kept[0] is groups[0]
    assert told == [pairs / "train/photo/05.png"]


def test_halves_are_told_once_and_decoding_finds_more(tmp_path: Path) -> None:
    for number in range(3):
        paint(tmp_path / "train" / f"{number}.png", number, width=96)
    path = tmp_path / "train/1.png"
    data = bytearray(path.read_bytes())
    data[300:340] = bytes(40)
    path.write_bytes(data)
    told: list[Path] = []
    groups = find_layout(tmp_path).groups("train")
    assert len(without_bad(groups, lambda path, reason: told.append(path))[0]) == 3 and not told
    assert len(without_bad(groups, lambda path, reason: told.append(path), decode=True)[0]) == 2 and told == [path]


def test_nothing_left(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        paint(tmp_path / name, 1)
    (tmp_path / "b/1.png").write_bytes(b"hello")
    groups = find_layout(tmp_path, "folders").groups("train")
    with pytest.raises(UserError, match="no item of y can be read: nothing is left"):
        without_bad(groups, lambda path, reason: None)


# ---- preview --------------------------------------------------------------------------------------------------------


def test_items_as_pictures(tmp_path: Path) -> None:
    path = paint(tmp_path / "train" / "1.png", 1, width=97)
    (group,) = find_layout(tmp_path).splits["train"]
    whole = read_image(path)
    assert np.array_equal(read_item(group.domains["A"], 0), whole[:, :48])
    assert np.array_equal(read_item(group.domains["B"], 0), whole[:, 49:])
    vectors = Features(np.linspace(-1, 1, 10, dtype=np.float32).reshape(1, 2, 5), tmp_path)
    shown = read_item(vectors, 0)
    assert shown.shape == (4, 4, 3) and shown[0, 0, 0] == 0 and shown[2, 1, 0] == 255


def test_a_preview_has_pairs_in_columns(pairs: Path) -> None:
    """Rows are domains; the pictures are those of the first, the middle and the last item, not resampled."""
    layout = find_layout(pairs, "aligned")
    sheet = preview(layout, count=3, side=40)
    pictures = [
        [read_image(pairs / f"train/{domain}/{number}.png") for number in ("00", "06", "11")]
        for domain in ("map", "photo")
    ]
    left = sheet.shape[1] - (3 * 48 + 2 * 4)
    assert sheet.shape[0] == 2 * 40 + 4 and left > 0
    for down, row in enumerate(pictures):
        for right, picture in enumerate(row):
            top, beside = down * 44, left + right * 52
            assert np.array_equal(sheet[top : top + 40, beside : beside + 48], picture)
