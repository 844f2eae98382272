"""Synthesised frames against the true ones, in both domains, beside cross-fades.

All errors are L1 in units of [-1, 1] (see :mod:`.truth`, also for PSNR and SSIM). The error of the key frames is
reported apart: it is what encoding and decoding costs with no interpolation at all, the floor under the in-between
frames. Flicker is that of whole clips, key frames among them (see :mod:`.temporal`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jdm_fast.metrics.classes import Palette
from jdm_fast.metrics.temporal import Flicker
from jdm_fast.metrics.truth import Score, TruthScores


@dataclass(frozen=True)
class DomainVideoScore:
    """L1 against the true frames of one domain, and PSNR and SSIM of what was synthesised.

    Attributes:
        key_frames: of the key frames, encoded and decoded (source) or translated (target).
        in_between: of the synthesised frames between them.
        cross_fade_decoded: of a cross-fade of those decoded or translated key frames: interpolation of pixels, not
            latents.
        cross_fade_true: of a cross-fade of the true key frames; None in the target domain, where they are not known.
        psnr, ssim: of the synthesised frames in between; ``ssim`` None for frames smaller than its window.
    """

    key_frames: float
    in_between: float
    cross_fade_decoded: float
    cross_fade_true: float | None
    psnr: float
    ssim: float | None


@dataclass(frozen=True)
class VideoScore:
    """The domain the key frames were given in, and the other."""

    source: DomainVideoScore
    target: DomainVideoScore


class DomainVideoScores:
    """Collects the scores of one domain's frames as they come, holding those of one pair of key frames at most.

    Args:
        factor: every ``factor``-th frame is a key frame, from the first on; at least 2, so that there are frames in
            between.
        is_source: whether this is the domain the key frames were given in.
        palette: the classes of the domain's colours; gives mIoU.
        one_by_one: :meth:`add` is also given the true frames of the source domain, each sent through the networks by
            itself: no interpolation at all, which needs all frames.
    """

    def __init__(self, factor: int, is_source: bool, palette: Palette | None = None, one_by_one: bool = False) -> None:
        if factor < 2:
            raise ValueError(f"factor must be at least 2, got {factor}: without frames in between nothing is compared")
        self.factor, self.is_source = factor, is_source
        self.frames = 0
        clips = ["in_between", "cross_fade_decoded"]
        clips += ["cross_fade_true"] * is_source + ["one_by_one"] * one_by_one
        self._scores = {name: TruthScores(palette=palette) for name in (*clips, "key_frames")}
        self._flicker = {name: Flicker() for name in (*clips, "truth")}
        self._held: dict[str, list[np.ndarray]] = {"in_between": [], "truth": []}  # from the last key frame on
        if one_by_one:
            self._held["one_by_one"] = []

    def add(self, made: np.ndarray, truth: np.ndarray, one_by_one: np.ndarray | None = None) -> None:
        """Count in the next frames and the true ones, uint8 [N, H, W, 3] each; any N, in time order.

        ValueError where shapes differ, or ``one_by_one`` is not given as the constructor was told.
        """
        if made.shape != truth.shape:
            raise ValueError(f"made must have the shape of the truth {list(truth.shape)}, got {list(made.shape)}")
        parts = {"in_between": made, "truth": truth}
        if one_by_one is not None:
            if one_by_one.shape != truth.shape:
                raise ValueError(
                    f"one_by_one must have the shape of the truth {list(truth.shape)}, got {list(one_by_one.shape)}"
                )
            parts["one_by_one"] = one_by_one
        if set(parts) != set(self._held):
            raise ValueError("one_by_one must be given with all frames if one_by_one=True was said, else with none")
        for index in range(len(truth)):
            for name, frames in parts.items():
                self._held[name].append(frames[index])
            if self.frames % self.factor == 0:
                self._key_frame()
            self.frames += 1

    def _key_frame(self) -> None:
        """All that the frames from the last key frame to this one tell."""
        clips = {name: np.stack(frames) for name, frames in self._held.items()}
        self._held = {name: [frames[-1]] for name, frames in clips.items()}
        made, truth = clips["in_between"], clips["truth"]
        is_first = len(truth) == 1
        self._scores["key_frames"].add(made[-1:], truth[-1:])
        ends = {"cross_fade_decoded": made, **({"cross_fade_true": truth} if self.is_source else {})}
        for name, frames in ends.items():
            clips[name] = frames if is_first else cross_fade(frames[[0, -1]], self.factor)
        for name, frames in clips.items():
            self._flicker[name].add(frames if is_first else frames[1:])
            if name != "truth" and not is_first:
                self._scores[name].add(frames[1:-1], truth[1:-1])

    def scores(self) -> dict[str, Score]:
        """All scores of ``in_between``, ``cross_fade_decoded``, ``cross_fade_true`` (source), ``one_by_one`` (where it
        is given) and ``key_frames``.

        In the target domain ``cross_fade_decoded`` is the way without a joint latent: translate the key frames, then
        cross-fade the pictures. In the source domain it does the same with the reconstructed key frames.

        ValueError unless the frames added end with a key frame that is not the first.
        """
        if self.frames <= self.factor or (self.frames - 1) % self.factor:
            raise ValueError(
                f"the number of frames must be a multiple of factor >= 2, plus 1: got {self.frames} frames, "
                f"factor {self.factor}"
            )
        return {name: scores.result() for name, scores in self._scores.items()}

    def flicker(self) -> dict[str, float | None]:
        """Flicker of the whole clips up to the last key frame, in units of [-1, 1], by the names of :meth:`scores`.

        ``truth`` is the real clip's, and there are no ``key_frames``, which are no clip. None where there are fewer
        than three frames.
        """
        return {name: flicker.value() for name, flicker in self._flicker.items()}

    def result(self) -> DomainVideoScore:
        """:meth:`scores` as one record."""
        scores = self.scores()
        errors = {name: score.l1 for name, score in scores.items() if name != "one_by_one"}
        between = scores["in_between"]
        return DomainVideoScore(**{"cross_fade_true": None, **errors}, psnr=between.psnr, ssim=between.ssim)


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
    count = len(truth[source])
    if factor < 2 or count <= factor or (count - 1) % factor:
        raise ValueError(
            f"the number of frames must be a multiple of factor >= 2, plus 1: got {count} frames, factor {factor}"
        )
    results = {}
    for domain in made:
        scores = DomainVideoScores(factor, is_source=domain == source)
        scores.add(made[domain], truth[domain])
        results[domain] = scores.result()
    target = next(domain for domain in made if domain != source)
    return VideoScore(results[source], results[target])
