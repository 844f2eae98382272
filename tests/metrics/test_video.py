"""Scores of videos: which frames count as key frames, and what a cross-fade is."""

from __future__ import annotations

import numpy as np
import pytest

from jdm_fast.metrics import cross_fade, l1, score_video


def frames(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 6, 3), np.uint8)


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


def test_unfit_videos_are_refused() -> None:
    clips = {"x": frames(0, 9), "y": frames(1, 9)}
    for factor in (1, 3, 9):
        with pytest.raises(ValueError, match="number of frames"):
            score_video(clips, clips, factor)
    with pytest.raises(ValueError, match="two domains"):
        score_video(clips, {"x": clips["x"]}, 4)
    with pytest.raises(ValueError, match="factor"):
        cross_fade(clips["x"], 0)
