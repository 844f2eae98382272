"""Batches of any data set: groups of domains in, tensors out, made ahead of their use."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from jdm_fast.data.assembly import Assembler, Batch
from jdm_fast.data.cache import Wanted, cache_key, open_cache
from jdm_fast.data.dataset import Features, Group, VideoFrames, batch_keys
from jdm_fast.data.geometry import Preprocess, as_size, output_size, require_turns_kept
from jdm_fast.data.items import check_features, features_identity, open_pictures
from jdm_fast.data.pipeline import Form, Size, load_dali
from jdm_fast.data.prefetch import Prefetcher
from jdm_fast.data.sampler import Draw, Sampler
from jdm_fast.errors import UserError

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Loader:
    """Batches of groups of domains.

    A batch is a pure function of the seed and the step, so training continues exactly by asking for the next step; see
    :mod:`jdm_fast.data.sampler`. Domains of a group are aligned through all augmentation: one crop and one mirroring
    for item ``k`` of each. Groups are independent of each other.

    Args:
        groups: what to load; :meth:`jdm_fast.data.dataset.Layout.groups` and :func:`jdm_fast.data.dataset.arrange`
            make them.
        load_size: height and width that pictures are resized to, without keeping their shape, as CycleGAN does.
            Bicubic and antialiased; nearest neighbour for domains of labels.
        crop_size: height and width of the random crops.
        preprocess: ``resize_and_crop``; ``crop``, from the picture as it is; ``resize``, to ``load_size`` and no crop;
            ``none``, pictures as they are, which must then all be of one size.
        flip: mirror every other picture, at random.
        seed: of orders, crops and flips.
        batch_size: items of each group in a batch of this process.
        channels: 3 is RGB, 1 is grey.
        cache_mb: megabytes on the disk for decoded and resized pictures, of all data sets together; those that do not
            fit are decoded in each epoch. 0 is off. See :mod:`jdm_fast.data.cache`.
        cache_folder: where they are; by default ``decoded`` in the project's cache folder.
        threads: of the CPU for decoding; by default its cores (shared with the other processes of torchrun), at most 8.
        rank, world_size: which of how many processes this is.
        device: where batches are made. With ``cuda`` DALI decodes, resizes and crops on the GPU.
        dtype: of pictures in batches: float32, float16 or bfloat16.
        channels_last: memory format of pictures in batches.

    Attributes:
        groups: as given. keys: of a batch, see :func:`jdm_fast.data.dataset.batch_keys`.
        size: (height, width) of pictures in a batch, None if there are only features. counts: number of items by key.
        steps_per_epoch: steps in which the longest group is shown once (rounded up).

    Raises:
        UserError: DALI is missing, a setting is impossible, a file is missing, damaged or too small for the crop, the
            pictures are of different sizes with ``preprocess="none"``, or arrays that are turns of each other would be
            mirrored or cropped. Every header is read; the message names the file.
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
        batch_size: int = 1,
        channels: int = 3,
        cache_mb: int = 4096,
        cache_folder: str | Path | None = None,
        threads: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
    ) -> None:
        if channels not in (1, 3):
            raise UserError(f"channels: pictures give 3 (RGB) or 1 (grey), got {channels}")
        if dtype not in _DTYPES:
            raise UserError(f"dtype: expected float32, float16 or bfloat16, got {dtype}")
        if cache_mb < 0:
            raise UserError(f"cache_mb: expected 0 or more, got {cache_mb}")
        if threads is not None and threads < 1:
            raise UserError(f"threads: expected at least 1, got {threads}")
        if not groups:
            raise UserError("groups: expected at least one")
        self._sampler = Sampler(
            [len(group) for group in groups],
            batch_size=batch_size,
            seed=seed,
            flip=flip,
            rank=rank,
            world_size=world_size,
        )
        group_keys = batch_keys(groups)
        self.groups = tuple(groups)
        self._lengths = [len(group) for group in groups]
        self._domains = {
            key: domain
            for group, keys in zip(groups, group_keys, strict=True)
            for key, domain in zip(keys, group.domains.values(), strict=True)
        }
        self.keys = tuple(self._domains)
        self.counts = {key: len(domain) for key, domain in self._domains.items()}
        self.steps_per_epoch = self._sampler.steps_per_epoch
        features = {
            key: check_features(domain) for key, domain in self._domains.items() if isinstance(domain, Features)
        }
        if len(features) < len(self._domains):
            load_dali()  # says so at once if it is missing
        self._pictures = {key: open_pictures(domain) for key, domain in self._domains.items() if key not in features}
        load = as_size(load_size) if preprocess in ("resize_and_crop", "resize") else None
        crop = as_size(crop_size) if preprocess in ("resize_and_crop", "crop") else None
        self.size = output_size(load, crop, self._pictures, group_keys)
        require_turns_kept(groups, flip=flip, crop=crop is not None and crop != load)
        self._form = Form(
            load=load,
            crop=crop,
            channels=channels,
            cut=any(pictures.cut for pictures in self._pictures.values()),
            device=_device(device),
            dtype=dtype,
            channels_last=channels_last,
            threads=threads or _default_threads(),
        )
        self._assembler = Assembler(self._form, group_keys, self._pictures, features)
        self._cache_mb, self._cache_folder = cache_mb, cache_folder
        self._preparing, self._prepared = threading.Lock(), False

    def batches(self, start: int, stop: int, ahead: int = 4) -> Prefetcher:
        """The batches of the steps from ``start`` to before ``stop``, as a context manager that gives their iterator.

        They are made ahead of their use in a thread, which ends when the context is left. A batch has pictures
        [N, C, H, W] in [-1, 1] of ``dtype``, and features [N, D] float32, on ``device``. What cannot be read raises a
        UserError at the step it belongs to. The first call builds the cache: see :meth:`prepare`.

        Args:
            start, stop: steps, from 0.
            ahead: how many batches may wait for their use.
        """
        if not 0 <= start <= stop:
            raise ValueError(f"steps: expected 0 <= start <= stop, got {start} and {stop}")
        self.prepare()
        return Prefetcher(
            lambda: self._assembler.batches(self._draws, start, stop, max(1, ahead)), ahead, self._form.device
        )

    def batch(self, step: int) -> Batch:
        """The batch of one step, as :meth:`batches` gives it."""
        with self.batches(step, step + 1, ahead=1) as batches:
            return next(batches)

    def fixed(self, count: int) -> Batch:
        """``count`` items of each domain, evenly spaced by name, cropped in the middle and never mirrored, the first of
        several feature vectors, shaped as a batch; fewer if a domain has not so many. The same items of the domains of
        a group. Needs no cache."""
        count = min(count, *self._lengths)
        middle, none = np.full(count, 0.5), np.zeros(count)
        return self._assembler.batch(
            [
                Draw(np.arange(count, dtype=np.int64) * length // count, middle, middle, none.astype(bool), none)
                for length in self._lengths
            ]
        )

    def describe(self) -> dict[str, dict[str, int | str]]:
        """For each key the number of its items and a fingerprint of the names and sizes of its files, or of its values.

        The fingerprint does not change when the data set moves; it does when a file is added, removed, renamed or
        resized.
        """
        described: dict[str, dict[str, int | str]] = {}
        for key, domain in self._domains.items():
            lines = features_identity(domain) if isinstance(domain, Features) else self._pictures[key].identity()
            digest = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
            described[key] = {"count": len(domain), "fingerprint": digest[:16]}
        return described

    def prepare(self, on_progress: Callable[[int, int], object] | None = None) -> None:
        """Build the cache of decoded pictures, or open it; done by :meth:`batches` unless it has been done.

        Args:
            on_progress: called with the number of pictures that are decoded, and of those to decode. Unless given, a
                line goes to the standard error every few seconds.

        Raises:
            UserError: a file cannot be decoded, frames of videos do not fit, or the cache cannot be written.
        """
        with self._preparing:
            if self._prepared:
                return
            wanted = {key: self._wanted(key) for key in self._pictures if not self._assembler.is_ready(key)}
            if wanted:
                opened = open_cache(
                    list(wanted.values()), self._folder(), self._cache_mb, on_progress or _ProgressLines()
                )
                self._assembler.cached = dict(zip(wanted, opened, strict=True))
            self._prepared = True

    def _draws(self, step: int) -> list[Draw]:
        return [self._sampler.draw(group, step) for group in range(len(self._lengths))]

    def _wanted(self, key: str) -> Wanted:
        pictures, form = self._pictures[key], self._form
        # The decoders of GPUs and CPUs differ in the last bit, and what is cached should be what is not.
        how = f"dali {load_dali().__version__} {form.device.type} load {form.load} channels {form.channels}\n"
        sizes = pictures.sizes if form.load is None else np.tile(np.array(form.load, np.int64), (len(pictures), 1))
        return Wanted(
            name=key,
            key=cache_key([how, *pictures.state()]),
            sizes=sizes,
            channels=form.channels,
            decode=partial(self._assembler.decode, key),
            whole=isinstance(self._domains[key], VideoFrames),
        )

    def _folder(self) -> Path:
        from jdm_fast.data.real_files import cache_folder

        return (cache_folder() if self._cache_folder is None else Path(self._cache_folder)) / "decoded"


class _ProgressLines:
    """Tells the standard error how decoding goes, if it takes long enough to be wondered about."""

    def __init__(self, every: float = 5.0) -> None:
        self._every, self._told = every, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._told >= self._every:
            print(f"decoding pictures into the cache: {done} of {total}", file=sys.stderr, flush=True)
            self._told = now


def _device(device: str | torch.device) -> torch.device:
    device = torch.device(device)
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device: batches are made on cpu or cuda, got {device}")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError("device: cuda was asked for, but PyTorch finds no GPU; use device=cpu")
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    return device


def _default_threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
