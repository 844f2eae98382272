"""Writing the pictures of the planet: folders of PNG files, a record of what they are, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from jdm_fast.data.earth.split import Box, Part
from jdm_fast.errors import UserError

if TYPE_CHECKING:
    from jdm_fast.data.earth.planet import Earth

RECORD = "earth.json"
LAND = "land"  #: what :attr:`Folder.shows` says for a grey picture, 255 land and 0 water

_TILES_A_JOB = 16  # small pictures are encoded faster than jobs are handed out one by one


@dataclass(frozen=True)
class Folder:
    """A folder of pictures to be written, all of one part of the planet.

    Attributes:
        name: of the folder, relative to the root. part: of the split. shows: the domains, side by side in each file.
        tiles: the place of each picture.
    """

    name: str
    part: Part
    shows: tuple[str, ...]
    tiles: list[Box]


@dataclass(frozen=True)
class PictureSet:
    """What was written about one set of places.

    Attributes:
        folders: that show these places. part: of the split. crops: pictures in each of the folders. disjoint: as many
        of them share no pixel with each other. regions: that they lie in.
    """

    folders: tuple[str, ...]
    part: Part
    crops: int
    disjoint: int
    regions: int


@dataclass(frozen=True)
class Written:
    """What was written: the root folder, the number of pictures in each of its sub-folders, what they show, and a map
    of the split as text, a character a region (:func:`.split.draw_map`)."""

    root: Path
    counts: dict[str, int]
    sets: tuple[PictureSet, ...] = ()
    map: str = ""


def write_folders(
    earth: Earth,
    scratch: Path,
    folders: Sequence[Folder],
    compress_level: int,
    on_progress: Callable[[int, int | None], None] | None,
) -> None:
    """Write PNG files called ``row-column.png`` after the upper left pixel, on all cores.

    Args:
        compress_level: zlib's, 0 to 9. on_progress: told how many pictures are done, and of how many.
    """
    digits = max(4, len(str(earth.width - 1)))
    total, done = sum(len(folder.tiles) for folder in folders), 0

    def write(job: tuple[Folder, list[Box]]) -> int:
        folder, tiles = job
        for tile in tiles:
            name = f"{tile.top:0{digits}d}-{tile.left:0{digits}d}.png"
            Image.fromarray(_picture(earth, folder.shows, tile)).save(
                scratch / folder.name / name, compress_level=compress_level
            )
        return len(tiles)

    jobs = []
    for folder in folders:
        (scratch / folder.name).mkdir(parents=True)
        for start in range(0, len(folder.tiles), _TILES_A_JOB):
            jobs.append((folder, folder.tiles[start : start + _TILES_A_JOB]))
    executor = ThreadPoolExecutor(min(16, os.cpu_count() or 1))  # the encoder lets go of Python's lock
    try:
        for count in executor.map(write, jobs):
            done += count
            if on_progress:
                on_progress(done, total)
    finally:
        executor.shutdown(cancel_futures=True)  # after a failure or Ctrl-C nobody needs the rest


def is_written(root: Path, settings: dict[str, object]) -> bool:
    """Whether ``root`` holds what an equal call has written.

    Raises:
        UserError: ``root`` is a file, or holds something else.
    """
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file: expected a folder to write, choose another path")
    if not root.exists() or not any(root.iterdir()):
        return False
    record = root / RECORD
    if not record.is_file():
        raise UserError(f"{root} is not empty and was not written by this command: choose another folder")
    try:
        there = {"layout": "cyclegan"} | json.loads(record.read_text())["settings"]  # once there was but one layout
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{record} is damaged: choose another folder or delete {root}") from error
    differing = sorted(key for key in settings | there if settings.get(key) != there.get(key))
    if differing:
        raise UserError(
            f"{root} holds Earth pictures with another {', '.join(differing)}: choose another folder or delete it"
        )
    return True


@contextmanager
def whole_folder(root: Path) -> Iterator[Path]:
    """A folder to write into that becomes ``root`` when all is well, and disappears when something is not.

    Raises:
        UserError: the disk is full, or the folder cannot be made.
    """
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}-"))
        try:
            yield scratch
            scratch.chmod(0o755)  # mkdtemp makes private folders
            os.replace(scratch, root)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{root}: the Earth pictures could not be written ({error}): free some space or choose another folder"
        ) from error


def write_record(scratch: Path, record: dict[str, object]) -> None:
    """Write ``earth.json``: what :func:`is_written` compares and people read."""
    (scratch / RECORD).write_text(json.dumps(record, indent=1) + "\n")


def _picture(earth: Earth, shows: tuple[str, ...], tile: Box) -> np.ndarray:
    """uint8 [S, S * domains, 3], or [S, S] for :data:`LAND`."""
    if shows == (LAND,):
        return earth.land[tile.slices] * np.uint8(255)
    crops = [earth.crop(domain, tile) for domain in shows]
    return np.ascontiguousarray(crops[0]) if len(crops) == 1 else np.concatenate(crops, axis=1)
