"""The Fréchet distance between two sets of pictures in the features of a network (FID, in those of Inception v3).

The means and covariances of the features are compared as those of two normal distributions. With fewer pictures than
features the covariances have gaps and the distance is far from that of many pictures: compare distances of equally
many pictures only, and give the number.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.image.fid import FrechetInceptionDistance

from jdm_fast.data.real_files import inception_file
from jdm_fast.errors import UserError, first_line

_SIDE = 299


class InceptionFeatures(nn.Module):
    """Pictures to the features of a TorchScript network, by default the real Inception v3 of FID (2048 features).

    Fits torchmetrics' ``FrechetInceptionDistance(feature=...)`` too.

    Args:
        path: a TorchScript file whose module maps (pixels - 128) / 128, float32 [N, 3, 299, 299], to [N, D]; without
            one, that of ``jdm-fast data fetch inception``, fetched if need be. A file of this kind holds code that
            TorchScript interprets: use files you trust.
        device: where to compute.
        batch_size: pictures that go through the network at once.

    Attributes:
        num_features: D.

    Raises:
        UserError: the file is missing, damaged, or another kind of network; or it cannot be fetched.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, device: str | torch.device = "cpu", batch_size: int = 16
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"batch_size: expected at least 1, got {batch_size}")
        self.device, self.batch_size = torch.device(device), batch_size
        path = inception_file() if path is None else Path(path)
        if not path.is_file():
            raise UserError(f"{path}: there is no such file; expected a network as TorchScript")
        try:
            with (
                warnings.catch_warnings()
            ):  # PyTorch calls TorchScript deprecated; the network of FID comes as nothing else
                warnings.filterwarnings("ignore", "`torch.jit.load`", DeprecationWarning)
                self.network = torch.jit.load(path, map_location=self.device).eval()
            probe = self._features(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
        except RuntimeError as error:
            raise UserError(
                f"{path}: not a TorchScript network that takes [N, 3, {_SIDE}, {_SIDE}], or damaged "
                f"({first_line(error)})"
            ) from error
        if not isinstance(probe, Tensor) or probe.ndim != 2:
            raise UserError(f"{path}: this network gives no features [N, D]; expected Inception without its last layer")
        self.num_features = probe.shape[1]

    @torch.no_grad()
    def forward(self, images: Tensor, on_progress: Callable[[int, int | None], None] | None = None) -> Tensor:
        """Features of pictures, float32 [N, D] on the device of the network.

        Args:
            images: [N, C, H, W], C 3 or 1 (grey), any size: uint8, or floating in [-1, 1], which is rounded to 8 bits
                first, so that pictures count the same before and after they are saved.
            on_progress: called with the number of pictures done and of all.

        Raises:
            UserError: another shape, dtype or range.
        """
        if (
            images.ndim != 4
            or images.shape[1] not in (1, 3)
            or not (images.dtype == torch.uint8 or images.is_floating_point())
        ):
            raise UserError(
                f"images: expected [N, 3, H, W] or [N, 1, H, W], uint8 or floating, got {images.dtype} "
                f"{list(images.shape)}"
            )
        parts = [torch.empty(0, self.num_features, device=self.device)]
        for part in images.split(self.batch_size):
            if len(part):
                parts.append(self._features(part).float())
            if on_progress is not None:
                on_progress(sum(map(len, parts)), len(images))
        return torch.cat(parts)

    def _features(self, images: Tensor) -> Tensor:
        pixels = images.to(self.device, torch.float32)
        if images.dtype != torch.uint8:
            if not (pixels.abs() <= 1.01).all():  # nor if a value is not a number
                raise UserError("images: expected values in [-1, 1] (or uint8); there are others")
            pixels = (pixels * 127.5 + 127.5).round().clamp(0, 255)
        pixels = F.interpolate(pixels, (_SIDE, _SIDE), mode="bilinear", align_corners=False, antialias=True)
        inputs = ((pixels - 128) / 128).expand(-1, 3, -1, -1)
        with torch.no_grad():  # channels last: a fifth faster on the CPU it was measured on
            return self.network(inputs.contiguous(memory_format=torch.channels_last))


class _AsTheyAre(nn.Module):
    """Features in place of a network that makes them."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real_features: Tensor, fake_features: Tensor) -> float:
    """The squared Fréchet distance |m - m'|² + tr(C + C' - 2 (C C')^½) of two sets of features; torchmetrics' FID.

    Args:
        real_features, fake_features: [N, D] and [M, D], N and M at least 2; the order does not matter.

    Returns:
        The distance, 0 or more, computed in float64.

    Raises:
        UserError: a set has fewer than two rows, other shapes, or values that are not finite.
    """
    sets = {"real_features": real_features, "fake_features": fake_features}
    for name, features in sets.items():
        if features.ndim != 2 or len(features) < 2 or features.shape[1] != real_features.shape[1]:
            raise UserError(
                f"{name}: expected [N, D] with N of 2 or more and D the same in both sets, got "
                f"{list(real_features.shape)} and {list(fake_features.shape)}"
            )
        if not torch.isfinite(features).all():
            raise UserError(f"{name}: there are values that are infinite or not a number")
    distance = FrechetInceptionDistance(feature=_AsTheyAre(real_features.shape[1])).set_dtype(torch.float64)
    distance.update(real_features.detach().cpu().double(), real=True)
    distance.update(fake_features.detach().cpu().double(), real=False)
    return max(0.0, distance.compute().item())  # of equal sets, rounding may leave it a little under 0
