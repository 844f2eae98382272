from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jdm_fast.cli import bench
from jdm_fast.data.images import save_image
from jdm_fast.errors import UserError

SMALL = ["--method.width", "4", "--method.critic-width", "4", "--crop-size", "32", "--load-size", "36"]
QUICK = ["--seconds", "0.02", "--rounds", "1"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("JDM_FAST_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for name in ("trainA", "trainB"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(3):
            save_image(tmp_path / "data" / name / f"{k}.png", rng.integers(0, 256, (48, 64, 3), np.uint8))
    return tmp_path / "data"


def test_the_table(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run(["data", "--data.root", str(root), "--method", "jwdm-small", *SMALL, *QUICK]) == 0
    text = capsys.readouterr().out
    for row in (
        "DataLoader + Pillow, 0 workers",
        "DataLoader + Pillow, 2 workers",
        "DALI, decoding",
        "DALI, from the cache",
        "pictures a second on cpu, batch 4",
        "decoding 6 pictures into the cache, once:",
        "a training step of jwdm-small, with the cache:",
        "% waits for data",
    ):
        assert row in text
    assert not (root.parent / "cache").exists(), "the cache of trainings is left alone"


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run([]) == 2
    assert bench.run(["-h"]) == 0
    assert capsys.readouterr().out.count("pictures/s of a data set") == 2
    assert bench.run(["data", "--help"]) == 0
    assert capsys.readouterr().out.count("--rounds NUMBER") == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nonsense"], "no benchmark is called 'nonsense'; there are: kernels, data"),
        (["data", "--method", "gan"], "method: expected one of jwdm, jwdm-small.*, got 'gan'"),
        (["data", "--seconds", "0"], "seconds: expected a number above 0, got 0"),
        (["data", "--seconds", "soon"], "seconds: expected a number above 0, got 'soon'"),
        (["data", "--rounds", "1.5"], "rounds: expected an integer of at least 1, got '1.5'"),
        (["data"], "data: x and y missing"),
    ],
    ids=str,
)
def test_bad_input(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        bench.run(arguments)
