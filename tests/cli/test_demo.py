"""The demo's whole story with one epoch of training, on the Earth and on a user's own pictures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import jdm_fast.demo
from jdm_fast.cli import main
from jdm_fast.methods import JWDMConfig
from jdm_fast.training import DataConfig, TrainConfig


@pytest.fixture(autouse=True)
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    preset = jdm_fast.demo.jwdm_small
    monkeypatch.setattr(jdm_fast.demo, "jwdm_small", lambda: shorter(preset()))


def test_own_pictures_and_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for domain in "xy":
        (tmp_path / domain).mkdir()
        for k in range(4):
            Image.fromarray(rng.integers(0, 256, (80, 96, 3), np.uint8)).save(tmp_path / domain / f"{k}.png")
    out = tmp_path / "run"
    data = ["--data.x", str(tmp_path / "x"), "--data.y", str(tmp_path / "y"), "--video", str(tmp_path / "x")]
    assert main(["demo", *data, "--out", str(out), "--epochs", "1"]) == 0
    assert len(list((out / "translations/to-y").iterdir())) == 4
    with av.open(str(out / "video.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3 * 8 + 1
    assert str(out / "video.mp4") in capsys.readouterr().out.replace("\n", "")


def test_earth_story_reports_what_it_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jdm_fast.demo, "FLY_OVERS", 1)
    out = tmp_path / "run"
    assert main(["demo", "--out", str(out), "--epochs", "1"]) == 0
    report = json.loads((out / "report.json").read_text())
    for direction in ("x_to_y", "y_to_x"):
        scores = report["translation"][direction]
        assert 0 <= scores["translated"]["land_sea"] <= 1
        assert scores["translated"]["l1"] > 0
        assert scores["truth"]["land_sea"] > 0.9
    assert set(report["video"]) == {"satellite", "topographic"}
    for name in ("translations.png", "flyover.png", "flyover/video.mp4", "flyover/video.x.mp4", "flyover/truth.y.mp4"):
        assert (out / name).stat().st_size > 0


def shorter(config: TrainConfig[JWDMConfig]) -> TrainConfig[JWDMConfig]:
    """The preset with a small net and few pictures: enough to tell the story."""
    method = dataclasses.replace(config.method, width=4, critic_width=4)
    return dataclasses.replace(config, method=method, data=DataConfig(max_dataset_size=8))
