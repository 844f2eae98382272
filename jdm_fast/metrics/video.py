"""Synthesised frames against the true ones, in both domains, beside cross-fades.

All errors are L1 in units of [-1, 1] (see :mod:`.truth`). The error of the key frames is reported apart: it is what
encoding and decoding costs with no interpolation at all, the floor under the in-between frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jdm_fast.metrics.truth import l1


@dataclass(frozen=True)
class DomainVideoScore:
    """L1 against the true frames of one domain.

    Attributes:
        key_frames: of the key frames, encoded and decoded (source) or translated (target).
        in_between: of the synthesised frames between them.
        cross_fade_decoded: of a cross-fade of those decoded or translated key frames: interpolation of pixels, not
            latents.
        cross_fade_true: of a cross-fade of the true key frames; None in the target domain, where they are not known.
    """

    key_frames: float
    in_between: float
    cross_fade_decoded: float
    cross_fade_true: float | None


@dataclass(frozen=True)
class VideoScore:
    """The domain the key frames were given in, and the other."""

    source: DomainVideoScore
    target: DomainVideoScore


def cross_fade(key_frames: np.ndarray, factor: int) -> np.ndarray:
    """Key frames uint8 [T, H, W, 3] and blends of neighbours between them: uint8 [(T - 1) * factor + 1, H, W, 3]."""
    if key_frames.dtype != np.uint8 or key_frames.ndim != 4 or not len(key_frames):
        raise ValueError(
            f"key_frames must be uint8 [T, H, W, 3], T >= 1, got {key_frames.dtype} {list(key_frames.shape)}"
        )
    if factor < 1:
        raise ValueError(f"factor must be at least 1, got {factor}")
    position = np.arange((len(key_frames) - 1) * factor + 1)
    begin, ratio = position // factor, ((position % factor) / factor).astype(np.float32)[:, None, None, None]
    end = np.minimum(begin + 1, len(key_frames) - 1)
    return np.rint(key_frames[begin] * (1 - ratio) + key_frames[end] * ratio).astype(np.uint8)


def score_video(
    made: dict[str, np.ndarray], truth: dict[str, np.ndarray], factor: int, source: str = "x"
) -> VideoScore:
    """Score the frames ``made`` from every ``factor``-th frame of ``truth[source]``.

    Args:
        made, truth: the two domains' frames, uint8 [(T - 1) * factor + 1, H, W, 3], under the same two names.
        factor: at least 2, so that there are frames in between.
        source: the name of the domain the key frames were given in.
    """
    if set(made) != set(truth) or len(made) != 2 or source not in made:
        raise ValueError(
            f"made and truth must have the same two domains, one of them {source!r}: {list(made)}, {list(truth)}"
        )
    target = next(domain for domain in made if domain != source)
    count = len(truth[source])
    if factor < 2 or count <= factor or (count - 1) % factor:
        raise ValueError(
            f"the number of frames must be a multiple of factor >= 2, plus 1: got {count} frames, factor {factor}"
        )
    return VideoScore(
        _score_domain(made[source], truth[source], factor, true_key_frames=truth[source][::factor]),
        _score_domain(made[target], truth[target], factor, true_key_frames=None),
    )


def _score_domain(
    made: np.ndarray, truth: np.ndarray, factor: int, true_key_frames: np.ndarray | None
) -> DomainVideoScore:
    between = np.arange(len(truth)) % factor != 0
    fade = cross_fade(made[::factor], factor)
    true_fade = None if true_key_frames is None else cross_fade(true_key_frames, factor)
    return DomainVideoScore(
        key_frames=l1(made[::factor], truth[::factor]),
        in_between=l1(made[between], truth[between]),
        cross_fade_decoded=l1(fade[between], truth[between]),
        cross_fade_true=None if true_fade is None else l1(true_fade[between], truth[between]),
    )
