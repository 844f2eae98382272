from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jdm_fast.data import Prefetcher, UnpairedImages, find_domains, read_image, save_image, unpaired
from jdm_fast.errors import UserError

COUNTS = {"x": 7, "y": 5}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images 20 high and 24 wide. Red is the image's number (x from 0, y from 100), green the row, blue the column."""
    root = tmp_path_factory.mktemp("unpaired")
    for name, first in (("x", 0), ("y", 100)):
        (root / name).mkdir()
        for k in range(COUNTS[name]):
            rows, columns = np.mgrid[:20, :24]
            image = np.stack([np.full((20, 24), first + k), rows * 10, columns * 10], axis=-1).astype(np.uint8)
            save_image(root / name / f"{k:03}.png", image)
    return root


def open_images(root: Path, **changes: Any) -> UnpairedImages:
    settings: dict[str, Any] = dict(preprocess="crop", crop_size=8, flip=False, seed=1, batch_size=1)
    return UnpairedImages(root / "x", root / "y", **{**settings, **changes})


def bytes_of(images: torch.Tensor) -> np.ndarray:
    """[N, C, H, W] in [-1, 1] as uint8 [N, H, W, C]."""
    return ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def numbers(data: UnpairedImages, name: str, steps: range) -> list[int]:
    """Which images a domain shows in these steps."""
    first = {"x": 0, "y": 100}[name]
    return [int(image[0, 0, 0]) - first for step in steps for image in bytes_of(data.batch(step)[name])]


def test_batches_have_the_documented_shape_and_range(root: Path) -> None:
    data = open_images(root, batch_size=3, crop_size=(8, 12))
    assert (data.size, data.counts, data.domains) == ((8, 12), COUNTS, ("x", "y"))
    batch = data.batch(0)
    assert list(batch) == ["x", "y"]
    for images in batch.values():
        assert images.shape == (3, 3, 8, 12) and images.dtype == torch.float32 and images.is_contiguous()
        assert -1 <= images.min() and images.max() <= 1


def test_black_and_white_are_minus_one_and_one(tmp_path: Path) -> None:
    for name, level in (("x", 0), ("y", 255)):
        (tmp_path / name).mkdir()
        save_image(tmp_path / name / "a.png", np.full((8, 8, 3), level, np.uint8))
    batch = open_images(tmp_path).batch(0)
    assert (batch["x"] == -1).all() and (batch["y"] == 1).all()


def test_a_batch_is_a_function_of_seed_and_step_alone(root: Path) -> None:
    settings: dict[str, Any] = dict(preprocess="resize_and_crop", load_size=12, flip=True, batch_size=2)
    first = open_images(root, **settings)
    expected = [first.batch(step) for step in range(20)]
    other = open_images(root, cache_mb=0, **settings)  # without a cache, backwards, with a global stream that has moved
    torch.manual_seed(99)
    np.random.seed(99)
    for step in (19, 3, 3, 11, 0, *range(18, 0, -1)):
        again = other.batch(step)
        assert all(torch.equal(again[name], expected[step][name]) for name in ("x", "y"))
    changed = open_images(root, **{**settings, "seed": 2})
    assert any(not torch.equal(changed.batch(step)["x"], expected[step]["x"]) for step in range(3))


def test_known_batch_stays_what_it_is(root: Path) -> None:
    """Runs are continued by versions of the package to come: the order of the images must not change between them."""
    data = open_images(root)
    assert numbers(data, "x", range(14)) == [3, 5, 6, 1, 0, 2, 4, 1, 4, 2, 0, 6, 3, 5]
    assert numbers(data, "y", range(10)) == [4, 1, 0, 2, 3, 0, 1, 2, 3, 4]


