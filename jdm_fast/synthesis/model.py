"""A trained model as a value: pictures in, pictures of the other domain or two-domain video out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from jdm_fast.errors import UserError
from jdm_fast.ops import frames_to_uint8, interpolate_latents
from jdm_fast.runs import load_run
from jdm_fast.synthesis.padding import pad_reflect, padded_side

_BATCH_PIXELS = 2**20  # pixels in a batch unless the caller says how many pictures: 16 of 256x256
_MOST_IN_BATCH = 64
_MODES = ("lerp", "slerp")


def load(path: str | os.PathLike[str], device: str | torch.device | None = None) -> Model:
    """The model of a run folder, on ``device`` (default: a GPU if there is one). UserError for what is no run."""
    run = load_run(path)
    return Model(run.method, device, name=str(run.path))


class Model:
    """A method's networks in evaluation mode with the conversions around them.

    Pictures of any size are padded by reflection to what the networks take and cropped back. Nothing here records
    gradients. ``name`` is for messages.
    """

    def __init__(self, method: nn.Module, device: str | torch.device | None = None, name: str = "model") -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.method: Any = method.to(self.device).eval()
        self.name = name

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, ``("x", "y")``."""
        return tuple(self.method.domains)

    # ---- pictures ---------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode(self, images: Tensor, domain: str) -> Tensor:
        """Latents of ``images`` [N, 3, H, W] in [-1, 1], padded as needed."""
        return self.method.encode(self._padded(images.to(self.device)), self._domain(domain))

    @torch.inference_mode()
    def decode(self, latent: Tensor, domain: str) -> Tensor:
        """Images [N, 3, H, W] in [-1, 1] of ``domain``, of the padded size."""
        return self.method.decode(latent.to(self.device), self._domain(domain))

    @torch.inference_mode()
    def translate(self, images: Any, to: str = "y", source: str | None = None, batch_size: int | None = None) -> Any:
        """Pictures of ``source`` (default: the other domain) as pictures of ``to``, of the kind and size they came in.

        Args:
            images: float tensor [N, 3, H, W] in [-1, 1]; or uint8 array [N, H, W, 3] or [H, W, 3]; or a PIL image; or a
                list of PIL images, which may differ in size.
            batch_size: pictures that go through the networks at once; default by their size.

        Raises:
            UserError: an unknown domain. TypeError, ValueError: ``images`` is none of these.
        """
        to = self._domain(to)
        source = self._other(to) if source is None else self._domain(source)
        if isinstance(images, Image.Image):
            return Image.fromarray(self._translate_uint8(_rgb(images)[None], to, source, batch_size)[0])
        if isinstance(images, Tensor):
            if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
                raise ValueError(
                    f"a tensor of images must be float [N, 3, H, W], got {images.dtype} {list(images.shape)}"
                )
            if not len(images):
                return images.clone()
            chunks = images.split(batch_size or batch_for(*images.shape[-2:]))
            return torch.cat(
                [self._translate(chunk.to(self.device, torch.float32), to, source).to(images) for chunk in chunks]
            )
        if isinstance(images, np.ndarray):
            if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[-1] != 3:
                raise ValueError(
                    f"an array of images must be uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}"
                )
            batch = images if images.ndim == 4 else images[None]
            return self._translate_uint8(batch, to, source, batch_size).reshape(images.shape)
        if isinstance(images, Sequence) and all(isinstance(image, Image.Image) for image in images):
            return self._translate_list(images, to, source, batch_size)
        raise TypeError(
            f"images must be a tensor, a uint8 array, a PIL image or a list of PIL images, got {type(images)}"
        )

    # ---- video ------------------------------------------------------------------------------------------------------

    def video(
        self,
        frames: np.ndarray | Iterable[np.ndarray],
        factor: int = 8,
        source: str = "x",
        mode: str = "lerp",
        batch_size: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Algorithm 2 of the JWDM paper for a whole sequence: ``factor`` times the frames, in both domains.

        Args:
            frames: the key frames, uint8 [T, H, W, 3] or an iterable of uint8 [H, W, 3].
            factor: n of the paper; n - 1 frames are made between two key frames.
            source: the domain of ``frames``.
            mode: ``lerp`` (the paper's) or ``slerp``.
            batch_size: frames decoded at once; default by their size.

        Returns:
            By domain, uint8 [(T - 1) * factor + 1, H, W, 3] in time order. Key frames too are decoded from their
            latents.
        """
        parts: dict[str, list[np.ndarray]] = {domain: [] for domain in self.domains}
        for part in self.stream_video(frames, factor, source, mode, batch_size):
            for domain, made in part.items():
                parts[domain].append(made)
        if not parts[source]:
            raise ValueError("frames: expected at least one key frame, got none")
        return {domain: np.concatenate(made) for domain, made in parts.items()}

    def stream_video(
        self,
        frames: Iterable[np.ndarray],
        factor: int = 8,
        source: str = "x",
        mode: str = "lerp",
        batch_size: int | None = None,
    ) -> Iterator[dict[str, np.ndarray]]:
        """:meth:`video` in pieces: yields by domain uint8 [b, H, W, 3], b at most the batch size, in time order.

        Memory does not grow with the length. Each key frame is encoded once: it ends one pair and begins the next.
        """
        source = self._domain(source)
        if factor < 1:
            raise UserError(f"factor must be at least 1, got {factor}")
        if mode not in _MODES:
            raise UserError(f"mode must be one of {', '.join(_MODES)}, got {mode!r}")
        return self._stream(iter(frames), factor, source, mode, batch_size)

    @torch.inference_mode()  # a generator under this decorator leaves the mode whenever it hands over
    def _stream(
        self, frames: Iterator[np.ndarray], factor: int, source: str, mode: str, batch_size: int | None
    ) -> Iterator[dict[str, np.ndarray]]:
        first = next(frames, None)
        if first is None:
            return
        size = first.shape[:2]
        batch_size = batch_size or batch_for(*size)
        pairs = max(1, batch_size // factor)  # key frames that begin a pair, and are encoded together
        last = self.encode(_to_float(_frames([first], size)), source)
        while key_frames := list(islice(frames, pairs)):
            latents = torch.cat([last, self.encode(_to_float(_frames(key_frames, size)), source)])
            between = interpolate_latents(latents, factor, mode=mode)[:-1]  # the last key frame begins the next piece
            yield from self._decode_all(between, size, batch_size)
            last = latents[-1:]
        yield from self._decode_all(last, size, batch_size)

    def _decode_all(self, latents: Tensor, size: tuple[int, int], batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        for chunk in latents.split(batch_size):
            yield {domain: self._to_uint8(self.method.decode(chunk, domain), size) for domain in self.domains}

    # ---- conversions ------------------------------------------------------------------------------------------------

    def _translate(self, images: Tensor, to: str, source: str) -> Tensor:
        height, width = images.shape[-2:]
        return self.method.translate(self._padded(images), to, source)[..., :height, :width]

    def _translate_list(
        self, images: Sequence[Image.Image], to: str, source: str, batch_size: int | None
    ) -> list[Image.Image]:
        places: dict[tuple[int, int], list[int]] = {}  # one batch for all pictures of a size
        for place, image in enumerate(images):
            places.setdefault(image.size, []).append(place)
        out: dict[int, Image.Image] = {}
        for same in places.values():
            arrays = self._translate_uint8(np.stack([_rgb(images[place]) for place in same]), to, source, batch_size)
            out |= {place: Image.fromarray(array) for place, array in zip(same, arrays, strict=True)}
        return [out[place] for place in range(len(images))]

    def _translate_uint8(self, images: np.ndarray, to: str, source: str, batch_size: int | None) -> np.ndarray:
        out = np.empty_like(images)
        height, width = images.shape[1:3]
        step = batch_size or batch_for(height, width)
        for start in range(0, len(images), step):
            chunk = _to_float(images[start : start + step]).to(self.device)
            out[start : start + step] = self._to_uint8(self._translate(chunk, to, source), (height, width))
        return out

    def _padded(self, images: Tensor) -> Tensor:
        minimum, multiple = self.method.minimum_size, self.method.size_multiple
        return pad_reflect(images, *(padded_side(side, minimum, multiple) for side in images.shape[-2:]))

    def _to_uint8(self, images: Tensor, size: tuple[int, int]) -> np.ndarray:
        return frames_to_uint8(images[..., : size[0], : size[1]]).cpu().numpy()

    def _domain(self, domain: str) -> str:
        if domain not in self.domains:
            raise UserError(f"{self.name} has the domains {', '.join(self.domains)}; got {domain!r}")
        return domain

    def _other(self, domain: str) -> str:
        return next(other for other in self.domains if other != domain)


def batch_for(height: int, width: int) -> int:
    """How many pictures of this size go through the networks at once if nobody says."""
    return min(_MOST_IN_BATCH, max(1, _BATCH_PIXELS // (height * width)))


def _to_float(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] to float32 [N, 3, H, W] in [-1, 1]."""
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32)
    return torch.from_numpy(planes).div_(127.5).sub_(1)


def _frames(frames: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    for frame in frames:
        if frame.dtype != np.uint8 or frame.shape != (*size, 3):
            raise ValueError(
                f"frames must be uint8 {[*size, 3]} as the first one, got {frame.dtype} {list(frame.shape)}"
            )
    return np.stack(frames)


def _rgb(image: Image.Image) -> np.ndarray:
    return np.array(image.convert("RGB"))
