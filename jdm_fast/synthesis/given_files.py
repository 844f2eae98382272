"""What tuples are drawn for, in files: folders of pictures that belong together by name, and files of vectors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jdm_fast.data.images import check_image, find_images, read_image
from jdm_fast.errors import UserError
from jdm_fast.synthesis.conditions import Size, TupleForm
from jdm_fast.synthesis.pictures import batch_for

_NAMED = 10  # files that a message names


class GivenFiles:
    """What is given, in files that are read when their turn comes.

    Attributes:
        sources: by domain, the files of its pictures or the array of its vectors.
        names: of the items, without an ending; none if no pictures are given.
    """

    def __init__(self, form: TupleForm, given: Mapping[str, str | os.PathLike[str]]) -> None:
        self._form = form
        self.paths = {domain: Path(given[domain]) for domain in form.domains if domain in given}
        self.names: list[str] = []
        pictures = {d: _named_pictures(path) for d, path in self.paths.items() if d not in form.vectors}
        if pictures:
            self.names = _common_names(pictures, self.paths)
        self.sources: dict[str, Any] = {
            domain: _read_vectors(path, domain)
            if domain in form.vectors
            else [pictures[domain][name] for name in self.names]
            for domain, path in self.paths.items()
        }
        counts = {domain: len(source) for domain, source in self.sources.items()}
        if len(set(counts.values())) > 1:
            text = ", ".join(f"{count} in {self.paths[domain]}" for domain, count in counts.items())
            raise UserError(f"given: expected as many items of each domain, got {text}")

    def __len__(self) -> int:
        return len(next(iter(self.sources.values()))) if self.sources else 0

    def name(self, number: int, count: int) -> str:
        """What item ``number`` of ``count`` is called: as its pictures, or by its number."""
        return self.names[number] if self.names else f"{number:0{max(5, len(str(count - 1)))}}"

    def check_sizes(self, size: int | Size | None, resize: bool) -> list[Size]:
        """Height and width of each item's pictures, from the files' headers; UserError names all files that are bad."""
        target = None if size is None else self._form.target_size(size)
        sizes: dict[int, Size] = {}
        bad: list[str] = []
        for domain, paths in self.sources.items():
            for place, path in enumerate(paths if domain not in self._form.vectors else ()):
                try:
                    found = check_image(path)
                    if resize:
                        sizes[place] = target or self._form.size
                    else:
                        self._check_size(found, path, target or sizes.get(place))
                        sizes.setdefault(place, found)
                except UserError as error:
                    bad.append(str(error))
        if bad:
            more = f"\n  and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
            lines = "\n".join(f"  {reason}" for reason in bad[:_NAMED])
            what = "picture" if len(bad) == 1 else "pictures"
            raise UserError(f"{len(bad)} given {what} cannot be used:\n{lines}{more}")
        return [sizes[place] for place in range(len(sizes))]

    def _check_size(self, found: Size, path: Path, wanted: Size | None) -> None:
        advice = "--resize makes it fit"
        self._form.require_size(*found, f"{path}: a picture", f"; {advice}")
        if wanted not in (None, found):
            raise UserError(
                f"{path}: a picture of height {found[0]} and width {found[1]}, where --size or the picture that "
                f"belongs to it has {' and '.join(map(str, wanted or ()))}; {advice}"
            )

    def runs(self, sizes: Sequence[Size], count: int, batch_size: int | None) -> Iterator[tuple[int, int]]:
        """First and last + 1 of items that are read together: a batch of one size."""
        first = 0
        while first < count:
            size = sizes[first] if sizes else self._form.size
            last, most = first + 1, min(count, first + (batch_size or batch_for(*size)))
            while last < most and (not sizes or sizes[last] == size):
                last += 1
            yield first, last
            first = last

    def read(self, first: int, last: int) -> dict[str, Any]:
        """Items from ``first`` to before ``last``, as :meth:`Model.sample` takes them."""
        values: dict[str, Any] = {}
        for domain, source in self.sources.items():
            if domain in self._form.vectors:
                values[domain] = source[first:last]
            else:
                values[domain] = [Image.fromarray(read_image(path)) for path in source[first:last]]
        return values


def _named_pictures(path: Path) -> dict[str, Path]:
    """Files by their names below ``path`` without an ending."""
    found = [path] if path.is_file() else find_images(path, recursive=True)
    named: dict[str, Path] = {}
    for file in found:
        name = (file.relative_to(path) if file != path else Path(file.name)).with_suffix("").as_posix()
        if name in named:
            raise UserError(f"{file}: {named[name].name} beside it has the same name; what is drawn for both would too")
        named[name] = file
    return named


def _common_names(pictures: Mapping[str, Mapping[str, Path]], paths: Mapping[str, Path]) -> list[str]:
    """Names of the items, or UserError if some domain has no picture of one."""
    names = sorted({name for of in pictures.values() for name in of})
    for domain, of in pictures.items():
        missing = [name for name in names if name not in of]
        if missing:
            more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            raise UserError(
                f"{paths[domain]}: pictures of several domains belong together by their names, and there is none here "
                f"for {', '.join(missing[:_NAMED])}{more}"
            )
    return names


def _read_vectors(path: Path, domain: str) -> np.ndarray:
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or not len(vectors):
            raise ValueError(f"it has {getattr(vectors, 'shape', 'several arrays')}")
        return vectors
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: {domain} is a domain of vectors: expected a .npy file [N, D] ({error})") from error
