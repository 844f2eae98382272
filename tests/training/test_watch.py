from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from jdm_fast.data import save_image
from jdm_fast.errors import UserError
from jdm_fast.training.watch import Watchers, device_memory

RECORD = {"step": 4, "epoch": 1, "critic_loss": 0.5, "truth/x_to_y/l1": 0.25}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "grid.png"
    save_image(path, np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3))
    return path


def read_events(folder: Path) -> Any:
    module = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = module.EventAccumulator(str(folder))
    events.Reload()
    return events


def test_tensorboard_reads_back_what_was_logged(tmp_path: Path, picture: Path) -> None:
    with Watchers(tensorboard=True).watching(tmp_path, 0, {}) as watchers:
        for step in (4, 8, 12):
            watchers.scalars({**RECORD, "step": step, "critic_loss": step / 8})
        watchers.picture(8, picture)
    events = read_events(tmp_path / "tensorboard")
    assert set(events.Tags()["scalars"]) == {"train/epoch", "train/critic_loss", "truth/x_to_y/l1"}
    assert [(e.step, e.value) for e in events.Scalars("train/critic_loss")] == [(4, 0.5), (8, 1.0), (12, 1.5)]
    (image,) = events.Images("samples")
    assert (image.step, image.height, image.width) == (8, 4, 6)


def test_a_continued_run_strikes_out_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    for start, steps in ((0, (4, 8, 12)), (6, (8, 10))):
        with Watchers(tensorboard=True).watching(tmp_path, start, {}) as watchers:
            for step in steps:
                watchers.scalars({"step": step, "loss": float(start)})
    scalars = read_events(tmp_path / "tensorboard").Scalars("train/loss")
    assert [(event.step, event.value) for event in scalars] == [(4, 0.0), (8, 6.0), (10, 6.0)]


class FakeWandb:
    """What Watchers uses of Weights & Biases, taking notes."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.notes = error, []

    def __call__(self, **arguments: Any) -> Any:
        if self.error:
            raise self.error
        self.notes.append(("init", arguments))
        return SimpleNamespace(
            define_metric=lambda name, step_metric=None: self.notes.append(("metric", name, step_metric)),
            log=lambda values: self.notes.append(("log", values)),
            finish=lambda: self.notes.append(("finish",)),
        )

    def module(self) -> Any:
        return SimpleNamespace(init=self, Image=lambda path: ("image", path))


def test_weights_and_biases(tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake.module())
    for start in (0, 4):
        with Watchers(wandb="maps").watching(tmp_path, start, {"lr": 0.1}) as watchers:
            watchers.scalars(RECORD)
            watchers.picture(4, picture)
    first, second = fake.notes[: len(fake.notes) // 2], fake.notes[len(fake.notes) // 2 :]
    assert first == second, "the same run goes on under the same id"
    arguments = first[0][1]
    assert arguments.pop("id") == (tmp_path / "wandb-id").read_text()
    assert arguments == {
        "project": "maps", "name": tmp_path.name, "resume": "allow", "dir": str(tmp_path), "config": {"lr": 0.1},
    }  # fmt: skip
    assert first[1:] == [
        ("metric", "step", None),
        ("metric", "*", "step"),
        ("log", RECORD),
        ("log", {"step": 4, "samples": ("image", str(picture))}),
        ("finish",),
    ]


def test_weights_and_biases_that_will_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(RuntimeError("no API key configured")).module())
    with pytest.raises(UserError, match="no API key configured. Log in with `wandb login`"):
        with Watchers(wandb="maps").watching(tmp_path, 0, {}):
            raise AssertionError("must not be reached")


@pytest.mark.parametrize(
    "options, module", [({"tensorboard": True}, "torch.utils.tensorboard"), ({"wandb": "maps"}, "wandb")], ids=str
)
def test_a_package_that_is_missing(options: dict[str, Any], module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # Python's way of saying that it cannot be imported
    package = module.split(".")[-1]
    with pytest.raises(UserError, match=f"{package}: .*`pip install {package}`, or train without --{package}"):
        Watchers(**options)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(UserError, match="tensorboard: cannot be written: .*without --tensorboard"):
        with Watchers(tensorboard=True).watching(tmp_path, 0, {}):
            raise AssertionError("must not be reached")


def test_nothing_asked_for_writes_nothing(tmp_path: Path, picture: Path) -> None:
    before = set(tmp_path.iterdir())
    with Watchers().watching(tmp_path, 0, {}) as watchers:
        watchers.scalars(RECORD)
        watchers.picture(4, picture)
    assert set(tmp_path.iterdir()) == before


def test_memory_of_a_cpu_is_not_shown() -> None:
    assert device_memory(torch.device("cpu")) == {}


@pytest.mark.gpu
def test_memory_of_a_gpu() -> None:
    device = torch.device("cuda")
    torch.cuda.reset_peak_memory_stats()
    block = torch.empty(64 << 20, dtype=torch.uint8, device=device)
    del block
    memory = device_memory(device)
    assert memory["gpu_peak_mb"] >= 64 and memory["gpu_reserved_mb"] >= 0
