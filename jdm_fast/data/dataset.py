"""What a data set is: domains of pictures or feature vectors, and which of them belong together.

Layouts (:mod:`jdm_fast.data.layouts`) find data sets on a disk, the loader (:mod:`jdm_fast.data.loader`) makes batches
of them. Nothing here reads a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from jdm_fast.errors import UserError

Region = Literal["whole", "left", "right"]
Pairing = Literal["paired", "shuffled", "disjoint"]
LETTERS = ("x", "y", "z", "u", "v", "w")
"""What domains are called in batches, in the order in which they were chosen; the papers' letters."""


@dataclass(frozen=True)
class ImageFiles:
    """A domain of picture files.

    Attributes:
        paths: the files, sorted. root: the folder that names in fingerprints and reports are relative to.
        region: the part of each file that is the picture; side-by-side files hold one domain in each half.
        labels: pictures show classes by colour; resized by nearest neighbour, so that no colour is made up.
        palette: the files hold class numbers; the RGB colour of each number. None: the files hold colours.
    """

    paths: tuple[Path, ...]
    root: Path
    region: Region = "whole"
    labels: bool = False
    palette: tuple[tuple[int, int, int], ...] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Sequence[int]) -> ImageFiles:
        return replace(self, paths=tuple(self.paths[index] for index in indices))


@dataclass(frozen=True, eq=False)
class Arrays:
    """A domain of pictures that lie decoded in one file, as in MNIST's.

    Attributes:
        pixels: uint8 [N, H, W, C], C 1 or 3. source: the file. quarter_turns: clockwise turns by 90 degrees that make
        the domain of what is stored.
    """

    pixels: np.ndarray
    source: Path
    quarter_turns: int = 0

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, indices: Sequence[int]) -> Arrays:
        return replace(self, pixels=self.pixels[np.asarray(indices, dtype=np.intp)])


@dataclass(frozen=True)
class VideoFrames:
    """A domain of the frames of video files, one after the other.

    Attributes:
        frames: (file, number of the frame in it), sorted. root: as in :class:`ImageFiles`.
    """

    frames: tuple[tuple[Path, int], ...]
    root: Path

    def __len__(self) -> int:
        return len(self.frames)

    def take(self, indices: Sequence[int]) -> VideoFrames:
        return replace(self, frames=tuple(self.frames[index] for index in indices))


@dataclass(frozen=True, eq=False)
class Features:
    """A domain of vectors, such as features of captions.

    Attributes:
        values: float32 [N, K, D]: K vectors of each item, of which one is drawn each time. source: the file or folder.
    """

    values: np.ndarray
    source: Path

    def __len__(self) -> int:
        return len(self.values)

    def take(self, indices: Sequence[int]) -> Features:
        return replace(self, values=self.values[np.asarray(indices, dtype=np.intp)])


Domain: TypeAlias = ImageFiles | Arrays | VideoFrames | Features


@dataclass(frozen=True)
class Group:
    """Domains whose items belong together: item k of each shows the same thing. A group of one is unpaired.

    Raises:
        UserError: the domains have different numbers of items, or none.
    """

    domains: dict[str, Domain]

    def __post_init__(self) -> None:
        counts = {name: len(domain) for name, domain in self.domains.items()}
        if len(set(counts.values())) > 1:
            raise UserError(f"paired domains need as many items each, got {_listed(counts)}")
        if not counts or 0 in counts.values():
            raise UserError(f"a domain needs at least one item, got {_listed(counts)}")

    def __len__(self) -> int:
        return len(next(iter(self.domains.values())))

    def take(self, indices: Sequence[int]) -> Group:
        return Group({name: domain.take(indices) for name, domain in self.domains.items()})


