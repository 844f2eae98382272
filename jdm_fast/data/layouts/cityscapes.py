"""Cityscapes as its archives unpack: photographs of streets and their labels.

``leftImg8bit/<split>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png`` with
``gtFine/<split>/<city>/<city>_<sequence>_<frame>_gtFine_color.png``; where there is no colour file,
``..._gtFine_labelIds.png`` is shown in the official colours. Domains: photo, labels; item by item they belong together.

``leftImg8bit_sequence/`` beside them gives runs of consecutive frames, for video; if there is no ``leftImg8bit``, the
labelled frames of the sequences are the photographs.

The test split is left out: Cityscapes publishes no labels for it (its gtFine files there are dummies).
"""

from __future__ import annotations

import re
from pathlib import Path

from jdm_fast.data.dataset import Group, ImageFiles, Layout
from jdm_fast.data.layouts._folders import sub_folders
from jdm_fast.errors import UserError

EXPECTED = "leftImg8bit/ and gtFine/ with train/ and val/, perhaps leftImg8bit_sequence/"

#: Colours of the label numbers 0 to 33.
PALETTE = (
    (0, 0, 0),  # unlabeled
    (0, 0, 0),  # ego vehicle
    (0, 0, 0),  # rectification border
    (0, 0, 0),  # out of the region of interest
    (0, 0, 0),  # static
    (111, 74, 0),  # dynamic
    (81, 0, 81),  # ground
    (128, 64, 128),  # road
    (244, 35, 232),  # sidewalk
    (250, 170, 160),  # parking
    (230, 150, 140),  # rail track
    (70, 70, 70),  # building
    (102, 102, 156),  # wall
    (190, 153, 153),  # fence
    (180, 165, 180),  # guard rail
    (150, 100, 100),  # bridge
    (150, 120, 90),  # tunnel
    (153, 153, 153),  # pole
    (153, 153, 153),  # group of poles
    (250, 170, 30),  # traffic light
    (220, 220, 0),  # traffic sign
    (107, 142, 35),  # vegetation
    (152, 251, 152),  # terrain
    (70, 130, 180),  # sky
    (220, 20, 60),  # person
    (255, 0, 0),  # rider
    (0, 0, 142),  # car
    (0, 0, 70),  # truck
    (0, 60, 100),  # bus
    (0, 0, 90),  # caravan
    (0, 0, 110),  # trailer
    (0, 80, 100),  # train
    (0, 0, 230),  # motorcycle
    (119, 11, 32),  # bicycle
)

_FRAME = re.compile(r"(?P<city>.+)_(?P<sequence>\d+)_(?P<frame>\d+)_leftImg8bit\.png")
_LABELS = ("color", "labelIds")
_SPLITS = ("train", "val")


def fits(root: Path) -> bool:
    photos = (root / "leftImg8bit").is_dir() or (root / "leftImg8bit_sequence").is_dir()
    return photos and (root / "gtFine").is_dir()


def find(root: Path, recursive: bool = False) -> Layout:
    """The data set at ``root``; the structure says where to look, so ``recursive`` changes nothing.

    Raises:
        UserError: a folder is missing, there is no training picture, or photographs and labels do not match.
    """
    labels = root / "gtFine"
    missing = [] if labels.is_dir() else ["gtFine"]
    photos = root / "leftImg8bit"
    if not photos.is_dir():
        photos = root / "leftImg8bit_sequence"
        missing += [] if photos.is_dir() else ["leftImg8bit"]
    if missing:
        raise UserError(f"{root}: there is no {' and no '.join(missing)} in it; expected Cityscapes: {EXPECTED}")
    whole = photos.name == "leftImg8bit"  # of a sequence only one frame in thirty has labels
    splits = {split: (_pairs(photos / split, labels / split, whole),) for split in _SPLITS if (labels / split).is_dir()}
    if "train" not in splits:
        raise UserError(f"{labels}: there is no train in it; expected Cityscapes: {EXPECTED}")
    return Layout("cityscapes", root, ("photo", "labels"), splits, _sequences(root / "leftImg8bit_sequence"))


def _pairs(photos: Path, labels: Path, all_have_labels: bool) -> Group:
    frames = {_name(path, "leftImg8bit"): path for path in _files(photos, "_leftImg8bit.png")}
    for kind in _LABELS:
        coloured = {_name(path, f"gtFine_{kind}"): path for path in _files(labels, f"_gtFine_{kind}.png")}
        if coloured:
            break
    names = sorted(frames) if all_have_labels else sorted(coloured)
    for name in (*names, *sorted(coloured)):
        if name not in frames or name not in coloured:
            have, lack = (frames[name], labels) if name in frames else (coloured[name], photos)
            kinds = f"{name}_gtFine_color.png or _labelIds.png" if name in frames else f"{name}_leftImg8bit.png"
            raise UserError(f"{have}: has no counterpart {kinds} in {lack}; complete or remove it")
    if not names:
        raise UserError(f"{photos}: no file in it is called <city>/<city>_<sequence>_<frame>_leftImg8bit.png")
    palette = PALETTE if kind == "labelIds" else None
    return Group(
        {
            "photo": ImageFiles(tuple(frames[name] for name in names), root=photos),
            "labels": ImageFiles(tuple(coloured[name] for name in names), root=labels, labels=True, palette=palette),
        }
    )


def _files(folder: Path, ending: str) -> list[Path]:
    """Files of all cities; a name may come with the city's folder or, in copies, without."""
    return sorted(path for place in (folder, *sub_folders(folder)) for path in place.glob(f"*{ending}"))


def _name(path: Path, kind: str) -> str:
    return path.name.removesuffix(f"_{kind}.png")


def _sequences(folder: Path) -> dict[str, dict[str, tuple[Path, ...]]] | None:
    """Runs of consecutive frames, called after the split and their first frame: ``train/aachen_000000_000000``."""
    runs: dict[str, list[Path]] = {}
    for split in sub_folders(folder):
        last = None
        for path in _files(split, "_leftImg8bit.png"):
            match = _FRAME.fullmatch(path.name)
            if match is None:
                raise UserError(f"{path}: expected a name like aachen_000000_000004_leftImg8bit.png")
            here = (match["city"], int(match["sequence"]), int(match["frame"]))
            if last is None or here != (*last[:2], last[2] + 1):
                run = runs.setdefault(f"{split.name}/{_name(path, 'leftImg8bit')}", [])
            run.append(path)
            last = here
    return {"photo": {name: tuple(run) for name, run in runs.items()}} if runs else None
