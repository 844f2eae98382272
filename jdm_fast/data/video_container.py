"""Whether a video file is whole, told from the length that the outermost parts of MP4, Matroska and AVI files state."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")  # an MP4 or MOV file starts with one
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # of Matroska and WebM


def is_cut_short(path: Path) -> bool:
    """Whether a file is shorter than it says. False for other containers, which do not say."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[4:8] in _FIRST_BOXES:
            return _boxes_end(file, size) > size
        if head[:4] == _EBML:
            return _segment_end(file) > size
        if head[:4] == b"RIFF":
            return 8 + int.from_bytes(head[4:8], "little") > size
    return False


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Where the last box of an MP4 file ends."""
    start = 0
    while start < size:
        file.seek(start)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:  # the real length follows in 64 bits
            length = int.from_bytes(head[8:16], "big")
        if length < 8:  # 0: the box goes to the end of the file
            return size
        start += length
    return start


def _segment_end(file: BinaryIO) -> int:
    """Where a Matroska file's one segment, which holds all but the first few bytes, ends; 0 if it does not say."""
    file.seek(4)
    file.seek(_variable_length(file), 1)
    if file.read(4) != _SEGMENT:
        return 0
    length = _variable_length(file)
    return file.tell() + length


def _variable_length(file: BinaryIO) -> int:
    """An EBML number: as many bytes as its first has leading zero bits and one. All bits set (live streams): 0."""
    first = file.read(1)[0]
    width = 9 - first.bit_length()
    bits = 7 * width
    value = int.from_bytes(bytes([first]) + file.read(width - 1), "big") & ((1 << bits) - 1)
    return 0 if value == (1 << bits) - 1 else value
