"""A sequence of frames, wherever it comes from: what everything that reads video gives and takes."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jdm_fast.errors import UserError

if TYPE_CHECKING:
    import torch

LONGEST_GAP = 600  #: seconds for which one frame may be shown; more is taken for broken time stamps


class TimedFrame(NamedTuple):
    """A frame, uint8 [H, W, 3], when it is shown in seconds from the first frame, and for how long."""

    time: Fraction
    duration: Fraction
    pixels: np.ndarray


class FrameSource(ABC):
    """A sequence of frames of one size. Iterating yields uint8 [H, W, 3]; every iteration starts from the first frame.

    A source never holds more than a few frames. ``name`` is for messages.

    Attributes:
        size: (H, W).
        fps: frames per second; the average where it varies, None for pictures, which have no rate.
        count: frames; None if only reading to the end can tell.
    """

    name: str
    size: tuple[int, int]
    fps: Fraction | None = None
    count: int | None = None

    @abstractmethod
    def __iter__(self) -> Iterator[np.ndarray]: ...

    def timed(self, start: int = 0) -> Iterator[TimedFrame]:
        """The frames from number ``start`` on, with their times. Without a rate (pictures) each is shown for a second.

        Those before are not looked at where a source can do without.
        """
        duration = 1 / self.fps if self.fps else Fraction(1)
        for number, pixels in enumerate(islice(self, start, None), start):
            yield TimedFrame(number * duration, duration, pixels)

    def chunks(self, size: int = 16, device: str | torch.device | None = None) -> Iterator[torch.Tensor]:
        """The frames as tensors uint8 [N, H, W, 3], ``size`` frames in each, fewer in the last.

        They are on ``device``; without one where they are decoded, which saves a copy.
        """
        import torch

        frames = iter(self)
        while part := list(islice(frames, size)):
            chunk = torch.from_numpy(np.stack(part))
            yield chunk if device is None else chunk.to(device)


class ConstantRate(FrameSource):
    """Another source at a constant rate: a frame is repeated, or left out, so that each is shown at its time.

    Frame k of the output is the last that is shown before ``(k + 1/2) / fps``, and there are as many as fit the time
    from the first frame to the end of the last, to the nearest. Pictures, which have no times, are taken to have this
    rate: all are kept.

    The iteration raises UserError if the time stamps cannot be true: they go back, or jump by more than ten minutes.
    """

    def __init__(self, source: FrameSource, fps: Fraction | float) -> None:
        if not 0 < fps < math.inf:
            raise UserError(f"fps: expected a number above 0, got {fps}")
        self._source, self.name, self.size = source, source.name, source.size
        self.fps = Fraction(fps).limit_denominator(65535)
        if source.fps is None:
            self.count = source.count

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._source.fps is None:
            return iter(self._source)
        return self._resampled(self._source.timed())

    def _resampled(self, frames: Iterable[TimedFrame]) -> Iterator[np.ndarray]:
        held: TimedFrame | None = None
        done = 0
        for frame in frames:
            if held is not None:
                self._check(held, frame)
                for _ in range(done, self._place(frame.time)):
                    yield held.pixels
                done = max(done, self._place(frame.time))
            held = frame
        if held is not None:
            for _ in range(done, max(self._place(held.time + held.duration), 1)):
                yield held.pixels

    def _place(self, time: Fraction) -> int:
        """The number of output frames before ``time``, to the nearest."""
        return math.floor(time * self.fps + Fraction(1, 2))

    def _check(self, before: TimedFrame, after: TimedFrame) -> None:
        if not 0 <= after.time - before.time <= LONGEST_GAP:
            raise UserError(
                f"{self.name}: the time stamps go from {float(before.time):g} to {float(after.time):g} seconds from "
                "one frame to the next, so there is no telling when frames are to be shown: read it without fps"
            )


def require_size(path: str | os.PathLike[str], frame: np.ndarray, size: tuple[int, int]) -> None:
    """UserError unless ``frame`` has the size (H, W) of those before."""
    if frame.shape[:2] != size:
        raise UserError(
            f"{Path(path)}: this frame is {frame.shape[1]}x{frame.shape[0]} pixels, those before are "
            f"{size[1]}x{size[0]}; all frames of a video must have one size"
        )
