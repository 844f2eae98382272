"""Which cells there are: op x variant x shape x dtype x layout x direction, and how a selection of them is asked for.

Shapes are those of the input that the op reads: the planes of JWDM's networks (width 64) for images of 256x256 and
256x512 at batch 1 and 16, those of 64x64 training on a CPU, and hard ones: odd sides, few and many channels, one plane
larger than a cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from jdm_fast.bench.contenders import OPS
from jdm_fast.errors import UserError

Direction = Literal["forward", "backward", "both"]
Layout = Literal["nchw", "channels_last"]
DType = Literal["float32", "bfloat16", "float16"]
ShapeSet = Literal["quick", "core", "jwdm", "small", "hard", "all"]
Shape = tuple[int, ...]

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
DTYPES: tuple[DType, ...] = get_args(DType)
SHAPE_SETS: tuple[ShapeSet, ...] = get_args(ShapeSet)


@dataclass(frozen=True)
class Cell:
    """One measurement. ``direction`` "backward" is the backward alone, "both" a forward and a backward."""

    op: str
    variant: str
    shape: Shape
    dtype: DType
    layout: Layout
    direction: Direction

    @property
    def title(self) -> str:
        """How the cell is called in tables, in pytest-benchmark's groups and by benchmarks/compare.py."""
        return f"{self.op} {self.variant} {self.direction} {list(self.shape)} {self.dtype} {self.layout}"

    @property
    def id(self) -> str:
        """The same without spaces, for ``pytest -k``."""
        shape = "x".join(map(str, self.shape))
        return f"{self.variant}-{shape}-{self.dtype}-{self.layout}-{self.direction}"


@dataclass(frozen=True)
class _Listed:
    """A shape of one variant. ``depth`` 0 is in every list, 1 in the core list (all that a CPU is asked for), 2 only in
    the whole one."""

    shape: Shape
    family: Literal["jwdm", "small", "hard"]
    depth: int = 2


def _batches(*shapes: Shape, core: Sequence[Shape] = (), quick: Sequence[Shape] = ()) -> list[_Listed]:
    """Shapes of JWDM's networks; those of ``core`` and ``quick`` are in these lists too."""
    return [_Listed(shape, "jwdm", 0 if shape in quick else 1 if shape in core else 2) for shape in shapes]


# Feature maps of an encoder or decoder: after the 7x7 convolutions, between, in the bottleneck, in the embedding.
_PLANES = [
    (batch, channels, height, width)
    for batch in (1, 16)
    for across in (1, 2)
    for channels, height, width in (
        (64, 256, 256 * across),
        (128, 128, 128 * across),
        (256, 64, 64 * across),
        (256, 57, 64 * across - 7),
    )
]
_BLOCKS = [(batch, 256, 64, 64 * across) for batch in (1, 16) for across in (1, 2)]  # residual blocks
# 2 and 17 keys: one pair of pictures, and a video of 16 gaps, with 8 steps from key to key.
_LATENTS = [(keys, 256, 57, 64 * across - 7) for keys in (2, 17) for across in (1, 2)]
_KEY_MAPS = [(keys, 256, 64, 64 * across) for keys in (2, 17) for across in (1, 2)]
_FRAMES = [(batch, 3, 256, 256 * across) for batch in (1, 16) for across in (1, 2)]
# JointGAN's logits: five sources of batch 1 and 16, the map of a 70x70 patch critic on 256x256 and 256x512.
_LOGITS = [(5 * batch, 5, 30, width) for batch in (1, 16) for width in (30, 62)]

LISTED: dict[tuple[str, str], list[_Listed]] = {
    ("instance_norm", "relu"): [
        _Listed((1, 16, 64, 64), "small", 1),
        _Listed((1, 64, 64, 64), "small", 0),
        *_batches(*_PLANES, core=[(1, 64, 256, 256), (1, 256, 64, 64), (16, 256, 64, 64)]),
        _Listed((4, 256, 7, 7), "hard"),
        _Listed((2, 64, 33, 65), "hard", 1),
        _Listed((4, 3, 256, 256), "hard"),
        _Listed((2, 2048, 16, 16), "hard"),
        _Listed((1, 64, 1024, 512), "hard"),
    ],
    ("instance_norm", "relu+residual"): [
        *_batches(*_BLOCKS, core=[(1, 256, 64, 64)]),
        _Listed((1, 64, 256, 256), "hard", 1),
        _Listed((2, 64, 33, 65), "hard"),
    ],
    ("softmax_critic_loss", "sources"): [
        *_batches(*_LOGITS, core=[(80, 5, 30, 30)], quick=[(5, 5, 30, 30)]),
        _Listed((6, 6, 7, 7), "hard"),
        _Listed((48, 3, 57, 57), "hard"),
        _Listed((6, 6, 33, 65), "hard"),
        _Listed((64, 64, 30, 30), "hard"),
        _Listed((5, 5, 1024, 512), "hard", 1),
    ],
    ("interpolate_latents", "lerp"): [
        _Listed((9, 256, 9, 9), "small", 0),
        *_batches(*_LATENTS, core=[(2, 256, 57, 57)]),
        _Listed((3, 256, 7, 7), "hard"),
        _Listed((3, 3, 33, 65), "hard"),
        _Listed((2, 2048, 16, 16), "hard"),
        _Listed((2, 3, 1024, 512), "hard"),
    ],
    ("interpolate_latents", "slerp"): [
        _Listed((9, 256, 9, 9), "small", 1),
        *_batches(*_LATENTS, core=[(2, 256, 57, 57)]),
        _Listed((3, 3, 33, 65), "hard"),
    ],
    ("interpolate_instance_norm", "relu"): [
        _Listed((9, 256, 16, 16), "small", 0),
        *_batches(*_KEY_MAPS, core=[(2, 256, 64, 64)]),
        _Listed((3, 256, 7, 7), "hard"),
        _Listed((3, 256, 57, 57), "hard"),
        _Listed((3, 3, 33, 65), "hard"),
        _Listed((2, 2048, 16, 16), "hard"),
        _Listed((2, 32, 1024, 512), "hard"),
    ],
    ("frames_to_uint8", "plain"): [
        _Listed((1, 3, 64, 64), "small", 0),
        *_batches(*_FRAMES, core=[(1, 3, 256, 256), (16, 3, 256, 256)]),
        _Listed((1, 3, 7, 7), "hard"),
        _Listed((2, 3, 33, 65), "hard"),
        _Listed((1, 4, 57, 57), "hard"),
        _Listed((1, 3, 1024, 512), "hard"),
    ],
    ("frames_to_uint8", "tanh"): [
        *_batches(*_FRAMES, core=[(16, 3, 256, 256)]),
        _Listed((2, 3, 33, 65), "hard"),
    ],
}


