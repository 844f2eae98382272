"""JointGAN of three and four domains through the trainer, and what it says to data or sources that do not fit."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from jdm_fast.data import save_image
from jdm_fast.errors import UserError
from jdm_fast.methods import CycleGANConfig, JointGAN, JointGANConfig, Pix2PixConfig, WGANGPConfig
from jdm_fast.runs import RunFolder
from jdm_fast.training import DataConfig, Event, Interrupted, TrainConfig, train

Configure = Callable[..., TrainConfig[Any]]
NAMES = ("red", "green", "blue", "grey")
SMALL: dict[str, Any] = dict(
    width=4, depth=3, max_width=8, critic_width=4, critic_layers=1, noise=5, hidden=8, init="default"
)
SETTINGS: dict[str, Any] = dict(
    crop_size=8, load_size=9, batch_size=2, pool_size=0, n_epochs=1, n_epochs_decay=1, log_every=1
)
STEPS = 6  # two epochs of five in batches of two


def write_pictures(folder: Path, random: np.random.Generator, count: int) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        save_image(folder / f"{index}.png", random.integers(0, 256, (10, 12, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tuples``: pairs (x, y) and others (y, z). ``aligned2`` … ``aligned4``: whole tuples. ``apart``: no pairs."""
    root, random = tmp_path_factory.mktemp("roots"), np.random.default_rng(0)
    for pair in (NAMES[:2], NAMES[1:3]):
        halves = np.random.default_rng(1).integers(0, 256, (5, 10, 24, 3), dtype=np.uint8)
        folder = root / "tuples" / "_".join(pair) / "train"
        folder.mkdir(parents=True)
        for index, both in enumerate(halves):
            save_image(folder / f"{index}.png", both)
    for count in (2, 3, 4):
        for name in NAMES[:count]:
            write_pictures(root / f"aligned{count}" / "train" / name, random, 5)
    for folder in ("trainA", "trainB"):
        write_pictures(root / "apart" / folder, random, 5)
    return root


def config_of(configure: Configure, roots: Path, root: str, out: Path, **method: Any) -> TrainConfig[JointGANConfig]:
    options = JointGANConfig(**{**SMALL, **method})
    layout = "aligned" if root.startswith("aligned") else "auto"
    return configure(method=options, data=DataConfig(root=roots / root, layout=layout), out=out, **SETTINGS)


def logged(run: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in RunFolder(run).metrics.read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in ("images_per_second", "data_wait")} for record in records]


