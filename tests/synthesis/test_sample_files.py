"""Files of tuples drawn from a trained model: pictures, vectors, grids, and what is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jdm_fast.errors import UserError
from jdm_fast.synthesis import interpolate_files, sample_files
from tests.synthesis.test_sample import PICTURE, THREE, assert_close, joint, pictures


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def write(folder: Path, images: np.ndarray, names: str = "{}.png") -> Path:
    for k, image in enumerate(images):
        path = folder / names.format(k)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def test_files_of_the_joint(tmp_path: Path) -> None:
    model, out = joint(vectors=("z:4",), domains=3, sources=("chain",)), tmp_path / "out"
    seen = []

    def on_progress(done: int, total: int) -> None:
        seen.append((done, total, len(list((out / "x").iterdir()))))

    done = sample_files(model, out, 5, seed=1, batch_size=2, on_progress=on_progress)
    expected = model.sample(5, seed=1)
    names = [f"{k:05d}" for k in range(5)]
    assert files_in(out) == {f"{d}/{n}.png" for d in "xy" for n in names} | {"z.npy", "grid.png", "sample.json"}
    for domain in "xy":
        assert_close({"x": np.stack([read(out / domain / f"{name}.png") for name in names])}, {"x": expected[domain]})
    np.testing.assert_allclose(np.load(out / "z.npy"), expected["z"], atol=1e-5)
    assert seen == [(4, 10, 2), (8, 10, 4), (10, 10, 5)], "pictures are written as they come"
    assert (done.tuples, done.pictures, done.grids) == (5, 10, [out / "grid.png"])
    assert read(out / "grid.png").shape == (16 + 5 * (32 + 2) - 2, 2 * (64 + 2) - 2, 3)
    assert json.loads((out / "sample.json").read_text())["seed"] == 1


def test_files_of_conditions_of_several_sizes(tmp_path: Path) -> None:
    model, out = joint(), tmp_path / "out"
    write(tmp_path / "in", pictures(3), "deep/a{}.png")
    write(tmp_path / "in", pictures(2, (16, 16), 1), "b{}.png")
    done = sample_files(model, out, given={"x": tmp_path / "in"}, draws=2, batch_size=2)
    names = ["b0", "b1", "deep/a0", "deep/a1", "deep/a2"]
    drawn = {f"y/{name}-{draw}.png" for name in names for draw in (0, 1)}
    assert files_in(out) == {f"x/{name}.png" for name in names} | drawn | {"grid.png", "sample.json"}
    assert (done.tuples, done.pictures) == (10, 10)
    for name in names:
        np.testing.assert_array_equal(read(out / f"x/{name}.png"), read(tmp_path / f"in/{name}.png"))
    alone = model.sample(given={"x": pictures(2, (16, 16), 1)}, draws=2)["y"]
    assert_close({"y": np.stack([read(out / f"y/b1-{draw}.png") for draw in (0, 1)])}, {"y": alone[1]})


def test_files_of_several_domains_belong_together_by_name(tmp_path: Path) -> None:
    model = joint(**THREE)
    x = write(tmp_path / "x", pictures(3), "{}.png")
    y = write(tmp_path / "y", pictures(3, seed=1)[::-1], "{}.bmp")
    sample_files(model, tmp_path / "out", given={"x": x, "y": y})
    expected = model.sample(given={"x": pictures(3), "y": pictures(3, seed=1)[::-1]})
    assert_close({"z": np.stack([read(tmp_path / f"out/z/{k}.png") for k in range(3)])}, {"z": expected["z"]})
    (y / "1.bmp").unlink()
    with pytest.raises(UserError, match="y: pictures of several domains.*none here for 1$"):
        sample_files(model, tmp_path / "new", given={"x": x, "y": y})


def test_vectors_are_given_as_a_file(tmp_path: Path) -> None:
    model = joint(vectors=("y:7",))
    vectors = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    np.save(tmp_path / "y.npy", vectors)
    sample_files(model, tmp_path / "out", given={"y": tmp_path / "y.npy"}, draws=2)
    np.testing.assert_array_equal(np.load(tmp_path / "out/y.npy"), vectors)
    assert (tmp_path / "out/x/00002-1.png").exists()
    x = write(tmp_path / "x", pictures(2))
    sample_files(model, tmp_path / "more", given={"x": x}, draws=3)
    assert np.load(tmp_path / "more/y.npy").shape == (2, 3, 7)
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(UserError, match=r"text.npy.*expected a .npy file"):
        sample_files(model, tmp_path / "new", given={"y": tmp_path / "text.npy"})


def test_grid_of_one_domain_has_eight_in_a_row(tmp_path: Path) -> None:
    sample_files(joint(), tmp_path / "out", 11, only="y")
    assert {name.split("/")[0] for name in files_in(tmp_path / "out")} == {"y", "grid.png", "sample.json"}
    assert read(tmp_path / "out/grid.png").shape == (2 * 34 - 2, 8 * 66 - 2, 3)


@pytest.mark.parametrize("mode, expected", [("corners", 9 + 9), ("fixed", 2 + 6)])
def test_files_of_interpolations(tmp_path: Path, mode: str, expected: int) -> None:
    model, out = joint(), tmp_path / "out"
    done = interpolate_files(model, out, mode, steps=3, rows=2)
    made = model.interpolate(3, mode, rows=2)
    np.testing.assert_array_equal(read(out / "y/1-2.png"), made["y"][1, 2])
    name, place = ("1-2", (1, 2)) if mode == "corners" else ("1", (1,))
    np.testing.assert_array_equal(read(out / f"x/{name}.png"), made["x"][place])
    assert done.pictures == expected
    names = ["grid-x.png", "grid-y.png"] if mode == "corners" else ["grid-y.png"]
    assert [grid.name for grid in done.grids] == names and all(grid.exists() for grid in done.grids)


def test_files_that_cannot_be_used_are_all_named_and_nothing_is_written(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", pictures(2))
    (folder / "bad.png").write_text("no picture")
    Image.new("RGB", (16, 9)).save(folder / "odd.png")
    with pytest.raises(UserError, match=r"2 given pictures(?s:.)*bad.png: not an image(?s:.)*odd.png.*height 9"):
        sample_files(joint(), tmp_path / "out", given={"x": folder})
    (folder / "bad.png").unlink()
    with pytest.raises(UserError, match="1 given picture cannot"):
        sample_files(joint(), tmp_path / "out", given={"x": folder})
    with pytest.raises(UserError, match=r"p\(x\|y\)|begin with"):
        sample_files(joint(), tmp_path / "out", given={"x": folder}, order="yx", resize=True)
    assert not (tmp_path / "out").exists()
    sample_files(joint(), tmp_path / "out", given={"x": folder}, resize=True)
    assert read(tmp_path / "out/x/odd.png").shape == PICTURE


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        sample_files(joint(), tmp_path / "out", 1)
    with pytest.raises(UserError, match="is a file"):
        sample_files(joint(), tmp_path / "out/mine.txt", 1)
    with pytest.raises(UserError, match="cannot be"):
        sample_files(joint(), tmp_path / "out/mine.txt/new", 1)
    assert files_in(tmp_path) == {"out/mine.txt"}
