"""What :mod:`jdm_fast.data.check` found in a data set."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jdm_fast._files import write_atomically


@dataclass(frozen=True)
class Bad:
    """A file that cannot be used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Odd:
    """Files that are used, but may not be what was meant: what is odd about them, how many, and the first of them."""

    what: str
    count: int
    first: Path


@dataclass(frozen=True)
class Part:
    """A domain of a group of a split.

    Attributes:
        split: ``train``, ``test`` or ``val``. domain: its name. partners: the domains it is paired with.
        kind: what the items are: pictures, halves of pictures, frames of 2 videos ... count: how many there are.
        sizes: number of items of each (height, width). modes: number of items of each kind of pixels, as Pillow
        calls them (see :class:`jdm_fast.data.images.ImageInfo`).
    """

    split: str
    domain: str
    partners: tuple[str, ...]
    kind: str
    count: int
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    bad: tuple[Bad, ...] = ()
    odd: tuple[Odd, ...] = ()


@dataclass(frozen=True)
class Report:
    """A data set as it was found.

    Attributes:
        layout: its name. root: the folder. domains: as the layout calls them. parts: what there is of each split.
        sequences: number of frames of each run of consecutive frames, by domain and name.
        same: files whose bytes are equal, in lists of two or more. decoded: whether pixels were read, or headers only.
    """

    layout: str
    root: Path
    domains: tuple[str, ...]
    parts: tuple[Part, ...]
    sequences: dict[str, dict[str, int]]
    same: tuple[tuple[Path, ...], ...]
    decoded: bool

    @property
    def bad(self) -> tuple[Bad, ...]:
        """Every file that cannot be used, once."""
        return tuple({item.path: item for part in self.parts for item in part.bad}.values())

    def name(self, path: Path) -> str:
        """A file's name relative to the root."""
        return Path(os.path.relpath(path, self.root)).as_posix()

    def write(self, path: str | Path) -> None:
        """Write the report as JSON; sizes are ``width x height``, files relative to the root.

        Raises:
            UserError: the file cannot be written.
        """
        text = json.dumps(self._plain(), indent=2, ensure_ascii=False) + "\n"
        write_atomically(Path(path), lambda file: file.write(text.encode()))

    def _plain(self) -> dict[str, Any]:
        return {
            "layout": self.layout,
            "root": str(self.root),
            "domains": list(self.domains),
            "decoded": self.decoded,
            "bad_files": len(self.bad),
            "parts": [self._plain_part(part) for part in self.parts],
            "sequences": self.sequences,
            "same_files": [[self.name(path) for path in paths] for paths in self.same],
        }

    def _plain_part(self, part: Part) -> dict[str, Any]:
        return {
            "split": part.split,
            "domain": part.domain,
            "paired_with": list(part.partners),
            "kind": part.kind,
            "count": part.count,
            "sizes": {f"{width}x{height}": count for (height, width), count in part.sizes.items()},
            "modes": part.modes,
            "bad": [{"file": self.name(item.path), "reason": item.reason} for item in part.bad],
            "odd": [{"what": item.what, "count": item.count, "first": self.name(item.first)} for item in part.odd],
        }
