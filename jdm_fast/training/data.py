"""From a training's configuration to its batches: which data set, which domains, which pictures are held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jdm_fast.data.check import without_bad
from jdm_fast.data.dataset import LETTERS, Group, Layout, arrange, batch_keys
from jdm_fast.data.layouts import find_layout, two_folders
from jdm_fast.data.loader import Loader
from jdm_fast.errors import UserError
from jdm_fast.metrics.classes import PALETTES, Palette
from jdm_fast.training.config import DataConfig, TrainConfig
from jdm_fast.training.distributed import Processes
from jdm_fast.training.needs import Needs

_CHUNK = 16
_HELD_OUT = ("test", "val")  # the first of these splits that a layout has


@dataclass(frozen=True)
class TrainingData:
    """What a training reads.

    Attributes:
        loader: the training batches. shown: a batch for the sample grids, of held-out data if there are any that the
        method can use; empty if no grids are asked for or there are no pictures. truth: batches of held-out pictures
        that are the truth of each other, by domain; empty if no scores are asked for. palettes: of the domains whose
        colours mean classes that are known.
    """

    loader: Loader
    shown: dict[str, Tensor]
    truth: list[dict[str, Tensor]]
    palettes: dict[str, Palette]


def open_data(
    config: TrainConfig[Any],
    needs: Needs,
    *,
    processes: Processes | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> TrainingData:
    """Find the data set, check its files and make the loaders.

    Args:
        config: what to read and how.
        needs: what the method asks of the data.
        processes: those that train; each gets its share of every batch on its device, and rank 0 what is shown and
            scored. Unless given, this one alone on the CPU.
        warn: told of each file that is left out because of ``data.skip_bad``, and of data that are not used.

    Raises:
        UserError: data are missing, damaged, or not what the method is trained on.
    """
    processes = processes or Processes(torch.device("cpu"))
    layout = _layout(config.data, needs, warn)
    chosen = needs.choose(config.data.domains, layout)
    groups = layout.groups("train", chosen)
    needs.require_domains(groups, layout)
    pairing = needs.pairing(config.data.pairing, groups)
    groups = arrange(_readable(needs.without_spare(groups, warn), config.data, warn), pairing)
    needs.require(groups, layout, chosen)
    held_out = _held_out(config.data, layout, chosen, warn)
    most = config.data.max_dataset_size
    if most is not None:
        groups = tuple(group.take(range(min(most, len(group)))) for group in groups)
    options: dict[str, Any] = dict(
        load_size=config.load_size,
        crop_size=config.crop_size,
        preprocess=config.preprocess,
        flip=config.flip,
        seed=config.seed,
        channels=getattr(config.method, "channels", 3),  # methods of other channels than RGB's have this field
        threads=config.data.threads,
        device=processes.device,
    )
    loader = Loader(
        groups,
        batch_size=processes.share(config.batch_size) * config.accumulate,
        cache_mb=config.data.cache_mb,
        rank=processes.rank,
        world_size=processes.world_size,
        **options,
    )
    if not processes.is_main or not (config.sample_every or config.eval_every):
        return TrainingData(loader, {}, [], {})
    if config.eval_every and not any(len(group.domains) > 1 for group in held_out):
        raise UserError(
            "eval_every: the truth is needed, held-out pictures of one name in both domains; there are none in "
            f"{layout.root}. Use eval_every=0, or give data.x_test and data.y_test"
        )
    of_held_out = Loader(held_out, cache_mb=0, **options) if held_out else loader
    shown = of_held_out if needs.offered(held_out) else loader
    return TrainingData(
        loader,
        shown.fixed(config.sample_count) if config.sample_every and shown.size is not None else {},
        _truth(held_out, of_held_out.fixed(config.eval_count)) if config.eval_every else [],
        _palettes(layout, chosen),
    )


def stream_batches(loader: Loader, start: int, stop: int, alone: int) -> Iterator[dict[str, Tensor]]:
    """The batches of the steps from ``start`` to before ``stop``; close the iterator to end the loader's threads.

    When the last of the first ``alone`` batches is handed over these have ended already, so that nothing but its step
    uses the device (see :mod:`jdm_fast._captures`); they are started anew for the next.
    """
    first = min(stop, start + alone)
    if first > start:
        with loader.batches(start, first) as batches:
            for _ in range(start, first - 1):
                yield next(batches)
            last = next(batches)
        yield last
    with loader.batches(first, stop) as batches:
        yield from batches


def _truth(groups: Sequence[Group], batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """A large batch of the groups as several that networks can take at once, each of what belongs together, by domain
    (and not by the batch's keys)."""
    chunks = []
    for group, keys in zip(groups, batch_keys(groups), strict=True):
        if len(keys) > 1:
            chunks += _chunks({name: batch[key] for name, key in zip(group.domains, keys, strict=True)})
    return chunks


def _palettes(layout: Layout, chosen: Sequence[str] | None) -> dict[str, Palette]:
    """By letter: a palette has the name of a domain, as Earth's mask, or of a whole data set, as Cityscapes."""
    named = zip(LETTERS, chosen or layout.domains, strict=False)
    names = {letter: layout.name if name == "labels" else name for letter, name in named}
    return {letter: PALETTES[name] for letter, name in names.items() if name in PALETTES}


def _chunks(batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """A large batch as several that networks can take at once."""
    parts = {name: images.split(_CHUNK) for name, images in batch.items()}
    return [dict(zip(parts, some, strict=True)) for some in zip(*parts.values(), strict=True)]


def _layout(data: DataConfig, needs: Needs, warn: Callable[[str], None]) -> Layout:
    if data.root is not None:
        if data.x is not None or data.y is not None:
            raise UserError("data: give either root or x and y, not both")
        return find_layout(data.root, data.layout, recursive=data.recursive, on_choice=warn)
    if data.x is None or data.y is None:
        missing = "x" if data.y is not None else "y" if data.x is not None else "x and y"
        raise UserError(f"data: {missing} missing; expected two folders of images, x and y, or the root of a data set")
    if data.layout != "auto" or data.domains is not None:
        raise UserError("data: layout and domains go with root; x and y are two folders of pictures already")
    paired = data.pairing == "paired" or (data.pairing == "auto" and bool(needs.together))
    return two_folders(data.x, data.y, recursive=data.recursive, paired=paired)


def _held_out(
    data: DataConfig, layout: Layout, chosen: Sequence[str] | None, warn: Callable[[str], None]
) -> tuple[Group, ...]:
    """The groups of pictures that are not trained on; empty if there are none."""
    if (data.x_test is None) != (data.y_test is None):
        raise UserError("data: give both x_test and y_test, or neither")
    if data.x_test is not None and data.y_test is not None:
        groups = two_folders(data.x_test, data.y_test, recursive=data.recursive, held_out=True).groups("test")
    else:
        split = next((name for name in _HELD_OUT if name in layout.splits), None)
        groups = () if split is None else layout.groups(split, chosen)
    return _readable(groups, data, warn)


def _readable(groups: tuple[Group, ...], data: DataConfig, warn: Callable[[str], None]) -> tuple[Group, ...]:
    if not data.skip_bad:
        return groups
    return without_bad(groups, lambda path, reason: warn(f"{path}: left out: {reason}"))
