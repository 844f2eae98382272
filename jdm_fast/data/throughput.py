"""How fast a data set is loaded: a plain PyTorch DataLoader with Pillow, DALI decoding, and DALI with decoded pictures
from the cache, in one run on the same files with the same crops."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jdm_fast.data.dataset import Group, ImageFiles, batch_keys
from jdm_fast.data.geometry import Preprocess, as_size, place
from jdm_fast.data.images import read_image
from jdm_fast.data.loader import Loader
from jdm_fast.data.sampler import Sampler
from jdm_fast.errors import UserError

Size = tuple[int, int]
Batches = Callable[[], AbstractContextManager[Iterator[dict[str, Tensor]]]]

PILLOW, DECODING, CACHED = "DataLoader + Pillow, {} workers", "DALI, decoding", "DALI, from the cache"
WORKERS = (0, 2)
_ENDLESS = 10**9
_WARM = 12  # batches that are not timed: those that a loader has made ahead before the clock starts


@dataclass(frozen=True)
class Rate:
    """Pictures a second of one way to load them: the median of some rounds, and the slowest and the fastest."""

    name: str
    median: float
    slowest: float
    fastest: float


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` has measured.

    Attributes:
        rates: in the order of a table. pictures: in the data set. cache_seconds: to decode them into the cache, once.
        step_seconds: of a training step with the cache, if one was given. waiting: the share of it that waits for data.
    """

    rates: tuple[Rate, ...]
    pictures: int
    cache_seconds: float
    step_seconds: float | None = None
    waiting: float | None = None

    def ratio(self, name: str, over: str) -> float:
        """How many times as many pictures a second ``name`` gives as ``over``."""
        medians = {rate.name: rate.median for rate in self.rates}
        return medians[name] / medians[over]


