"""What sizes pictures have on their way into a batch, and where they are cropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from jdm_fast.data.dataset import Arrays, Group
from jdm_fast.data.items import Pictures
from jdm_fast.data.pipeline import Size
from jdm_fast.errors import UserError

Preprocess = Literal["resize_and_crop", "crop", "resize", "none"]


def as_size(size: int | Size) -> Size:
    """(height, width) of a size that may be given as the side of a square."""
    return size if isinstance(size, tuple) else (size, size)


def place(share: float, side: int, crop: int) -> float:
    """Where a crop of ``crop`` pixels of ``side`` begins, as a share of all the room there is.

    Args:
        share: in [0, 1), chooses among all the ``side - crop + 1`` places, each with the same chance.
    """
    room = side - crop
    return min(int(share * (room + 1)), room) / room if room > 0 else 0.0


def output_size(
    load: Size | None, crop: Size | None, pictures: Mapping[str, Pictures], groups: Sequence[Sequence[str]]
) -> Size | None:
    """(height, width) of every picture of a batch; None if there are no pictures.

    Args:
        load, crop: what pictures are resized and cropped to, or None.
        pictures: by key. groups: the keys that belong together.

    Raises:
        UserError: a picture cannot give that size, or pictures that belong together cannot have the same crop.
    """
    if not pictures:
        return None
    if load and crop and (load[0] < crop[0] or load[1] < crop[1]):
        raise UserError(f"load_size: expected at least the crop_size {_text(crop)}, got {_text(load)}")
    if load:
        return crop or load
    if crop is None:
        return _only_size(pictures)
    for some in pictures.values():
        too_small = (some.sizes < crop).any(axis=1).nonzero()[0]
        if len(too_small):
            raise UserError(
                f"{some.name(int(too_small[0]))}: is {_text(some.sizes[too_small[0]])} (height x width), too small for "
                f"crops of {_text(crop)}: use a smaller crop_size, or preprocess=resize_and_crop"
            )
    for keys in groups:
        first, *others = [pictures[key] for key in keys if key in pictures] or [None]
        for other in others:
            differing = (first.sizes != other.sizes).any(axis=1).nonzero()[0]
            if len(differing):
                item = int(differing[0])
                raise UserError(
                    f"{other.name(item)}: is {_text(other.sizes[item])} but {first.name(item)}, which belongs to it, "
                    f"is {_text(first.sizes[item])} (height x width); both get the same crop, so with preprocess=crop "
                    "they must be of one size: use preprocess=resize_and_crop"
                )
    return crop


def require_turns_kept(groups: Sequence[Group], *, flip: bool, crop: bool) -> None:
    """Refuse to mirror or crop pictures that are turns of each other: the results would not be.

    Raises:
        UserError: a group holds arrays that are turned differently, and ``flip`` or ``crop``.
    """
    for group in groups:
        turns = {domain.quarter_turns % 4 for domain in group.domains.values() if isinstance(domain, Arrays)}
        if len(turns) > 1 and (flip or crop):
            what, how = ("mirrored", "flip=False (--no-flip)") if flip else ("cropped", "preprocess=none or resize")
            raise UserError(
                f"the domains {', '.join(group.domains)} are turns of each other, and {what} alike they would not be: "
                f"use {how}"
            )


def _only_size(pictures: Mapping[str, Pictures]) -> Size:
    first = next(iter(pictures.values()))
    for some in pictures.values():
        differing = (some.sizes != first.sizes[0]).any(axis=1).nonzero()[0]
        if len(differing):
            item = int(differing[0])
            raise UserError(
                f"{some.name(item)}: is {_text(some.sizes[item])} but {first.name(0)} is {_text(first.sizes[0])} "
                "(height x width); with preprocess=none all images must be of one size: use "
                "preprocess=resize_and_crop, or crop"
            )
    height, width = first.sizes[0].tolist()
    return height, width


def _text(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"
