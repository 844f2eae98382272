from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jdm_fast.data.dataset import Arrays, Features, Group, ImageFiles, arrange
from jdm_fast.data.images import find_images, read_image, save_image
from jdm_fast.data.loader import Loader
from jdm_fast.errors import UserError

COUNTS = {"x": 7, "y": 5}
HEIGHT, WIDTH = 20, 24


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Red is the picture's number, green the row, blue the column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([np.full((height, width), number), rows * 10, columns * 10], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders x and y of pictures that show where they are from; those of x have numbers from 0, of y from 100."""
    root = tmp_path_factory.mktemp("loader")
    for name, first in (("x", 0), ("y", 100)):
        (root / name).mkdir()
        for k in range(COUNTS[name]):
            save_image(root / name / f"{k:03}.png", picture(first + k))
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JDM_FAST_CACHE", str(tmp_path / "cache"))


def files(folder: Path, **changes: Any) -> ImageFiles:
    return ImageFiles(tuple(find_images(folder)), folder, **changes)


def unpaired(root: Path) -> list[Group]:
    return [Group({"x": files(root / "x")}), Group({"y": files(root / "y")})]


def open_loader(groups: Sequence[Group], **changes: Any) -> Loader:
    settings: dict[str, Any] = dict(preprocess="crop", crop_size=8, flip=False, seed=1)
    return Loader(groups, **{**settings, **changes})


def bytes_of(images: torch.Tensor) -> np.ndarray:
    """[N, C, H, W] in [-1, 1] as uint8 [N, H, W, C]."""
    return ((images.float() + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def batches(loader: Loader, start: int, stop: int) -> list[dict[str, torch.Tensor]]:
    with loader.batches(start, stop) as iterator:
        return list(iterator)


def numbers(loader: Loader, key: str, steps: range, first: int = 0) -> list[int]:
    """Which pictures a domain shows in these steps."""
    return [
        int(image[0, 0, 0]) - first
        for batch in batches(loader, steps.start, steps.stop)
        for image in bytes_of(batch[key])
    ]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# ---- What batches are


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 3])
def test_batches_have_the_documented_form(root: Path, dtype: torch.dtype, channels_last: bool, channels: int) -> None:
    settings: dict[str, Any] = dict(batch_size=3, crop_size=(8, 12), channels=channels)
    loader = open_loader(unpaired(root), dtype=dtype, channels_last=channels_last, **settings)
    assert (loader.size, loader.counts, loader.keys) == ((8, 12), COUNTS, ("x", "y"))
    batch, plain = loader.batch(1), open_loader(unpaired(root), **settings).batch(1)
    assert list(batch) == ["x", "y"]
    for key, images in batch.items():
        assert images.shape == (3, channels, 8, 12) and images.dtype == dtype and images.device.type == "cpu"
        assert images.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        assert torch.equal(images, plain[key].to(dtype))
        assert -1 <= images.min() and images.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_black_and_white_are_minus_one_and_one(tmp_path: Path, dtype: torch.dtype) -> None:
    for name, level in (("x", 0), ("y", 255)):
        (tmp_path / name).mkdir()
        save_image(tmp_path / name / "a.png", np.full((8, 8, 3), level, np.uint8))
    batch = open_loader(unpaired(tmp_path), dtype=dtype).batch(0)
    assert (batch["x"] == -1).all() and (batch["y"] == 1).all()


