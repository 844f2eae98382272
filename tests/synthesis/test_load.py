"""From a run folder to a model: ``jf.load`` on a real, very short training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import jdm_fast as jf
from jdm_fast.errors import UserError
from jdm_fast.methods import JWDMConfig
from jdm_fast.runs import load_run
from jdm_fast.training import DataConfig, TrainConfig, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    for domain, colour in (("x", (200, 90, 40)), ("y", (30, 90, 180))):
        (root / domain).mkdir()
        for k in range(2):
            Image.new("RGB", (16, 16), tuple(min(255, c + 20 * k) for c in colour)).save(root / domain / f"{k}.png")
    config = TrainConfig(
        method=JWDMConfig(width=4, blocks=1, embedding_kernel=1, critic_width=4, critic_layers=2),
        data=DataConfig(x=root / "x", y=root / "y"),
        out=root / "run",
        preprocess="none",
        crop_size=16,
        n_epochs=1,
        n_epochs_decay=0,
        device="cpu",
    )
    return train(config)


def test_loaded_model_is_the_trained_one(run: Path) -> None:
    model = jf.load(run, device="cpu")
    assert model.domains == ("x", "y") and model.name == str(run) and model.device == torch.device("cpu")
    image = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)
    tensor = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1)
    with torch.no_grad():
        expected = load_run(run).method.translate(tensor, "y")
    torch.testing.assert_close(model.translate(tensor, to="y"), expected)
    assert model.translate(image, to="x").shape == image.shape
    made = model.video(np.stack([image, image[::-1]]), factor=3)
    assert {name: frames.shape for name, frames in made.items()} == {"x": (4, 16, 20, 3), "y": (4, 16, 20, 3)}


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        jf.load(tmp_path)
    with pytest.raises(UserError, match="missing"):
        jf.load(tmp_path / "missing")
