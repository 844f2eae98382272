"""Real data, fetched into the cache by ``make data``: what it looks like to the readers, the layouts and the loader."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from jdm_fast.cli import main
from jdm_fast.data.dataset import Arrays, VideoFrames, arrange
from jdm_fast.data.debian import fashion_mnist_files
from jdm_fast.data.images import check_image, read_image
from jdm_fast.data.layouts import find_layout
from jdm_fast.data.loader import Loader
from jdm_fast.data.real_files import _wheel_tags, real_photos, real_video
from jdm_fast.data.video_files import count_frames, open_frames

PHOTOS = {  # size, and the mean of each channel; what is transparent in the logo counts as white
    "astronaut.png": ((512, 512), (142, 106, 97)),
    "camera.png": ((512, 512), (129, 129, 129)),
    "chelsea.png": ((300, 451), (148, 111, 87)),
    "coffee.png": ((400, 600), (159, 86, 52)),
    "logo.png": ((500, 500), (215, 200, 129)),
    "retina.jpg": ((1411, 1411), (159, 64, 46)),
    "rocket.jpg": ((427, 640), (52, 61, 82)),
}


@pytest.mark.parametrize("name", PHOTOS)
def test_photographs(name: str) -> None:
    path = real_photos()[name]
    size, means = PHOTOS[name]
    picture = read_image(path)
    assert check_image(path) == size == picture.shape[:2]
    assert picture.dtype == np.uint8
    np.testing.assert_allclose(picture.mean((0, 1)), means, atol=0.6)


def test_fashion_mnist() -> None:
    layout = find_layout(fashion_mnist_files())
    assert (layout.name, layout.domains) == ("idx", ("original", "clockwise", "anticlockwise"))
    for split, count in (("train", 60_000), ("test", 10_000)):
        (group,) = layout.groups(split)
        assert len(group) == count
        for domain, turns in zip(group.domains.values(), (0, 1, 3), strict=True):
            assert isinstance(domain, Arrays) and domain.quarter_turns == turns
            assert domain.pixels.shape == (count, 28, 28, 1) and domain.pixels.dtype == np.uint8
    train = layout.groups("train")[0].domains["x"]
    assert train.pixels[:1000].mean() == pytest.approx(72.9, abs=1.5)
    batch = Loader(layout.groups("train"), load_size=32, crop_size=32, channels=1, flip=False, cache_mb=0).batch(0)
    turned = torch.rot90(batch["x"], -1, (2, 3))
    assert batch["x"].shape == (1, 1, 32, 32)
    assert (batch["y"] - turned).abs().max() < 0.02, "the second domain is the first, turned clockwise"


def copied(folder: Path, files: Sequence[Path]) -> None:
    folder.mkdir(parents=True)
    for file in files:
        shutil.copy(file, folder)


def test_photographs_are_a_data_set(tmp_path: Path) -> None:
    photos = real_photos()
    copied(tmp_path / "trainA", [photos[name] for name in ("astronaut.png", "chelsea.png", "rocket.jpg")])
    copied(tmp_path / "trainB", [photos[name] for name in ("camera.png", "coffee.png", "logo.png", "retina.jpg")])
    layout = find_layout(tmp_path)
    assert layout.name == "cyclegan"
    loader = Loader(layout.groups("train"), load_size=64, crop_size=48, batch_size=2, cache_mb=0)
    assert loader.counts == {"x": 3, "y": 4}
    batch = loader.batch(0)
    for pictures in batch.values():
        assert pictures.shape == (2, 3, 48, 48) and -1 <= pictures.min() < 0 < pictures.max() <= 1


def test_films_are_a_data_set(tmp_path: Path) -> None:
    copied(tmp_path / "road", [real_video("bikes")])
    copied(tmp_path / "room", [real_video("carphone")])
    layout = find_layout(tmp_path)
    assert (layout.name, layout.domains) == ("videos", ("road", "room"))
    groups = arrange(layout.groups("train"), "shuffled")
    assert [len(group) for group in groups] == [250, 120]
    assert all(isinstance(domain, VideoFrames) for group in groups for domain in group.domains.values())


@pytest.mark.parametrize("name, count, rate", [("bikes", 250, 25), ("carphone", 120, 30)])
def test_films(name: str, count: int, rate: int) -> None:
    path = real_video(name)
    frames = [(frame.time, frame.duration) for frame in open_frames(path).timed()]
    assert count_frames(path) == len(frames) == count
    assert float(sum(frames[-1])) == pytest.approx(count / rate, rel=2e-3)


def test_fetch_command_says_where_the_files_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "fetch", "videos", "fashion-mnist", "videos"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert lines == [["videos", str(real_video("bikes").parent)], ["fashion-mnist", str(fashion_mnist_files())]]


@pytest.mark.parametrize(
    "wheel, expected",
    [
        ("thing-1.0-py3-none-any.whl", []),
        (
            "thing-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
            ["--implementation", "cp", "--python-version", "311", "--abi", "cp311"]
            + ["--platform", "manylinux_2_17_x86_64", "--platform", "manylinux2014_x86_64"],
        ),
    ],
)
def test_the_same_wheel_serves_every_machine(wheel: str, expected: list[str]) -> None:
    assert _wheel_tags(wheel) == expected
