"""Looking into folders: what the layouts have in common."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from jdm_fast.data.dataset import Group, ImageFiles
from jdm_fast.data.images import IMAGE_SUFFIXES, find_images
from jdm_fast.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".m4v", ".ogv", ".y4m")
"""Endings of the files taken for videos, in either case."""

SPLITS = ("train", "test", "val")


def sub_folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name; hidden ones are left out."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def has_files(folder: Path, suffixes: tuple[str, ...], recursive: bool = False) -> bool:
    """Whether a file with one of the endings lies in the folder; stops at the first, for folders may be large."""
    if not folder.is_dir():
        return False
    deeper = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.name.lower().endswith(suffixes) and entry.is_file():
                return True
            if recursive and entry.is_dir():
                deeper.append(Path(entry.path))
    return any(has_files(path, suffixes, recursive) for path in deeper)


def has_pictures(folder: Path, recursive: bool = False) -> bool:
    return has_files(folder, IMAGE_SUFFIXES, recursive)


def has_videos(folder: Path) -> bool:
    return has_files(folder, VIDEO_SUFFIXES)


def pictures(folder: Path, recursive: bool = False) -> ImageFiles:
    """The pictures in a folder as a domain. Raises UserError if there are none."""
    return ImageFiles(tuple(find_images(folder, recursive)), root=folder)


def splits_in(root: Path) -> dict[str, Path]:
    """The folders ``train``, ``test`` and ``val``; without a ``train`` the root is the training data."""
    if not (root / "train").is_dir():
        return {"train": root}
    return {name: root / name for name in SPLITS if (root / name).is_dir()}


def without_suffix(domain: ImageFiles) -> list[str]:
    """The names of a domain's files relative to its folder, without the ending."""
    return [path.relative_to(domain.root).with_suffix("").as_posix() for path in domain.paths]


def paired_by_name(domains: dict[str, ImageFiles], what: str) -> Group:
    """A group of domains whose files have the same names; endings (``.jpg``, ``.png``) may differ.

    Raises:
        UserError: a file of one domain is not there in another, or a domain has a name twice. ``what`` begins the
            message.
    """
    (first, names), *others = ((domain, without_suffix(files)) for domain, files in domains.items())
    for domain, theirs in [(first, names), *others]:
        missing = sorted(set(names) - set(theirs)) or sorted(set(theirs) - set(names))
        if missing:
            raise UserError(
                f"{what}: {first} and {domain} belong together by file name, but {len(missing)} name(s) are in one of "
                f"them only, the first is {missing[0]}. Complete or remove them, or choose a layout that does not pair"
            )
        if len(set(theirs)) != len(theirs):
            twice = next(name for name in theirs if theirs.count(name) > 1)
            raise UserError(f"{what}: {domain} has the name {twice} twice, with different endings; remove one")
    # Sorting with the endings may order "a.png" and "a-b.jpg" differently in two domains.
    order = [sorted(range(len(files)), key=without_suffix(files).__getitem__) for files in domains.values()]
    return Group({name: files.take(rows) for (name, files), rows in zip(domains.items(), order, strict=True)})


def same_names(folders: Iterable[ImageFiles]) -> bool:
    """Whether the domains have the same file names (without the ending), each once."""
    first, *others = (without_suffix(folder) for folder in folders)
    return len(set(first)) == len(first) and all(sorted(other) == sorted(first) for other in others)


def unpaired(domains: dict[str, ImageFiles]) -> tuple[Group, ...]:
    """A group for each domain."""
    return tuple(Group({name: files}) for name, files in domains.items())


def paired_if_named_so(domains: dict[str, ImageFiles]) -> tuple[Group, ...]:
    """One group if the domains have the same names, or ``1_A`` and ``1_B`` as in CycleGAN's maps; else one for each."""
    if len(domains) > 1 and same_names(domains.values()):
        return (paired_by_name(domains, ""),)
    stems = {name: without_suffix(files) for name, files in domains.items()}
    numbers = {tuple(stem.removesuffix(f"_{name}") for stem in stems[name]) for name in domains}
    named_so = all(stem.endswith(f"_{name}") for name in domains for stem in stems[name])
    return (Group(domains),) if len(numbers) == 1 and named_so else unpaired(domains)


def contents(folder: Path, most: int = 8) -> str:
    """What is in a folder, for messages: ``folders a (12 pictures), b (empty); 3 pictures; 1 other file``."""
    inside = sub_folders(folder)
    named = [f"{path.name} ({_counts(path) or 'no files'})" for path in inside[:most]]
    more = [f"{len(inside) - most} more"] if len(inside) > most else []
    folders = f"folder(s) {', '.join(named + more)}" if inside else ""
    return "; ".join(part for part in (folders, _counts(folder)) if part) or "nothing"


def _counts(folder: Path) -> str:
    names = [entry.name.lower() for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith(".")]
    images = sum(name.endswith(IMAGE_SUFFIXES) for name in names)
    videos = sum(name.endswith(VIDEO_SUFFIXES) for name in names)
    inside = len(sub_folders(folder))
    parts = [(inside, "folder"), (images, "picture"), (videos, "video"), (len(names) - images - videos, "other file")]
    return ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for count, what in parts if count)
