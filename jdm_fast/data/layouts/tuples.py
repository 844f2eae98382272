"""Domains of which only pairs are known, as in the JointGAN paper: facades with labels, labels with cityscapes.

A folder for each pair, called after its two domains (``facades_labels/``, ``cityscapes_labels/``; two underscores
``street_view__labels`` where names have some themselves), and one of the domains in both. Each folder is a pix2pix data
set (the first name is the left half), or has a folder for each domain with equal names in them.

Where all domains are known of some pictures, as in made-up sets, they may lie in ``test/<a>/``, ``test/<b>/``,
``test/<c>/`` with equal names: they are the test split then.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from jdm_fast.data.dataset import Group, Layout
from jdm_fast.data.layouts import aligned, side_by_side
from jdm_fast.data.layouts._folders import contents, paired_by_name, pictures, sub_folders
from jdm_fast.errors import UserError

EXPECTED = "folders <a>_<b>/ and <b>_<c>/, each with pairs: train/ with wide pictures, or train/<a>/ and train/<b>/"


def fits(root: Path) -> bool:
    names = [name for name, _ in _pair_folders(root)]
    return len(names) > 1 and _chain(names) is not None


def find(root: Path, recursive: bool = False) -> Layout:
    """The data set at ``root``.

    Raises:
        UserError: there are less than two folders of pairs, or no domain that connects them.
    """
    folders = _pair_folders(root)
    names = [name for name, _ in folders]
    domains = _chain(names) if len(names) > 1 else None
    if domains is None:
        found = ", ".join(folder.name for _, folder in folders) or "none"
        raise UserError(f"{root}: folders of pairs in it: {found}; expected some that share domains: {EXPECTED}")
    splits: dict[str, tuple[Group, ...]] = {}
    for pair, folder in folders:
        for split, group in _pairs(pair, folder, recursive).items():
            splits[split] = (*splits.get(split, ()), group)
    known = {path.name: pictures(path, recursive) for path in sub_folders(root / "test") if path.name in domains}
    if len(known) > 1:
        splits["test"] = (paired_by_name({name: known[name] for name in domains if name in known}, str(root / "test")),)
    return Layout("tuples", root, domains, splits)


def _pair_folders(root: Path) -> list[tuple[tuple[str, str], Path]]:
    found = []
    for folder in sub_folders(root):
        parts = folder.name.split("__" if "__" in folder.name else "_")
        if len(parts) == 2 and all(parts) and (side_by_side.fits(folder) or aligned.fits(folder)):
            found.append(((parts[0], parts[1]), folder))
    return found


def _chain(pairs: Iterable[tuple[str, str]]) -> tuple[str, ...] | None:
    """All domains in such an order that neighbours are connected where that is possible; None if some are not."""
    pairs = list(pairs)
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    partners = {name: [other for pair in pairs if name in pair for other in pair if other != name] for name in names}
    order: list[str] = []
    waiting = [min(names, key=lambda name: len(partners[name]))]
    while waiting:
        name = waiting.pop(0)
        if name not in order:
            order.append(name)
            waiting += partners[name]
    return tuple(order) if len(order) == len(names) else None


def _pairs(pair: tuple[str, str], folder: Path, recursive: bool) -> dict[str, Group]:
    layout = (side_by_side if side_by_side.fits(folder) else aligned).find(folder, recursive)
    if layout.name == "aligned" and set(layout.domains) != set(pair):
        raise UserError(
            f"{folder}: expected folders called {pair[0]} and {pair[1]}, as its name says; found {contents(folder)}"
        )
    names = dict(zip(layout.domains, pair, strict=True)) if layout.name != "aligned" else {name: name for name in pair}
    return {
        split: Group({names[name]: domain for name, domain in group.domains.items()})
        for split, (group,) in layout.splits.items()
    }
