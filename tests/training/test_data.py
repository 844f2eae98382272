"""What a training reads: the right pictures under the right names, held-out ones apart."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from jdm_fast.data import save_image
from jdm_fast.errors import UserError
from jdm_fast.methods import JWDMConfig
from jdm_fast.runs import RunFolder
from jdm_fast.training import DataConfig, Event, TrainConfig, train
from jdm_fast.training.data import open_data, stream_batches
from jdm_fast.training.needs import Needs

Configure = Callable[..., TrainConfig[Any]]
LAND, WATER = (216, 192, 136), (40, 80, 160)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """An aligned root: 6 training and 3 test pictures in the domains grey and mask; the grey level numbers the item."""
    root = tmp_path / "pairs"
    for split, count in (("train", 6), ("test", 3)):
        for index in range(count):
            level = np.full((20, 24, 3), 10 * index + (100 if split == "test" else 0), np.uint8)
            mask = np.where(level[..., :1] % 20 == 0, np.uint8(LAND), np.uint8(WATER))
            for domain, picture in (("grey", level), ("mask", mask)):
                (root / split / domain).mkdir(parents=True, exist_ok=True)
                save_image(root / split / domain / f"{index}.png", picture)
    return root


def levels(images: Any) -> list[int]:
    return ((images[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def test_domains_are_chosen_and_held_out_pairs_stay_pairs(configure: Configure, pairs: Path) -> None:
    config = configure(
        data=DataConfig(root=pairs, domains=("mask", "grey"), cache_mb=0), preprocess="none", sample_every=1,
        sample_count=3, eval_every=1, eval_count=2,
    )  # fmt: skip
    data = open_data(config, Needs(("x", "y")))
    assert data.loader.keys == ("x", "y") and data.loader.counts == {"x": 6, "y": 6} and data.loader.size == (20, 24)
    assert levels(data.shown["y"]) == [100, 110, 120]
    assert levels(data.shown["x"]) == [LAND[0], WATER[0], LAND[0]]
    assert sum(len(batch["x"]) for batch in data.truth) == 2
    assert data.palettes["x"].names == ("land", "water") and "y" not in data.palettes


@pytest.mark.parametrize("pairing", ["auto", "shuffled", "disjoint", "paired"])
def test_pairing(configure: Configure, pairs: Path, pairing: str) -> None:
    config = configure(
        data=DataConfig(root=pairs, pairing=pairing, cache_mb=0), preprocess="none", flip=False, batch_size=3
    )
    loader = open_data(config, Needs(("x", "y"))).loader
    seen = [loader.batch(step) for step in range(4)]
    x = [level for batch in seen for level in levels(batch["x"])]
    together = [
        (level % 20 == 0) == (colour == LAND[0])
        for batch in seen
        for level, colour in zip(levels(batch["x"]), levels(batch["y"]), strict=True)
    ]
    assert set(x) == ({0, 10, 20} if pairing == "disjoint" else {0, 10, 20, 30, 40, 50})
    assert all(together) == (pairing == "paired"), "one order for both domains, or one for each"


def test_scores_against_the_truth_are_logged(configure: Configure, pairs: Path, console: Console) -> None:
    events: list[Event] = []
    method = JWDMConfig(width=4, blocks=0, embedding_kernel=1, critic_width=4, critic_layers=2)
    config = configure(method=method, data=DataConfig(root=pairs), preprocess="resize", load_size=16, eval_every=8)
    run = train(config, console=console, callback=events.append)
    scored = [event for event in events if event.kind == "score"]
    assert [event.step for event in scored] == [8, 16, 18], "every eighth step, and the last"
    records = [json.loads(line) for line in RunFolder(run).metrics.read_text().splitlines()]
    assert [record for record in records if "truth/x_to_y/l1" in record] == [event.metrics for event in scored]
    last = scored[-1].metrics
    assert {"truth/x_to_y/ssim", "truth/x_to_y/miou", "truth/y_to_x/psnr", "truth/y_to_x/mean_colour/l1"} <= set(last)
    assert "truth/y_to_x/miou" not in last
    assert "step 16/18  against the truth: x to y L1 0." in console.file.getvalue()
    # The mean of 100, 110 and 120 is 10 away from two of three.
    assert last["truth/y_to_x/mean_colour/l1"] == pytest.approx(20 / 3 / 127.5)


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        ({"x_test": Path("a")}, {}, "data: give both x_test and y_test"),
        ({"domains": ("grey",)}, {}, "trained on the domains x, y; this aligned data set gives x .*--data.domains"),
        ({"domains": ("grey", "heights")}, {}, "different domains out of grey, mask"),
        ({"layout": "tiles"}, {}, "layout: expected auto"),
    ],
    ids=str,
)
def test_wrong_data(
    configure: Configure, pairs: Path, data: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        open_data(configure(data=DataConfig(root=pairs, **data), **settings), Needs(("x", "y")))


def test_held_out_folders_of_their_own_are_pairs_by_name(configure: Configure, pairs: Path) -> None:
    folders = {f"{name}{end}": pairs / split / domain for end, split in (("", "train"), ("_test", "test"))
               for name, domain in (("x", "mask"), ("y", "grey"))}  # fmt: skip
    config = configure(data=DataConfig(**folders, cache_mb=0), preprocess="none", sample_every=1, eval_every=1)
    data = open_data(config, Needs(("x", "y")))
    assert levels(data.shown["y"]) == [100, 110, 120] and levels(data.shown["x"]) == [LAND[0], WATER[0], LAND[0]]
    assert len(data.truth) == 1


def test_layout_and_domains_need_a_root(configure: Configure, pairs: Path) -> None:
    data = DataConfig(x=pairs / "train" / "grey", y=pairs / "train" / "mask", domains=("x", "y"))
    with pytest.raises(UserError, match="layout and domains go with root"):
        open_data(configure(data=data), Needs(("x", "y")))


def test_scores_need_a_truth_and_a_translation(configure: Configure, images: Path, console: Console) -> None:
    with pytest.raises(UserError, match="eval_every: the truth is needed"):
        open_data(configure(data=DataConfig(root=images), eval_every=1), Needs(("x", "y")))
    with pytest.raises(UserError, match="the method fake makes none"):
        train(configure(data=DataConfig(root=images), eval_every=1), console=console)


def test_bad_files_are_refused_or_left_out(configure: Configure, pairs: Path) -> None:
    bad = pairs / "train" / "mask" / "2.png"
    bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(UserError, match="mask/2.png"):
        open_data(configure(data=DataConfig(root=pairs)), Needs(("x", "y")))
    said: list[str] = []
    config = configure(data=DataConfig(root=pairs, skip_bad=True, cache_mb=0), preprocess="none")
    data = open_data(config, Needs(("x", "y")), warn=said.append)
    assert data.loader.counts == {"x": 5, "y": 5} and sum(str(bad) in text for text in said) == 1


def test_the_larger_group_is_cut_too(configure: Configure, pairs: Path) -> None:
    config = configure(data=DataConfig(root=pairs, max_dataset_size=2, cache_mb=0), preprocess="none")
    assert open_data(config, Needs(("x", "y"))).loader.counts == {"x": 2, "y": 2}


@pytest.mark.parametrize(("start", "stop", "alone"), [(0, 9, 4), (3, 9, 4), (0, 9, 0), (0, 4, 4), (0, 2, 4), (5, 5, 4)])
def test_a_step_that_captures_has_the_device_alone(
    configure: Configure, pairs: Path, start: int, stop: int, alone: int
) -> None:
    config = configure(data=DataConfig(root=pairs, cache_mb=0), preprocess="none", batch_size=2)
    loader = open_data(config, Needs(("x", "y"))).loader

    def working() -> bool:
        return any(thread.name == "jdm_fast-loader" for thread in threading.enumerate())

    with loader.batches(start, stop) as batches:
        expected = list(batches)
    with closing(stream_batches(loader, start, stop, alone)) as batches:
        for count, (batch, other) in enumerate(zip(batches, expected, strict=True), 1):
            assert all(torch.equal(batch[name], other[name]) for name in batch)
            assert count != alone or not working()
    assert len(expected) == stop - start
    assert not working()
