"""pix2pix's layout: both domains side by side in each file.

``train/``, and where there are some ``val/`` and ``test/``, with files whose left half is a picture of A and whose
right half is its counterpart of B (facades: 512x256, maps: 1200x600, edges2shoes and edges2handbags: 512x256).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from jdm_fast.data.dataset import Group, Layout
from jdm_fast.data.images import check_image
from jdm_fast.data.layouts._folders import has_pictures, pictures, splits_in
from jdm_fast.errors import UserError

EXPECTED = "train/ with pictures twice as wide as a half, A left and B right, perhaps val/ and test/"


def fits(root: Path) -> bool:
    return has_pictures(root / "train")


def find(root: Path, recursive: bool = False) -> Layout:
    """The data set at ``root``. Raises UserError if there is no train folder, or its pictures are not wide."""
    if not (root / "train").is_dir():
        raise UserError(f"{root}: there is no train in it; expected pix2pix's layout: {EXPECTED}")
    splits = {}
    for split, folder in splits_in(root).items():
        files = pictures(folder, recursive)
        path, (height, width) = _first_readable(files.paths)
        if width <= height:
            raise UserError(
                f"{path}: {width}x{height} is not two pictures side by side; expected {EXPECTED}. Pictures "
                "of one domain each belong into a folder of their own, as in trainA and trainB"
            )
        splits[split] = (Group({"A": replace(files, region="left"), "B": replace(files, region="right")}),)
    return Layout("side-by-side", root, ("A", "B"), splits)


def _first_readable(paths: Sequence[Path]) -> tuple[Path, tuple[int, int]]:
    """A file and its (height, width). Bad ones are for ``data check`` to list, and for ``skip_bad`` to leave out."""
    for path in paths:
        with suppress(UserError):
            return path, check_image(path)
    raise UserError(f"{paths[0].parent}: none of the {len(paths)} picture(s) in it can be read")