def select(
    *,
    ops: Sequence[str] = (),
    shapes: Sequence[str] = ("core",),
    dtypes: Sequence[str] = ("float32",),
    layouts: Sequence[str] = LAYOUTS,
    directions: Sequence[str] = DIRECTIONS,
) -> list[Cell]:
    """The cells asked for, in the order of tables; cells of one case (all but the direction equal) are neighbours.

    Args:
        ops: names of ops, or ``OP/VARIANT``; none for all.
        shapes: names of :data:`ShapeSet`, or shapes like ``8x64x100x100``, listed or not.
        dtypes, layouts, directions: of :data:`DTYPES`, :data:`LAYOUTS`, :data:`DIRECTIONS`.

    Raises:
        UserError: an unknown name, or a selection that is empty; the message says what there is.
    """
    wanted = _variants(ops)
    for name, given, known in (
        ("dtypes", dtypes, DTYPES),
        ("layouts", layouts, LAYOUTS),
        ("directions", directions, DIRECTIONS),
    ):
        unknown = [value for value in given if value not in known]
        if unknown or not given:
            got = repr(unknown[0]) if unknown else "none"
            raise UserError(f"{name}: expected some of {', '.join(known)}, got {got}")
    pick = [_shape_or_set(text) for text in shapes]
    if not pick:
        raise UserError(f"shapes: expected some of {', '.join(SHAPE_SETS)} or a shape like 1x64x256x256, got none")
    cells = [
        Cell(op, variant, shape, dtype, layout, direction)
        for op, variant in wanted
        for shape in _shapes(op, variant, pick)
        for dtype in DTYPES
        if dtype in dtypes
        for layout in LAYOUTS
        if layout in layouts
        for direction in DIRECTIONS
        if direction in directions and (direction == "forward" or OPS[op].differentiable)
    ]
    if not cells:
        asked = ", ".join(f"{op}/{variant}" for op, variant in wanted)
        raise UserError(
            f"nothing to measure: no such shape or direction of {asked} is listed or possible;"
            f" asked for were shapes {', '.join(shapes)} and directions {', '.join(directions)}"
        )
    return cells


def cases(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """``cells`` in groups of neighbours that differ only in the direction, and so share inputs and a check."""
    group: list[Cell] = []
    for cell in cells:
        if group and _case(group[0]) != _case(cell):
            yield group
            group = []
        group.append(cell)
    if group:
        yield group


def _case(cell: Cell) -> tuple[object, ...]:
    return cell.op, cell.variant, cell.shape, cell.dtype, cell.layout


def _variants(ops: Sequence[str]) -> list[tuple[str, str]]:
    names = [f"{op}/{variant}" for op, variant in LISTED]
    for text in ops:
        if text not in names and text not in OPS:
            raise UserError(
                f"ops: expected some of {', '.join(OPS)}, or one variant of {', '.join(names)}; got {text!r}"
            )
    return [(op, variant) for op, variant in LISTED if not ops or op in ops or f"{op}/{variant}" in ops]


def _shape_or_set(text: str) -> str | Shape:
    if text in SHAPE_SETS:
        return text
    if re.fullmatch(r"[1-9]\d*(x[1-9]\d*){3}", text):
        return tuple(map(int, text.split("x")))
    raise UserError(f"shapes: expected some of {', '.join(SHAPE_SETS)} or a shape like 1x64x256x256, got {text!r}")


def _shapes(op: str, variant: str, pick: Sequence[str | Shape]) -> list[Shape]:
    listed = LISTED[op, variant]
    sets = {choice for choice in pick if isinstance(choice, str)}
    found = [
        entry.shape
        for entry in listed
        if "all" in sets
        or entry.family in sets
        or ("core" in sets and entry.depth < 2)
        or ("quick" in sets and entry.depth == 0)
    ]
    given = [choice for choice in pick if not isinstance(choice, str) and OPS[op].fits(choice)]
    return list(dict.fromkeys([*found, *given]))
