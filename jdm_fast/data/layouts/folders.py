"""Plain folders: each sub-folder with pictures is a domain, unpaired.

``<domain>/`` for two or more domains, or ``train/<domain>/`` with ``test`` and ``val`` beside it; pictures of these two
are pairs if all names agree, so that translations can be compared with the truth. And two folders that are given apart.
"""

from __future__ import annotations

import os
from pathlib import Path

from jdm_fast.data.dataset import Layout
from jdm_fast.data.layouts._folders import (
    SPLITS,
    has_pictures,
    paired_if_named_so,
    pictures,
    splits_in,
    sub_folders,
    unpaired,
)
from jdm_fast.errors import UserError

EXPECTED = "two or more folders with pictures, each a domain, here or in train/"

_NO_DOMAINS = {*SPLITS, *(split + letter for split in SPLITS for letter in "AB")}


def domain_folders(folder: Path, recursive: bool = False) -> list[Path]:
    """The sub-folders that have pictures, other than those named after splits."""
    return [path for path in sub_folders(folder) if path.name not in _NO_DOMAINS and has_pictures(path, recursive)]


def fits(root: Path) -> bool:
    return len(domain_folders(splits_in(root)["train"])) > 1


def find(root: Path, recursive: bool = False) -> Layout:
    """The data set at ``root``. Raises UserError if there are less than two folders with pictures."""
    splits = {}
    for split, folder in splits_in(root).items():
        found = domain_folders(folder, recursive)
        if split == "train" and len(found) < 2:
            named = ", ".join(path.name for path in found) or "none"
            raise UserError(f"{folder}: folders with pictures in it: {named}; expected {EXPECTED}")
        if found:
            domains = {path.name: pictures(path, recursive) for path in found}
            splits[split] = unpaired(domains) if split == "train" else paired_if_named_so(domains)
    return Layout("folders", root, tuple(name for group in splits["train"] for name in group.domains), splits)


def two_folders(x: str | Path, y: str | Path, recursive: bool = False, *, held_out: bool = False) -> Layout:
    """Two folders of pictures as an unpaired data set with the domains x and y.

    Args:
        x, y: the folders. recursive: look into their sub-folders too.
        held_out: they are the split ``test`` instead of ``train``; pairs if all names agree.

    Raises:
        UserError: a folder is missing or has no pictures.
    """
    domains = {name: pictures(Path(folder), recursive) for name, folder in (("x", x), ("y", y))}
    root = Path(os.path.commonpath([Path(x).absolute(), Path(y).absolute()]))
    splits = {"test": paired_if_named_so(domains)} if held_out else {"train": unpaired(domains)}
    return Layout("two folders", root, ("x", "y"), splits)
