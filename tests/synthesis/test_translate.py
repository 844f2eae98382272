"""Picture files to picture files: any sizes, names, bad files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jdm_fast.errors import UserError
from jdm_fast.synthesis import Model, translate, translate_files

PICTURES = {"a.png": (20, 30), "b.png": (13, 17), "deep/c.png": (20, 30), "deep/d.jpg": (40, 12), "e.png": (13, 17)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, (name, size) in enumerate(PICTURES.items()):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        ramp = np.linspace(0, 99, size[0] * size[1] * 3).reshape(*size, 3)  # smooth, which JPEG keeps
        Image.fromarray((ramp + 20 * seed).astype(np.uint8)).save(path)
    return tmp_path / "in"


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("batch_size", [None, 1, 2])
def test_folder_of_mixed_sizes(negative: Model, folder: Path, tmp_path: Path, batch_size: int | None) -> None:
    progress = []
    result = translate_files(
        negative, folder, tmp_path / "out", "y", batch_size=batch_size, on_progress=lambda *done: progress.append(done)
    )
    assert files_in(tmp_path / "out") == {name.replace(".jpg", ".png") for name in PICTURES}
    assert set(result.files) == {tmp_path / "out" / name for name in files_in(tmp_path / "out")} and not result.failed
    for name in PICTURES:
        np.testing.assert_array_equal(read(tmp_path / "out" / name.replace(".jpg", ".png")), 255 - read(folder / name))
    assert progress[-1] == (5, 5)


def test_rare_sizes_do_not_pile_up(negative: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translate, "_WAITING_PIXELS", 1000)
    waiting, most = [0], [0]
    read_image = translate.read_image

    def counting_read(path: Path) -> np.ndarray:
        picture = read_image(path)
        waiting[0] += picture.shape[0] * picture.shape[1]
        most[0] = max(most[0], waiting[0])
        return picture

    save_image = translate.save_image

    def counting_save(path: Path, picture: np.ndarray) -> None:
        waiting[0] -= picture.shape[0] * picture.shape[1]
        save_image(path, picture)

    monkeypatch.setattr(translate, "read_image", counting_read)
    monkeypatch.setattr(translate, "save_image", counting_save)
    (tmp_path / "in").mkdir()
    for k in range(12):
        Image.new("RGB", (20, 14 + k), (k, k, k)).save(tmp_path / "in" / f"{k}.png")
    for k in range(8):
        Image.new("RGB", (4, 4)).save(tmp_path / "in" / f"small-{k}.png")
    translate_files(negative, tmp_path / "in", tmp_path / "out", batch_size=2)
    assert len(files_in(tmp_path / "out")) == 20
    assert most[0] <= 1000 + 20 * 25
    assert negative.method.encoded.count(2) == 4, "pictures of one size still go together"


@pytest.mark.parametrize(
    "target, expected", [("out.png", "out.png"), ("new/out.jpg", "new/out.jpg"), ("out", "out/a.png")]
)
def test_single_file(negative: Model, folder: Path, tmp_path: Path, target: str, expected: str) -> None:
    result = translate_files(negative, folder / "a.png", tmp_path / target)
    assert result.files == [tmp_path / expected]
    assert np.abs(read(tmp_path / expected).astype(int) - (255 - read(folder / "a.png"))).mean() < 3


def test_equal_stems_stay_apart(negative: Model, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, value in (("a.png", 10), ("a.bmp", 20), ("b.png", 30)):
        Image.new("RGB", (16, 16), (value,) * 3).save(tmp_path / "in" / name)
    translate_files(negative, tmp_path / "in", tmp_path / "out")
    values = {name: int(read(tmp_path / "out" / name)[0, 0, 0]) for name in files_in(tmp_path / "out")}
    assert values == {"a.png.png": 245, "a.bmp.png": 235, "b.png": 225}


def test_all_bad_files_are_named_after_the_others_are_done(negative: Model, folder: Path, tmp_path: Path) -> None:
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:80])
    (folder / "text.jpg").write_text("no picture")
    with pytest.raises(UserError, match="2 of 7 pictures could not be read") as caught:
        translate_files(negative, folder, tmp_path / "out")
    assert "cut.png" in str(caught.value) and "text.jpg" in str(caught.value)
    assert len(files_in(tmp_path / "out")) == 5
    result = translate_files(negative, folder, tmp_path / "again", skip_bad=True)
    assert {path.name for path in result.failed} == {"cut.png", "text.jpg"} and len(result.files) == 5


def test_translated_again_into_a_sub_folder_takes_no_results_for_input(negative: Model, folder: Path) -> None:
    for _ in range(2):
        assert len(translate_files(negative, folder, folder / "out").files) == 5


def test_impossible_requests(negative: Model, folder: Path, tmp_path: Path) -> None:
    before = files_in(tmp_path)
    (tmp_path / "empty").mkdir()
    for input, output, message in (
        (tmp_path / "nothing", tmp_path / "out", "no such file or folder"),
        (tmp_path / "empty", tmp_path / "out", "empty"),
        (folder, folder, "same folder"),
        (folder, tmp_path / "out.png", "name of a file"),
        (folder, folder / "a.png", "name of a file"),
        (folder / "a.png", folder / "a.png", "replace the picture"),
        (folder / "a.png", folder, "replace the picture"),
    ):
        with pytest.raises(UserError, match=message):
            translate_files(negative, input, output)
    with pytest.raises(UserError, match="domains"):
        translate_files(negative, folder, tmp_path / "out", to="z")
    assert files_in(tmp_path) == before
