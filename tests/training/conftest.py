from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from jdm_fast.data import save_image
from jdm_fast.methods import METHODS, MethodSpec
from jdm_fast.training import DataConfig, TrainConfig
from tests.training.fake_method import FakeConfig, FakeMethod


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Convolutions of this size are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CycleGAN root: 7 images of x and 5 of y to train on, 2 and 3 held out, all 20 high and 24 wide."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for folder, count in (("trainA", 7), ("trainB", 5), ("testA", 2), ("testB", 3)):
        (root / folder).mkdir()
        for index in range(count):
            save_image(root / folder / f"{index}.png", random.integers(0, 256, (20, 24, 3), dtype=np.uint8))
    return root


@pytest.fixture
def configure(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrainConfig[FakeConfig]]:
    """Makes the configuration of a short training of the fake method: 21 steps of three epochs."""
    monkeypatch.setitem(METHODS, "fake", MethodSpec(FakeConfig, FakeMethod))

    def make(**changes: Any) -> TrainConfig[FakeConfig]:
        settings: dict[str, Any] = dict(
            method=FakeConfig(), data=DataConfig(x=images / "trainA", y=images / "trainB"), out=tmp_path / "run",
            load_size=18, crop_size=16, n_epochs=1, n_epochs_decay=2, lr=1e-3, pool_size=3, ema_decay=0.9, seed=3,
            device="cpu", save_every_steps=5, keep_last=2, log_every=4, sample_every=0,
        )  # fmt: skip
        return TrainConfig(**{**settings, **changes})

    return make


@pytest.fixture
def console() -> Console:
    """A console that is not a terminal; ``console.file.getvalue()`` is what was printed."""
    return Console(file=io.StringIO(), width=400)
