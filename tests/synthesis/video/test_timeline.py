"""When frames are shown, and between which key frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
import pytest

from jdm_fast.data.video_files import FrameSource, TimedFrame
from jdm_fast.errors import UserError
from jdm_fast.synthesis.video.timeline import SCENE_CUT, Timeline, difference, segments

NTSC = Fraction(30000, 1001)


class Film(FrameSource):
    """Grey frames of given levels at given times."""

    name, size = "film", (4, 4)

    def __init__(self, times: Sequence[Fraction | int], levels: Sequence[int] | None = None, fps: Fraction | int = 10):
        self._times, self._levels = [Fraction(t) for t in times], levels or [0] * len(times)
        self.fps, self.count = Fraction(fps), len(times)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (frame.pixels for frame in self.timed())

    def timed(self, start: int = 0) -> Iterator[TimedFrame]:
        self.asked = start
        for time, level in list(zip(self._times, self._levels, strict=True))[start:]:
            yield TimedFrame(time, 1 / self.fps, np.full((4, 4, 3), level, np.uint8))


def steady(count: int, fps: Fraction | int = 10) -> Film:
    return Film([k / Fraction(fps) for k in range(count)], fps=fps)


def positions(timeline: Timeline) -> list[list[float]]:
    return [list(piece.positions) for piece in timeline]


@pytest.mark.parametrize("factor", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("fps", [25, NTSC])
def test_a_factor_divides_each_span_evenly(factor: int, fps: Fraction) -> None:
    made = positions(Timeline(steady(4, fps), rate=factor * Fraction(fps)))
    assert made == [[k / factor for k in range(factor)]] * 3 + [[0.0]]


@pytest.mark.parametrize(
    "rate, expected",
    [
        (15, [[0, 2 / 3], [1 / 3], [0, 2 / 3], [0]]),  # frame j lies at j / 15 s, key frames are 1 / 10 s apart
        (24, [[0, 5 / 12, 10 / 12], [0.25, 2 / 3], [1 / 12, 0.5, 11 / 12], [0, 0]]),
        (4, [[0], [], [0.5], []]),  # slower than the input: spans without a frame
    ],
)
def test_any_rate_places_frames_at_their_true_times(rate: int, expected: list[list[float]]) -> None:
    made = positions(Timeline(steady(4), rate=Fraction(rate), to_end=True))
    assert list(map(len, made)) == list(map(len, expected))
    assert sum(made, []) == pytest.approx(sum(expected, []))
    assert sum(map(len, made)) == int(0.4 * rate + 0.5), "as long as the input"


def test_variable_rate_follows_the_time_stamps() -> None:
    film = Film([0, Fraction(1, 10), Fraction(4, 10), Fraction(5, 10)])
    made = positions(Timeline(film, rate=Fraction(20)))
    assert made[0] == [0, 0.5] and made[2] == [0, 0.5] and made[3] == [0]
    assert made[1] == pytest.approx([k / 6 for k in range(6)]), "the long span gets the more frames"


def test_milliseconds_of_matroska_are_the_rate_that_was_meant() -> None:
    film = Film([Fraction(round(k * 1000 / NTSC), 1000) for k in range(50)], fps=NTSC)
    assert positions(Timeline(film, rate=2 * NTSC)) == [[0, 0.5]] * 49 + [[0]]


def test_every_counts_frames_and_leaves_out_the_rest() -> None:
    timeline = Timeline(steady(9), rate=Fraction(20, 3), every=3)
    assert positions(timeline) == [[0, 0.5]] * 2 + [[0]], "three key frames"


@pytest.mark.parametrize("rate", [25, 24, 4, Fraction(7, 3)])
@pytest.mark.parametrize("first", [0, 2, 4, 6, 8])
def test_beginning_further_on_changes_nothing(rate: Fraction | int, first: int) -> None:
    film = Film([Fraction(k, 10) + Fraction(k % 3, 70) for k in range(9)], [20 * (k // 3) for k in range(9)])
    options = {"rate": Fraction(rate), "every": 2, "cut": 0.05, "to_end": True}
    whole = list(Timeline(film, **options))
    part = list(Timeline(film, first=first, **options))
    assert film.asked == first and len(part) == len(whole) - first // 2 > 0
    for one, other in zip(part, whole[first // 2 :], strict=True):
        assert one.positions == other.positions and one.is_cut == other.is_cut and (one.key == other.key).all()
    assert list(Timeline(film, first=10, **options)) == []


def test_nothing_is_interpolated_across_a_cut() -> None:
    film = Film([Fraction(k, 10) for k in range(4)], [10, 20, 200, 210])
    timeline = Timeline(film, rate=Fraction(40), cut=SCENE_CUT)
    assert positions(timeline) == [[0, 0.25, 0.5, 0.75], [0, 0, 1, 1], [0, 0.25, 0.5, 0.75], [0]]
    assert [piece.is_cut for piece in timeline] == [False, True, False, False]
    uncut = Timeline(film, rate=Fraction(40), cut=None)
    assert positions(uncut)[1] == [0, 0.25, 0.5, 0.75] and not any(piece.is_cut for piece in uncut)


def test_difference_is_of_light_and_not_of_detail() -> None:
    black, white = np.zeros((64, 96, 3), np.uint8), np.full((64, 96, 3), 255, np.uint8)
    assert difference(black, white) == 1 and difference(white, white) == 0
    checks = np.indices((64, 96)).sum(0) % 2 * 255
    checks = np.repeat(checks[..., None], 3, -1).astype(np.uint8)
    assert difference(checks, 255 - checks) < 0.02 < np.abs(checks - (255.0 - checks)).mean() / 255


def test_hold_shows_the_nearest_key_frame() -> None:
    film = Film([0, Fraction(4, 10)])
    assert positions(Timeline(film, rate=Fraction(10), hold=True)) == [[0, 0, 1, 1], [0]]
    assert positions(Timeline(steady(1), rate=Fraction(10), hold=True)) == [[0]]


@pytest.mark.parametrize(
    "film, every, message",
    [
        (steady(1), 1, "film: has one frame; video needs two or more"),
        (steady(3), 3, "one key frame at every=3"),
        (steady(0), 1, "has no frames"),
        (Film([0, Fraction(1, 5), Fraction(1, 10)]), 1, r"time stamps go from 0\.2 to 0\.1 seconds"),
        (Film([0, 10_000]), 1, "time stamps"),
    ],
)
def test_bad_sequences(film: Film, every: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(Timeline(film, rate=Fraction(10), every=every))


@pytest.mark.parametrize("count, keys", [(2, 1), (7, 2), (7, 3), (7, 6), (7, 7), (7, 100)])
@pytest.mark.parametrize("skip", [(), (0,), (1, 2)])
def test_segments_are_the_whole_in_parts(count: int, keys: int, skip: tuple[int, ...]) -> None:
    whole = positions(Timeline(steady(count), rate=Fraction(25)))
    frames = {}
    for segment in segments(Timeline(steady(count), rate=Fraction(25)), keys):
        if segment.number in skip:
            continue  # passing over one does not change the next
        taken = [list(piece.positions) for piece in segment]
        own = taken[:-1] if segment.following is not None else taken
        assert segment.following is None or taken[-1] == [], "the key frame at the end belongs to the next"
        assert own == whole[segment.number * keys : (segment.number + 1) * keys]
        assert (segment.frames, segment.key_frames) == (sum(map(len, own)), len(own))
        frames[segment.number] = segment.frames
    assert len(frames) == len([n for n in range(-(-count // keys)) if n not in skip])
