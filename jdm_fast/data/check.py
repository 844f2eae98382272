"""Looking at every file of a data set before training does."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from jdm_fast.data.dataset import Arrays, Domain, Features, Group, ImageFiles, Layout, VideoFrames
from jdm_fast.data.images import ImageInfo, inspect_image, read_image
from jdm_fast.data.report import Bad, Odd, Part, Report
from jdm_fast.data.video_files import count_frames, read_frames
from jdm_fast.errors import UserError

_SMALL = 32  # pixels; the smallest side that the networks of the presets take
_ODD_MODES = {
    ";16": "16 bits a channel: the upper 8 are used",
    "CMYK": "CMYK: converted to RGB without a colour profile",
    "A": "with transparency: laid over white",
}


@dataclass(frozen=True)
class _Seen:
    """What is known of a file: a header, or why it cannot be used."""

    info: ImageInfo | None
    reason: str | None = None


def check(layout: Layout, *, decode: bool = False, on_progress: Callable[[int, int], object] | None = None) -> Report:
    """Look at all files of a data set.

    Args:
        layout: the data set.
        decode: read all pixels too: finds damage in the middle of a file, and class numbers without a colour. Without
            it only headers and ends of files are read.
        on_progress: receives the number of files done and of all.
    """
    files = _files(layout)
    seen: dict[Path, _Seen] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        looks = pool.map(lambda item: _look(*item, decode), files.items())
        for done, (path, look) in enumerate(zip(files, looks, strict=True), start=1):
            seen[path] = look
            if on_progress is not None:
                on_progress(done, len(files))
    parts = [
        _part(split, name, domain, group, seen)
        for split, groups in layout.splits.items()
        for group in groups
        for name, domain in group.domains.items()
    ]
    sequences = {
        domain: {name: len(paths) for name, paths in runs.items()} for domain, runs in (layout.sequences or {}).items()
    }
    good = [path for path, look in seen.items() if look.reason is None and isinstance(files[path], ImageFiles)]
    return Report(layout.name, layout.root, layout.domains, tuple(parts), sequences, _same(good), decode)


def without_bad(
    groups: Sequence[Group], on_bad: Callable[[Path, str], object], *, decode: bool = False
) -> tuple[Group, ...]:
    """The groups without files that cannot be read; of pairs and tuples the whole pair or tuple is left out.

    Args:
        groups: as :meth:`jdm_fast.data.dataset.Layout.groups` gives them.
        on_bad: receives each file that is left out, and why.
        decode: as in :func:`check`.

    Raises:
        UserError: nothing is left of a group.
    """
    kept = []
    told: set[Path] = set()
    for group in groups:
        good = np.ones(len(group), dtype=bool)
        for domain in group.domains.values():
            files = item_files(domain)
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                unique = list(dict.fromkeys(files))
                looks = dict(zip(unique, pool.map(partial(_look, domain=domain, decode=decode), unique), strict=True))
            for item, path in enumerate(files):
                reason = looks[path].reason
                if reason is not None:
                    good[item] = False
                    if path not in told:
                        told.add(path)
                        on_bad(path, reason)
        if not good.any():
            raise UserError(f"no item of {' and '.join(group.domains)} can be read: nothing is left to train on")
        kept.append(group if good.all() else group.take(np.flatnonzero(good).tolist()))
    return tuple(kept)


def item_files(domain: Domain) -> Sequence[Path]:
    """The file of each item of a domain; empty where a domain lies in one file, which was read to find it."""
    if isinstance(domain, ImageFiles):
        return domain.paths
    return [path for path, _ in domain.frames] if isinstance(domain, VideoFrames) else []


def _files(layout: Layout) -> dict[Path, Domain]:
    """Each file once, with the domain that says how to read it."""
    domains = [domain for groups in layout.splits.values() for group in groups for domain in group.domains.values()]
    return {path: domain for domain in domains for path in item_files(domain)}


def _look(path: Path, domain: Domain, decode: bool) -> _Seen:
    try:
        if isinstance(domain, VideoFrames):
            count_frames(path)  # finds films that are cut short
            frames = read_frames(path)
            height, width = next(frames).shape[:2]
            if decode:
                for _ in frames:
                    pass
            return _Seen(ImageInfo((height, width), "video", "", True))
        info = inspect_image(path)
        if decode:
            read_image(path, domain.palette)
    except UserError as error:
        return _Seen(None, str(error).removeprefix(f"{path}: "))
    return _Seen(info)


def _part(split: str, name: str, domain: Domain, group: Group, seen: dict[Path, _Seen]) -> Part:
    partners = tuple(other for other in group.domains if other != name)
    paths = item_files(domain)
    bad = tuple(Bad(path, reason) for path in dict.fromkeys(paths) if (reason := seen[path].reason) is not None)
    infos = [(path, info) for path in paths if seen[path].reason is None and (info := seen[path].info) is not None]
    if isinstance(domain, Arrays):
        height, width, channels = domain.pixels.shape[1:]
        size = (width, height) if domain.quarter_turns % 2 else (height, width)
        mode = {1: "L", 3: "RGB"}[channels]
        return Part(split, name, partners, "pictures in a file", len(domain), {size: len(domain)}, {mode: len(domain)})
    if isinstance(domain, Features):
        _, count, length = domain.values.shape
        finite = np.isfinite(domain.values).all()
        damage = () if finite else (Bad(domain.source, "has values that are infinite or not a number"),)
        return Part(split, name, partners, f"{count} vector{'s' * (count > 1)} of {length}", len(domain), bad=damage)
    sizes = Counter(_size(info, domain) for _, info in infos)
    if isinstance(domain, VideoFrames):
        films = len(set(paths))
        return Part(
            split, name, partners, f"frames of {films} video{'s' * (films > 1)}", len(domain), dict(sizes), {}, bad
        )
    modes = Counter(info.mode for _, info in infos)
    kind = {"whole": "pictures", "left": "left halves", "right": "right halves"}[domain.region]
    if domain.labels:
        kind = "class numbers" if domain.palette else "class colours"
    odd = (
        *_odd_modes(infos, modes),
        *_odd_sizes(infos, domain, sizes),
        *_odd_names(domain),
        *_unlike(domain, group, seen),
    )
    return Part(
        split, name, partners, kind, len(domain), dict(sizes.most_common()), dict(modes.most_common()), bad, odd
    )


_Infos = Sequence[tuple[Path, ImageInfo]]


def _size(info: ImageInfo, domain: Domain) -> tuple[int, int]:
    halved = isinstance(domain, ImageFiles) and domain.region != "whole"
    return (info.size[0], info.size[1] // 2) if halved else info.size


def _odd_modes(infos: _Infos, modes: Counter[str]) -> Iterable[Odd]:
    for sign, what in _ODD_MODES.items():
        found = [path for path, info in infos if sign in info.mode]
        if found:
            yield Odd(what, len(found), found[0])
    grey = [path for path, info in infos if info.mode.startswith(("L", "1"))]
    if grey and len(grey) < len(infos) / 2:
        yield Odd("grey among pictures in colour", len(grey), grey[0])


def _odd_sizes(infos: _Infos, domain: ImageFiles, sizes: Counter[tuple[int, int]]) -> Iterable[Odd]:
    if not sizes:
        return
    (usual, count), *_ = sizes.most_common(1)
    if domain.region != "whole":
        uneven = [path for path, info in infos if info.size[1] % 2]
        if uneven:
            yield Odd("of an odd width: the column in the middle is in neither half", len(uneven), uneven[0])
    others = [path for path, info in infos if _size(info, domain) != usual]
    if others and count >= 0.9 * len(infos):  # where every picture has its own size, none is odd
        yield Odd(f"of another size than most ({usual[1]}x{usual[0]})", len(others), others[0])
    small = [path for path, info in infos if min(_size(info, domain)) < _SMALL]
    if small:
        yield Odd(f"smaller than {_SMALL} pixels", len(small), small[0])


def _odd_names(domain: ImageFiles) -> Iterable[Odd]:
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in domain.paths:
        by_name[path.relative_to(domain.root).with_suffix("").as_posix().lower()].append(path)
    twice = [paths for paths in by_name.values() if len(paths) > 1]
    if twice:
        yield Odd("of the same name but for the ending or capitals", sum(map(len, twice)), twice[0][0])


def _unlike(domain: ImageFiles, group: Group, seen: dict[Path, _Seen]) -> Iterable[Odd]:
    """Pictures whose partner in the group's first domain has another size: resizing may put them out of line."""
    first = next(iter(group.domains.values()))
    if first is domain or not isinstance(first, ImageFiles) or first.region != "whole":
        return
    pairs = ((path, seen[path].info, seen[other].info) for path, other in zip(domain.paths, first.paths, strict=True))
    unlike = [path for path, mine, theirs in pairs if mine and theirs and mine.size != theirs.size]
    if unlike:
        yield Odd(f"of another size than the {next(iter(group.domains))} beside it", len(unlike), unlike[0])


def _same(paths: Sequence[Path]) -> tuple[tuple[Path, ...], ...]:
    """Files with equal bytes. Only those of equal length are read."""
    by_length: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        by_length[path.stat().st_size].append(path)
    by_content: dict[bytes, list[Path]] = defaultdict(list)
    for alike in by_length.values():
        for path in alike if len(alike) > 1 else ():
            by_content[hashlib.sha256(path.read_bytes()).digest()].append(path)
    return tuple(tuple(found) for found in by_content.values() if len(found) > 1)
