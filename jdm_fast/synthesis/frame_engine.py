"""Key frames in, frames of all domains out: Algorithm 2 of the JWDM paper as a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch

from jdm_fast.errors import UserError
from jdm_fast.ops import frames_to_uint8
from jdm_fast.synthesis.model import Model
from jdm_fast.synthesis.pictures import batch_for, to_float


class Piece(NamedTuple):
    """A key frame uint8 [H, W, 3], and the places of the output frames from it (0) to the next (1), non-decreasing."""

    key: np.ndarray
    positions: tuple[float, ...]


class FrameEngine:
    """Decodes the frames of a sequence of pieces in eager float32."""

    def __init__(
        self,
        model: Model,
        *,
        source: str,
        domains: Sequence[str],
        mode: str = "lerp",
        engine: Literal["auto", "eager", "compile", "graph"] = "auto",
        precision: str = "auto",
        batch_size: int | Literal["auto"] | None = None,
        tile: int | None = None,
    ) -> None:
        if mode not in ("lerp", "slerp"):
            raise UserError(f"mode must be one of lerp, slerp, got {mode!r}")
        model._require("encode")
        self._model, self._source, self._domains, self._mode = model, source, tuple(domains), mode
        self._batch = batch_size if isinstance(batch_size, int) else None

    @torch.inference_mode()
    def stream(self, pieces: Iterable[Piece]) -> Iterator[dict[str, np.ndarray]]:
        """By domain uint8 [b, H, W, 3], in time order."""
        begin: tuple[torch.Tensor, tuple[float, ...]] | None = None
        waiting: list[torch.Tensor] = []
        for piece in pieces:
            size = piece.key.shape[:2]
            batch = self._batch or batch_for(*size)
            latent = self._model.encode(to_float(piece.key[None]), self._source)
            if begin is not None:
                waiting += [self._between(begin[0], latent, place) for place in begin[1]]
            begin = (latent, piece.positions)
            while len(waiting) >= batch:
                yield self._decode(waiting[:batch], size)
                del waiting[:batch]
        if begin is not None:
            waiting += [begin[0]] * len(begin[1])
        for start in range(0, len(waiting), batch if waiting else 1):
            yield self._decode(waiting[start : start + batch], size)

    def _between(self, begin: torch.Tensor, end: torch.Tensor, place: float) -> torch.Tensor:
        if self._mode == "lerp" or place in (0, 1):
            return (1 - place) * begin + place * end
        a, b = begin.flatten(), end.flatten()
        angle = torch.arccos((a @ b / (a.norm() * b.norm())).clamp(-1, 1))
        if angle.sin().abs() < 1e-4:
            return torch.lerp(begin, end, place)
        return (((1 - place) * angle).sin() * begin + (place * angle).sin() * end) / angle.sin()

    def _decode(self, latents: list[torch.Tensor], size: tuple[int, int]) -> dict[str, np.ndarray]:
        batch = torch.cat(latents)
        made = {}
        for domain in self._domains:
            images = self._model.decode(batch, domain)[..., : size[0], : size[1]]
            made[domain] = frames_to_uint8(images).cpu().numpy()
        return made
