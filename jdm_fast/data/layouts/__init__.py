"""Data sets as they lie on disks: point at the root, and the layout is found.

Each layout is a module with ``EXPECTED`` (what it looks for, in a line), ``fits(root)`` (whether that is there, from
names alone) and ``find(root, recursive)``, which gives the :class:`~jdm_fast.data.dataset.Layout` or says what is
wrong.
docs/layouts.md shows the folders of each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Literal, TypeAlias

from jdm_fast.data.dataset import Layout
from jdm_fast.data.layouts import (
    aligned,
    cityscapes,
    cub,
    cyclegan,
    folders,
    idx,
    side_by_side,
    synthia,
    tuples,
    videos,
)
from jdm_fast.data.layouts._folders import contents, sub_folders
from jdm_fast.data.layouts.folders import two_folders
from jdm_fast.errors import UserError

__all__ = ["LAYOUTS", "LayoutName", "find_layout", "find_sequence", "fitting_layouts", "two_folders"]

#: The layouts by name, the more particular ones first: where several fit, the first is taken.
LAYOUTS: dict[str, ModuleType] = {
    "cityscapes": cityscapes,
    "synthia": synthia,
    "cub": cub,
    "idx": idx,
    "tuples": tuples,
    "cyclegan": cyclegan,
    "side-by-side": side_by_side,
    "aligned": aligned,
    "videos": videos,
    "folders": folders,
}

LayoutName: TypeAlias = Literal[
    "auto", "cityscapes", "synthia", "cub", "idx", "tuples", "cyclegan", "side-by-side", "aligned", "videos", "folders"
]

_log = logging.getLogger("jdm_fast.data")


def fitting_layouts(root: str | Path) -> tuple[str, ...]:
    """Names of the layouts that fit the folder, the one that is taken first."""
    return tuple(name for name, layout in LAYOUTS.items() if layout.fits(Path(root)))


def find_layout(
    root: str | Path,
    name: LayoutName = "auto",
    *,
    recursive: bool = False,
    on_choice: Callable[[str], object] = _log.warning,
) -> Layout:
    """The data set at ``root``.

    Args:
        root: the folder.
        name: a layout of :data:`LAYOUTS`, or ``auto``, which takes the first that fits.
        recursive: look into the sub-folders of the domains' folders too, in layouts where that is a question.
        on_choice: receives a sentence when several layouts fit: which was taken, and how to choose another.

    Raises:
        UserError: there is no such folder or layout, none fits (the message lists what was looked for and what is
            there), or the data set is incomplete.
    """
    root = Path(root)
    if name != "auto" and name not in LAYOUTS:
        raise UserError(f"layout: expected auto, {', '.join(LAYOUTS)}; got {name!r}")
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "there is no such folder"
        raise UserError(f"{root}: {what}; expected the root folder of a data set")
    if name == "auto":
        fitting = fitting_layouts(root)
        if not fitting:
            raise UserError(_nothing_fits(root))
        name, *others = fitting
        if others:
            on_choice(
                f"{root}: taken as {name} ({LAYOUTS[name].EXPECTED}); it could also be {' or '.join(others)}: "
                f"choose with --data.layout {others[0]}"
            )
    return LAYOUTS[name].find(root, recursive)


def find_sequence(layout: Layout, name: str) -> tuple[Path, ...]:
    """The frames of a run of consecutive frames of the data set, in order.

    Args:
        layout: with ``sequences``.
        name: as ``data check`` lists them; the domain in front (``summer/...``) where two domains have that name.

    Raises:
        UserError: the data set has no sequences, or none or several of that name.
    """
    known = {
        f"{domain}/{sequence}": (sequence, paths)
        for domain, sequences in (layout.sequences or {}).items()
        for sequence, paths in sequences.items()
    }
    if not known:
        raise UserError(f"{layout.root}: this {layout.name} data set has no sequences of frames")
    found = [full for full, (sequence, _) in known.items() if name in (full, sequence)]
    if len(found) != 1:
        some = ", ".join(found or list(known)[:5]) + (" ..." if len(known) > 5 and not found else "")
        raise UserError(f"{layout.root}: expected the name of one sequence, such as {some}; got {name!r}")
    return known[found[0]][1]


def _nothing_fits(root: Path) -> str:
    deeper = [(folder, names) for folder in sub_folders(root) if (names := fitting_layouts(folder))]
    looked = "\n".join(f"  {name:13} {layout.EXPECTED}" for name, layout in LAYOUTS.items())
    hint = f"\n{deeper[0][0]} has layout {deeper[0][1][0]}: give that folder." if deeper else ""
    return f"{root}: no layout of a data set that is known. Found in it: {contents(root)}. Looked for:\n{looked}{hint}"
