"""Summer and winter pictures: cut from a package that is laid out as the real one but holds made-up textures."""

from __future__ import annotations

import io
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jdm_fast.cli import data_seasons
from jdm_fast.data import seasons
from jdm_fast.data.season_textures import SHA256, TEXTURES
from jdm_fast.errors import UserError
from tests.data.test_debian import make_deb

SIDE = 256


def texture(number: int) -> np.ndarray:
    """Summer ground that tells where it is: red the row, green the column, blue the texture. Winter is its negative."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return np.stack([rows, columns, np.full_like(rows, number)], axis=-1).astype(np.uint8)


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return file.getvalue()


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """The real package's names. One winter picture is larger than its twin, all have a channel that is no alpha."""
    made = {}
    for number, (name, (summer, winter)) in enumerate(TEXTURES.items()):
        picture = np.dstack([texture(number), np.full((SIDE, SIDE), 60, np.uint8)])
        made[summer] = png(picture)
        made[winter] = png(np.kron(255 - picture, np.ones((2 if name == "transport" else 1,) * 2 + (1,), np.uint8)))
    return made


@pytest.fixture()
def package(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {name: sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(seasons, "FLIGHTGEAR", replace(seasons.FLIGHTGEAR, root="usr/share/thing", files=digests))
    monkeypatch.setenv("JDM_FAST_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    make_deb(tmp_path / "cache" / "flightgear-data-base_1_all.deb", files, "")


def pictures(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.iterdir())}


def shown_textures(shown: dict[str, np.ndarray], winter: bool) -> set[str]:
    """Which textures a folder's pictures show, told from their colours."""
    names = list(TEXTURES)
    return {names[int((255 - picture if winter else picture)[0, 0, 2])] for picture in shown.values()}


def test_table_of_textures() -> None:
    assert len(TEXTURES) == 34 and 2 * len(TEXTURES) == len(SHA256) == len(set(SHA256.values()))
    assert len({*seasons.TEST_TEXTURES, *seasons.SUMMER_TEXTURES} & set(TEXTURES)) == 6 + 14
    for summer, winter in TEXTURES.values():
        assert summer.startswith("Terrain/") and winter.startswith("Terrain.winter/")


@pytest.mark.usefixtures("package")
def test_cyclegan_layout_is_unpaired_and_tests_are_paired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data_seasons.run([str(tmp_path / "out"), "--size", "64"]) == 0
    assert "pictures in" in capsys.readouterr().out
    shown = {name: pictures(tmp_path / "out" / name) for name in ("trainA", "trainB", "testA", "testB")}
    assert {name: len(folder) for name, folder in shown.items()} == {
        "trainA": 14 * 49,
        "trainB": 14 * 49,
        "testA": 6 * 16,
        "testB": 6 * 16,
    }
    assert {picture.shape for folder in shown.values() for picture in folder.values()} == {(64, 64, 3)}
    textures = {name: shown_textures(shown[name], winter=name.endswith("B")) for name in shown}
    assert textures["trainA"] == set(seasons.SUMMER_TEXTURES)
    assert textures["testA"] == textures["testB"] == set(seasons.TEST_TEXTURES)
    assert textures["trainB"] == set(TEXTURES) - textures["trainA"] - textures["testA"], "no place is in both domains"
    assert shown["testA"].keys() == shown["testB"].keys()
    for name, picture in shown["testA"].items():
        np.testing.assert_array_equal(shown["testB"][name], 255 - picture)


@pytest.mark.usefixtures("package")
def test_aligned_layout_is_paired(tmp_path: Path) -> None:
    counts = seasons.write_seasons(tmp_path / "out", "aligned", 128, stride=128)
    assert counts == {"train/summer": 28 * 4, "train/winter": 28 * 4, "test/summer": 6 * 4, "test/winter": 6 * 4}
    for split in ("train", "test"):
        summer, winter = (pictures(tmp_path / "out" / split / season) for season in seasons.SEASONS)
        assert summer.keys() == winter.keys()
        for name in summer:
            np.testing.assert_array_equal(winter[name], 255 - summer[name])


@pytest.mark.usefixtures("package")
def test_bad_requests(tmp_path: Path) -> None:
    for options, message in (
        ({"size": 257}, "size: expected 8 to 256 pixels, got 257"),
        ({"size": 7, "layout": "aligned"}, "8 to 256"),
        ({"stride": 0}, "stride"),
    ):
        with pytest.raises(UserError, match=message):
            seasons.write_seasons(tmp_path / "out", **options)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").touch()
    with pytest.raises(UserError, match="already there"):
        seasons.write_seasons(tmp_path / "used")
    with pytest.raises(UserError, match="already there"):
        seasons.write_seasons(tmp_path / "used" / "mine.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "used"], "nothing is left of a failure"