@dataclass(frozen=True)
class Layout:
    """A data set found on a disk.

    Attributes:
        name: of the layout, such as ``cyclegan``. root: the folder. domains: the domains' names as the layout calls
        them (``A``, ``photo``, ``winter``), in its order.
        splits: the groups of ``train`` and, where there are some, of ``test`` and ``val``.
        sequences: runs of consecutive frames by name, for video: ``{domain: {name: paths}}``.
    """

    name: str
    root: Path
    domains: tuple[str, ...]
    splits: dict[str, tuple[Group, ...]]
    sequences: dict[str, dict[str, tuple[Path, ...]]] | None = None

    def groups(self, split: str, domains: Sequence[str] | None = None) -> tuple[Group, ...]:
        """The groups of a split, with the chosen domains called x, y, z in the order given.

        Args:
            split: ``train``, ``test`` or ``val``.
            domains: names of the layout's; without them all, if there are two or the layout pairs them.

        Raises:
            UserError: there is no such split or domain, one is named twice, or a choice must be made first.
        """
        if split not in self.splits:
            raise UserError(f"{self.root}: no {split} split in this {self.name} data set, only {_names(self.splits)}")
        if domains is None and len(self.domains) > 3:
            raise UserError(
                f"{self.root}: this {self.name} data set has the domains {_names(self.domains)}: choose with "
                f"--data.domains, such as --data.domains {self.domains[0]} {self.domains[1]}"
            )
        chosen = tuple(domains or self.domains)
        unknown = [name for name in chosen if name not in self.domains]
        if unknown or len(set(chosen)) != len(chosen):
            raise UserError(
                f"{self.root}: expected different domains out of {_names(self.domains)}, got {_names(chosen)}"
            )
        letters = dict(zip(chosen, LETTERS, strict=False))
        groups = []
        for group in self.splits[split]:
            kept = {letters[name]: group.domains[name] for name in chosen if name in group.domains}
            if kept:
                groups.append(Group(kept))
        return tuple(groups)


def arrange(groups: Sequence[Group], pairing: Pairing) -> tuple[Group, ...]:
    """The groups as ``pairing`` wants them to be drawn.

    ``paired`` leaves them alone. ``shuffled`` puts each domain into a group of its own, to be shuffled for itself: all
    pictures are used, and the counterpart of each is somewhere in the other domain (CycleGAN's way with paired data).
    ``disjoint`` keeps a different part of each group for each of its domains: the first for x, the next for y, and so
    on, in the order of their names, so that no training picture has its counterpart in the data and neighbouring
    frames of a film do not end up on both sides.

    Raises:
        UserError: ``disjoint``, and a group has fewer items than domains; or ``shuffled`` or ``disjoint`` of a domain
            that is in several groups, which cannot be one unpaired domain.
    """
    if pairing == "paired":
        return tuple(groups)
    names = [name for group in groups for name in group.domains]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"domain {_names(twice)} belongs to several pairs here: only pairing=paired can use it")
    separate = []
    for group in groups:
        share = len(group) // len(group.domains)
        if pairing == "disjoint" and share == 0:
            raise UserError(
                f"disjoint parts of {len(group)} item(s) for the domains {_names(group.domains)} cannot be made: "
                "add data, or use pairing=shuffled"
            )
        for part, (name, domain) in enumerate(group.domains.items()):
            if pairing == "disjoint" and len(group.domains) > 1:
                domain = domain.take(range(part * share, (part + 1) * share))
            separate.append(Group({name: domain}))
    return tuple(separate)


def batch_keys(groups: Sequence[Group]) -> tuple[tuple[str, ...], ...]:
    """The keys in a batch of each group's domains: the domain's letter, or, where it is in several groups, the letter
    and those of the group, as in ``y_xy`` and ``y_yz``."""
    names = [name for group in groups for name in group.domains]
    return tuple(
        tuple(name if names.count(name) == 1 else f"{name}_{''.join(group.domains)}" for name in group.domains)
        for group in groups
    )


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} of {name}" for name, count in counts.items()) or "none"


def _names(names: Sequence[str] | dict[str, object]) -> str:
    return ", ".join(names)
