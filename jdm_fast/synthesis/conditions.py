"""What tuples look like, and whether what somebody gives of them fits: kinds, sizes, channels, ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from jdm_fast.errors import UserError
from jdm_fast.synthesis.pictures import rgb, to_float

Size = tuple[int, int]
_SLACK = 1e-3  # by which given floats may leave [-1, 1]
_LUMA = (0.299, 0.587, 0.114)  # of BT.601, as the loader makes grey


class TupleForm:
    """The domains of a method that draws tuples, and the checks of what is given of them.

    Args:
        method: JointGAN, or the two-step baseline.
        name: for messages.
        size: height and width of the pictures it was trained on, where known.

    Attributes:
        domains: their names. vectors: sizes of those that are vectors. image_domains: the others. channels: of those.
        size: as given, or the smallest.
    """

    def __init__(self, method: Any, name: str, size: Size | None = None) -> None:
        self.name = name
        self.domains: tuple[str, ...] = tuple(method.domains)
        self.vectors: dict[str, int] = dict(method.vectors)
        self.image_domains: tuple[str, ...] = tuple(method.image_domains)
        networks = method if hasattr(method, "config") else method.marginals  # of the two-step baseline
        self.channels: int = networks.config.channels
        self.minimum: int = method.minimum_size
        self.multiple: int = method.size_multiple
        self.size = size or (self.minimum, self.minimum)

    def require_known(self, domain: str) -> str:
        """``domain``, or UserError if there is none of that name."""
        if domain not in self.domains:
            raise UserError(f"{self.name} has the domains {', '.join(self.domains)}; got {domain!r}")
        return domain

    def require_size(self, height: int, width: int, what: str, advice: str = "") -> Size:
        """The size, or UserError if the networks cannot make pictures of it; ``what`` begins the message."""
        if min(height, width) < self.minimum or height % self.multiple or width % self.multiple:
            raise UserError(
                f"{what} of height {height} and width {width}: expected {_text(self.size)} as in training, or other "
                f"multiples of {self.multiple} of at least {self.minimum}{advice}"
            )
        return height, width

    def conditions(
        self, given: Mapping[str, Any], size: int | Size | None = None, resize: bool = False
    ) -> dict[str, Tensor]:
        """What is given, as the networks take it: float32 on the CPU, images [N, channels, H, W] and vectors [N, D].

        Args:
            given: by domain, what :meth:`jdm_fast.synthesis.Model.sample` takes.
            size: the size that images must have, or get. resize: give them that size, or that of training.

        Raises:
            UserError: an unknown domain, images of a size that does not fit, different numbers of items.
            ValueError, TypeError: items that are no images or vectors, or values out of range.
        """
        target = None if size is None else self.target_size(size)
        if resize:
            target = target or self.size
        found: dict[str, Tensor] = {}
        for domain, values in given.items():
            if self.require_known(domain) in self.vectors:
                found[domain] = self._vectors(values, domain)
            else:
                images = [_fit(image, target) if resize else image for image in self._images(values, domain)]
                found[domain] = self._stacked(images, domain, target)
        counts = {domain: len(values) for domain, values in found.items()}
        if len(set(counts.values())) > 1 or 0 in counts.values():
            text = ", ".join(f"{count} of {domain}" for domain, count in counts.items())
            raise UserError(f"given: expected as many items of each domain, one at least, got {text}")
        sizes = {domain: tuple(v.shape[-2:]) for domain, v in found.items() if domain not in self.vectors}
        if len(set(sizes.values())) > 1:
            text = ", ".join(f"{_text(of)} of {domain}" for domain, of in sizes.items())
            raise UserError(f"given: images of all domains must have one size, got {text}; resize them (--resize)")
        return {domain: found[domain] for domain in self.domains if domain in found}

    def target_size(self, size: int | Size | None) -> Size:
        """Height and width of pictures to make; by default those of training."""
        if size is None:
            return self.size
        height, width = (size, size) if isinstance(size, int) else size
        return self.require_size(height, width, "size: pictures")

    def image_size(self, given: Mapping[str, Tensor], size: int | Size | None) -> Size:
        """Height and width of the pictures to make: those of what is given, else ``size`` or the training's."""
        sizes = [tuple(value.shape[-2:]) for domain, value in given.items() if domain not in self.vectors]
        return sizes[0] if sizes else self.target_size(size)  # type: ignore[return-value]

    def _images(self, images: Any, domain: str) -> Sequence[Tensor]:
        """Pictures of any kind as float32 [n, channels, H, W], those that belong together in one."""
        what = f"given {domain}"
        if isinstance(images, Tensor):
            if images.dim() != 4 or images.shape[1] not in (3, self.channels) or not images.is_floating_point():
                raise ValueError(
                    f"{what}: a tensor of images must be float [N, {self.channels}, H, W], got {images.dtype} "
                    f"{list(images.shape)}"
                )
            values = images.detach().to("cpu", torch.float32)
            if values.numel() and not values.abs().max() <= 1 + _SLACK:  # NaN is not either
                raise ValueError(
                    f"{what}: images must be in [-1, 1], got values from {values.min():.6g} to {values.max():.6g}"
                )
            return [self._in_channels(values)]
        if isinstance(images, np.ndarray):
            if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[-1] != 3:
                raise ValueError(
                    f"{what}: an array of images must be uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}"
                )
            return [self._in_channels(to_float(images if images.ndim == 4 else images[None]))]
        if isinstance(images, Image.Image):
            images = [images]
        if isinstance(images, Sequence) and all(isinstance(image, Image.Image) for image in images):
            return [self._in_channels(to_float(rgb(image)[None])) for image in images]
        raise TypeError(
            f"{what}: images must be a tensor, a uint8 array, a PIL image or a list of PIL images, got {type(images)}"
        )

    def _in_channels(self, images: Tensor) -> Tensor:
        if images.shape[1] == 3 and self.channels == 1:
            return (images * images.new_tensor(_LUMA).reshape(1, 3, 1, 1)).sum(dim=1, keepdim=True)
        return images

    def _stacked(self, images: Sequence[Tensor], domain: str, target: Size | None) -> Tensor:
        sizes = sorted({tuple(image.shape[-2:]) for image in images})
        for height, width in sizes:
            self.require_size(height, width, f"given {domain}: images", "; resize them (resize=True, --resize)")
            if target not in (None, (height, width)):
                raise UserError(
                    f"given {domain}: images of height {height} and width {width}, but size is {_text(target)}; resize "
                    "them (resize=True, --resize)"
                )
        if len(sizes) > 1:
            raise UserError(
                f"given {domain}: expected images of one size, got {', '.join(map(_text, sizes))}; resize them "
                "(resize=True, --resize)"
            )
        return torch.cat(list(images)) if images else torch.empty(0, self.channels, *self.size)

    def _vectors(self, values: Any, domain: str) -> Tensor:
        vectors = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
        size = self.vectors[domain]
        if vectors.dim() != 2 or vectors.shape[1] != size or not vectors.is_floating_point():
            raise UserError(
                f"given {domain}: vectors must be float [N, {size}], got {vectors.dtype} {list(vectors.shape)}"
            )
        vectors = vectors.detach().to("cpu", torch.float32)
        if not torch.isfinite(vectors).all():
            raise UserError(f"given {domain}: there are values that are infinite or not a number")
        return vectors


def _fit(images: Tensor, size: Size | None) -> Tensor:
    """Resized, if need be: bicubic, antialiased when it shrinks."""
    if size is None or tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(-1, 1)


def _text(size: tuple[int, ...] | None) -> str:
    return "x".join(map(str, size or ()))
