"""Two domains of images that do not belong together: what CycleGAN calls unaligned data."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from jdm_fast.data.images import check_image, find_images, read_image, resize_image
from jdm_fast.errors import UserError

Preprocess = Literal["resize_and_crop", "crop", "resize", "none"]
Size = tuple[int, int]

_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601, as Pillow's mode "L"


@dataclass(frozen=True)
class Domains:
    """Folders of a CycleGAN root; the test folders may be missing."""

    train_x: Path
    train_y: Path
    test_x: Path | None
    test_y: Path | None


def find_domains(root: str | Path) -> Domains:
    """``trainA``, ``trainB``, ``testA`` and ``testB`` under ``root``.

    Raises:
        UserError: there is no such folder, or no trainA or trainB in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder; expected one with trainA and trainB in it")
    missing = [name for name in ("trainA", "trainB") if not (root / name).is_dir()]
    if missing:
        raise UserError(
            f"{root}: there is no {' and no '.join(missing)} in it; expected CycleGAN's layout, trainA and trainB "
            "(and testA, testB), or give the two folders separately"
        )
    tests = [root / name if (root / name).is_dir() else None for name in ("testA", "testB")]
    return Domains(root / "trainA", root / "trainB", *tests)


class UnpairedImages:
    """Batches of images from two folders, each shuffled for itself.

    :meth:`batch` is a pure function of the seed and the step, so training continues exactly by asking for the next
    step, and any number of threads may ask. Each domain is an endless row of passes, every pass showing each of its
    images once in an order of its own. The larger domain sets the length of an epoch; the other begins a new pass
    when it ends.

    Args:
        x_root, y_root: the folders.
        load_size: height and width that images are resized to (bicubic, without keeping their shape, as CycleGAN does).
        crop_size: height and width of the random crops.
        flip: mirror every other image, at random and each domain for itself.
        seed: of orders, crops and flips.
        batch_size: images of each domain in a batch.
        preprocess: ``resize_and_crop``; ``crop``, from the image as it is; ``resize``, to ``load_size`` and no crop;
            ``none``, images as they are, which must then all be of one size.
        channels: 3 is RGB, 1 is grey.
        recursive: look into sub-folders too.
        max_dataset_size: use only so many images of each domain, the first by name.
        cache_mb: megabytes for decoded and resized images; those that do not fit are decoded again in each pass.

    Attributes:
        domains: ``("x", "y")``. size: (height, width) of every image in a batch. counts: images of each domain.
        steps_per_epoch: steps in which the larger domain is shown once (rounded up).

    Raises:
        UserError: a folder is missing or empty, a file is damaged or not an image (every header is read), or an image
        is too small for the crop. The message names it.
    """

    domains = ("x", "y")

    def __init__(
        self,
        x_root: str | Path,
        y_root: str | Path,
        load_size: int | Size = 286,
        crop_size: int | Size = 256,
        flip: bool = True,
        seed: int = 0,
        batch_size: int = 1,
        preprocess: Preprocess = "resize_and_crop",
        *,
        channels: int = 3,
        recursive: bool = False,
        max_dataset_size: int | None = None,
        cache_mb: int = 1024,
    ) -> None:
        if channels not in (1, 3):
            raise UserError(f"channels: image files give 3 (RGB) or 1 (grey), got {channels}")
        if batch_size < 1:
            raise UserError(f"batch_size: expected at least 1, got {batch_size}")
        self._load = as_size(load_size) if preprocess in ("resize_and_crop", "resize") else None
        self._crop = as_size(crop_size) if preprocess in ("resize_and_crop", "crop") else None
        self._roots = {"x": Path(x_root), "y": Path(y_root)}
        self._flip, self._seed, self._batch_size, self._channels = flip, seed, batch_size, channels
        self._paths = {name: find_images(root, recursive)[:max_dataset_size] for name, root in self._roots.items()}
        sizes = {name: [check_image(path) for path in paths] for name, paths in self._paths.items()}
        self.size = self._output_size(sizes)
        self.counts = {name: len(paths) for name, paths in self._paths.items()}
        self.steps_per_epoch = -(-max(self.counts.values()) // batch_size)
        self._cache: dict[tuple[str, int], np.ndarray] = {}
        self._cache_left = cache_mb * 2**20
        self._cache_lock = threading.Lock()
        self._orders: dict[str, tuple[int, np.ndarray]] = {}

    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of ``step`` (from 0): for each domain float32 [batch_size, channels, height, width] in [-1, 1]."""
        positions = range(step * self._batch_size, (step + 1) * self._batch_size)
        return {name: _to_tensor([self._item(name, position) for position in positions]) for name in self.domains}

    def fixed(self, count: int) -> dict[str, Tensor]:
        """``count`` images of each domain, evenly spaced by name, cropped in the middle and never mirrored, shaped as a
        batch; fewer if a domain has not so many."""
        count = min(count, *self.counts.values())
        batch = {}
        for name in self.domains:
            indices = [k * self.counts[name] // count for k in range(count)]
            batch[name] = _to_tensor([self._cut(self._image(name, index), 0.5, 0.5) for index in indices])
        return batch

    def describe(self) -> dict[str, dict[str, int | str]]:
        """For each domain the number of its images and a fingerprint of their names and sizes in bytes.

        The fingerprint does not change when the folder moves; it does when a file is added, removed, renamed or
        resized.
        """
        described: dict[str, dict[str, int | str]] = {}
        for name, root in self._roots.items():
            files = [f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\n" for path in self._paths[name]]
            described[name] = {
                "count": len(files),
                "fingerprint": hashlib.sha256("".join(files).encode()).hexdigest()[:16],
            }
        return described

    def _item(self, name: str, position: int) -> np.ndarray:
        """The image at ``position`` of a domain's endless row: uint8 [height, width, channels]."""
        index = self._order(name, position // self.counts[name])[position % self.counts[name]]
        key = _hash(self._seed, self.domains.index(name), 1, position)
        down, right, mirror = _uniform(key, 3)
        image = self._cut(self._image(name, int(index)), down, right)
        return image[:, ::-1] if self._flip and mirror < 0.5 else image

    def _order(self, name: str, turn: int) -> np.ndarray:
        """The order of a domain's images in its pass number ``turn``: they are sorted by a random key."""
        known = self._orders.get(name)
        if known is None or known[0] != turn:
            keys = _mix(
                _hash(self._seed, self.domains.index(name), 0, turn) + np.arange(self.counts[name], dtype=np.uint64)
            )
            known = self._orders[name] = (turn, np.argsort(keys, kind="stable"))
        return known[1]

    def _image(self, name: str, index: int) -> np.ndarray:
        """An image read and resized: from the cache if it is there, and into it while there is room."""
        image = self._cache.get((name, index))
        if image is None:
            image = read_image(self._paths[name][index])
            if self._load is not None:
                image = resize_image(image, self._load)
            if self._channels == 1:
                image = np.rint(image @ _GREY).astype(np.uint8)[:, :, None]
            self._check_unchanged(image, self._paths[name][index])
            with self._cache_lock:
                if image.nbytes <= self._cache_left and (name, index) not in self._cache:
                    self._cache[name, index] = image
                    self._cache_left -= image.nbytes
        return image

    def _cut(self, image: np.ndarray, down: float, right: float) -> np.ndarray:
        """A crop of ``image``; ``down`` and ``right`` in [0, 1) choose among all the places it can have."""
        height, width = self.size
        top = int(down * (image.shape[0] - height + 1))
        left = int(right * (image.shape[1] - width + 1))
        return image[top : top + height, left : left + width]

    def _output_size(self, sizes: dict[str, list[Size]]) -> Size:
        """Height and width of every image of a batch; a UserError if an image cannot give it."""
        if (
            self._load is not None
            and self._crop is not None
            and (self._load[0] < self._crop[0] or self._load[1] < self._crop[1])
        ):
            raise UserError(f"load_size: expected at least the crop_size {_text(self._crop)}, got {_text(self._load)}")
        if self._crop is None and self._load is not None:
            return self._load
        every = [
            (path, size) for name in self.domains for path, size in zip(self._paths[name], sizes[name], strict=True)
        ]
        if self._crop is None:
            first_path, first = every[0]
            for path, size in every:
                if size != first:
                    raise UserError(
                        f"{path}: is {_text(size)} but {first_path} is {_text(first)} (height x width); with "
                        "preprocess=none all images must be of one size: use preprocess=resize_and_crop, or crop"
                    )
            return first
        if self._load is None:
            for path, size in every:
                if size[0] < self._crop[0] or size[1] < self._crop[1]:
                    raise UserError(
                        f"{path}: is {_text(size)} (height x width), too small for crops of "
                        f"{_text(self._crop)}: use a smaller crop_size, or preprocess=resize_and_crop"
                    )
        return self._crop

    def _check_unchanged(self, image: np.ndarray, path: Path) -> None:
        if image.shape[0] < self.size[0] or image.shape[1] < self.size[1]:
            raise UserError(
                f"{path}: the image has changed since training began; it is too small now: {_text(image.shape[:2])}"
            )


class Prefetcher:
    """Makes the batches of ``steps`` ahead of their use, in one thread; they come in order, so nothing depends on
    timing.

    Args:
        data: anything with ``batch(step)``.
        steps: which steps.
        ahead: how many batches may wait.
        pin: put them in page-locked memory, from which a GPU can fetch them while the host goes on.

    Iterating raises what ``batch`` raised, at the step where it did. Use as a context manager, which ends the thread.
    """

    def __init__(self, data: UnpairedImages, steps: range, ahead: int = 4, pin: bool = False) -> None:
        self._data, self._steps, self._pin = data, steps, pin
        self._ready: queue.Queue[dict[str, Tensor] | Exception] = queue.Queue(maxsize=ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="jdm_fast-prefetch", daemon=True)

    def __enter__(self) -> Prefetcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for _ in self._steps:
            item = self._ready.get()
            if isinstance(item, Exception):
                raise item
            yield item

    def _work(self) -> None:
        for step in self._steps:
            try:
                item: dict[str, Tensor] | Exception = self._data.batch(step)
                if self._pin:
                    item = {name: images.pin_memory() for name, images in item.items()}
            except Exception as error:  # raised again where the batch is asked for
                item = error
            while not self._stop.is_set():
                try:
                    self._ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if self._stop.is_set() or isinstance(item, Exception):
                return


def as_size(size: int | Size) -> Size:
    """(height, width) of a size that may be given as the side of a square."""
    return size if isinstance(size, tuple) else (size, size)


def _text(size: tuple[int, ...]) -> str:
    return f"{size[0]}x{size[1]}"


def _to_tensor(images: list[np.ndarray]) -> Tensor:
    """uint8 [H, W, C] images as float32 [N, C, H, W] in [-1, 1]."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1)


# Randomness by counter: a hash of (seed, domain, purpose, counter) needs no state, and unlike NumPy's generators its
# values are the same in every version of every library. The mixing function is SplitMix64's (Steele, Lea, Flood 2014).


def _mix(value: np.ndarray) -> np.ndarray:
    """SplitMix64's output function of uint64 values: neighbours become unrelated."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        value = value * np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


def _hash(*counters: int) -> np.ndarray:
    """One uint64 [1] from a tuple of counters, by mixing them in one after the other."""
    state = np.zeros(1, dtype=np.uint64)
    for counter in counters:
        state = _mix(state + np.uint64(counter + 1))
    return state


def _uniform(key: np.ndarray, count: int) -> list[float]:
    """``count`` numbers in [0, 1) that belong to ``key``."""
    return [float(value) * 2.0**-53 for value in _mix(key + np.arange(1, count + 1, dtype=np.uint64)) >> np.uint64(11)]
