"""Truth in files: which file is whose truth, and what is said where it does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jdm_fast.data.earth import mask_picture
from jdm_fast.data.images import read_image
from jdm_fast.data.video_files import open_frames, write_video
from jdm_fast.errors import UserError
from jdm_fast.metrics import EARTH_MASK, DomainVideoScores, TruthScores, l1, score
from jdm_fast.metrics.files import PictureTruth, VideoTruth
from jdm_fast.metrics.temporal import flicker

SIZES = {"a": (12, 14), "b": (12, 14), "deep/c": (16, 11)}


def picture(name: str, role: int) -> np.ndarray:
    return np.random.default_rng([role, *name.encode()]).integers(0, 256, (*SIZES[name], 3), np.uint8)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """``in`` and ``truth``, the names of which end differently; one picture has no truth, one truth no picture."""
    for name in SIZES:
        save(tmp_path / f"in/{name}.bmp", picture(name, 0))
        save(tmp_path / f"truth/{name}.png", picture(name, 1))
    save(tmp_path / "in/alone.png", picture("a", 0))
    save(tmp_path / "truth/other.png", picture("b", 2))
    return tmp_path


def test_scores_are_those_of_the_pictures_with_a_truth(folders: Path) -> None:
    progress = []
    truth = PictureTruth(folders / "in", folders / "truth", on_progress=lambda *done: progress.append(done))
    assert progress == [(1, 3), (2, 3), (3, 3)]
    made = {name: picture(name, 3) for name in SIZES}
    same = [folders / "in/alone.png", folders / "in/a.bmp", folders / "in/b.bmp"]
    truth.add(
        same, np.stack([picture("a", 0), *(picture(n, 0) for n in "ab")]), np.stack([made["a"], *map(made.get, "ab")])
    )
    truth.add([folders / "in/deep/c.bmp"], picture("deep/c", 0)[None], made["deep/c"][None])
    assert truth.pictures == 3 and truth.without_truth == [folders / "in/alone.png"] and truth.iou() is None

    pixels = np.concatenate([picture(name, 1).reshape(-1, 3) for name in SIZES])
    colour = np.rint(pixels.mean(0)).astype(np.uint8)
    answers = {
        "translated": made.__getitem__,
        "input copied": lambda name: picture(name, 0),
        "mean colour": lambda name: np.broadcast_to(colour, (*SIZES[name], 3)),
    }
    scores = truth.result()
    assert list(scores) == list(answers)
    for answer, of in answers.items():
        expected = TruthScores()
        for name in SIZES:
            expected.add(of(name)[None], picture(name, 1)[None])
        for kind in ("l1", "psnr", "ssim"):
            assert getattr(scores[answer], kind) == pytest.approx(getattr(expected.result(), kind), rel=1e-6)


def test_land_from_masks_or_from_the_colours_of_the_truth(tmp_path: Path) -> None:
    land = np.random.default_rng(0).random((12, 12)) < 0.5
    save(tmp_path / "in.png", np.zeros((12, 12, 3), np.uint8))
    save(tmp_path / "truth.png", mask_picture(land))
    known = land.copy()
    known[0] = ~known[0]  # the mask says otherwise than the colours
    save(tmp_path / "land.png", known * np.uint8(255))
    made, given = mask_picture(land)[None], np.zeros((1, 12, 12, 3), np.uint8)
    for masks, agreement in ((None, 1), (tmp_path / "land.png", 11 / 12)):
        truth = PictureTruth(tmp_path / "in.png", tmp_path / "truth.png", domain="mask", land=masks)
        truth.add([tmp_path / "in.png"], given, made)
        scores = truth.result()
        assert scores["translated"].land_sea == pytest.approx(agreement) and scores["translated"].miou == 1
        assert ("truth" in scores) == (masks is not None)
        assert masks is None or scores["truth"].land_sea == pytest.approx(agreement)
    with_palette = PictureTruth(tmp_path / "in.png", tmp_path / "truth.png", palette=EARTH_MASK)
    with_palette.add([tmp_path / "in.png"], given, made)
    assert with_palette.iou() == {"land": 1, "water": 1} and with_palette.result()["translated"].land_sea is None


def test_equal_stems(folders: Path) -> None:
    save(folders / "in/a.png", picture("b", 5))
    save(folders / "truth/a.bmp", picture("a", 6))
    truth = PictureTruth(folders / "in", folders / "truth")
    truth.add([folders / "in/a.bmp"], picture("a", 0)[None], picture("a", 6)[None])
    assert truth.result()["translated"] == score(picture("a", 6)[None], read_image(folders / "truth/a.bmp")[None])
    (folders / "in/a.png").rename(folders / "in/a.webp")
    with pytest.raises(UserError, match="several files are called a"):
        PictureTruth(folders / "in", folders / "truth")


def other_size(root: Path) -> dict:
    save(root / "truth/b.png", picture("deep/c", 1))
    return {}


def damaged(root: Path) -> dict:
    (root / "truth/b.png").write_bytes((root / "truth/b.png").read_bytes()[:60])
    return {}


def no_names(root: Path) -> dict:
    save(root / "others/q.png", picture("a", 0))
    return {"truth": root / "others"}


def lacking_mask(root: Path) -> dict:
    save(root / "land/a.png", picture("a", 0))
    return {"domain": "relief", "land": root / "land"}


def wrong_mask(root: Path) -> dict:
    for name in SIZES:
        save(root / f"land/{name}.png", picture("a", 0))
    return {"domain": "relief", "land": root / "land"}


UNFIT: dict[str, tuple[Callable[[Path], dict], str]] = {
    "another size": (other_size, r"b.png: is 11x16 pixels, .*in/b.bmp, is 14x12"),
    "damaged": (damaged, "b.png"),
    "no names in common": (no_names, "no picture here is called as one of"),
    "missing truth": (lambda root: {"truth": root / "gone"}, "gone: no such"),
    "missing input": (lambda root: {"input": root / "gone"}, "gone: no such"),
    "file for a folder": (lambda root: {"truth": root / "truth/a.png"}, "must be a folder with the same names"),
    "masks of nothing": (lambda root: {"land": root / "truth"}, "name the domain"),
    "a mask is missing": (lacking_mask, "no mask of land"),
    "a mask of another size": (wrong_mask, "land/deep/c.png: is 14x12"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_is_said_before_anything_is_translated(case: str, folders: Path) -> None:
    make, message = UNFIT[case]
    arguments = {"input": folders / "in", "truth": folders / "truth", **make(folders)}
    with pytest.raises(UserError, match=message):
        PictureTruth(**arguments)


def test_unreadable_input_is_left_to_the_translator_and_a_changed_truth_is_noticed(folders: Path) -> None:
    (folders / "in/b.bmp").write_bytes(b"no picture")
    truth = PictureTruth(folders / "in", folders / "truth")
    with pytest.raises(UserError, match="nothing to score"):
        truth.result()
    save(folders / "truth/a.png", picture("deep/c", 1))
    with pytest.raises(UserError, match="a.png: its size has changed"):
        truth.add([folders / "in/a.bmp"], picture("a", 0)[None], picture("a", 3)[None])


# ---- video ----------------------------------------------------------------------------------------------------------


def frames(seed: int, count: int = 9, size: tuple[int, int] = (16, 20)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)


def folder_of(path: Path, clip: np.ndarray) -> Path:
    for number, frame in enumerate(clip):
        save(path / f"{number}.png", frame)
    return path


@pytest.mark.parametrize("more", [0, 3])
def test_video_scores_are_those_of_the_arrays(tmp_path: Path, more: int) -> None:
    """Frames of the truth after the last key frame are the true ones of frames that are not made."""
    truth = {domain: frames(seed, 9 + more) for domain, seed in (("x", 1), ("y", 2))}
    made = {"x": frames(3), "y": frames(4)}
    paths = {domain: folder_of(tmp_path / domain, clip) for domain, clip in truth.items()}
    scores = VideoTruth(paths, paths["y"], factor=4, every=4, source="y")
    for part in (slice(0, 5), slice(5, 6), slice(6, 9)):
        scores.add({domain: clip[part] for domain, clip in made.items()})
    for domain, of_domain in scores.result().items():
        expected = DomainVideoScores(4, is_source=domain == "y")
        expected.add(made[domain], truth[domain][:9])
        assert of_domain == expected.scores()
        assert ("cross_fade_true" in of_domain) == (domain == "y")


def test_one_domain_is_enough(tmp_path: Path) -> None:
    scores = VideoTruth({"x": folder_of(tmp_path / "x", frames(1))}, tmp_path / "x", factor=2, every=2)
    scores.add({"x": frames(1), "y": frames(2)})
    assert list(scores.result()) == ["x"] and scores.result()["x"]["in_between"].l1 == 0


@pytest.mark.parametrize(
    "count, size, factor, message",
    [
        (8, (16, 20), 4, "has 8 frames, but 9 will be made"),
        (13, (16, 20), 4, "has 13 frames, but 9 will be made"),
        (9, (20, 16), 4, "frames are 16x20 pixels, those of in are 20x16"),
        (9, (16, 20), 1, "factor must be 2 or more"),
    ],
)
def test_video_truth_that_cannot_fit(
    tmp_path: Path, count: int, size: tuple[int, int], factor: int, message: str
) -> None:
    folder_of(tmp_path / "in", frames(0, 3))
    with pytest.raises(UserError, match=message):
        VideoTruth({"x": folder_of(tmp_path / "x", frames(1, count, size))}, tmp_path / "in", factor=factor)


@pytest.mark.parametrize("count, message", [(7, "has 7 frames only"), (13, "goes on after the 9 frames made")])
def test_a_count_that_only_reading_tells_is_said_in_the_end(tmp_path: Path, count: int, message: str) -> None:
    """Matroska's header does not say how many frames there are."""
    path = write_video(tmp_path / "x.mkv", frames(1, count), 24)
    folder_of(tmp_path / "in", frames(0, 3))
    scores = VideoTruth({"x": path, "y": folder_of(tmp_path / "y", frames(2))}, tmp_path / "in", factor=4)
    for start in (0, 5):
        scores.add({"x": frames(3)[start : start + 5], "y": frames(4)[start : start + 5]})
    with pytest.raises(UserError, match=f"the video is written, but cannot be scored: .*x.mkv: {message}"):
        scores.result()