def test_every_level_comes_through(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    save_image(tmp_path / "a.png", levels)
    batch = open_loader([Group({"x": files(tmp_path)})], preprocess="none").batch(0)
    expected = torch.from_numpy(levels).permute(2, 0, 1)[None].to(torch.float32).div(127.5).sub(1)
    assert (batch["x"] - expected).abs().max() <= 2.0**-23


def test_known_batches_stay_what_they_are(root: Path) -> None:
    """Runs are continued by versions of the package to come: what is shown must not change between them."""
    loader = open_loader(unpaired(root), flip=True)
    assert numbers(loader, "x", range(14)) == [3, 5, 6, 1, 0, 2, 4, 1, 4, 2, 0, 6, 3, 5]
    assert numbers(loader, "y", range(10), 100) == [4, 1, 0, 2, 3, 0, 1, 2, 3, 4]
    corners = [bytes_of(batch["x"])[0, 0, 0, 1:].tolist() for batch in batches(loader, 0, 6)]
    assert corners == [[70, 40], [100, 0], [90, 150], [70, 80], [120, 50], [10, 150]]


def test_a_batch_is_a_function_of_seed_and_step_alone(root: Path) -> None:
    settings: dict[str, Any] = dict(preprocess="resize_and_crop", load_size=12, flip=True, batch_size=2)
    expected = batches(open_loader(unpaired(root), **settings), 0, 20)
    other = open_loader(unpaired(root), cache_mb=0, threads=1, **settings)
    torch.manual_seed(99)
    np.random.seed(99)
    for step in (19, 3, 3, 11, 0, 7):  # one by one, without a cache, in any order
        assert same(other.batch(step), expected[step])
    for step, batch in enumerate(batches(other, 13, 20)):
        assert same(batch, expected[13 + step])
    changed = open_loader(unpaired(root), **{**settings, "seed": 2})
    assert any(not torch.equal(changed.batch(step)["x"], expected[step]["x"]) for step in range(3))


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
@pytest.mark.parametrize("channels", [1, 3])
def test_cached_and_decoded_batches_are_the_same_bits(
    root: Path, settings: dict[str, Any], size: tuple[int, int], channels: int
) -> None:
    rng = np.random.default_rng(0)
    groups = [*unpaired(root), Group({"z": Arrays(rng.integers(0, 256, (4, 24, 20, 1), np.uint8), root / "z", 1)})]
    cached = open_loader(groups, flip=True, channels=channels, **settings)
    decoding = open_loader(groups, flip=True, channels=channels, cache_mb=0, **settings)
    assert cached.size == decoding.size == size
    for one, other in zip(batches(cached, 2, 9), batches(decoding, 2, 9), strict=True):
        assert same(one, other)
        assert all(images.shape == (1, channels, *size) for images in one.values())
    assert same(cached.fixed(3), decoding.fixed(3))


def test_a_cache_that_is_too_small_changes_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        for k in range(3):
            save_image(tmp_path / name / f"{k}.png", rng.integers(0, 256, (300, 400, 3), np.uint8))  # 0.34 MB
    settings: dict[str, Any] = dict(preprocess="resize_and_crop", load_size=(380, 500), crop_size=40, flip=True)
    small, none = (open_loader(unpaired(tmp_path), cache_mb=mb, **settings) for mb in (2, 0))
    for one, other in zip(batches(small, 0, 6), batches(none, 0, 6), strict=True):
        assert same(one, other)
    pixels = list((tmp_path / "cache").rglob("pixels.u8"))
    assert [path.stat().st_size for path in pixels] == [380 * 500 * 3] * 2, "one of three pictures of each domain"


def test_crops_can_be_anywhere_and_are_what_they_say(root: Path) -> None:
    loader = open_loader(unpaired(root), crop_size=(18, 21))
    places = set()
    for batch in batches(loader, 0, 300):
        for images in batch.values():
            image = bytes_of(images)[0]
            top, left = int(image[0, 0, 1]) // 10, int(image[0, 0, 2]) // 10
            assert np.array_equal(image[..., 1:], picture(0)[top : top + 18, left : left + 21, 1:])
            places.add((top, left))
    assert places == {(top, left) for top in range(3) for left in range(4)}


def test_half_are_mirrored_and_each_domain_for_itself(root: Path) -> None:
    mirrored: dict[str, list[bool]] = {"x": [], "y": []}
    for batch in batches(open_loader(unpaired(root), preprocess="none", flip=True, seed=4), 0, 400):
        for key, images in batch.items():
            columns = bytes_of(images)[0, 0, :, 2].astype(int)
            assert (np.diff(columns) == 10).all() or (np.diff(columns) == -10).all()
            mirrored[key].append(bool(columns[0] > columns[1]))
    for shown in mirrored.values():
        assert abs(np.mean(shown) - 0.5) < 0.1  # four standard deviations of 400 coin flips
    assert abs(np.mean(np.equal(mirrored["x"], mirrored["y"])) - 0.5) < 0.1


def test_the_whole_picture_is_shown_as_it_is(root: Path) -> None:
    loader = open_loader(unpaired(root), preprocess="none")
    index = numbers(loader, "x", range(1))[0]
    assert np.array_equal(bytes_of(loader.batch(0)["x"])[0], read_image(root / "x" / f"{index:03}.png"))


def test_fixed_pictures_are_spread_centred_and_never_change(root: Path) -> None:
    loader = open_loader(unpaired(root), flip=True)
    fixed = loader.fixed(3)
    assert [int(image[0, 0, 0]) for image in bytes_of(fixed["x"])] == [0, 2, 4]
    assert [int(image[0, 0, 0]) - 100 for image in bytes_of(fixed["y"])] == [0, 1, 3]
    for image in bytes_of(fixed["x"]):
        assert (image[0, 0, 1], image[0, 0, 2]) == (60, 80), "rows 6 to 13 of 20, columns 8 to 15 of 24"
    loader.prepare()
    assert same(loader.fixed(3), fixed)
    assert len(loader.fixed(99)["x"]) == len(loader.fixed(99)["y"]) == 5


# ---- What belongs together


@pytest.mark.parametrize(
    "settings",
    [
        {"preprocess": "crop", "crop_size": (14, 15)},
        {"preprocess": "resize_and_crop", "load_size": (40, 48), "crop_size": (33, 31)},
        {"preprocess": "resize", "load_size": (10, 12)},
        {"preprocess": "none"},
    ],
    ids=lambda settings: settings["preprocess"],
)
def test_paired_domains_stay_aligned(tmp_path: Path, settings: dict[str, Any]) -> None:
    """y shows the same place as x in other colours, so that any difference of crop or mirroring would be seen."""
    rng = np.random.default_rng(0)
    for name in ("x", "y", "z"):
        (tmp_path / name).mkdir()
    for k in range(6):
        image = rng.integers(0, 128, (HEIGHT, WIDTH, 3), np.uint8)
        image[..., 0] = picture(k)[..., 0] * 20
        save_image(tmp_path / "x" / f"{k}.png", image)
        save_image(tmp_path / "y" / f"{k}.png", image[..., ::-1])  # red and blue exchanged
        save_image(tmp_path / "z" / f"{k}.png", image)
    values = np.arange(6, dtype=np.float32)[:, None, None].repeat(2, axis=1)
    pair = Group({"x": files(tmp_path / "x"), "y": files(tmp_path / "y"), "u": Features(values, tmp_path)})
    loader = open_loader([pair, Group({"z": files(tmp_path / "z")})], flip=True, batch_size=2, **settings)
    assert loader.steps_per_epoch == 3
    unlike = 0
    for batch in batches(loader, 0, 30):
        assert torch.equal(batch["x"], batch["y"].flip(1))
        assert [int(image[0, 0, 0]) // 20 for image in bytes_of(batch["x"])] == batch["u"][:, 0].tolist()
        unlike += not torch.equal(batch["x"], batch["z"])
    assert unlike > 20, "the other group goes its own way"
    fixed = loader.fixed(3)
    assert torch.equal(fixed["x"], fixed["y"].flip(1)) and torch.equal(fixed["x"], fixed["z"])


def test_a_domain_of_two_pairs_has_a_key_in_each(root: Path) -> None:
    x, y = files(root / "x").take(range(5)), files(root / "y")
    loader = open_loader([Group({"x": x, "y": y}), Group({"y": y.take([0, 1]), "z": x.take([2, 3])})])
    assert loader.keys == ("x", "y_xy", "y_yz", "z") and loader.counts == {"x": 5, "y_xy": 5, "y_yz": 2, "z": 2}
    for batch in batches(loader, 0, 8):
        shown = {key: int(bytes_of(images)[0, 0, 0, 0]) for key, images in batch.items()}
        assert shown["y_xy"] == shown["x"] + 100 and shown["y_yz"] == shown["z"] + 98


def test_halves_of_side_by_side_files(tmp_path: Path) -> None:
    """The column in the middle of an odd width is in neither half, so that both have one size."""
    rng = np.random.default_rng(0)
    whole = [rng.integers(0, 256, (20, width, 3), np.uint8) for width in (40, 41)]
    for k, image in enumerate(whole):
        save_image(tmp_path / f"{k}.png", image)
    pair = Group({"x": files(tmp_path, region="left"), "y": files(tmp_path, region="right")})
    for cache_mb in (0, 8):
        loader = open_loader([pair], preprocess="none", cache_mb=cache_mb)
        assert loader.size == (20, 20)
        for batch in [loader.fixed(2), *batches(loader, 0, 4)]:
            for left, right in zip(bytes_of(batch["x"]), bytes_of(batch["y"]), strict=True):
                image = next(image for image in whole if np.array_equal(image[:, :20], left))
                assert np.array_equal(image[:, -20:], right)
    one, other = loader.describe()["x"], loader.describe()["y"]
    assert one["fingerprint"] != other["fingerprint"], "which half is which belongs to what a data set is"


def test_disjoint_domains_of_paired_data_share_no_file(root: Path) -> None:
    """What unpaired training on paired data is given."""
    x, y = files(root / "x").take(range(4)), files(root / "y").take(range(4))
    loader = open_loader(arrange([Group({"x": x, "y": y})], "disjoint"))
    assert set(numbers(loader, "x", range(8))) == {0, 1} and set(numbers(loader, "y", range(8), 100)) == {2, 3}


def test_one_of_several_vectors_is_drawn_each_time() -> None:
    values = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    loader = open_loader([Group({"x": Features(values, Path("captions.npy"))})], batch_size=2)
    assert loader.size is None
    seen = set()
    for batch in batches(loader, 0, 100):
        assert batch["x"].shape == (2, 3) and batch["x"].dtype == torch.float32
        for vector in batch["x"].numpy():
            seen.add(tuple(np.argwhere((values == vector).all(-1))[0].tolist()))
    assert seen == {(item, k) for item in range(5) for k in range(4)}
    assert np.array_equal(loader.fixed(5)["x"].numpy(), values[:, 0])


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_arrays_turn_clockwise(turns: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 9, 1), np.uint8)
    loader = open_loader([Group({"x": Arrays(pixels, Path("a.idx"), turns)})], preprocess="none", channels=1)
    expected = [np.rot90(image, -turns) for image in pixels]
    assert loader.size == expected[0].shape[:2]
    assert np.array_equal(bytes_of(loader.fixed(3)["x"]), np.stack(expected))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preprocess": "none", "flip": True}, r"mirrored alike they would not be: use flip=False \(--no-flip\)"),
        ({"preprocess": "crop", "crop_size": 8, "flip": False}, "cropped alike they would not be: use preprocess=none"),
        ({"preprocess": "none", "flip": False}, None),
        ({"preprocess": "resize_and_crop", "load_size": 8, "crop_size": 8, "flip": False}, None),
    ],
    ids=str,
)
def test_turns_of_each_other_stay_so(options: dict[str, Any], message: str | None) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 10, 10, 1), np.uint8)
    groups = [Group({"x": Arrays(pixels, Path("a.idx")), "y": Arrays(pixels, Path("a.idx"), 1)})]
    if message is not None:
        with pytest.raises(UserError, match=message):
            Loader(groups, channels=1, cache_mb=0, **options)
        return
    batch = Loader(groups, channels=1, cache_mb=0, batch_size=2, **options).batch(0)
    assert torch.allclose(batch["x"].rot90(-1, (2, 3)), batch["y"], atol=2.1 / 127.5)


