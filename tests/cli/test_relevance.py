"""``jdm-fast relevance`` as typed, on small pictures whose content is known."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jdm_fast.cli import main
from jdm_fast.metrics.relevance import RelevanceModel

QUICK = ["--size", "16", "--width", "8", "--steps", "80", "--batch-size", "32", "--no-augment"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def write(folder: Path, quarters: np.ndarray, suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(np.rint(quarters * 255).astype(np.uint8)):
        big = picture.reshape(2, 2).repeat(8, 0).repeat(8, 1)
        Image.fromarray(np.stack([big] * 3, 2)).save(folder / f"{number:03}{suffix}")


def aligned(root: Path, seed: int = 0, train: int = 200, test: int = 40) -> Path:
    """A data set of layout aligned: pictures of four grey squares and their negatives."""
    random = np.random.default_rng(seed)
    for split, count in (("train", train), ("test", test)):
        quarters = random.uniform(0, 1, (count, 4))
        write(root / split / "photo", quarters)
        write(root / split / "negative", 1 - quarters, ".bmp")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return aligned(tmp_path_factory.mktemp("data") / "squares")


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained by the command, which is given another data set too."""
    out = tmp_path_factory.mktemp("models") / "r.safetensors"
    other = aligned(tmp_path_factory.mktemp("data") / "other", seed=1, train=12, test=6)
    domains = ["--domains", "photo", "negative"]
    assert main(["relevance", "train", str(data), "--out", str(out), *domains, *QUICK, "--other", str(other)]) == 0
    return out


