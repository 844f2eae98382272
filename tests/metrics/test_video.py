"""Scores of videos: which frames count as key frames, and what a cross-fade is."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from jdm_fast.metrics import DomainVideoScores, cross_fade, l1, psnr, score_video, ssim
from jdm_fast.metrics.temporal import flicker


def frames(seed: int, count: int, size: tuple[int, int] = (4, 6)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)


@pytest.mark.parametrize("keys, factor", [(1, 4), (2, 1), (2, 8), (4, 3)])
def test_cross_fade_against_a_plain_loop(keys: int, factor: int) -> None:
    key_frames = frames(0, keys)
    expected = []
    for k in range(keys - 1):
        for step in range(factor):
            ratio = step / factor
            expected.append(np.rint((1 - ratio) * key_frames[k] + ratio * key_frames[k + 1].astype(float)))
    expected.append(key_frames[-1])
    np.testing.assert_allclose(cross_fade(key_frames, factor), np.stack(expected), atol=1)  # ties in float32
    np.testing.assert_array_equal(cross_fade(key_frames, factor)[::factor], key_frames)


def test_each_error_is_of_its_own_frames() -> None:
    truth = {"x": frames(1, 9), "y": frames(2, 9)}
    made = {domain: clip.copy() for domain, clip in truth.items()}
    made["x"][::4] = frames(3, 3)  # wrong key frames in x, wrong frames between them in y
    between = [1, 2, 3, 5, 6, 7]
    made["y"][between] = frames(4, 6)
    score = score_video(made, truth, factor=4, source="x")
    assert score.source.key_frames == l1(made["x"][::4], truth["x"][::4]) > 0
    assert score.source.in_between == 0
    assert score.target.key_frames == 0
    assert score.target.in_between == l1(made["y"][between], truth["y"][between]) > 0
    fade_true, fade_made = cross_fade(truth["x"][::4], 4)[between], cross_fade(made["x"][::4], 4)[between]
    assert score.source.cross_fade_true == l1(fade_true, truth["x"][between])
    assert score.source.cross_fade_decoded == l1(fade_made, truth["x"][between])
    assert score.target.cross_fade_true is None
    assert score.target.cross_fade_decoded == l1(cross_fade(made["y"][::4], 4)[between], truth["y"][between])
    swapped = score_video(made, truth, factor=4, source="y")
    assert swapped.source.in_between == score.target.in_between and swapped.target.cross_fade_true is None


def test_psnr_and_ssim_are_of_the_frames_in_between() -> None:
    truth = {"x": frames(1, 9, (12, 13)), "y": frames(2, 9, (12, 13))}
    made = {"x": frames(3, 9, (12, 13)), "y": truth["y"].copy()}
    made["y"][::4] = 0
    score = score_video(made, truth, factor=4)
    between = [1, 2, 3, 5, 6, 7]
    assert score.source.psnr == pytest.approx(psnr(made["x"][between], truth["x"][between]))
    assert score.source.ssim == pytest.approx(ssim(made["x"][between], truth["x"][between]), abs=1e-6)
    assert score.target.psnr == 100 and score.target.ssim == pytest.approx(1, abs=1e-4)
    small = {"x": frames(1, 9), "y": frames(2, 9)}
    assert score_video(small, small, factor=4).source.ssim is None


@pytest.mark.parametrize("parts", [[9], [1] * 9, [4, 5], [2, 6, 1]])
def test_the_same_score_in_whatever_parts(parts: list[int]) -> None:
    made, truth = frames(1, 9, (12, 13)), frames(2, 9, (12, 13))
    scores, start = DomainVideoScores(4, is_source=True), 0
    for count in parts:
        scores.add(made[start : start + count], truth[start : start + count])
        start += count
    assert scores.result() == score_video({"x": made, "y": made}, {"x": truth, "y": truth}, 4).source
    assert set(scores.scores()) == {"in_between", "cross_fade_decoded", "cross_fade_true", "key_frames"}
    assert scores.scores()["cross_fade_true"].psnr == pytest.approx(
        psnr(cross_fade(truth[::4], 4)[[1, 2, 3, 5, 6, 7]], truth[[1, 2, 3, 5, 6, 7]])
    )


def test_memory_does_not_grow_with_the_length() -> None:
    def peak(count: int) -> int:
        scores = DomainVideoScores(8, is_source=True)
        tracemalloc.start()
        for number in range(count):
            frame = np.full((1, 40, 50, 3), number % 256, np.uint8)
            scores.add(frame, frame)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert scores.result().in_between == 0
        return most

    peak(9)  # what is imported and kept at first use is no part of it
    assert peak(161) < 1.5 * peak(17)


def too_few(scores: DomainVideoScores) -> None:
    scores.add(frames(0, 4), frames(1, 4))
    scores.result()


def ends_in_between(scores: DomainVideoScores) -> None:
    scores.add(frames(0, 7), frames(1, 7))
    scores.result()


def other_sizes(scores: DomainVideoScores) -> None:
    scores.add(frames(0, 4), frames(1, 5))


@pytest.mark.parametrize(
    "use, message",
    [(too_few, "number of frames"), (ends_in_between, "number of frames"), (other_sizes, "shape of the truth")],
)
def test_unfit_parts_are_refused(use: Callable[[DomainVideoScores], None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        use(DomainVideoScores(4, is_source=True))
    with pytest.raises(ValueError, match="at least 2"):
        DomainVideoScores(1, is_source=True)


def test_unfit_videos_are_refused() -> None:
    clips = {"x": frames(0, 9), "y": frames(1, 9)}
    for factor in (1, 3, 9):
        with pytest.raises(ValueError, match="number of frames"):
            score_video(clips, clips, factor)
    with pytest.raises(ValueError, match="two domains"):
        score_video(clips, {"x": clips["x"]}, 4)
    with pytest.raises(ValueError, match="factor"):
        cross_fade(clips["x"], 0)


@pytest.mark.parametrize("parts", [[9], [1] * 9, [4, 5]])
def test_flicker_is_of_whole_clips_and_one_by_one_of_the_frames_in_between(parts: list[int]) -> None:
    made, truth, alone = (frames(seed, 9, (12, 13)) for seed in (1, 2, 3))
    scores, start = DomainVideoScores(4, is_source=True, one_by_one=True), 0
    for count in parts:
        part = slice(start, start + count)
        scores.add(made[part], truth[part], alone[part])
        start += count
    between = [1, 2, 3, 5, 6, 7]
    assert scores.scores()["one_by_one"].l1 == pytest.approx(l1(alone[between], truth[between]))
    clips = {
        "in_between": made,
        "truth": truth,
        "one_by_one": alone,
        "cross_fade_decoded": cross_fade(made[::4], 4),
        "cross_fade_true": cross_fade(truth[::4], 4),
    }
    assert scores.flicker() == {name: pytest.approx(flicker(clip)) for name, clip in clips.items()}
    assert scores.result().in_between == l1(made[between], truth[between])


def test_one_by_one_is_given_with_all_frames_or_none() -> None:
    clip = frames(1, 5)
    for told, given in ((True, None), (False, clip)):
        with pytest.raises(ValueError, match="one_by_one must be given"):
            DomainVideoScores(4, is_source=True, one_by_one=told).add(clip, clip, given)
    with pytest.raises(ValueError, match="one_by_one must have the shape"):
        DomainVideoScores(4, is_source=True, one_by_one=True).add(clip, clip, clip[:4])
