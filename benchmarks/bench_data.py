"""Loading pictures: a plain PyTorch DataLoader with Pillow, DALI decoding, and DALI fed from the cache.

Real files: crops of satellite and topographic pictures of the Earth, 512x512 JPEG, resized to 286x286 and cropped to
256x256 as CycleGAN does. All contenders give the same pictures with the same crops, which is checked before anything is
timed. ``extra_info["pictures_per_second"]`` is what ``jdm-fast bench data`` prints for any data set.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from benchmarks.conftest import OURS
from jdm_fast.data.dataset import Group, ImageFiles
from jdm_fast.data.earth import Earth
from jdm_fast.data.images import find_images, save_image
from jdm_fast.data.loader import Loader
from jdm_fast.data.throughput import PillowDataset

SIDE, STRIDE, COUNT = 512, 220, 60
ROUNDS, WARM = 5, 12
BATCHES = {1: 60, 16: 6}  # in a round, by the size of a batch
DALI, PILLOW = "DALI, decoding", "DataLoader + Pillow, {} workers"


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> list[Group]:
    root = tmp_path_factory.mktemp("earth")
    earth = Earth.load(5400, ("satellite", "topographic"))
    found = []
    for key, domain in (("x", "satellite"), ("y", "topographic")):
        picture = earth.picture(domain)
        rows, columns = (range(0, side - SIDE, STRIDE) for side in picture.shape[:2])
        places = [(row, column) for row in rows for column in columns][:COUNT]
        (root / key).mkdir()
        for number, (row, column) in enumerate(places):
            save_image(root / key / f"{number:03}.jpg", picture[row : row + SIDE, column : column + SIDE])
        found.append(Group({key: ImageFiles(tuple(find_images(root / key)), root / key)}))
    return found


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    return request.param


@pytest.mark.parametrize("batch_size", BATCHES)
@pytest.mark.parametrize("implementation", [PILLOW.format(0), PILLOW.format(2), DALI, OURS])
def bench_loading(
    benchmark: Any, implementation: str, batch_size: int, device: str, groups: list[Group], tmp_path: Path
) -> None:
    """``jdm_fast`` is DALI with the cache."""
    plain = PillowDataset(groups)
    loader = Loader(
        groups,
        batch_size=batch_size,
        device=device,
        cache_mb=4096 if implementation == OURS else 0,
        cache_folder=tmp_path,
    )
    loader.prepare()
    check_the_same(plain, loader)
    count, pictures = BATCHES[batch_size], 2 * batch_size
    benchmark.group = f"{count * pictures} pictures, 512 to 286 to 256, batch {batch_size}, to {device}"
    with ExitStack() as stack:
        if implementation in (OURS, DALI):
            batches = stack.enter_context(loader.batches(0, 10**9))
        else:
            workers = int(implementation.split()[-2])
            batches = iter(DataLoader(plain, batch_size, sampler=range(10**9), num_workers=workers))

        def load() -> None:
            for _ in range(count):
                batch = next(batches)
                for images in batch.values():
                    images.to(device)
            if device == "cuda":
                torch.cuda.synchronize()

        for _ in range(WARM):  # those that were made before the clock started
            next(batches)
        benchmark.pedantic(load, rounds=ROUNDS)
    benchmark.extra_info["implementation"] = implementation
    if benchmark.stats is not None:  # None with --benchmark-disable
        rate = count * pictures / benchmark.stats.stats.median
        benchmark.extra_info["pictures_per_second"] = round(rate, 1)


def check_the_same(plain: PillowDataset, loader: Loader) -> None:
    """Decoders of JPEG round differently, and along the borders DALI and Pillow resize differently."""
    batch = loader.batch(0)
    for key, images in plain[0].items():
        assert ((batch[key][0].cpu() - images).abs() * 127.5).mean() < 1