def words(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_the_controls_are_in_the_file(model: Path) -> None:
    notes = RelevanceModel.load(model).notes
    controls = notes["controls"]["xy"]
    assert {row: score["count"] for row, score in controls.items()} == {"true": 40, "random": 40, "other": 6}
    assert controls["true"]["mean"] > controls["random"]["mean"] + 0.4
    assert notes["training"]["steps"] == 80 and notes["training"]["pairs"] == 200


def test_training_ends_with_the_controls(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "r.safetensors"
    quick = [*QUICK[:-1], "--steps", "2", "--channels", "1"]
    assert main(["relevance", "train", str(data), "--out", str(out), "--most", "10", *quick]) == 0
    text = words(capsys)
    assert "negative and photo" in text and "true pairs, held out of training" in text and "random pairs" in text
    assert "another data set" not in text
    assert RelevanceModel.load(out).shapes["x"] == (1, 16, 16)
    assert RelevanceModel.load(out).notes["controls"]["xy"]["true"]["count"] == 10


def test_score_folders(data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Endings of names differ, and one picture has no partner."""
    shutil.copytree(data / "test" / "photo", tmp_path / "x")
    (tmp_path / "x" / "003.png").rename(tmp_path / "x" / "only.png")
    report = tmp_path / "reports" / "r.json"
    folders = ["--x", str(tmp_path / "x"), "--y", str(data / "test" / "negative"), "--report", str(report)]
    assert main(["relevance", "score", str(model), *folders]) == 0
    text = words(capsys)
    for row in ("the pairs given", "the same, paired at random", "true pairs, held out", "pairs of another data set"):
        assert row in text
    assert "2 pictures are left out: no partner of their name" in text
    document = json.loads(report.read_text())
    rows = document["relevance"]["xy"]
    assert document["left_out"] == 2 and document["domains"] == {"x": "photo", "y": "negative"}
    assert (rows["given"]["count"], rows["true"]["count"]) == (39, 40)
    assert rows["given"]["mean"] == pytest.approx(rows["true"]["mean"], abs=0.05)
    assert rows["given"]["mean"] > rows["given_random"]["mean"] + 0.4
    assert 0 < rows["given"]["standard_error"] < 0.1


def test_score_a_data_set_beside_another(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By default the domains are those of the training, by name, whatever their order in the data set."""
    report, other = tmp_path / "r.json", aligned(tmp_path / "other", seed=3, train=6, test=8)
    options = ["--root", str(data), "--other", str(other), "--most", "20", "--report", str(report)]
    assert main(["relevance", "score", str(model), *options]) == 0
    rows = json.loads(report.read_text())["relevance"]["xy"]
    assert (rows["given"]["count"], rows["other"]["count"], rows["true"]["count"]) == (20, 8, 40)
    assert rows["given"]["mean"] > rows["given_random"]["mean"] + 0.4
    assert "photo and negative" in words(capsys)


@pytest.mark.parametrize("arguments, status", [([], 2), (["--help"], 0)])
def test_help(arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["relevance", *arguments]) == status
    assert "usage: jdm-fast relevance train ROOT" in words(capsys)


def test_bad_training(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, few, unpaired = tmp_path / "r.safetensors", aligned(tmp_path / "few", train=3, test=2), tmp_path / "unpaired"
    for side, names in (("A", "ab"), ("B", "cd")):
        for name in names:
            (unpaired / f"train{side}").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16)).save(unpaired / f"train{side}" / f"{name}.png")
    for arguments, message in [
        ([str(unpaired), "--out", str(out)], "unpaired"),
        ([str(few), "--out", str(out)], "at least 5 pairs, got 3"),
        ([str(data), "--out", str(out), "--domains", "photo"], "between two domains, got photo only"),
        ([str(data), "--out", str(out), "--domains", "photo", "winter"], "photo, winter"),
        ([str(data), "--out", str(tmp_path / "r.pt")], "ends in .safetensors"),
        ([str(data), "--out", str(out), "--size", "4"], "size: expected at least 8"),
        ([str(data), "--out", str(out), "--other", str(tmp_path / "gone")], "gone: there is no such folder"),
        ([str(tmp_path / "gone"), "--out", str(out)], "gone: there is no such folder"),
    ]:
        assert main(["relevance", "train", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not out.exists()
    assert main(["relevance", "try"]) == 2
    assert "there are: train, score" in capsys.readouterr().err


def test_advice_names_the_options_of_this_command(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abcd":
        write(tmp_path / "four" / "train" / name, np.random.default_rng(0).uniform(0, 1, (20, 4)))
    out = ["--out", str(tmp_path / "r.safetensors")]
    for arguments, advice in [
        ([str(tmp_path / "four")], "choose with --domains, such as --domains a b"),
        ([str(data), "--other", str(tmp_path / "four")], "choose with --other-domains, such as --other-domains a b"),
    ]:
        assert main(["relevance", "train", *arguments, *out]) == 2
        captured = capsys.readouterr()
        assert advice in captured.err
        assert "--data." not in captured.out + captured.err and "choose with --layout folders" in captured.out


def test_bad_scoring(data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, negative = str(data / "test" / "photo"), str(data / "test" / "negative")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(model.read_bytes()[:1000])
    Image.new("RGB", (16, 16)).save(tmp_path / "other name.png")
    (tmp_path / "twice").mkdir()
    for suffix in (".png", ".bmp"):
        Image.new("RGB", (16, 16)).save(tmp_path / "twice" / f"001{suffix}")
    for arguments, message in [
        ([str(model)], "what is to be scored?"),
        ([str(model), "--x", photo, "--y", negative, "--root", str(data)], "what is to be scored?"),
        ([str(model), "--x", photo], "between two domains, got a folder of x only"),
        ([str(model), "--x", photo, "--y", str(tmp_path / "gone")], "gone: there is no such folder"),
        ([str(model), "--x", photo, "--y", str(tmp_path / "twice")], "the name 001 twice"),
        ([str(model), "--x", photo, "--z", negative], "no domain z in this relevance model, only x (photo)"),
        ([str(tmp_path / "gone.safetensors"), "--x", photo, "--y", negative], "there is no such file"),
        ([str(damaged), "--x", photo, "--y", negative], "damaged, or no relevance model"),
    ]:
        assert main(["relevance", "score", *arguments]) == 2
        assert message in capsys.readouterr().err
    shutil.rmtree(tmp_path / "twice")
    assert main(["relevance", "score", str(model), "--x", photo, "--y", str(tmp_path)]) == 2
    assert "no picture of one folder is called as one of the other" in capsys.readouterr().err
