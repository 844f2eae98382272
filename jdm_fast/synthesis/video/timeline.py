"""When the frames of the output are shown, and between which key frames: rates, variable frame rate, scene cuts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, islice

import numpy as np
from PIL import Image

from jdm_fast.data.video_files import FrameSource, TimedFrame
from jdm_fast.data.video_source import LONGEST_GAP
from jdm_fast.errors import UserError
from jdm_fast.synthesis.frame_engine import Piece

SCENE_CUT = 0.12  #: threshold of :func:`difference` above which two key frames of a video belong to two scenes
_THUMBNAIL = (32, 32)  # blocks that are compared: moving edges within a block do not count
_JITTER = Fraction(1, 1000)  # Matroska and WebM round times to milliseconds


class Timeline:
    """The pieces of an output of constant rate: each key frame with the places of the frames from it to the next.

    Output frame j is shown at ``j / rate`` seconds of the input. Key frames lie at their true times: those of a
    constant rate exactly (a time within a millisecond of it is taken to be meant so), others where the file says.

    Args:
        frames: the input. Pictures, which have no times, are a second apart.
        rate: output frames for a second of input.
        every: every so many frames of the input are key frames, from the first on; what follows the last is not used.
        cut: two key frames that differ by more than this (:func:`difference`, 0 to 1) are not interpolated: frames
            before the middle show the one, after it the other. None: all are interpolated.
        hold: never interpolate; each output frame shows the nearest key frame.
        to_end: go on showing the last key frame for as long as the input does, to the nearest frame; else the output
            ends with the last frame that is not later than the last key frame.
        first: begin with this frame of the input, a multiple of ``every``: the pieces are those that the whole has from
            there on, none if the input is not that long.

    Raises (while iterating):
        UserError: fewer than two key frames in all (one will do with ``hold``), or times that go back.
    """

    def __init__(
        self,
        frames: FrameSource,
        *,
        rate: Fraction,
        every: int = 1,
        cut: float | None = None,
        hold: bool = False,
        to_end: bool = False,
        first: int = 0,
    ) -> None:
        self._frames, self._rate, self._every, self._first = frames, rate, every, first
        self._cut, self._hold, self._to_end = cut, hold, to_end

    def __iter__(self) -> Iterator[Piece]:
        keys = self._keys()
        first = list(islice(keys, 2))
        if self._first == 0 and (not first or (len(first) < 2 and not self._hold)):
            what = "one frame" if self._every == 1 else f"one key frame at every={self._every}"
            raise UserError(
                f"{self._frames.name}: has {what if first else 'no frames'}; video needs two or more "
                "(translate makes one picture of one)"
            )
        return self._pieces(chain(first, keys))

    def _pieces(self, keys: Iterable[TimedFrame]) -> Iterator[Piece]:
        held: TimedFrame | None = None
        seen = None if self._cut is None or self._hold else _thumbnail
        small: np.ndarray | None = None
        done = 0
        for key in keys:
            if held is None:
                done = math.ceil(key.time * self._rate)  # the output's frames until here
            now = None if seen is None else seen(key.pixels)
            if held is not None:
                is_cut = now is not None and _distance(small, now) > self._cut
                positions = []
                while (time := done / self._rate) < key.time:
                    place = float((time - held.time) / (key.time - held.time))
                    positions.append(float(place >= 0.5) if is_cut or self._hold else place)
                    done += 1
                yield Piece(held.pixels, tuple(positions), is_cut)
            held, small = key, now
        if held is None:
            return
        last = math.floor(held.time * self._rate) + 1
        if self._to_end:
            last = max(last, math.floor((held.time + held.duration) * self._rate + Fraction(1, 2)))
        yield Piece(held.pixels, (0.0,) * (last - done))

    def _keys(self) -> Iterator[TimedFrame]:
        before: Fraction | None = None if self._first else Fraction(0)
        for number, frame in enumerate(self._frames.timed(self._first), self._first):
            if before is not None and not 0 <= frame.time - before <= LONGEST_GAP:
                raise UserError(
                    f"{self._frames.name}: the time stamps go from {float(before):g} to {float(frame.time):g} seconds "
                    "from one frame to the next, so there is no telling when frames are to be shown: give the rate "
                    "with input_fps, or convert the video"
                )
            before = frame.time
            if number % self._every == 0:
                yield TimedFrame(self._settled(number, frame.time), frame.duration, frame.pixels)

    def _settled(self, number: int, time: Fraction) -> Fraction:
        """The time that is meant: rounded time stamps of a constant rate are moved to where they belong."""
        meant = time if self._frames.fps is None else number / self._frames.fps
        return meant if abs(meant - time) <= _JITTER else time


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """How much two pictures uint8 [H, W, 3] differ, 0 to 1: the mean difference of their means over 32x32 blocks."""
    return _distance(_thumbnail(one), _thumbnail(other))


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize(_THUMBNAIL, Image.Resampling.BOX), dtype=np.int16)


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean()) / 255


class Segment:
    """Whole spans between key frames, and so a piece of the output that can be made alone.

    Iterating gives its pieces, once; the last is the key frame at which it ends, the next segment's first.

    Attributes:
        number: counts the segments of the whole from 0. frames, key_frames: of the output and of the input, taken so
            far. cuts: pieces so far that end with a scene.
        following: the piece that begins the next segment, known when all is taken; None of the last.
    """

    def __init__(self, number: int, first: Piece, rest: Iterator[Piece], keys: int) -> None:
        self.number, self.frames, self.key_frames, self.cuts = number, 0, 0, 0
        self.following: Piece | None = None
        self._pieces = self._take(first, rest, keys)

    def __iter__(self) -> Iterator[Piece]:
        return self._pieces

    def _take(self, first: Piece, rest: Iterator[Piece], keys: int) -> Iterator[Piece]:
        for piece in chain([first], islice(rest, keys - 1)):
            self.frames += len(piece.positions)
            self.key_frames += 1
            self.cuts += piece.is_cut
            yield piece
        self.following = next(rest, None)
        if self.following is not None:
            yield Piece(self.following.key, ())


def segments(pieces: Iterable[Piece], keys: int, number: int = 0) -> Iterator[Segment]:
    """Cut a sequence of pieces, which begins with segment ``number``, into segments of ``keys`` key frames. What is not
    taken from one is passed over."""
    rest = iter(pieces)
    following = next(rest, None)
    while following is not None:
        segment = Segment(number, following, rest, keys)
        yield segment
        for _ in segment:
            pass
        following, number = segment.following, number + 1