def test_each_pass_shows_every_image_once_in_its_own_order(root: Path) -> None:
    data = open_images(root)
    for name, count in COUNTS.items():
        passes = [numbers(data, name, range(k * count, (k + 1) * count)) for k in range(6)]
        assert all(sorted(shown) == list(range(count)) for shown in passes)
        assert len({tuple(shown) for shown in passes}) == 6, "passes must not repeat each other (5! = 120 orders)"


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 8])
def test_the_larger_domain_sets_the_epoch_and_the_other_cycles(root: Path, batch_size: int) -> None:
    data = open_images(root, batch_size=batch_size)
    assert data.steps_per_epoch == -(-7 // batch_size)
    single = open_images(root)
    for name in COUNTS:  # a batch is the next images of the same endless row, whatever its size
        shown = numbers(data, name, range(6))
        assert shown == numbers(single, name, range(6 * batch_size))
    assert set(numbers(data, "x", range(data.steps_per_epoch))) == set(range(7))


def test_the_two_domains_are_shuffled_independently(tmp_path: Path) -> None:
    """With the same files on both sides an image must meet any other equally often, itself no more than chance has
    it."""
    count = 8
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        for k in range(count):
            save_image(tmp_path / name / f"{k}.png", np.full((8, 8, 3), k, np.uint8))
    data = open_images(tmp_path)
    steps = range(count * 200)
    batches = [data.batch(step) for step in steps]
    pairs = np.zeros((count, count), dtype=int)
    for batch in batches:
        pairs[bytes_of(batch["x"])[0, 0, 0, 0], bytes_of(batch["y"])[0, 0, 0, 0]] += 1
    # 200 expected in each cell / count = 25, standard deviation sqrt(25 * 7/8) = 4.7; five of those, 64 cells.
    assert np.abs(pairs - 25).max() < 24
    assert pairs.sum() == 1600 and (pairs.sum(0) == 200).all() and (pairs.sum(1) == 200).all()


def test_crops_lie_inside_and_reach_every_place(root: Path) -> None:
    data = open_images(root, crop_size=(18, 21), seed=3)
    places = set()
    for step in range(400):
        for image in (bytes_of(images)[0] for images in data.batch(step).values()):
            top, left = int(image[0, 0, 1]) // 10, int(image[0, 0, 2]) // 10
            rows, columns = np.mgrid[top : top + 18, left : left + 21]
            assert (image[..., 1] == rows * 10).all() and (image[..., 2] == columns * 10).all()
            places.add((top, left))
    assert places == {(top, left) for top in range(3) for left in range(4)}


def test_half_are_mirrored_and_only_if_asked_for(root: Path) -> None:
    data = open_images(root, preprocess="none", flip=True, seed=4)
    mirrored = {name: [] for name in COUNTS}
    for step in range(400):
        for name, images in data.batch(step).items():
            columns = bytes_of(images)[0, 0, :, 2].astype(int)
            assert (np.diff(columns) == 10).all() or (np.diff(columns) == -10).all()
            mirrored[name].append(bool(columns[0] > columns[1]))
    for shown in mirrored.values():
        assert abs(np.mean(shown) - 0.5) < 0.1  # four standard deviations of 400 coin flips
    assert abs(np.mean(np.equal(mirrored["x"], mirrored["y"])) - 0.5) < 0.1, "each domain is mirrored for itself"
    still = open_images(root, preprocess="none", flip=False)
    assert all((np.diff(bytes_of(still.batch(step)["x"])[0, 0, :, 2].astype(int)) == 10).all() for step in range(20))


@pytest.mark.parametrize(
    "settings, size",
    [
        ({"preprocess": "resize_and_crop", "load_size": 12, "crop_size": 10}, (10, 10)),
        ({"preprocess": "resize_and_crop", "load_size": (40, 30), "crop_size": (36, 28)}, (36, 28)),
        ({"preprocess": "crop", "crop_size": (20, 24)}, (20, 24)),
        ({"preprocess": "resize", "load_size": (9, 15), "crop_size": 99}, (9, 15)),
        ({"preprocess": "none", "load_size": 5, "crop_size": 99}, (20, 24)),
    ],
    ids=str,
)
def test_preprocessing(root: Path, settings: dict[str, Any], size: tuple[int, int]) -> None:
    data = open_images(root, **settings)
    assert data.size == size
    assert data.batch(3)["y"].shape == data.fixed(1)["y"].shape == (1, 3, *size)


def test_none_and_resize_show_the_whole_picture(root: Path) -> None:
    whole = open_images(root, preprocess="none")
    index = numbers(whole, "x", range(1))[0]
    assert np.array_equal(bytes_of(whole.batch(0)["x"])[0], read_image(root / "x" / f"{index:03}.png"))
    small = bytes_of(open_images(root, preprocess="resize", load_size=(10, 12)).batch(0)["x"])[0]
    assert small[0, 0, 2] < 15 and small[-1, -1, 1] > 170 and small[-1, -1, 2] > 210


def test_grey(root: Path) -> None:
    batch = open_images(root, preprocess="none", channels=1).batch(0)
    colour = bytes_of(open_images(root, preprocess="none").batch(0)["x"])[0].astype(float)
    assert batch["x"].shape == (1, 1, 20, 24)
    expected = 0.299 * colour[..., 0] + 0.587 * colour[..., 1] + 0.114 * colour[..., 2]
    assert np.abs(bytes_of(batch["x"])[0, :, :, 0] - expected).max() <= 0.51


def test_fixed_images_are_spread_centred_and_never_change(root: Path) -> None:
    data = open_images(root, flip=True)
    fixed = data.fixed(3)
    assert [int(image[0, 0, 0]) for image in bytes_of(fixed["x"])] == [0, 2, 4]
    assert [int(image[0, 0, 0]) - 100 for image in bytes_of(fixed["y"])] == [0, 1, 3]
    for image in bytes_of(fixed["x"]):
        assert (image[0, 0, 1], image[0, 0, 2]) == (60, 80), "rows 6 to 13 of 20, columns 8 to 15 of 24"
    assert torch.equal(data.fixed(3)["x"], fixed["x"])
    assert len(data.fixed(99)["x"]) == len(data.fixed(99)["y"]) == 5


@pytest.mark.parametrize("cache_mb, reads", [(1, 12), (0, 70)])
def test_the_cache_saves_decoding(root: Path, monkeypatch: pytest.MonkeyPatch, cache_mb: int, reads: int) -> None:
    read: list[Path] = []
    monkeypatch.setattr(unpaired, "read_image", lambda path: read.append(path) or read_image(path))
    data = open_images(root, cache_mb=cache_mb)
    for step in range(35):
        data.batch(step)
    assert len(read) == reads


def test_the_cache_keeps_to_its_budget(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        for k in range(4):
            save_image(tmp_path / name / f"{k}.png", np.full((300, 400, 3), k, np.uint8))  # 0.34 MiB each
    data = open_images(tmp_path, cache_mb=1)
    for step in range(8):
        data.batch(step)
    assert sum(image.nbytes for image in data._cache.values()) == 2 * 300 * 400 * 3


def test_max_dataset_size_and_sub_folders(root: Path) -> None:
    data = open_images(root, max_dataset_size=3)
    assert data.counts == {"x": 3, "y": 3} and set(numbers(data, "x", range(9))) == {0, 1, 2}
    nested = UnpairedImages(root, root, preprocess="none", recursive=True)
    assert nested.counts == {"x": 12, "y": 12}


def test_the_fingerprint_knows_the_files_but_not_where_they_are(root: Path, tmp_path: Path) -> None:
    described = open_images(root).describe()
    assert described["x"]["count"] == 7
    shutil.copytree(root, tmp_path / "copy")
    assert open_images(tmp_path / "copy").describe() == described
    (tmp_path / "copy" / "x" / "000.png").rename(tmp_path / "copy" / "x" / "zero.png")
    renamed = open_images(tmp_path / "copy").describe()
    assert renamed["x"] != described["x"] and renamed["y"] == described["y"]


# ---- Bad input
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"crop_size": 21}, "000.png: is 20x24 .height x width., too small for crops of 21x21"),
        ({"crop_size": (8, 25)}, "too small for crops of 8x25"),
        ({"preprocess": "resize_and_crop", "load_size": 7}, "load_size: expected at least the crop_size 8x8, got 7x7"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"channels": 4}, "channels: .*got 4"),
    ],
    ids=str,
)
def test_impossible_settings(root: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_images(root, **settings)


def test_images_of_different_sizes_cannot_be_taken_as_they_are(root: Path, tmp_path: Path) -> None:
    save_image(tmp_path / "wide.png", np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(UserError, match="wide.png: is 20x30 but .*000.png is 20x24.*preprocess=none"):
        UnpairedImages(root / "x", tmp_path, preprocess="none")


def test_missing_and_empty_folders(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        UnpairedImages(root / "x", tmp_path / "nowhere")
    with pytest.raises(UserError, match="no image in this folder"):
        UnpairedImages(root / "x", tmp_path)


def test_a_damaged_image_is_found_when_the_folder_is_opened(root: Path, tmp_path: Path) -> None:
    for k in range(3):
        save_image(tmp_path / f"{k}.png", np.random.default_rng(k).integers(0, 256, (20, 24, 3), dtype=np.uint8))
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="1.png: the image cannot be read, it is damaged or cut short"):
        UnpairedImages(root / "x", tmp_path, 12, 8)


def test_an_image_that_shrinks_after_the_folder_was_opened(root: Path, tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", np.zeros((20, 24, 3), np.uint8))
    data = UnpairedImages(tmp_path, root / "y", preprocess="crop", crop_size=20)
    save_image(tmp_path / "a.png", np.zeros((10, 24, 3), np.uint8))
    with pytest.raises(UserError, match="a.png: the image has changed since"):
        data.batch(0)


def test_cyclegan_root(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        find_domains(tmp_path / "nowhere")
    (tmp_path / "trainA").mkdir()
    with pytest.raises(UserError, match="there is no trainB in it; expected CycleGAN's layout"):
        find_domains(tmp_path)
    (tmp_path / "trainB").mkdir()
    found = find_domains(tmp_path)
    assert (found.train_x, found.train_y) == (tmp_path / "trainA", tmp_path / "trainB")
    assert found.test_x is None and found.test_y is None
    (tmp_path / "testB").mkdir()
    assert find_domains(tmp_path).test_y == tmp_path / "testB"


# ---- Prefetching
# --------------------------------------------------------------------------------------------------------


def test_prefetched_batches_are_the_same_in_the_same_order(root: Path) -> None:
    data = open_images(root, batch_size=2, flip=True)
    with Prefetcher(data, range(5, 25), ahead=3) as prefetcher:
        batches = list(prefetcher)
    assert len(batches) == 20
    for step, batch in zip(range(5, 25), batches, strict=True):
        assert all(torch.equal(batch[name], images) for name, images in data.batch(step).items())


class Recorder:
    """Data that notes which steps were asked for, and fails at one of them."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.asked: list[int] = []
        self._fails_at = fails_at

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        self.asked.append(step)
        if step == self._fails_at:
            raise UserError("broken.png: cannot be read")
        return {"x": torch.tensor([step])}


def test_an_error_comes_up_at_its_own_step() -> None:
    with Prefetcher(Recorder(fails_at=3), range(10)) as prefetcher:
        batches = iter(prefetcher)
        assert [int(next(batches)["x"]) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(UserError, match="broken.png"):
            next(batches)


def test_it_stays_ahead_by_no_more_than_asked_and_its_thread_ends() -> None:
    before = threading.active_count()
    data = Recorder()
    with Prefetcher(data, range(1000), ahead=2) as prefetcher:
        assert int(next(iter(prefetcher))["x"]) == 0
    assert len(data.asked) <= 1 + 2 + 1, "one taken, two waiting, one in the making"
    assert threading.active_count() == before
