"""Decoded pictures on the disk, memory-mapped: each is decoded and resized once, not in every epoch.

An entry is a folder ``decoded/<key>/`` with all pictures one after the other in ``pixels.u8`` and where each begins in
``table.npy``. Its key is a hash of everything that the pixels depend on: a file that is changed, added or removed gives
a new key. Entries are written beside their place and renamed, under a lock that lets one process build at a time: of
several that want the same data, one builds and the others wait. All entries together keep to a budget; those not used
for longest are removed to make room. A process that still uses one keeps it: Linux frees a mapped file when the last
one lets go.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jdm_fast._files import make_folder
from jdm_fast.errors import UserError

FORMAT = 1
_MB = 2**20
_UNFINISHED, _REMOVED = ".new-", ".removed-"


@dataclass(frozen=True)
class Wanted:
    """A domain's pictures that should be in the cache.

    Attributes:
        name: for messages. key: see :func:`cache_key`. sizes: int64 [N, 2], (height, width) of the decoded pictures.
        channels: of each.
        decode: gives the first so many pictures in order, uint8 [H, W, C].
        whole: they cannot be had one by one (frames of a video), so that all must fit.
    """

    name: str
    key: str
    sizes: np.ndarray
    channels: int
    decode: Callable[[int], Iterator[np.ndarray]]
    whole: bool = False

    @property
    def ends(self) -> np.ndarray:
        """int64 [N], bytes of all pictures up to and with each."""
        return np.cumsum(self.sizes.prod(axis=1) * self.channels)


class DecodedPictures:
    """The first ``len()`` pictures of a domain, decoded, in a memory-mapped file."""

    def __init__(self, folder: Path) -> None:
        """Open an entry. Raises OSError or ValueError if there is none, or none that is whole."""
        self._table = np.load(folder / "table.npy")
        self._pixels = np.memmap(folder / "pixels.u8", dtype=np.uint8, mode="r")
        if self._table.ndim != 2 or self._table.shape[1] != 4 or self.nbytes != int(self._table[:, 1:].prod(1).sum()):
            raise ValueError(f"{folder}: the table and the pixels do not belong together")
        self._bytes = np.asarray(self._pixels)  # slices of a plain view are made faster than those of a memmap

    def __len__(self) -> int:
        return len(self._table)

    @property
    def nbytes(self) -> int:
        return self._pixels.size

    def __getitem__(self, item: int) -> np.ndarray:
        """Picture ``item`` as read-only uint8 [H, W, C], which lies in the file until it is looked at."""
        start, height, width, channels = self._table[item].tolist()
        return self._bytes[start : start + height * width * channels].reshape(height, width, channels)


def cache_key(lines: Iterable[str]) -> str:
    """The key of pictures that are determined by these lines."""
    digest = hashlib.sha256(f"format {FORMAT}\n".encode())
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def open_cache(
    wanted: Sequence[Wanted],
    folder: Path,
    budget_mb: int,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> list[DecodedPictures | None]:
    """Decoded pictures for each of ``wanted``, built if they are not there; None for those of which none fit.

    If not all fit, each domain gets its share of the room for its first pictures.

    Args:
        wanted: what is needed.
        folder: where the entries are; made if need be.
        budget_mb: megabytes (of 2**20) that all entries may take together; never more than half of the free disk is
            taken. 0 is no cache.
        on_progress: called with the number of pictures that are decoded, and of those to decode.

    Raises:
        UserError: pictures that must be cached do not fit, a file cannot be decoded, or the folder cannot be written.
    """
    if budget_mb < 0:
        raise UserError(f"cache_mb: expected 0 or more, got {budget_mb}")
    by_key = {want.key: want for want in wanted}  # the same pictures may be wanted twice
    if budget_mb == 0:
        _shares(by_key, 0, "cache_mb is 0")
        return [None] * len(wanted)
    found = {key: _open(folder / key) for key in by_key}
    complete = all(entry is not None and len(entry) == len(by_key[key].sizes) for key, entry in found.items())
    if not complete or sum(entry.nbytes for entry in found.values() if entry) > budget_mb * _MB:
        make_folder(folder)
        with _locked(folder):
            found = _build_missing(by_key, folder, budget_mb * _MB, on_progress)
    for key, entry in found.items():
        if entry is not None:
            with suppress(OSError):  # of another user, or removed a moment ago: it can be used all the same
                os.utime(folder / key)
    return [found[want.key] for want in wanted]


def _build_missing(
    by_key: dict[str, Wanted], folder: Path, budget: int, on_progress: Callable[[int, int], object]
) -> dict[str, DecodedPictures | None]:
    """The entries, made where they are missing. The lock is held."""
    _sweep(folder)
    entries = {path.name: _size(path) for path in folder.iterdir() if path.is_dir()}
    disk = (shutil.disk_usage(folder).free + sum(entries.values())) // 2
    limit, reason = budget, f"cache_mb is {budget // _MB}"
    if disk < limit:
        limit, reason = disk, f"half of the free disk is {disk / _MB:.1f} MB"
    counts = _shares(by_key, limit, reason)
    found: dict[str, DecodedPictures | None] = {}
    for key, want in by_key.items():
        entry = _open(folder / key)
        # A few pictures less will do where the disk sets the limit, which is never the same twice.
        usable = entry is not None and 0.9 * counts[key] <= len(entry) and entry.nbytes <= _bytes(want, counts[key])
        found[key] = entry if usable else None
    for key in [key for key, entry in found.items() if entry is None and key in entries]:
        _remove(folder / key)
        del entries[key]
    missing = [key for key, entry in found.items() if entry is None and counts[key]]
    room = limit - sum(_bytes(by_key[key], counts[key]) for key in by_key)
    _make_room(folder, {key: size for key, size in entries.items() if key not in by_key}, room)
    total, done = sum(counts[key] for key in missing), 0
    for key in missing:
        want = by_key[key]
        _build(want, counts[key], folder / key, lambda more, done=done: on_progress(done + more, total))
        found[key] = _open(folder / key)
        done += counts[key]
    return found


def _shares(by_key: dict[str, Wanted], limit: int, reason: str) -> dict[str, int]:
    """How many pictures of each are cached. Raises UserError if one that needs all of them cannot have them."""
    counts = {}
    for whole in (True, False):
        asked = {key: want for key, want in by_key.items() if want.whole is whole}
        total = sum(int(want.ends[-1]) for want in asked.values())
        if whole and total > limit:
            names = ", ".join(want.name for want in asked.values())
            raise UserError(
                f"{names}: the decoded frames of videos need {-(-total // _MB)} MB on the disk, and {reason}: raise "
                "cache_mb, free some space, use fewer frames, or write the frames as pictures and train on those"
            )
        for key, want in asked.items():
            ends = want.ends
            share = limit * int(ends[-1]) // total if total > limit else int(ends[-1])
            counts[key] = int(np.searchsorted(ends, share, side="right"))
        limit -= total
    return counts


def _build(want: Wanted, count: int, place: Path, on_progress: Callable[[int], object]) -> None:
    temporary = place.with_name(f"{_UNFINISHED}{place.name}")
    starts = np.concatenate([[0], want.ends[: count - 1]])
    table = np.column_stack([starts, want.sizes[:count], np.full(count, want.channels)]).astype(np.int64)
    try:
        temporary.mkdir()
        with (temporary / "pixels.u8").open("wb") as file:
            pictures = want.decode(count)
            for item, expected in enumerate(table[:, 1:].tolist()):
                pixels = next(pictures)
                if list(pixels.shape) != expected:
                    raise UserError(
                        f"{want.name}: picture {item} has changed since it was opened: it is "
                        f"{pixels.shape[0]}x{pixels.shape[1]} now, was {expected[0]}x{expected[1]} (height x width)"
                    )
                file.write(np.ascontiguousarray(pixels))
                on_progress(item + 1)
            file.flush()
            os.fsync(file.fileno())
        np.save(temporary / "table.npy", table)
        os.replace(temporary, place)
    except OSError as error:
        raise UserError(
            f"{place}: decoded pictures cannot be written: {error.strerror or error}. Free some space, choose another "
            "folder with JDM_FAST_CACHE, or use cache_mb=0"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _make_room(folder: Path, entries: dict[str, int], room: int) -> None:
    """Remove entries, those not used for longest first, until the rest take no more than ``room`` bytes."""
    taken = sum(entries.values())
    for key in sorted(entries, key=lambda key: (folder / key).stat().st_mtime_ns):
        if taken <= room:
            return
        _remove(folder / key)
        taken -= entries[key]


def _remove(place: Path) -> None:
    """Remove an entry so that no reader ever finds half of it."""
    renamed = place.with_name(f"{_REMOVED}{place.name}")
    os.replace(place, renamed)
    shutil.rmtree(renamed, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what a process that was killed has left behind."""
    for path in folder.iterdir():
        if path.name.startswith((_UNFINISHED, _REMOVED)):
            shutil.rmtree(path, ignore_errors=True)


def _open(place: Path) -> DecodedPictures | None:
    try:
        return DecodedPictures(place)
    except (OSError, ValueError):  # none, or a damaged one: it is built
        return None


def _bytes(want: Wanted, count: int) -> int:
    return int(want.ends[count - 1]) if count else 0


def _size(place: Path) -> int:
    """Bytes of an entry's pixels; beside them the table is nothing."""
    try:
        return (place / "pixels.u8").stat().st_size
    except FileNotFoundError:  # not one of ours, or damaged
        return 0


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process build at a time (where the system has ``flock``: not on Windows)."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written: {error.strerror}. Choose another folder with JDM_FAST_CACHE, or use "
            "cache_mb=0"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that decodes pictures into {folder}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