def saved(run: Path) -> dict[str, Any]:
    folder = RunFolder(run)
    assert folder.steps()[-1] == STEPS
    document = torch.load(folder.checkpoint(STEPS), weights_only=True)
    del document["config"]["out"]
    return document


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, (dict, list, tuple)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, part in pairs for k, v in leaves(part, f"{name}.{key}").items()}
    return {name: value}


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "three, pairs only": ("tuples", {"domains": 3, "sources": ("chain",)}),
    "three, nonsaturating": ("tuples", {"domains": 3, "sources": ("chain",), "objective": "nonsaturating"}),
    "three, unpaired": ("tuples", {"domains": 3, "sources": ("unpaired",)}),
    "three, whole": ("aligned3", {"domains": 3}),
    "four, chain": ("aligned4", {"domains": 4, "sources": ("chain",)}),
    "four, whole": ("aligned4", {"domains": 4}),
    "four, own list": ("aligned4", {"domains": 4, "sources": ("xyzu:0", "uzyx:2", "yxuz:1", "zuxy:3")}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_generator_learns_and_every_source_is_logged(
    case: str, configure: Configure, roots: Path, tmp_path: Path, console: Console
) -> None:
    root, method = CASES[case]
    config = config_of(configure, roots, root, tmp_path / "run", **method)
    run = train(replace(config, save_every_steps=1, keep_last=STEPS), console=console)
    networks = [torch.load(RunFolder(run).checkpoint(k), weights_only=True)["networks"] for k in (1, STEPS)]
    model = JointGAN(config.method)
    for name, _ in model.named_parameters():
        before, after = (weights[name] for weights in networks)
        assert torch.isfinite(after).all() and not torch.equal(after, before), name
    records = logged(run)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    for source in model.sources:
        for record in records:
            assert math.isfinite(record[f"critic_{source.name}"]) and record[f"critic_{source.name}"] > 0
            assert 0 <= record[f"accuracy_{source.name}"] <= 1
    for record in records:
        whole = sum(record[f"critic_{source.name}"] for source in model.sources)
        assert record["critic_loss"] == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("case", ["three, pairs only", "three, unpaired", "four, chain"])
@pytest.mark.parametrize("stop", [2, 3])
def test_interrupted_it_ends_with_the_same_bits(
    case: str, stop: int, configure: Configure, roots: Path, tmp_path: Path, console: Console
) -> None:
    """In the middle of an epoch, and at its end."""
    root, method = CASES[case]

    def interrupt(event: Event) -> None:
        if event.kind == "log" and event.step == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    config = config_of(configure, roots, root, tmp_path / "run", **method)
    with pytest.raises(Interrupted, match=f"step {stop} of {STEPS}"):
        train(config, console=console, callback=interrupt)
    train(config, console=console)
    whole = train(config_of(configure, roots, root, tmp_path / "whole", **method), console=console)
    assert logged(config.out) == logged(whole)
    got, want = leaves(saved(config.out)), leaves(saved(whole))
    assert list(got) == list(want)
    for name, value in want.items():
        assert torch.equal(got[name], value) if isinstance(value, torch.Tensor) else got[name] == value, name


CHAIN = dict(domains=3, sources=("chain",))
REFUSED: dict[str, tuple[Any, str, dict[str, Any], str]] = {
    "pairs of data without": (JointGANConfig(**SMALL), "apart", {}, "needs together x and y (source xy:2)"),
    "a prefix of data without": (
        JointGANConfig(**SMALL, domains=3, sources=("xyz:0", "zyx:1", "xzy:2", "yxz:1")), "tuples", {},
        "needs together x and z (source xzy:2); this tuples data set has x with y, y with z (where x is blue",
    ),
    "triples of data with pairs": (JointGANConfig(**SMALL, domains=3), "tuples", {}, "--method.sources chain, or"),
    "torn pairs": (
        JointGANConfig(**SMALL, **CHAIN), "tuples", {"pairing": "shuffled"},
        "data.pairing: shuffled tears apart what this method needs together: x and y (source xyz:2); z and y",
    ),
    "too many domains": (
        JointGANConfig(**SMALL), "aligned3", {},
        "gives x, y, z (out of blue, green, red): choose 2 with --data.domains, or train 3 with --method.domains 3",
    ),
    "too few domains": (JointGANConfig(**SMALL, **CHAIN), "aligned2", {}, "(out of green, red): train 2 with --method"),
    "three of cyclegan": (
        CycleGANConfig(width=4, depth=3), "tuples", {},
        "(out of blue, green, red): choose 2 with --data.domains",
    ),
    "three of wgan-gp": (WGANGPConfig(width=4, depth=3), "tuples", {}, "train 3 with --method.domains 3"),
    "pix2pix without pairs": (Pix2PixConfig(width=4, depth=3), "apart", {}, "data without pairs, such as cyclegan"),
    "pictures for vectors": (JointGANConfig(**SMALL, vectors=("y:7",)), "aligned2", {}, "domain y holds pictures"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_refused_before_it_starts(
    case: str, configure: Configure, roots: Path, tmp_path: Path, console: Console
) -> None:
    method, root, options, message = REFUSED[case]
    if root.startswith("aligned"):
        options = {**options, "layout": "aligned"}
    config = configure(method=method, data=DataConfig(root=roots / root, **options), out=tmp_path / "run", **SETTINGS)
    with pytest.raises(UserError) as caught:
        train(config, console=console)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", [CycleGANConfig(width=4, depth=3, critic_layers=1), JointGANConfig(**SMALL)])
def test_two_of_three_domains_are_read_from_their_pairs(
    method: Any, configure: Configure, roots: Path, tmp_path: Path, console: Console
) -> None:
    """y is in the pairs (y, z) too, which are left out: a domain of two has one source of pictures."""
    data = DataConfig(root=roots / "tuples", domains=("red", "green"))
    config = configure(method=method, data=data, out=tmp_path / "run", **SETTINGS)
    run = train(config, console=console)
    assert logged(run)[-1]["step"] == STEPS
    assert "5 of y alone are left out" in console.file.getvalue()
