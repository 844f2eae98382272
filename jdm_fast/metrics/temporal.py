"""Flicker: how much a clip shakes from frame to frame, without estimating any motion.

The flicker of frames f_0, f_1, … is the mean absolute second difference in time,

    mean over t, pixels and channels of |f_{t-1} - 2 f_t + f_{t+1}|,

in units of the networks' range [-1, 1], as L1 in :mod:`.truth`: at most 4, of a clip that goes from black to white and
back with each frame. A still clip has 0 and so has one that changes at a constant rate, such as a fade; noise of
standard deviation s that is new in each frame has 2 sqrt(3 / π) s = 1.954 s. Where things move a real clip has some
too, so a number means something beside that of the real clip at the same frame rate: with a :func:`ratio` of 1 it
changes as the truth does, above 1 it shakes, below 1 it is smoother than what was filmed (as a cross-fade, which moves
nothing).

Frames that are rounded to 8 bits have a flicker of about 0.004 from that alone (a fade, say, whose values fall between
the 256 steps as if by chance); clips of floats are measured as they are.
"""

from __future__ import annotations

import math

import numpy as np

_UNIT = 2 / 255  # of 8-bit values in [-1, 1]


class Flicker:
    """The flicker of a clip whose frames come in parts of any length; holds two frames, however long the clip."""

    def __init__(self) -> None:
        self.frames = 0
        self._last: np.ndarray | None = None  # up to two frames, [2, H, W, C]
        self._total, self._values = 0.0, 0

    def add(self, frames: np.ndarray) -> None:
        """Count in the next frames, [N, H, W, C], in time order; any N.

        Args:
            frames: uint8, of which the sums are exact, or float32 or float64 in [-1, 1], taken as float32. All frames
                of a clip have one size and one of the two kinds.

        Raises:
            ValueError: anything else. Nothing has been counted then.
        """
        self._require(frames)
        # Differences of 8-bit values fit 16 bits and are exact; each is at most 510.
        frames = frames.astype(np.int16 if frames.dtype == np.uint8 else np.float32)
        before = frames[:0] if self._last is None else self._last
        for frame in frames:  # one at a time: memory does not grow with N beyond the conversion
            if len(before) == 2:
                second = np.abs(before[0] - 2 * before[1] + frame)
                self._total += float(second.sum(dtype=np.int64 if second.dtype == np.int16 else np.float64))
                self._values += second.size
            before = np.concatenate([before[-1:], frame[None]])
        self._last = before
        self.frames += len(frames)

    def _require(self, frames: np.ndarray) -> None:
        if frames.ndim != 4 or frames.dtype not in (np.uint8, np.float32, np.float64):
            raise ValueError(
                f"frames must be uint8 or float [N, H, W, C], got {frames.dtype} {list(frames.shape)}: expected a clip"
            )
        if self._last is None:
            return
        if frames.shape[1:] != self._last.shape[1:]:
            raise ValueError(
                f"frames must have the shape of those before, {list(self._last.shape[1:])}, "
                f"got {list(frames.shape[1:])}"
            )
        if (frames.dtype == np.uint8) != (self._last.dtype == np.int16):
            raise ValueError(f"frames must be uint8 in all parts of a clip or in none, got {frames.dtype} after others")

    def value(self) -> float | None:
        """The flicker in units of [-1, 1]; None of fewer than three frames, which have no second difference."""
        if not self._values:
            return None
        eight_bit = self._last is not None and self._last.dtype == np.int16
        return self._total / self._values * (_UNIT if eight_bit else 1)


def flicker(frames: np.ndarray) -> float | None:
    """The flicker of a whole clip, see :class:`Flicker`."""
    measure = Flicker()
    measure.add(frames)
    return measure.value()


def ratio(made: float | None, real: float | None) -> float | None:
    """The flicker ``made`` over that of the real clip at the same frame rate.

    None where either is, or where the real clip is still (its flicker is 0), beside which there is no telling.
    """
    if made is None or real is None or real == 0:
        return None
    return made / real if math.isfinite(made) else None
