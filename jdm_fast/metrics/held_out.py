"""Scores of a model in training: held-out pictures of all domains whose truth is each other.

Nothing here knows of training: what is needed is a function that translates and batches of aligned pictures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import permutations

import torch
from torch import Tensor

from jdm_fast.metrics.classes import Palette
from jdm_fast.metrics.truth import Score, TruthScores
from jdm_fast.ops import frames_to_uint8

MEAN_COLOUR = "mean_colour"


def score_held_out(
    translate: Callable[[Tensor, str, str], Tensor],
    batches: Iterable[Mapping[str, Tensor]],
    domains: Sequence[str] = ("x", "y"),
    *,
    colours: Mapping[str, Sequence[int]] | None = None,
    palettes: Mapping[str, Palette] | None = None,
    directions: Collection[tuple[str, str]] | None = None,
) -> dict[str, Score]:
    """Translate held-out pictures in every direction and score the results, beside the answer of one colour.

    No gradients are recorded; whether the networks are in evaluation mode is the caller's to see to. Pictures are
    rounded to 8 bits first, as they would be in a file. Memory does not grow with the number of batches.

    Args:
        translate: ``translate(images, to, source)``: [N, C, H, W] in [-1, 1] of ``source`` as such of ``to``; a
            method's own ``translate`` fits.
        batches: aligned pictures by domain, [N, C, H, W] in [-1, 1] each, C 1 or 3: number n of each domain shows the
            same. A batch may lack domains, as where only pairs (x, y) and (y, z) are known; other keys are passed over.
        domains: names of the domains to score.
        colours: what :func:`mean_colours` gives, of the training pictures or of ``batches``. By default that of
            ``batches``, which are gone through twice then.
        palettes: of domains whose colours mean classes, for mIoU.
        directions: (source, to) of the translations that ``translate`` can make; unless given, all.

    Returns:
        ``x_to_y`` and so on for every direction of which there are pairs: the score of the translations; and
        ``x_to_y/mean_colour``: that of the target's mean colour in place of every translation.

    Raises:
        ValueError: there are no pairs, pictures of a batch differ in number or size, a translation has another shape
            than its truth, or ``batches`` can be gone through once only and ``colours`` are not given.
    """
    if colours is None:
        if iter(batches) is batches:
            raise ValueError("batches can be gone through once only: give a list, or colours=mean_colours(...)")
        colours = mean_colours(batches, domains)
    palettes = palettes or {}
    scores: dict[str, TruthScores] = {}
    for batch in batches:
        for source, to in permutations((domain for domain in domains if domain in batch), 2):
            if directions is not None and (source, to) not in directions:
                continue
            with torch.no_grad():
                made = translate(batch[source], to, source)
            truth = frames_to_uint8(batch[to])
            colour = torch.as_tensor(colours[to], dtype=torch.uint8, device=truth.device).expand_as(truth)
            name = f"{source}_to_{to}"
            for key, pictures in ((name, frames_to_uint8(made.to(truth.device))), (f"{name}/{MEAN_COLOUR}", colour)):
                if key not in scores:
                    scores[key] = TruthScores(palette=palettes.get(to))
                scores[key].add(pictures, truth)
    if not scores:
        raise ValueError(f"no held-out batch holds two of the domains {', '.join(domains)}: there is nothing to score")
    return {name: collected.result() for name, collected in scores.items()}


@torch.no_grad()
def mean_colours(
    batches: Iterable[Mapping[str, Tensor]], domains: Sequence[str] = ("x", "y")
) -> dict[str, tuple[int, ...]]:
    """The mean colour of each domain's pictures, C whole numbers from 0 to 255; of the domains that occur."""
    sums: dict[str, Tensor] = {}
    pixels: dict[str, int] = {}
    for batch in batches:
        for domain in domains:
            if domain in batch:
                pictures = frames_to_uint8(batch[domain])
                sums[domain] = sums.get(domain, 0) + pictures.sum(dim=(0, 1, 2), dtype=torch.int64).cpu()
                pixels[domain] = pixels.get(domain, 0) + pictures[..., 0].numel()
    return {domain: tuple(round(total / pixels[domain]) for total in sums[domain].tolist()) for domain in sums}


def as_numbers(scores: Mapping[str, Score], prefix: str = "truth") -> dict[str, float]:
    """Scores as entries of a log: ``truth/x_to_y/l1``, ``truth/x_to_y/mean_colour/ssim``, …; those there are none of
    are left out."""
    return dict(_entries(scores, prefix))


def _entries(scores: Mapping[str, Score], prefix: str) -> Iterator[tuple[str, float]]:
    for name, score in scores.items():
        for kind, value in dataclasses.asdict(score).items():
            if value is not None:
                yield f"{prefix}/{name}/{kind}", value
