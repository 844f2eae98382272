"""Plain folders: each sub-folder with pictures is a domain, unpaired.

``<domain>/`` for two or more domains, or ``train/<domain>/`` with ``test`` and ``val`` beside it; pictures of these two
are pairs if all names agree, so that translations can be compared with the truth. And two folders that are given apart.
"""

from __future__ import annotations

import os
from pathlib import Path

from jdm_fast.data.dataset import ImageFiles, Layout
from jdm_fast.data.layouts._folders import (
    SPLITS,
    has_pictures,
    paired_if_named_so,
    pictures,
    splits_in,
    sub_folders,
    unpaired,
    without_suffix,
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


def two_folders(
    x: str | Path, y: str | Path, recursive: bool = False, *, held_out: bool = False, paired: bool = False
) -> Layout:
    """Two folders of pictures as a data set with the domains x and y, unpaired unless said.

    Args:
        x, y: the folders. recursive: look into their sub-folders too.
        held_out: they are the split ``test`` instead of ``train``; pairs if all names agree.
        paired: pictures of equal names (without the ending; or ``1_x`` and ``1_y``) are pairs.

    Raises:
        UserError: a folder is missing or has no pictures, or with ``paired`` a picture has no partner.
    """
    domains = {name: pictures(Path(folder), recursive) for name, folder in (("x", x), ("y", y))}
    root = Path(os.path.commonpath([Path(x).absolute(), Path(y).absolute()]))
    groups = paired_if_named_so(domains) if held_out or paired else unpaired(domains)
    if paired and len(groups) > 1:
        raise UserError(_without_partner(domains))
    return Layout("two folders", root, ("x", "y"), {"test" if held_out else "train": groups})


def _without_partner(domains: dict[str, ImageFiles], most: int = 3) -> str:
    """Which pictures have none of their name in the other folder."""
    names = {domain: without_suffix(files) for domain, files in domains.items()}
    texts = []
    for (domain, files), (_, others) in zip(domains.items(), reversed(names.items()), strict=True):
        known = set(others)
        alone = [path for path, name in zip(files.paths, names[domain], strict=True) if name not in known]
        if alone:
            more = f" and {len(alone) - most} more" if len(alone) > most else ""
            texts.append(f"{', '.join(str(path) for path in alone[:most])}{more} in {domain}")
    twice = [name for some in names.values() for name in some if some.count(name) > 1]
    what = f"pictures without a partner: {'; '.join(texts)}" if texts else f"several pictures are called {twice[0]}"
    return (
        f"x and y: pairs have equal names (but for the ending); {what}. Complete or remove them, or train a "
        "method that needs no pairs with data.pairing=shuffled"
    )