class PillowDataset(Dataset[dict[str, Tensor]]):
    """The pictures of a loader as one would load them without it: Pillow reads, resizes, crops and mirrors.

    Item ``p`` is what the sampler draws at position ``p``: float32 [C, H, W] in [-1, 1] for each key.

    Raises:
        UserError: a domain is not of image files.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        *,
        load_size: int | Size = 286,
        crop_size: int | Size = 256,
        preprocess: Preprocess = "resize_and_crop",
        flip: bool = True,
        seed: int = 0,
        channels: int = 3,
    ) -> None:
        for group in groups:
            for name, domain in group.domains.items():
                if not isinstance(domain, ImageFiles):
                    raise UserError(f"domain {name}: the plain loader reads image files only")
        self._groups, self._keys = groups, batch_keys(groups)
        self._sampler = Sampler([len(group) for group in groups], seed=seed, flip=flip)
        self._load = as_size(load_size) if preprocess in ("resize_and_crop", "resize") else None
        self._crop = as_size(crop_size) if preprocess in ("resize_and_crop", "crop") else None
        self._channels = channels

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        item = {}
        for number, (group, keys) in enumerate(zip(self._groups, self._keys, strict=True)):
            draw = self._sampler.draw(number, position)
            for key, domain in zip(keys, group.domains.values(), strict=True):
                image = self._picture(domain, int(draw.items[0]), float(draw.down[0]), float(draw.right[0]))
                if draw.mirror[0]:
                    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                # NumPy: PyTorch would use several threads, which on a busy machine wait for each other.
                pixels = np.array(image, dtype=np.float32).reshape(image.height, image.width, self._channels)
                pixels /= 127.5
                pixels -= 1
                item[key] = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        return item

    def _picture(self, domain: ImageFiles, number: int, down: float, right: float) -> Image.Image:
        path = domain.paths[number]
        if domain.palette is None:
            image = Image.open(path).convert("RGB" if self._channels == 3 else "L")
        else:
            image = Image.fromarray(read_image(path, domain.palette))
        if domain.region != "whole":
            left = 0 if domain.region == "left" else image.width - image.width // 2
            image = image.crop((left, 0, left + image.width // 2, image.height))
        if self._load is not None:
            way = Image.Resampling.NEAREST if domain.labels else Image.Resampling.BICUBIC
            image = image.resize(self._load[::-1], way)
        if self._crop is not None:
            top = round(place(down, image.height, self._crop[0]) * (image.height - self._crop[0]))
            left = round(place(right, image.width, self._crop[1]) * (image.width - self._crop[1]))
            image = image.crop((left, top, left + self._crop[1], top + self._crop[0]))
        return image


def compare(
    groups: Sequence[Group],
    *,
    batch_size: int = 1,
    threads: int | None = None,
    device: str | torch.device = "cpu",
    cache_mb: int = 4096,
    seconds: float = 1.0,
    rounds: int = 3,
    step: Callable[[dict[str, Tensor]], object] | None = None,
    on_progress: Callable[[str], object] = lambda text: None,
    **form: Any,
) -> Comparison:
    """Measure all ways to load, in turn and several times over, so that a disturbance meets all of them.

    The cache is a temporary one, so that its making is measured too.

    Args:
        groups: of image files.
        batch_size, threads, device, cache_mb: as of :class:`jdm_fast.data.loader.Loader`.
        seconds: of each measurement. rounds: measurements of each way.
        step: a training step with a batch, to see how long it waits for data.
        on_progress: told what is being measured.
        form: ``load_size``, ``crop_size``, ``preprocess``, ``flip``, ``seed`` and ``channels``, as of the loader.

    Raises:
        UserError: as the loader; or a domain is not of image files.
    """
    plain = PillowDataset(groups, **form)
    common = dict(batch_size=batch_size, threads=threads, device=device, **form)
    with tempfile.TemporaryDirectory(prefix="jdm_fast-bench-") as folder:
        decoding = Loader(groups, cache_mb=0, **common)
        cached = Loader(groups, cache_mb=cache_mb, cache_folder=folder, **common)
        on_progress("decoding into the cache")
        began = time.perf_counter()
        cached.prepare(lambda done, total: on_progress(f"decoding into the cache: {done} of {total}"))
        cache_seconds = time.perf_counter() - began
        ways: dict[str, Batches] = {
            PILLOW.format(workers): lambda workers=workers: _plain_batches(plain, batch_size, workers, device)
            for workers in WORKERS
        }
        ways[DECODING] = lambda: decoding.batches(0, _ENDLESS)
        ways[CACHED] = lambda: cached.batches(0, _ENDLESS)
        pictures = batch_size * len(cached.keys)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds):
            for name, way in ways.items():
                on_progress(f"{name}, round {number + 1} of {rounds}")
                rates[name].append(pictures * _batches_per_second(way, seconds, torch.device(device)))
        waiting: tuple[float, float] | tuple[()] = ()
        if step is not None:
            on_progress("training steps")
            waiting = waiting_share(cached, step, rounds * seconds)
    measured = [Rate(name, statistics.median(some), min(some), max(some)) for name, some in rates.items()]
    return Comparison(tuple(measured), sum(cached.counts.values()), cache_seconds, *waiting)


def waiting_share(loader: Loader, step: Callable[[dict[str, Tensor]], object], seconds: float) -> tuple[float, float]:
    """How long a training step takes with a loader, and what share of it waits for data.

    Args:
        loader: prepared if need be.
        step: a training step with a batch.
        seconds: to measure for; at least three steps are taken, after two that are not counted.

    Returns:
        seconds of a step, and the share in [0, 1].
    """
    waited = total = 0.0
    steps = -2
    with loader.batches(0, _ENDLESS) as batches:
        while steps < 3 or total < seconds:
            began = time.perf_counter()
            batch = next(batches)
            ready = time.perf_counter()
            step(batch)
            _synchronize(next(iter(batch.values())).device)
            if steps >= 0:
                waited += ready - began
                total += time.perf_counter() - began
            steps += 1
    return total / steps, waited / total


@contextmanager
def _plain_batches(
    dataset: PillowDataset, batch_size: int, workers: int, device: str | torch.device
) -> Iterator[Iterator[dict[str, Tensor]]]:
    loader = DataLoader(dataset, batch_size=batch_size, sampler=range(_ENDLESS), num_workers=workers)
    yield ({key: images.to(device) for key, images in batch.items()} for batch in loader)


def _batches_per_second(way: Batches, seconds: float, device: torch.device) -> float:
    with way() as batches:
        for _ in range(_WARM):
            next(batches)
        _synchronize(device)
        count, began = 0, time.perf_counter()
        while count == 0 or time.perf_counter() - began < seconds:
            next(batches)
            count += 1
        _synchronize(device)
        return count / (time.perf_counter() - began)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
