"""A trained model as a value: translated pictures, two-domain video, tuples of all domains."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from jdm_fast import methods
from jdm_fast.errors import UserError
from jdm_fast.ops import frames_to_uint8
from jdm_fast.runs import load_run
from jdm_fast.synthesis.conditions import Size
from jdm_fast.synthesis.frame_engine import FrameEngine, even_pieces
from jdm_fast.synthesis.padding import pad_reflect, padded_side
from jdm_fast.synthesis.pictures import batch_for, rgb, to_float
from jdm_fast.synthesis.sample import TupleSampler, require_mapping
from jdm_fast.synthesis.tiled import check_tile, decode_tiled, encode_tiled, has_tiles


def load(
    path: str | os.PathLike[str],
    device: str | torch.device | None = None,
    step: int | Literal["best"] | None = None,
) -> Model:
    """The model of a run folder, on ``device`` (default: a GPU if there is one). UserError for what is no run.

    ``step`` chooses a checkpoint, see :func:`jdm_fast.runs.load_run`.
    """
    run = load_run(path, step=step)
    return Model(run.method, device, name=str(run.path), size=_trained_size(run.config))


def load_two_step(
    conditionals: str | os.PathLike[str], marginals: str | os.PathLike[str], device: str | torch.device | None = None
) -> Model:
    """The two-step baseline of a pix2pix or cyclegan run and a wgan-gp run; UserError for other runs."""
    second, first = load_run(conditionals), load_run(marginals)
    for run, kinds in ((second, (methods.Pix2Pix, methods.CycleGAN)), (first, (methods.WGANGP,))):
        if not isinstance(run.method, kinds):
            raise UserError(
                f"{run.path}: a run of {run.method_name}; the two-step baseline takes its conditionals from one of "
                "pix2pix or cyclegan and its marginals from one of wgan-gp"
            )
    sizes = [_trained_size(run.config) for run in (second, first)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{second.path} was trained on pictures of {sizes[0]}, {first.path} on {sizes[1]} (height, width): what "
            "the one draws is no input of the other"
        )
    method = methods.TwoStep(first.method, second.method)
    return Model(method, device, name=f"{second.path} with {first.path}", size=sizes[0])


class Model:
    """A method's networks in evaluation mode with the conversions around them.

    Pictures of any size are padded by reflection to what the networks take and cropped back. Nothing here records
    gradients. ``name`` is for messages. ``size`` is the height and width of the pictures it was trained on, where they
    are known: pictures that are made from nothing get it.
    """

    def __init__(
        self,
        method: nn.Module,
        device: str | torch.device | None = None,
        name: str = "model",
        size: Size | None = None,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.method: Any = method.to(self.device).eval()
        self.name = name
        self.size = size

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, ``("x", "y")``."""
        return tuple(self.method.domains)

    # ---- pictures ---------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode(self, images: Tensor, domain: str) -> Tensor:
        """Latents of ``images`` [N, 3, H, W] in [-1, 1], padded as needed. UserError if the method has none."""
        self._require("encode")
        return self.method.encode(self._padded(images.to(self.device)), self._domain(domain))

    @torch.inference_mode()
    def decode(self, latent: Tensor, domain: str) -> Tensor:
        """Images [N, 3, H, W] in [-1, 1] of ``domain``, of the padded size. UserError if the method has no latents."""
        self._require("decode")
        return self.method.decode(latent.to(self.device), self._domain(domain))

    @torch.inference_mode()
    def translate(
        self,
        images: Any,
        to: str = "y",
        source: str | None = None,
        batch_size: int | None = None,
        tile: int | None = None,
    ) -> Any:
        """Pictures of ``source`` (default: the other domain) as pictures of ``to``, of the kind and size they came in.

        Args:
            images: float tensor [N, 3, H, W] in [-1, 1]; or uint8 array [N, H, W, 3] or [H, W, 3]; or a PIL image; or a
                list of PIL images, which may differ in size.
            batch_size: pictures that go through the networks at once; default by their size.
            tile: side in pixels of the tiles that large pictures are worked on in, such as 256: less memory, more time
                and the same result up to rounding, see :mod:`jdm_fast.synthesis.tiled`. Default: the whole picture.

        Raises:
            UserError: an unknown domain, or one of vectors; a ``tile`` that is too small or for a method that is no
                auto-encoder. TypeError, ValueError: ``images`` is none of these.
        """
        self._require("translate")
        to = self._domain(to)
        source = self._other(to) if source is None else self._domain(source)
        for domain in (to, source):
            if domain in getattr(self.method, "vectors", {}):
                raise UserError(f"{self.name}: {domain} is a domain of vectors, not of pictures; use sample(given=...)")
        if tile is not None:
            self._check_tile(tile)
        if isinstance(images, Image.Image):
            return Image.fromarray(self._translate_uint8(rgb(images)[None], to, source, batch_size, tile)[0])
        if isinstance(images, Tensor):
            if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
                raise ValueError(
                    f"a tensor of images must be float [N, 3, H, W], got {images.dtype} {list(images.shape)}"
                )
            if not len(images):
                return images.clone()
            chunks = images.split(batch_size or batch_for(*images.shape[-2:]))
            return torch.cat(
                [self._translate(chunk.to(self.device, torch.float32), to, source, tile).to(images) for chunk in chunks]
            )
        if isinstance(images, np.ndarray):
            if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[-1] != 3:
                raise ValueError(
                    f"an array of images must be uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}"
                )
            batch = images if images.ndim == 4 else images[None]
            return self._translate_uint8(batch, to, source, batch_size, tile).reshape(images.shape)
        if isinstance(images, Sequence) and all(isinstance(image, Image.Image) for image in images):
            return self._translate_list(images, to, source, batch_size, tile)
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
        batch_size: int | str | None = None,
        engine: str = "auto",
        precision: str = "auto",
        tile: int | None = None,
        residual: bool = False,
    ) -> dict[str, np.ndarray]:
        """Algorithm 2 of the JWDM paper for a whole sequence: ``factor`` times the frames, in both domains.

        Args:
            frames: the key frames, uint8 [T, H, W, 3] or an iterable of uint8 [H, W, 3].
            factor: n of the paper; n - 1 frames are made between two key frames.
            source: the domain of ``frames``.
            mode: ``lerp`` (the paper's) or ``slerp``.
            batch_size: frames decoded at once; default by their size, on a GPU by what fits its memory.
            engine, precision, tile: see :class:`jdm_fast.synthesis.FrameEngine`.
            residual: give the frames of ``source`` back what decoding loses of the key frames, see
                :mod:`jdm_fast.synthesis.residual`. Key frames of that domain then come out as they are given.

        Returns:
            By domain, uint8 [(T - 1) * factor + 1, H, W, 3] in time order. Key frames too are decoded from their
            latents.
        """
        parts: dict[str, list[np.ndarray]] = {domain: [] for domain in self.domains}
        for part in self.stream_video(frames, factor, source, mode, batch_size, engine, precision, tile, residual):
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
        batch_size: int | str | None = None,
        engine: str = "auto",
        precision: str = "auto",
        tile: int | None = None,
        residual: bool = False,
    ) -> Generator[dict[str, np.ndarray], None, None]:
        """:meth:`video` in pieces: yields by domain uint8 [b, H, W, 3], b at most the batch size, in time order.

        Memory does not grow with the length. Each key frame is encoded once: it ends one pair and begins the next.
        ``frames`` is read in a thread of its own, a few frames ahead. Frames at other times, in some domains alone:
        :class:`jdm_fast.synthesis.FrameEngine`.
        """
        self._require("encode")
        if factor < 1:
            raise UserError(f"factor must be at least 1, got {factor}")
        made = FrameEngine(
            self,
            source=source,
            mode=mode,
            engine=engine,
            precision=precision,
            batch_size=batch_size,
            tile=tile,
            residual=residual,
        )
        return made.stream(even_pieces(frames, factor))

    # ---- tuples of all domains --------------------------------------------------------------------------------------

    @cached_property
    def sampler(self) -> TupleSampler:
        """What :meth:`sample` and :meth:`interpolate` draw with. UserError if the method draws no tuples."""
        return TupleSampler(self.method, self.device, self.name, self.size)

    def sample(
        self,
        n: int | None = None,
        given: Mapping[str, Any] | None = None,
        order: str | None = None,
        draws: int | None = None,
        only: str | None = None,
        size: int | Size | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        resize: bool = False,
    ) -> dict[str, np.ndarray]:
        """Tuples of all domains, or all other domains of what is given.

        The same seed gives the same tuples to rounding, whatever ``n``, ``draws``, ``batch_size`` and the device.

        Args:
            n: how many; 16 unless said. Of what is given each item gets its tuple.
            given: by domain what is observed: images as for :meth:`translate` (floats in [-1, 1]), vectors [N, D].
            order: the order in which domains are drawn, the given ones first, such as ``zyx``; by default one that was
                trained.
            draws: so many draws for each item of what is given.
            only: this domain alone, by the fewest draws, or where ``order`` has it.
            size: of the pictures, a side or (height, width); by default that of what is given, else of training.
            seed: of the noise.
            batch_size: tuples that go through the networks at once; default by the size.
            resize: given images get ``size``; without, those that do not fit are refused.

        Returns:
            By domain: images uint8 [N, H, W, 3], also grey ones, vectors float32 [N, D]. With ``draws`` the domains
            that are not given have [N, draws, …].

        Raises:
            UserError: the method draws no tuples; an unknown domain, an order or step that was not trained, a size or
                number that does not fit; values that are not finite. ValueError, TypeError: what is given is neither
                images nor vectors of the right channels and range.
        """
        return self.sampler.sample(n, require_mapping(given), order, draws, only, size, seed, batch_size, resize)

    def interpolate(
        self,
        steps: int = 8,
        mode: str = "corners",
        given: Mapping[str, Any] | None = None,
        order: str | None = None,
        rows: int = 4,
        seed: int = 0,
        size: int | Size | None = None,
        batch_size: int | None = None,
        resize: bool = False,
    ) -> dict[str, np.ndarray]:
        """Tuples whose noise lies on straight lines between draws, as in the JointGAN paper.

        ``corners`` (Figure 4): from top to bottom the noise of the domain that is drawn first goes from one draw to
        another, from left to right that of the second. ``fixed`` (Figure 3): each row keeps what is given, or else one
        sample of the first domain, while the noise of the next one goes from left to right. The noise of further
        domains stays.

        Args:
            steps: of a line, both ends among them. rows: of ``fixed`` if nothing is given.
            given: see :meth:`sample`; one item for ``corners``, one for each row of ``fixed``.
            order, seed, size, batch_size, resize: see :meth:`sample`.

        Returns:
            By domain, as :meth:`sample`: [steps, steps, …]; of ``fixed`` [rows, steps, …], and [rows, …] of what stays.

        Raises:
            As :meth:`sample`.
        """
        return self.sampler.interpolate(
            steps, mode, require_mapping(given), order, rows, seed, size, batch_size, resize
        )

    # ---- conversions ------------------------------------------------------------------------------------------------

    def _translate(self, images: Tensor, to: str, source: str, tile: int | None) -> Tensor:
        height, width = images.shape[-2:]
        padded = self._padded(images)
        if tile is None:
            made = self.method.translate(padded, to, source)
        else:
            made = decode_tiled(self.method, encode_tiled(self.method, padded, source, tile), to, tile)
        return made[..., :height, :width]

    def _translate_list(
        self, images: Sequence[Image.Image], to: str, source: str, batch_size: int | None, tile: int | None
    ) -> list[Image.Image]:
        places: dict[tuple[int, int], list[int]] = {}  # one batch for all pictures of a size
        for place, image in enumerate(images):
            places.setdefault(image.size, []).append(place)
        out: dict[int, Image.Image] = {}
        for same in places.values():
            batch = np.stack([rgb(images[place]) for place in same])
            arrays = self._translate_uint8(batch, to, source, batch_size, tile)
            out |= {place: Image.fromarray(array) for place, array in zip(same, arrays, strict=True)}
        return [out[place] for place in range(len(images))]

    def _translate_uint8(
        self, images: np.ndarray, to: str, source: str, batch_size: int | None, tile: int | None
    ) -> np.ndarray:
        out = np.empty_like(images)
        height, width = images.shape[1:3]
        step = batch_size or batch_for(height, width)
        for start in range(0, len(images), step):
            chunk = to_float(images[start : start + step], self.device)
            out[start : start + step] = self._to_uint8(self._translate(chunk, to, source, tile), (height, width))
        return out

    def _padded(self, images: Tensor) -> Tensor:
        minimum, multiple = self.method.minimum_size, self.method.size_multiple
        return pad_reflect(images, *(padded_side(side, minimum, multiple) for side in images.shape[-2:]))

    def _to_uint8(self, images: Tensor, size: tuple[int, int]) -> np.ndarray:
        return frames_to_uint8(images[..., : size[0], : size[1]]).cpu().numpy()

    def _require(self, use: str) -> None:
        """UserError unless the method can be used so."""
        if hasattr(self.method, use):
            return
        kind = type(self.method).__name__
        what = "translates no pictures" if use == "translate" else "has no latents, which encode, decode and video need"
        others = "sample draws from it" if hasattr(self.method, "sample") else "expected a run of jwdm"
        raise UserError(f"{self.name}: a model of {kind} {what}; {others}")

    def _check_tile(self, tile: int) -> None:
        """UserError unless pictures can be worked on in tiles of this side."""
        check_tile(tile)
        if not has_tiles(self.method):
            kind = type(self.method).__name__
            raise UserError(f"{self.name}: a model of {kind} cannot work in tiles, one of jwdm can; leave tile out")

    def _domain(self, domain: str) -> str:
        if domain not in self.domains:
            raise UserError(f"{self.name} has the domains {', '.join(self.domains)}; got {domain!r}")
        return domain

    def _other(self, domain: str) -> str:
        return next(other for other in self.domains if other != domain)


def _trained_size(config: Mapping[str, Any]) -> Size | None:
    """Height and width of the pictures of a training with these settings, where the settings say."""
    field = {"resize_and_crop": "crop_size", "crop": "crop_size", "resize": "load_size"}.get(
        config.get("preprocess", "")
    )
    value = config.get(field) if field else None
    if value is None:
        return None
    height, width = (value, value) if isinstance(value, int) else value
    return height, width
