"""Picture files of one domain to picture files of the other."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jdm_fast._files import make_folder
from jdm_fast.data.images import IMAGE_SUFFIXES, find_images, read_image, save_image
from jdm_fast.errors import UserError
from jdm_fast.synthesis.model import Model, batch_for

_WAITING_PIXELS = 2**25  # pictures of rare sizes wait for others of their size up to this many pixels in all (100 MB)


@dataclass
class Translated:
    """``files`` that were written, and why each of ``failed`` could not be read."""

    files: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)


def translate_files(
    model: Model,
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    to: str = "y",
    *,
    source: str | None = None,
    batch_size: int | None = None,
    tile: int | None = None,
    skip_bad: bool = False,
    on_progress: Callable[[int, int | None], None] | None = None,
    on_pictures: Callable[[Sequence[Path], np.ndarray, np.ndarray], None] | None = None,
) -> Translated:
    """Translate a picture file, or every picture in a folder and its sub-folders, at its own size.

    Args:
        model: see :func:`jdm_fast.synthesis.load`.
        input: a picture, or a folder of any number of them.
        output: for a folder, the folder to write to: the same tree of names, all as PNG. For a picture, the file to
            write if the name ends like a picture's, otherwise a folder. Files that are there are replaced.
        to, source: target and source domain; the source is the other one unless said.
        batch_size: pictures of one size that go through the networks at once; default by their size.
        tile: side in pixels of the tiles that large pictures are worked on in, see :meth:`Model.translate`.
        skip_bad: do not raise for pictures that cannot be read, only report them.
        on_progress: called with the number of pictures done and the number in all.
        on_pictures: called after some pictures of one size have been written: their input files, what was read and
            what was made, uint8 [N, H, W, 3] each (scores are taken here, see :mod:`jdm_fast.metrics.files`).

    Raises:
        UserError: nothing to translate, an impossible output; or, after all others have been translated, a list of the
            pictures that could not be read, unless ``skip_bad``.
    """
    plan = _plan(Path(input), Path(output))
    result = Translated()
    for batch in _batches(list(plan), batch_size, result.failed):
        pictures = np.stack([picture for _, picture in batch])
        translated = model.translate(pictures, to, source, batch_size=len(batch), tile=tile)
        for (path, _), picture in zip(batch, translated, strict=True):
            make_folder(plan[path].parent)
            save_image(plan[path], picture)
            result.files.append(plan[path])
        if on_pictures:
            on_pictures([path for path, _ in batch], pictures, translated)
        if on_progress:
            on_progress(len(result.files) + len(result.failed), len(plan))
    if result.failed and not skip_bad:
        reasons = "\n".join(f"  {reason}" for reason in result.failed.values())
        raise UserError(
            f"{len(result.failed)} of {len(plan)} pictures could not be read, the others are translated:\n{reasons}"
        )
    return result


def _plan(source: Path, output: Path) -> dict[Path, Path]:
    """Where the translation of each input file goes."""
    is_picture_name = output.suffix.lower() in IMAGE_SUFFIXES
    if source.is_dir():
        if output.is_file() or is_picture_name and not output.is_dir():
            raise UserError(f"{output}: the pictures of a folder need a folder to go to, this is the name of a file")
        if output.resolve() == source.resolve():
            raise UserError(f"{output}: input and output are the same folder; choose another output")
        # results of an earlier call below the input folder are no input
        paths = [path for path in find_images(source, recursive=True) if output.resolve() not in path.resolve().parents]
        if not paths:
            raise UserError(f"{source}: no pictures in this folder but those under {output}")
        return {path: output / name for path, name in zip(paths, _png_names(source, paths), strict=True)}
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    target = output if is_picture_name and not output.is_dir() else output / f"{source.stem}.png"
    if target.resolve() == source.resolve():
        raise UserError(f"{source}: the translation would replace the picture it is made from; choose another output")
    return {source: target}


def _png_names(folder: Path, paths: list[Path]) -> list[Path]:
    """``a.jpg`` -> ``a.png``; where ``a.jpg`` and ``a.png`` are both there, ``a.jpg.png`` and ``a.png.png``."""
    names = [path.relative_to(folder) for path in paths]
    count: dict[Path, int] = defaultdict(int)
    for name in names:
        count[name.with_suffix("")] += 1
    return [
        name.with_suffix(".png") if count[name.with_suffix("")] == 1 else name.with_name(f"{name.name}.png")
        for name in names
    ]


def _batches(
    paths: list[Path], batch_size: int | None, failed: dict[Path, str]
) -> Iterator[list[tuple[Path, np.ndarray]]]:
    """Pictures of equal size together, in bounded memory. Those that cannot be read are noted in ``failed``."""
    waiting: dict[tuple[int, ...], list[tuple[Path, np.ndarray]]] = {}
    pixels = 0
    for path in paths:
        try:
            picture = read_image(path)
        except UserError as error:
            failed[path] = str(error)
            continue
        size = picture.shape
        waiting.setdefault(size, []).append((path, picture))
        pixels += picture.shape[0] * picture.shape[1]
        if len(waiting[size]) < (batch_size or batch_for(*size[:2])):
            if pixels <= _WAITING_PIXELS:
                continue
            size = max(waiting, key=lambda size: len(waiting[size]) * size[0] * size[1])
        batch = waiting.pop(size)
        pixels -= len(batch) * size[0] * size[1]
        yield batch
    yield from waiting.values()