def test_a_damaged_truth_does_not_stop_the_video(tmp_path: Path) -> None:
    folder_of(tmp_path / "in", frames(0, 3))
    folder_of(tmp_path / "x", frames(1))
    save(tmp_path / "x/5.png", frames(1, 1, (8, 8))[0])
    scores = VideoTruth({"x": tmp_path / "x"}, tmp_path / "in", factor=4)
    for start in range(9):
        scores.add({"x": frames(3)[start : start + 1]})
    with pytest.raises(UserError, match=r"cannot be scored: .*5.png"):
        scores.result()


def test_frames_sent_through_one_by_one_are_those_of_the_source(tmp_path: Path) -> None:
    truth = {"x": frames(1), "y": frames(2)}
    paths = {domain: folder_of(tmp_path / domain, clip) for domain, clip in truth.items()}
    scores = VideoTruth(
        {"x": open_frames(paths["x"]), "y": paths["y"]},
        open_frames(paths["x"]),
        factor=4,
        every=4,
        translate=lambda clip, to: clip if to == "x" else 255 - clip,
    )
    for part in (slice(0, 5), slice(5, 9)):
        scores.add({"x": frames(3)[part], "y": frames(4)[part]})
    between = [1, 2, 3, 5, 6, 7]
    result = scores.result()
    assert result["x"]["one_by_one"].l1 == 0
    assert result["y"]["one_by_one"].l1 == pytest.approx(l1(255 - truth["x"][between], truth["y"][between]))
    assert scores.flicker()["y"]["one_by_one"] == pytest.approx(flicker(truth["x"]))
    with pytest.raises(ValueError, match="the true frames of x, which the truth must have"):
        VideoTruth({"y": paths["y"]}, paths["x"], factor=4, every=4, translate=lambda clip, to: clip)
