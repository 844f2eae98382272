from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jdm_fast.cli.data_check import run
from jdm_fast.errors import UserError


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A CycleGAN data root of five pictures."""
    for number, name in enumerate(("trainA/1.png", "trainA/2.png", "trainB/1.png", "testA/1.png", "testB/1.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


def test_a_good_data_set(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{root}: layout cyclegan, domains A, B"
    assert [line.split() for line in lines[1:6]] == [
        ["split", "domain", "items", "what", "size", "channels", "item", "by", "item"],
        ["train", "A", "2", "pictures", "60x40", "RGB"],
        ["train", "B", "1", "pictures", "60x40", "RGB"],
        ["test", "A", "1", "pictures", "60x40", "RGB", "with", "B"],
        ["test", "B", "1", "pictures", "60x40", "RGB", "with", "A"],
    ]
    assert lines[-1] == "no bad files (read whole)"


def test_bad_and_odd_files(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "trainA" / "2.png").write_bytes(b"hello")
    Image.new("RGBA", (60, 40)).save(root / "trainA" / "3.png")
    (root / "testB" / "1.png").write_bytes((root / "trainB" / "1.png").read_bytes())
    assert run([str(root), "--no-decode", "--report", str(root / "report.json")]) == 1
    out = capsys.readouterr().out
    assert "train A: 1 with transparency: laid over white; first trainA/3.png" in out
    assert "2 files have the same bytes as another of them; first trainB/1.png = testB/1.png" in out
    assert "1 bad file, to be replaced or removed (headers read):\n  trainA/2.png: not an image" in out
    report = json.loads((root / "report.json").read_text())
    assert report["bad_files"] == 1 and not report["decoded"]


def test_a_picture(root: Path) -> None:
    """Bad files are not shown, and do not stop it."""
    (root / "trainA" / "2.png").write_bytes(b"hello")
    assert run([str(root), "--picture", str(root / "sheet.png")]) == 1
    with Image.open(root / "sheet.png") as sheet:
        assert sheet.height == 2 * 84 + 4 and 100 < sheet.width < 200, "one picture of each domain"


def test_a_choice_is_told_and_can_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("photo", "map"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 40), "red" if name == "map" else "blue").save(tmp_path / name / "1.png")
    assert run([str(tmp_path)]) == 0
    assert "note: " in (out := capsys.readouterr().out) and "choose with --data.layout folders" in out
    assert run([str(tmp_path), "--layout", "folders"]) == 0
    out = capsys.readouterr().out
    assert "note: " not in out and "layout folders, domains map, photo" in out


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Found in it: nothing. Looked for:"):
        run([str(tmp_path)])
