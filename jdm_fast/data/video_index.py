"""Where in a video file a frame lies, so that reading can begin there: the time stamps of all its frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import av
import numpy as np

FAR = 256  #: frames; to decode fewer and pass over them is quicker than to find the place of one


class Place(NamedTuple):
    """``seek``: the time stamp to look for in the file; ``shown``: the frame's; both in the stream's time base."""

    seek: int
    shown: int


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a video in the order in which they are shown, from its packets, which are not decoded.

    Attributes:
        shown: time stamps of the frames, int64, rising.
        keys: ``(shown, stored)`` of the frames that need no others, int64 [K, 2], rising: their time stamps and the
            times at which they are to be decoded, by which some containers are searched.
    """

    shown: np.ndarray
    keys: np.ndarray

    def place(self, number: int) -> Place | None:
        """From where to read to get frame ``number``; None: from the beginning, it is no further.

        That is the last but one frame before it which needs no others: those that are stored behind such a frame but
        shown before it may need what came earlier.
        """
        if number >= len(self.shown):
            return None
        shown = int(self.shown[number])
        before = np.searchsorted(self.keys[:, 0], shown, side="right")
        return Place(int(self.keys[before - 2, 1]), shown) if before > 2 else None


def index_frames(
    container: av.container.InputContainer, stream: av.VideoStream, first: int | None
) -> FrameIndex | None:
    """Read all packets of a stream. None if frames cannot be told by them: without time stamps, with one twice, with
    packets that are not to be shown, or if the first frame that comes out, ``first``, is not the first one."""
    shown, keys = [], []
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if packet.pts is None or packet.is_discard:
            return None
        shown.append(packet.pts)
        if packet.is_keyframe:
            keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))  # Matroska lacks some
    shown.sort()
    stamps = np.array(shown, dtype=np.int64)
    if not keys or first is None or stamps[0] != first or not (np.diff(stamps) > 0).all():
        return None
    return FrameIndex(stamps, np.array(sorted(keys), dtype=np.int64))