# ---- Identity


def test_the_fingerprint_knows_the_files_but_not_where_they_are(root: Path, tmp_path: Path) -> None:
    described = open_loader(unpaired(root)).describe()
    assert described["x"]["count"] == 7
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    assert open_loader(unpaired(copy)).describe() == described
    (copy / "x" / "000.png").rename(copy / "x" / "zero.png")
    renamed = open_loader(unpaired(copy)).describe()
    assert renamed["x"] != described["x"] and renamed["y"] == described["y"]


def test_the_fingerprint_of_values_knows_them(root: Path) -> None:
    def described(level: int, turns: int) -> list[str]:
        pixels = np.full((2, 8, 8, 1), level, np.uint8)
        values = np.full((2, 1, 3), level, np.float32)
        pair = Group({"x": Arrays(pixels, root / "a", turns), "y": Features(values, root / "b")})
        return [str(entry["fingerprint"]) for entry in open_loader([pair]).describe().values()]

    assert described(1, 0) == described(1, 0)
    assert described(1, 0)[0] not in (described(1, 2)[0], described(2, 0)[0])
    assert described(1, 0)[1] == described(1, 2)[1] != described(2, 0)[1]


# ---- Bad input


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"crop_size": 21}, "000.png: is 20x24 .height x width., too small for crops of 21x21"),
        ({"crop_size": (8, 25)}, "too small for crops of 8x25"),
        ({"preprocess": "resize_and_crop", "load_size": 7}, "load_size: expected at least the crop_size 8x8, got 7x7"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"channels": 4}, "channels: .*got 4"),
        ({"dtype": torch.float64}, "dtype: expected float32, float16 or bfloat16, got torch.float64"),
        ({"cache_mb": -1}, "cache_mb: expected 0 or more, got -1"),
        ({"threads": 0}, "threads: expected at least 1, got 0"),
        ({"rank": 1}, "rank: expected 0 to 0 for a world_size of 1, got 1"),
        ({"device": "meta"}, "device: batches are made on cpu or cuda, got meta"),
    ],
    ids=str,
)
def test_impossible_settings(root: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_loader(unpaired(root), **settings)


def test_pictures_of_other_sizes_than_they_must_have(root: Path, tmp_path: Path) -> None:
    save_image(tmp_path / "wide.png", np.zeros((20, 30, 3), np.uint8))
    wide, normal = files(tmp_path), files(root / "x").take([0])
    with pytest.raises(UserError, match="wide.png: is 20x30 but .*000.png is 20x24.*preprocess=none"):
        open_loader([Group({"x": normal}), Group({"y": wide})], preprocess="none")
    with pytest.raises(UserError, match="wide.png: is 20x30 but .*000.png, which belongs to it, is 20x24"):
        open_loader([Group({"x": normal, "y": wide})])
    open_loader([Group({"x": normal}), Group({"y": wide})]).batch(0)


def damaged_copy(root: Path, folder: Path, number: int) -> Path:
    """The pictures of x, of which one has a whole header and a whole end, and garbage between."""
    shutil.copytree(root / "x", folder)
    path = folder / f"{number:03}.png"
    content = bytearray(path.read_bytes())
    content[60:80] = bytes(20)
    path.write_bytes(content)
    return path


def test_a_damaged_picture_comes_up_at_its_own_step(root: Path, tmp_path: Path) -> None:
    damaged_copy(root, tmp_path / "x", 2)
    steps = numbers(open_loader(unpaired(root)), "x", range(7))
    bad = steps.index(2)
    assert bad >= 3
    loader = open_loader([Group({"x": files(tmp_path / "x")}), Group({"y": files(root / "y")})], cache_mb=0)
    expected = batches(open_loader(unpaired(root)), 0, bad)
    with loader.batches(0, 20) as iterator:
        for batch in expected:
            assert same(next(iterator), batch)
        with pytest.raises(UserError, match="002.png: the image cannot be read"):
            next(iterator)


def test_a_damaged_picture_stops_the_making_of_the_cache(root: Path, tmp_path: Path) -> None:
    damaged_copy(root, tmp_path / "x", 2)
    with pytest.raises(UserError, match="002.png: the image cannot be read"):
        open_loader([Group({"x": files(tmp_path / "x")})]).prepare()
    assert not list((tmp_path / "cache").rglob("pixels.u8"))


@pytest.mark.parametrize("cache_mb", [0, 8])
def test_a_picture_that_changes_after_it_was_opened(root: Path, tmp_path: Path, cache_mb: int) -> None:
    (tmp_path / "x").mkdir()
    save_image(tmp_path / "x" / "a.png", picture(1))
    loader = open_loader([Group({"x": files(tmp_path / "x")})], crop_size=20, cache_mb=cache_mb)
    save_image(tmp_path / "x" / "a.png", picture(1, height=10))
    with pytest.raises(UserError, match="has changed since it was opened"):
        loader.batch(0)
    (tmp_path / "x" / "a.png").unlink()
    with pytest.raises(UserError, match="a.png"):
        loader.batch(0)


@pytest.mark.parametrize(
    "values, message",
    [
        (np.zeros((3, 4), np.float32), r"expected floating-point features \[N, K, D\], got float32 \[3, 4\]"),
        (np.zeros((3, 1, 4), np.int64), "got int64"),
        (np.full((3, 1, 4), np.nan, np.float32), "captions.npy: .*not a number"),
    ],
    ids=["shape", "dtype", "nan"],
)
def test_impossible_features(values: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_loader([Group({"x": Features(values, Path("captions.npy"))})])


def test_without_dali_it_says_what_to_install(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nvidia.dali", None)
    with pytest.raises(UserError, match="needs NVIDIA DALI.*pip install nvidia-dali-cuda130"):
        open_loader(unpaired(root))


# ---- The thread


def test_leaving_the_context_ends_the_thread(root: Path) -> None:
    before = threading.active_count()
    loader = open_loader(unpaired(root))
    with loader.batches(0, 1000) as iterator:
        next(iterator)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="of the user"), loader.batches(0, 1000) as iterator:
        next(iterator)
        raise RuntimeError("of the user")
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="0 <= start <= stop"):
        loader.batches(3, 2)
    assert batches(loader, 3, 3) == []


def test_many_contexts_leave_no_threads_and_no_memory(root: Path) -> None:
    loader = open_loader(unpaired(root), preprocess="resize_and_crop", load_size=130, crop_size=128, cache_mb=0)

    def measure(count: int) -> tuple[int, int]:
        for step in range(count):
            with loader.batches(step, step + 50) as iterator:
                next(iterator)
        memory = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
        return len(list(Path("/proc/self/task").iterdir())), memory

    threads, memory = measure(20)
    later_threads, later_memory = measure(60)
    # A thread may still be on its way out, or have been started by a library meanwhile; a leak would leave 40 more.
    assert later_threads < threads + 10
    assert later_memory - memory < 30 * 2**20, "60 contexts, each of several MB"
