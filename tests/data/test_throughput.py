from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jdm_fast.data import throughput
from jdm_fast.data.dataset import Arrays, Group, ImageFiles
from jdm_fast.data.images import find_images, save_image
from jdm_fast.data.loader import Loader
from jdm_fast.data.throughput import CACHED, DECODING, PILLOW, PillowDataset, compare, waiting_share
from jdm_fast.errors import UserError


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> list[Group]:
    """A pair of which one is half of a file and the other is labels, and a domain of its own."""
    root = tmp_path_factory.mktemp("throughput")
    rng = np.random.default_rng(0)
    for k in range(4):
        image = np.kron(rng.integers(64, 192, (10, 12, 3), np.uint8), np.ones((6, 6, 1), np.uint8))
        for name in ("x", "y", "z"):
            (root / name).mkdir(exist_ok=True)
            save_image(root / name / f"{k}.png", image)

    def files(name: str, **changes: Any) -> ImageFiles:
        return ImageFiles(tuple(find_images(root / name)), root / name, **changes)

    pair = Group({"x": files("x", region="right"), "y": files("y", labels=True)})
    return [pair, Group({"z": files("z")})]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("preprocess", ["resize_and_crop", "resize"])
def test_the_plain_loader_shows_what_ours_shows(groups: list[Group], preprocess: str, channels: int) -> None:
    """A race is fair only between contenders that do the same."""
    form: dict[str, Any] = dict(
        load_size=(44, 52), crop_size=(38, 40), preprocess=preprocess, channels=channels, seed=2
    )
    plain, loader = PillowDataset(groups, **form), Loader(groups, cache_mb=0, **form)
    with loader.batches(0, 8) as batches:
        for position, batch in enumerate(batches):
            for key, image in plain[position].items():
                difference = (batch[key][0] - image).abs() * 127.5
                assert difference.mean() < 0.6 and difference.max() < 8, "at borders the two resize differently"


def test_the_plain_loader_takes_files_only(tmp_path: Path) -> None:
    arrays = Arrays(np.zeros((2, 8, 8, 3), np.uint8), tmp_path)
    with pytest.raises(UserError, match="domain x: the plain loader reads image files only"):
        PillowDataset([Group({"x": arrays})])


def test_all_ways_are_measured_in_one_run(groups: list[Group]) -> None:
    told: list[str] = []
    result = compare(
        groups, load_size=40, crop_size=32, batch_size=2, seconds=0.02, rounds=2, on_progress=told.append, step=dict
    )
    assert [rate.name for rate in result.rates] == [PILLOW.format(0), PILLOW.format(2), DECODING, CACHED]
    assert all(0 < rate.slowest <= rate.median <= rate.fastest for rate in result.rates)
    assert result.ratio(CACHED, CACHED) == 1
    assert result.ratio(CACHED, DECODING) == pytest.approx(1 / result.ratio(DECODING, CACHED))
    assert result.pictures == 12 and result.cache_seconds > 0
    assert result.step_seconds is not None and result.waiting is not None and 0 < result.waiting < 1
    assert "decoding into the cache: 12 of 12" in told and f"{CACHED}, round 2 of 2" in told


def test_rates_count_pictures_and_not_the_first_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that only the making of batches moves: the first come at once, the others take half a second."""
    clock = [0.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: clock[0])

    @contextmanager
    def way() -> Iterator[Iterator[dict[str, torch.Tensor]]]:
        def batches() -> Iterator[dict[str, torch.Tensor]]:
            for number in range(1000):
                clock[0] += 0.001 if number < throughput._WARM else 0.5
                yield {}

        yield batches()

    assert throughput._batches_per_second(way, 10.0, torch.device("cpu")) == 2


def test_the_share_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch takes one second to come and the step three, so that a quarter of the time is spent waiting."""
    clock = [0.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: clock[0])

    class Slow:
        @contextmanager
        def batches(self, start: int, stop: int) -> Iterator[Iterator[dict[str, torch.Tensor]]]:
            def make() -> Iterator[dict[str, torch.Tensor]]:
                while True:
                    clock[0] += 1
                    yield {"x": torch.zeros(1)}

            yield make()

    def step(batch: dict[str, torch.Tensor]) -> None:
        clock[0] += 3

    assert waiting_share(Slow(), step, 20.0) == (4.0, 0.25)
