"""Films as domains: every frame is a picture.

``trainA/``, ``trainB/`` (perhaps ``testA/``, ``testB/``) with video files, or a folder of any name for each domain. The
films of a folder are one domain; domains are unpaired.
"""

from __future__ import annotations

from pathlib import Path

from jdm_fast.data.dataset import Group, Layout, VideoFrames
from jdm_fast.data.layouts._folders import SPLITS, VIDEO_SUFFIXES, has_videos, sub_folders
from jdm_fast.data.video_files import count_frames
from jdm_fast.errors import UserError

EXPECTED = "trainA/ and trainB/, or two or more folders of any name, with video files"


def fits(root: Path) -> bool:
    return sum(has_videos(folder) for folder in sub_folders(root)) > 1


def find(root: Path, recursive: bool = False) -> Layout:
    """The data set at ``root``; every video is opened to count its frames, and no sub-folder of a domain is searched.

    Raises:
        UserError: there are less than two folders with videos.
    """
    folders = [folder for folder in sub_folders(root) if has_videos(folder)]
    if len(folders) < 2:
        named = ", ".join(folder.name for folder in folders) or "none"
        raise UserError(f"{root}: folders with videos in it: {named}; expected {EXPECTED}")
    letters = {f"{split}{letter}": (split, letter) for split in SPLITS for letter in "AB"}
    if (root / "trainA") in folders and (root / "trainB") in folders:
        places = [(*letters[folder.name], folder) for folder in folders if folder.name in letters]
    else:
        places = [("train", folder.name, folder) for folder in folders]
    splits: dict[str, tuple[Group, ...]] = {}
    for split, name, folder in places:
        splits[split] = (*splits.get(split, ()), Group({name: _frames(folder)}))
    names = tuple(dict.fromkeys(name for _, name, _ in places))
    return Layout("videos", root, names, {split: splits[split] for split in SPLITS if split in splits})


def _frames(folder: Path) -> VideoFrames:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    shown = [path for path in files if not path.name.startswith(".")]
    return VideoFrames(tuple((path, number) for path in shown for number in range(_count(path))), root=folder)


def _count(path: Path) -> int:
    """Frames of a film; 1 if it cannot be read: one item stands for it, whose reading says what is wrong.

    So ``data check`` lists every bad film, and ``skip_bad`` leaves it out.
    """
    try:
        return count_frames(path)
    except UserError:
        return 1
