"""SYNTHIA's video sequences: the same drives in different seasons and weathers.

``SYNTHIA-SEQS-01-SUMMER/RGB/Stereo_Left/Omni_F/000000.png``: each season is a domain, unpaired (spring, summer, fall,
winter, and dawn, fog, night, rain, softrain, sunset, winternight, rainnight). Several sequences of one season are one
domain, and each is a run of consecutive frames, for video. Taken are the pictures of the left front camera; the other
cameras (``Stereo_Right``, ``Omni_B``, ``Omni_L``, ``Omni_R``) and the ground truth (``GT``) are not.
"""

from __future__ import annotations

import re
from pathlib import Path

from jdm_fast.data.dataset import Group, ImageFiles, Layout
from jdm_fast.data.images import find_images
from jdm_fast.data.layouts._folders import has_pictures, sub_folders
from jdm_fast.errors import UserError

EXPECTED = "SYNTHIA-SEQS-<number>-<SEASON>/RGB/Stereo_Left/Omni_F/ for one or more seasons"

_SEQUENCE = re.compile(r"SYNTHIA-SEQS-(\d+)-([A-Z]+)", re.IGNORECASE)
_CAMERA = Path("RGB", "Stereo_Left", "Omni_F")


def fits(root: Path) -> bool:
    return any((folder / _CAMERA).is_dir() for _, folder in _found(root))


def find(root: Path, recursive: bool = False) -> Layout:
    """The data set at ``root``; the structure says where to look, so ``recursive`` changes nothing.

    Raises:
        UserError: there is no sequence, or one of them has no pictures of the left front camera.
    """
    seasons: dict[str, dict[str, tuple[Path, ...]]] = {}
    for season, folder in _found(root):
        if not has_pictures(folder / _CAMERA):
            raise UserError(f"{folder}: no picture in {_CAMERA}; expected SYNTHIA's sequences: {EXPECTED}")
        seasons.setdefault(season, {})[folder.name] = tuple(find_images(folder / _CAMERA))
    if not seasons:
        raise UserError(f"{root}: no SYNTHIA-SEQS-<number>-<SEASON> in it; expected SYNTHIA's sequences: {EXPECTED}")
    groups = tuple(
        Group({season: ImageFiles(tuple(path for run in runs.values() for path in run), root=root)})
        for season, runs in seasons.items()
    )
    return Layout("synthia", root, tuple(seasons), {"train": groups}, seasons)


def _found(root: Path) -> list[tuple[str, Path]]:
    """(season, folder of a sequence), by number."""
    named = ((_SEQUENCE.fullmatch(folder.name), folder) for folder in sub_folders(root))
    return [(match[2].lower(), folder) for match, folder in named if match]
