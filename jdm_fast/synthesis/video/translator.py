"""Every frame of a video translated into another domain, with nothing in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from jdm_fast.synthesis.frame_engine import Piece
from jdm_fast.synthesis.model import Model
from jdm_fast.synthesis.pictures import batch_for


class Translator:
    """Takes pieces as :class:`FrameEngine` does, with places 0 and 1 only, and translates each key frame once.

    It serves methods without latents too. UserError: the method translates no pictures.
    """

    def __init__(self, model: Model, *, source: str, to: str, batch_size: int | None = None) -> None:
        model._require("translate")
        self._model, self._source, self._to, self._batch = model, source, to, batch_size

    in_callers_thread = False

    def compute(self, pieces: Iterable[Piece]) -> Iterator[dict[str, np.ndarray]]:
        """By domain uint8 [b, H, W, 3], in time order."""
        shown = self._counted(iter(pieces))
        first = next(shown, None)
        if first is None:
            return
        batch = self._batch or batch_for(*first[0].shape[:2])
        group = [first, *islice(shown, batch - 1)]
        while group:
            made = self._model.translate(np.stack([key for key, _ in group]), self._to, self._source, batch)
            for frame, (_, count) in zip(made, group, strict=True):
                for _ in range(count):  # a picture may be shown for long: no more of its copies than one at a time
                    yield {self._to: frame[None]}
            group = list(islice(shown, batch))

    @staticmethod
    def _counted(pieces: Iterator[Piece]) -> Iterator[tuple[np.ndarray, int]]:
        """Each key frame and how many output frames show it, if any do."""
        carried = 0
        for piece in pieces:
            ones = sum(1 for place in piece.positions if place)
            count, carried = carried + len(piece.positions) - ones, ones
            if count:
                yield piece.key, count
