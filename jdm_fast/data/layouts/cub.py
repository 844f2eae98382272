"""Caltech-UCSD Birds (CUB-200-2011) with features of captions, as in the JointGAN paper.

``images.txt``, ``train_test_split.txt`` and ``images/<class>/<name>.jpg`` as the archive unpacks, in the folder itself
or in its ``CUB_200_2011/``. Domains: image, caption; they belong together. The features are looked for as

1. ``train/char-CNN-RNN-embeddings.pickle`` with ``train/filenames.pickle`` (and ``test/``): StackGAN's files, here or
   in ``birds/``. They bring their own split.
2. ``features.npy``: one array [N, D] or [N, K, D] in the order of ``images.txt``.
3. ``features/<class>/<name>.npy``: an array [D] or [K, D] for each image.

K is the number of captions of each image, of which one is drawn each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jdm_fast.data.dataset import Features, Group, ImageFiles, Layout
from jdm_fast.data.layouts._pickles import read_pickle
from jdm_fast.errors import UserError

EXPECTED = "images.txt, train_test_split.txt and images/ (or CUB_200_2011/ with these), and features of captions"

_EMBEDDINGS, _FILENAMES = "char-CNN-RNN-embeddings.pickle", "filenames.pickle"


def fits(root: Path) -> bool:
    return _birds(root) is not None


def find(root: Path, recursive: bool = False) -> Layout:
    """The data set at ``root``; the structure says where to look, so ``recursive`` changes nothing.

    Raises:
        UserError: something is missing, or the features do not match the images.
    """
    birds = _birds(root)
    if birds is None:
        raise UserError(f"{root}: there is no images.txt with images/ in it; expected CUB-200-2011: {EXPECTED}")
    for place in (root, root / "birds", birds):
        if (place / "train" / _EMBEDDINGS).is_file():
            folders = {split: place / split for split in ("train", "test") if (place / split / _EMBEDDINGS).is_file()}
            return _layout(root, {split: _stackgan(birds, folder) for split, folder in folders.items()})
    names = [value for _, value in _table(birds / "images.txt")]
    for place in (root, birds):
        if (place / "features.npy").is_file():
            values, source = _array(place / "features.npy", ndim=(2, 3)), place / "features.npy"
            if len(values) != len(names):
                raise UserError(f"{source}: features of {len(values)} images, but images.txt lists {len(names)}")
            return _layout(root, _split(birds, names, values if values.ndim == 3 else values[:, None], source))
        if (place / "features").is_dir():
            values = _stack([_array(_feature_file(place, name), ndim=(1, 2)) for name in names], place / "features")
            return _layout(root, _split(birds, names, values, place / "features"))
    raise UserError(
        f"{root}: birds without features of their captions; expected StackGAN's train/{_EMBEDDINGS} and "
        f"train/{_FILENAMES}, or features.npy with a row for each line of images.txt, or features/<class>/<name>.npy"
    )


def _layout(root: Path, splits: dict[str, Group]) -> Layout:
    return Layout("cub", root, ("image", "caption"), {split: (group,) for split, group in splits.items()})


def _birds(root: Path) -> Path | None:
    places = (root, root / "CUB_200_2011", root / "birds" / "CUB_200_2011")
    return next((path for path in places if (path / "images.txt").is_file() and (path / "images").is_dir()), None)


def _table(path: Path) -> list[tuple[str, str]]:
    """Lines ``<number> <value>``."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    rows = [line.split() for line in lines if line.strip()]
    for number, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise UserError(f"{path}: line {number}: expected a number and a value, got {' '.join(row)!r}")
    return [(row[0], row[1]) for row in rows]


def _split(birds: Path, names: Sequence[str], values: np.ndarray, source: Path) -> dict[str, Group]:
    table = birds / "train_test_split.txt"
    is_training = [value for _, value in _table(table)]
    if len(is_training) != len(names) or not set(is_training) <= {"0", "1"}:
        raise UserError(f"{table}: expected a 0 or 1 for each of the {len(names)} images of images.txt")
    rows = {
        split: [row for row, value in enumerate(is_training) if value == mark]
        for split, mark in (("train", "1"), ("test", "0"))
    }
    return {
        split: _group(birds, [names[row] for row in chosen], values[chosen], source)
        for split, chosen in rows.items()
        if chosen
    }


def _stackgan(birds: Path, folder: Path) -> Group:
    names = read_pickle(folder / _FILENAMES)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{folder / _FILENAMES}: expected a list of names such as 001.Black_footed_Albatross/Black_1")
    source = folder / _EMBEDDINGS
    embeddings = read_pickle(source)
    if len(embeddings) != len(names):
        raise UserError(f"{source}: features of {len(embeddings)} images, but {_FILENAMES} names {len(names)}")
    values = _stack([_numbers(item, source, ndim=(1, 2)) for item in embeddings], source)
    return _group(birds, [f"{name}.jpg" for name in names], values, source)


def _group(birds: Path, names: Sequence[str], values: np.ndarray, source: Path) -> Group:
    order = sorted(range(len(names)), key=names.__getitem__)
    paths = tuple(birds / "images" / names[row] for row in order)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: there is no such file, and {len(missing) - 1} more of {len(paths)} are missing")
    return Group(
        {"image": ImageFiles(paths, root=birds / "images"), "caption": Features(np.float32(values[order]), source)}
    )


def _feature_file(place: Path, name: str) -> Path:
    return (place / "features" / name).with_suffix(".npy")


def _array(path: Path, ndim: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as an array of numbers ({error})") from error
    return _numbers(array, path, ndim)


def _numbers(value: object, path: Path, ndim: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim not in ndim or not np.issubdtype(array.dtype, np.number) or 0 in array.shape:
        dimensions = " or ".join(map(str, ndim))
        raise UserError(f"{path}: expected numbers in {dimensions} dimensions, got {array.dtype} {list(array.shape)}")
    return array


def _stack(arrays: Sequence[np.ndarray], source: Path) -> np.ndarray:
    """[N, K, D] of N arrays [D] or [K, D]; where images have different numbers of captions, the fewest count."""
    arrays = [array if array.ndim == 2 else array[None] for array in arrays]
    widths = {array.shape[1] for array in arrays}
    if len(widths) != 1:
        raise UserError(f"{source}: features of different lengths: {', '.join(map(str, sorted(widths)))}; expected one")
    fewest = min(len(array) for array in arrays)
    return np.stack([array[:fewest] for array in arrays]).astype(np.float32, copy=False)
