"""``jdm-fast sample`` on run folders of small untrained networks: what it writes, and what it says to bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import jdm_fast as jf
from jdm_fast._plain import to_plain
from jdm_fast.cli import main
from jdm_fast.methods import METHODS
from jdm_fast.runs import RunFolder, export_generators, write_checkpoint, write_config
from jdm_fast.training import TrainConfig

SMALL = {"width": 4, "depth": 3, "max_width": 8, "critic_width": 4, "critic_layers": 1, "init": "default"}


def save_run(path: Path, name: str, side: int = 16, **options: Any) -> Path:
    """The folder that a training would leave, of networks as they are made: two checkpoints of different weights."""
    spec = METHODS[name]
    config = TrainConfig(method=spec.config_class(**options), crop_size=side, load_size=side)
    folder = RunFolder(path)
    folder.create()
    write_config(folder, name, to_plain(config), {})
    for step in (1, 2):
        torch.manual_seed(step)
        write_checkpoint(folder, name, step, {"networks": spec.method_class(config.method).state_dict()})
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    with torch.random.fork_rng():
        save_run(root / "two", "jointgan", **SMALL)
        save_run(root / "three", "jointgan", **SMALL, domains=3, sources=("chain",))
        save_run(root / "vectors", "jointgan", **SMALL, vectors=("y:5",))
        save_run(root / "jwdm", "jwdm", width=4, blocks=1, embedding_kernel=1, critic_width=4, critic_layers=2)
        save_run(root / "marginals", "wgan-gp", **SMALL)
        save_run(root / "cyclegan", "cyclegan", **SMALL)
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name in ("a", "b"):
        picture = np.random.default_rng(ord(name)).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(picture).save(folder / f"{name}.png")
    return folder


def sample(run: Path, out: Path, *options: str) -> int:
    return main(["sample", str(run), str(out), "--device", "cpu", *options])


def names(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "run, options, expected",
    [
        ("two", ["-n", "2"], ["x/00000", "x/00001", "y/00000", "y/00001"]),
        ("two", ["--n", "1", "--size", "8", "24"], ["x/00000", "y/00000"]),
        ("two", ["-n", "1", "--only", "y"], ["y/00000"]),
        ("two", ["--given", "x=PHOTOS"], ["x/a", "x/b", "y/a", "y/b"]),
        ("two", ["--given", "y=PHOTOS/a.png", "--draws", "2"], ["x/a-0", "x/a-1", "y/a"]),
        ("two", ["--given", "x=PHOTOS", "--resize", "--size", "8"], ["x/a", "x/b", "y/a", "y/b"]),
        ("three", ["-n", "1", "--order", "zyx"], ["x/00000", "y/00000", "z/00000"]),
        ("three", ["--given", "x=PHOTOS", "y=PHOTOS", "--only", "z"], ["z/a", "z/b"]),
        ("three", ["--given", "x=PHOTOS", "--given", "y=PHOTOS", "--only", "z"], ["z/a", "z/b"]),
        ("two", ["--interpolate", "--steps", "2"], [f"{d}/{i}-{j}" for d in "xy" for i in "01" for j in "01"]),
        ("two", ["--steps", "2", "--interpolate"], [f"{d}/{i}-{j}" for d in "xy" for i in "01" for j in "01"]),
        ("two", ["--interpolate", "fixed", "--steps", "2", "--rows", "1"], ["x/0", "y/0-0", "y/0-1"]),
    ],
)
def test_what_is_written(
    runs: Path, photos: Path, tmp_path: Path, run: str, options: list[str], expected: list[str]
) -> None:
    out = tmp_path / "out"
    assert sample(runs / run, out, *(option.replace("PHOTOS", str(photos)) for option in options)) == 0
    grids = [name for name in names(out) if name.startswith("grid")]
    drawn = [f"grid-{d}.png" for d in "xy" if f"{d}/0-0" in expected or f"{d}/0-1" in expected]
    assert grids == (drawn if "--interpolate" in options else ["grid.png"])
    assert names(out) == sorted([*(f"{name}.png" for name in expected), *grids, "sample.json"])
    if "--size" in options:
        assert Image.open(out / f"{expected[0]}.png").size == ((24, 8) if "24" in options else (8, 8))


def test_files_are_what_python_gives(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = jf.load(runs / "vectors", device="cpu")
    assert model.size == (16, 16)
    made = model.sample(3, seed=4)
    assert sample(runs / "vectors", tmp_path / "out", "-n", "3", "--seed", "4") == 0
    pictures = np.stack([np.asarray(Image.open(tmp_path / f"out/x/0000{k}.png")) for k in range(3)])
    assert np.abs(pictures.astype(int) - made["x"]).max() <= 1
    np.testing.assert_allclose(np.load(tmp_path / "out/y.npy"), made["y"], atol=1e-5)
    text = capsys.readouterr().out
    assert "3 tuples, 3 pictures" in text and "pictures/s" in text and "grid.png" in text


def test_a_checkpoint_is_chosen(runs: Path, tmp_path: Path) -> None:
    for step in ("1", "2"):
        assert sample(runs / "two", tmp_path / step, "-n", "1", "--step", step) == 0
    assert sample(runs / "two", tmp_path / "newest", "-n", "1") == 0
    first, second, newest = (np.asarray(Image.open(tmp_path / name / "x/00000.png")) for name in ("1", "2", "newest"))
    assert np.array_equal(second, newest) and not np.array_equal(first, newest)


def test_exported_generators_sample_alike(runs: Path, tmp_path: Path) -> None:
    exported = jf.load(export_generators(runs / "two", tmp_path / "two.safetensors"), device="cpu").sample(2)
    for name, array in jf.load(runs / "two", device="cpu").sample(2).items():
        np.testing.assert_array_equal(exported[name], array)


def test_two_step_baseline(runs: Path, photos: Path, tmp_path: Path) -> None:
    marginals = ["--marginals", str(runs / "marginals")]
    assert sample(runs / "cyclegan", tmp_path / "joint", "-n", "1", *marginals) == 0
    assert sample(runs / "cyclegan", tmp_path / "y", "--given", f"x={photos}", *marginals) == 0
    assert [name for name in names(tmp_path / "y") if name.startswith("y")] == ["y/a.png", "y/b.png"]


@pytest.mark.parametrize(
    "run, options, message",
    [
        ("jwdm", [], "a model of JWDM draws no tuples; expected a run of jointgan"),
        ("cyclegan", [], "a model of CycleGAN draws no tuples"),
        ("nowhere", [], "there is no such folder"),
        ("two", ["--only", "z"], "domains x, y; got 'z'"),
        ("two", ["--given", "z=PHOTOS"], "domains x, y; got 'z'"),
        ("two", ["--given", "PHOTOS"], "--given: expected DOMAIN=FOLDER"),
        ("two", ["--given", "x=PHOTOS", "x=PHOTOS"], "x is there twice"),
        ("two", ["--given", "x=PHOTOS/none"], "there is no such folder"),
        ("two", ["--given", "x=EMPTY"], "no image in this folder"),
        ("two", ["--given", "x=BAD"], "bad.png: not an image"),
        ("two", ["--given", "x=ODD"], "height 17 and width 16: expected 16x16 as in training"),
        ("two", ["--order", "xq"], "no domain q"),
        ("three", ["--order", "yxz"], "was not trained"),
        ("two", ["-n", "0"], "n: expected at least 1"),
        ("two", ["--draws", "3"], "nothing is"),
        ("two", ["--size", "15"], "multiples of 8"),
        ("two", ["--size", "8", "8", "8"], "--size: expected a side"),
        ("two", ["--step", "last"], "--step: expected a number or best"),
        ("two", ["--step", "7"], "no checkpoint of step 7"),
        ("two", ["--interpolate", "-n", "3"], "--n says"),
        ("two", ["--interpolate", "--given", "x=PHOTOS/a.png"], "--interpolate fixed"),
        ("two", ["--marginals", "RUNS/marginals"], "a run of jointgan; the two-step baseline takes"),
        ("cyclegan", ["--marginals", "RUNS/two"], "a run of jointgan; the two-step baseline takes"),
        ("vectors", ["--given", "y=VECTORS.npy"], "vectors must be float [N, 5], got torch.float64 [2, 4]"),
        ("vectors", ["--given", "y=PHOTOS"], "domain of vectors: expected a .npy file"),
    ],
)
def test_bad_input_is_a_message(
    runs: Path,
    photos: Path,
    tmp_path: Path,
    run: str,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("EMPTY", "BAD", "ODD"):
        (tmp_path / name).mkdir()
    (tmp_path / "BAD/bad.png").write_text("no picture")
    Image.new("RGB", (16, 17)).save(tmp_path / "ODD/odd.png")
    np.save(tmp_path / "VECTORS.npy", np.zeros((2, 4)))
    places = {
        "VECTORS": tmp_path / "VECTORS",
        "PHOTOS": photos,
        "RUNS": runs,
        **{name: tmp_path / name for name in ("EMPTY", "BAD", "ODD")},
    }
    for name, place in places.items():
        options = [option.replace(name, str(place)) for option in options]
    assert sample(runs / run, tmp_path / "out", *options) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert message in text and "Traceback" not in text
    assert not (tmp_path / "out").exists()


def test_places_that_cannot_be_written(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path, tmp_path / "file", tmp_path / "file/out"):
        assert sample(runs / "two", out, "-n", "1") == 2
    text = capsys.readouterr().err
    assert "the folder is not empty" in text and "is a file" in text and text.count("jdm-fast sample:") == 3
    assert names(tmp_path) == ["file"]


def test_video_of_a_jointgan_is_refused(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = [str(tmp_path / f"{k}.png") for k in range(2)]
    for path in pictures:
        Image.new("RGB", (16, 16)).save(path)
    assert main(["video", str(runs / "two"), *pictures, str(tmp_path / "out.mp4")]) == 2
    assert "a model of JointGAN has no latents" in capsys.readouterr().err
