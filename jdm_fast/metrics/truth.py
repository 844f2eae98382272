"""Translated pictures against the true ones.

Pictures are uint8 [N, H, W, C], C 1 or 3. Scores are collected as pictures come (:class:`TruthScores`), in memory that
does not grow with their number; the functions are for arrays that are there as a whole.

L1
    mean absolute difference over all pixels, in units of the networks' range [-1, 1] as the losses of training are: 0
    is perfect, 2 is black for white.
PSNR
    peak signal-to-noise ratio in dB of the 8-bit pictures, of each picture by itself, then the mean; a perfect picture
    counts as 100 dB.
SSIM
    structural similarity of the 8-bit pictures (data range 255, K1 0.01, K2 0.03) in a Gaussian window of 11x11 pixels
    with sigma 1.5, reflected at the edges, of each colour channel; the mean over a picture, then over the pictures. A
    picture with a side shorter than the window has none: it is left out, and where all are, SSIM is None. On a CPU it
    is computed in float32, which differs from float64 by less than 0.001, most where a picture is one bright colour.
mIoU
    where colours mean classes: see :mod:`.classes`. Counted over the whole set, not picture by picture.
land/sea
    share of pixels that show the right one of land and water by the colours of an Earth domain: see :mod:`.sea`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jdm_fast.metrics.classes import EARTH_MASK, ClassCounts, Palette
from jdm_fast.metrics.sea import land_sea_agreement, require_earth_domain, require_land

SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5  # from which torchmetrics makes a window of SSIM_WINDOW pixels
_CHUNK_PIXELS = 2**20  # taken at once: bounds memory, changes no result


@dataclass(frozen=True)
class Score:
    """``l1`` in [0, 2], ``psnr`` in dB, ``ssim`` at most 1, ``miou`` and ``land_sea`` in [0, 1].

    None where there is none: ``ssim`` of pictures smaller than its window, ``miou`` where colours mean no classes,
    ``land_sea`` where no truth of it was given.
    """

    l1: float
    psnr: float
    land_sea: float | None = None
    ssim: float | None = None
    miou: float | None = None


class TruthScores:
    """Collects the scores of pictures as they come.

    Args:
        domain: the Earth domain of the truth; gives ``land_sea`` if :meth:`add` is given ``land``, and ``mask`` has its
            palette.
        palette: the classes of the truth's colours; gives ``miou``.
    """

    def __init__(self, domain: str | None = None, palette: Palette | None = None) -> None:
        if domain is not None:
            require_earth_domain(domain)
        self.domain = domain
        self._errors, self._similarity, self._land_sea = _PixelErrors(), _Similarity(), _Mean()
        palette = EARTH_MASK if palette is None and domain == "mask" else palette
        self._classes = None if palette is None else ClassCounts(palette)

    @property
    def pictures(self) -> int:
        """How many pictures have been added."""
        return self._errors.decibels.count

    def add(self, pictures: np.ndarray | Tensor, truth: np.ndarray | Tensor, land: np.ndarray | None = None) -> None:
        """Count in some pictures of one size; those of the next call may have another.

        Args:
            pictures, truth: uint8 [N, H, W, C], arrays or tensors on any device.
            land: bool [N, H, W], where there is land; for ``land_sea``, so with a ``domain`` only, and in every call or
                in none.

        Raises:
            ValueError: something is not as said here. Nothing has been counted then.
        """
        if land is not None:
            if self.domain is None:
                raise ValueError("land is given, but no Earth domain to read land and water in")
            require_land(land, tuple(truth.shape))
        if self.pictures and (land is not None) != (self._land_sea.count > 0):
            raise ValueError("land must be given for all pictures or for none")
        if self._classes is not None and truth.shape[-1] != 3:
            raise ValueError(f"classes are shown by colours: expected 3 channels, got {list(truth.shape)}")
        for ours, true in _chunks(pictures, truth):
            self._errors.add(ours, true)
            self._similarity.add(ours, true)
            if self._classes is not None:
                self._classes.add(ours, true)
        if land is not None:
            array = pictures.cpu().numpy() if isinstance(pictures, Tensor) else pictures
            self._land_sea.add(land_sea_agreement(array, self.domain, land) * land.size, land.size)

    def result(self) -> Score:
        """The scores of everything added so far. ValueError if that is nothing."""
        if not self.pictures:
            raise ValueError("no pictures have been added: there is nothing to score")
        return Score(
            self._errors.l1(),
            self._errors.decibels.value(),
            self._land_sea.value(),
            self._similarity.value(),
            None if self._classes is None else self._classes.mean_iou(),
        )

    def iou(self) -> dict[str, float] | None:
        """Intersection over union of each class that occurs; None where colours mean no classes."""
        return None if self._classes is None else self._classes.iou()


def l1(pictures: np.ndarray | Tensor, truth: np.ndarray | Tensor) -> float:
    """Mean absolute difference in units of [-1, 1]."""
    return _pixel_errors(pictures, truth).l1()


def psnr(pictures: np.ndarray | Tensor, truth: np.ndarray | Tensor) -> float:
    """Peak signal-to-noise ratio in dB, of each picture by itself, averaged; a perfect picture counts as 100 dB."""
    return _pixel_errors(pictures, truth).decibels.value()


def ssim(pictures: np.ndarray | Tensor, truth: np.ndarray | Tensor) -> float | None:
    """Structural similarity (see the module), averaged over the pictures; None if they are smaller than its window."""
    similarity = _Similarity()
    for ours, true in _chunks(pictures, truth):
        similarity.add(ours, true)
    return similarity.value()


def score(
    pictures: np.ndarray | Tensor,
    truth: np.ndarray | Tensor,
    domain: str | None = None,
    land: np.ndarray | None = None,
    palette: Palette | None = None,
) -> Score:
    """All scores of ``pictures``; land and sea only if the Earth ``domain`` of ``truth`` and ``land`` are given."""
    scores = TruthScores(domain, palette)
    scores.add(pictures, truth, None if domain is None else land)
    return scores.result()


def score_translation(
    translated: np.ndarray,
    truth: np.ndarray,
    inputs: np.ndarray,
    train_pictures: np.ndarray,
    domain: str | None = None,
    land: np.ndarray | None = None,
    palette: Palette | None = None,
) -> dict[str, Score]:
    """The translation's score beside those of trivial answers and of the truth itself (what the colour rule can reach).

    Args:
        translated, truth, inputs: uint8 [N, H, W, 3]; ``inputs`` are the pictures that were translated.
        train_pictures: uint8 [M, H', W', 3], the target domain's training pictures; their mean colour is one trivial
            answer.
        domain, land: the Earth domain of ``truth`` and bool [N, H, W], for the land/sea agreement.
        palette: the classes of ``truth``, for mIoU; the domain ``mask`` has its own.

    Returns:
        Scores by name: ``translated``, ``input copied``, ``mean picture``, ``truth``.
    """
    colour = train_pictures.mean(axis=(0, 1, 2), dtype=np.float64)
    mean_picture = np.broadcast_to(np.rint(colour).astype(np.uint8), truth.shape)
    answers = {"translated": translated, "input copied": inputs, "mean picture": mean_picture, "truth": truth}
    return {name: score(pictures, truth, domain, land, palette) for name, pictures in answers.items()}


# ---- what is counted ------------------------------------------------------------------------------------------------


@dataclass
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, total: float, count: int) -> None:
        self.total, self.count = self.total + total, self.count + count

    def value(self) -> float | None:
        return self.total / self.count if self.count else None


class _PixelErrors:
    """L1 and PSNR. Sums of 8-bit differences are whole numbers: exact, in whatever order pictures come."""

    def __init__(self) -> None:
        self.absolute, self.values, self.decibels = 0, 0, _Mean()

    def add(self, pictures: Tensor, truth: Tensor) -> None:
        difference = pictures.to(torch.int32) - truth
        self.absolute += int(difference.abs().sum(dtype=torch.int64))
        self.values += difference.numel()
        mse = difference.square_().sum(dim=(1, 2, 3), dtype=torch.int64).cpu().double() / difference[0].numel()
        decibels = torch.log10(255.0**2 / mse.clamp(min=1e-12)).mul_(10).clamp_(max=100.0)
        self.decibels.add(float(decibels.sum()), len(decibels))

    def l1(self) -> float:
        return self.absolute / self.values / 127.5


class _Similarity(_Mean):
    """SSIM of each picture that is large enough for its window."""

    def add(self, pictures: Tensor, truth: Tensor) -> None:  # type: ignore[override]  # of pictures, not numbers
        if min(truth.shape[1:3]) < SSIM_WINDOW:
            return
        from torchmetrics.functional.image import structural_similarity_index_measure  # slow to import, rarely needed

        # In float32 convolutions a GPU may round to TF32 (10 bits), and the variances, small differences of large
        # numbers, would be lost; in float64 it does not. On a CPU float64 takes more than ten times as long.
        dtype = torch.float32 if truth.device.type == "cpu" else torch.float64
        ours, true = (value.permute(0, 3, 1, 2).to(dtype).contiguous() for value in (pictures, truth))
        with torch.autocast(truth.device.type, enabled=False):  # the caller may evaluate under autocast
            values = structural_similarity_index_measure(
                ours, true, sigma=_SSIM_SIGMA, kernel_size=SSIM_WINDOW, data_range=255.0, reduction="none"
            )
        super().add(float(values.double().sum()), len(values))


def _pixel_errors(pictures: np.ndarray | Tensor, truth: np.ndarray | Tensor) -> _PixelErrors:
    errors = _PixelErrors()
    for ours, true in _chunks(pictures, truth):
        errors.add(ours, true)
    return errors


def _chunks(pictures: np.ndarray | Tensor, truth: np.ndarray | Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both as tensors on the truth's device, some pictures at a time."""
    for name, value in (("pictures", pictures), ("truth", truth)):
        if value.dtype not in (np.uint8, torch.uint8) or value.ndim != 4 or value.shape[-1] not in (1, 3):
            raise ValueError(
                f"{name} must be uint8 [N, H, W, 3] or [N, H, W, 1], got {value.dtype} {list(value.shape)}"
            )
        if 0 in value.shape:
            raise ValueError(f"{name} must not be empty, got {list(value.shape)}")
    if tuple(pictures.shape) != tuple(truth.shape):
        raise ValueError(f"pictures must have the shape of the truth {list(truth.shape)}, got {list(pictures.shape)}")
    device = truth.device if isinstance(truth, Tensor) else torch.device("cpu")
    step = max(1, _CHUNK_PIXELS // (truth.shape[1] * truth.shape[2]))
    for start in range(0, len(truth), step):
        part = slice(start, start + step)
        yield _tensor(pictures[part]).to(device), _tensor(truth[part])


def _tensor(values: np.ndarray | Tensor) -> Tensor:
    if isinstance(values, Tensor):
        return values
    # PyTorch warns of arrays that cannot be written, such as broadcast colours and pictures just decoded
    return torch.from_numpy(values if values.flags.writeable and values.flags.c_contiguous else values.copy())
