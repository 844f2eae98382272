"""Tuples of any number of domains: a folder for each domain, and equal names belong together.

``train/<domain>/<name>.png`` with ``test`` and ``val`` beside ``train``, or ``<domain>/<name>.png`` without splits.
"""

from __future__ import annotations

from pathlib import Path

from jdm_fast.data.dataset import Layout
from jdm_fast.data.layouts._folders import paired_by_name, pictures, same_names, splits_in
from jdm_fast.data.layouts.folders import domain_folders
from jdm_fast.errors import UserError

EXPECTED = "train/<domain>/ (or <domain>/) for two or more domains, with pictures of the same names in each"


def fits(root: Path) -> bool:
    folders = domain_folders(splits_in(root)["train"])
    return len(folders) > 1 and same_names(pictures(folder) for folder in folders)


def find(root: Path, recursive: bool = False) -> Layout:
    """The data set at ``root``.

    Raises:
        UserError: there are less than two domains, a split lacks one, or a name is not there in all domains.
    """
    domains: tuple[str, ...] = ()
    splits = {}
    for split, folder in splits_in(root).items():
        found = {path.name: path for path in domain_folders(folder, recursive)}
        domains = domains or tuple(found)
        if len(found) < 2 or tuple(found) != domains:
            raise UserError(
                f"{folder}: has the domains {', '.join(found) or '(none)'}; expected "
                f"{'at least two' if len(domains) < 2 else ', '.join(domains)}: {EXPECTED}"
            )
        splits[split] = (
            paired_by_name({name: pictures(path, recursive) for name, path in found.items()}, str(folder)),
        )
    return Layout("aligned", root, domains, splits)
