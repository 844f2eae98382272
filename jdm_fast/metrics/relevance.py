"""How well two pictures belong together: the relevance score of the JointGAN paper (Table 2).

A two-tower ranking model (Huang et al. 2013, DSSM): one small network a domain embeds its items, and the relevance of
two items is the cosine of their embeddings. :mod:`.relevance_training` trains the towers to tell the true partner of an
item from others. The last layer of a tower takes the training data's mean out of the embeddings, so that items that
have nothing to do with each other have a cosine of 0 on average, however little was trained. DSSM has no such layer;
without it pairs of other data score higher (docs/relevance.md).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import jdm_fast
from jdm_fast._files import make_folder, write_atomically
from jdm_fast.errors import UserError

FORMAT = 1
"""Version of the file that :meth:`RelevanceModel.save` writes."""
MINIMUM_SIDE = 8
_CHUNK = 256
_RANGE = 1.01  # [-1, 1] with room for rounding and for interpolation's overshoot


class ImageTower(nn.Module):
    """Images [N, C, H, W] in [-1, 1] to embeddings [N, ``embedding``], before they are scaled to length 1.

    4x4 stride-2 convolutions with group norm and LeakyReLU 0.2 until the shorter side is 4 or less, ``width`` channels
    after the first and at most four times as many, and one linear layer over all that is left: places in the picture
    count.
    """

    def __init__(self, channels: int, size: tuple[int, int], width: int, embedding: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        (height, breadth), fan_in, fan_out = size, channels, width
        while min(height, breadth) > 4:
            layers += [
                nn.Conv2d(fan_in, fan_out, 4, stride=2, padding=1),
                nn.GroupNorm(math.gcd(max(1, fan_out // 16), fan_out), fan_out),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            fan_in, fan_out = fan_out, min(2 * fan_out, 4 * width)
            height, breadth = height // 2, breadth // 2
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(fan_in * height * breadth, embedding))
        self.centre = nn.BatchNorm1d(embedding, affine=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.centre(self.layers(images))


class VectorTower(nn.Module):
    """Vectors [N, D] to embeddings [N, ``embedding``]: two hidden layers of 256, over standardised values."""

    def __init__(self, dimensions: int, embedding: int, hidden: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(dimensions, affine=False),
            nn.Linear(dimensions, hidden),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(hidden, embedding),
        )
        self.centre = nn.BatchNorm1d(embedding, affine=False)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.centre(self.layers(vectors))


class RelevanceModel(nn.Module):
    """One tower a domain, and the cosine between what they say of two items. Begins untrained, in evaluation mode.

    Args:
        shapes: of one item of each domain by letter: (channels, height, width) of pictures, (dimensions,) of vectors.
        names: what the data set calls the domains, in the order of ``shapes``; the letters unless given.
        width: channels after the first convolution. embedding: numbers in an embedding.
        notes: plain values that are saved with the model: how it was trained, its scores on known pairs.

    Raises:
        UserError: a shape is of neither kind, or has a side under 8 pixels; or there are fewer than two domains.
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        *,
        names: Sequence[str] | None = None,
        width: int = 16,
        embedding: int = 128,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.shapes = {letter: tuple(shape) for letter, shape in shapes.items()}
        self.names = dict(zip(self.shapes, names or self.shapes, strict=True))
        self.width, self.embedding = width, embedding
        self.notes: dict[str, Any] = dict(notes or {})
        if len(self.shapes) < 2:
            raise UserError(f"relevance is between two domains, got {', '.join(self.shapes) or 'none'}")
        self.towers = nn.ModuleDict({letter: self._tower(letter) for letter in self.shapes})
        self.eval()

    def _tower(self, letter: str) -> nn.Module:
        shape = self.shapes[letter]
        if len(shape) == 1:
            return VectorTower(shape[0], self.embedding)
        if len(shape) == 3 and min(shape[1:]) >= MINIMUM_SIDE:
            return ImageTower(shape[0], (shape[1], shape[2]), self.width, self.embedding)
        raise UserError(
            f"domain {letter}: expected pictures [channels, height, width] with sides of at least {MINIMUM_SIDE}, or "
            f"vectors [dimensions]; got {list(shape)}"
        )

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def embed(self, items: Tensor, domain: str) -> Tensor:
        """Embeddings of length 1, float32 [N, ``embedding``], on the model's device; differentiable.

        Args:
            items: of the shape of the domain's, [N, C, H, W] in [-1, 1] or [N, D], of a floating dtype.
            domain: its letter.

        Raises:
            UserError: the domain is not known, or the items are of another shape, dtype or range, or not finite.
        """
        self._check(items, domain)
        return F.normalize(self.towers[domain](items.to(self.device, torch.float32)), dim=1)

    @torch.no_grad()
    def score(self, x: Tensor, y: Tensor, domains: Sequence[str] = ("x", "y")) -> Tensor:
        """The relevance of ``x[k]`` and ``y[k]``: cosines in [-1, 1], float32 [N].

        Args:
            x, y: items of two domains as :meth:`embed` takes them, as many of each. domains: which two.

        Raises:
            UserError: as :meth:`embed`, or there are more of one than of the other.
        """
        if len(x) != len(y):
            raise UserError(f"pairs are scored: expected as many items of both domains, got {len(x)} and {len(y)}")
        first, second = domains
        parts = zip(x.split(_CHUNK), y.split(_CHUNK), strict=True)
        return torch.cat([(self.embed(a, first) * self.embed(b, second)).sum(1) for a, b in parts])

    def _check(self, items: Tensor, domain: str) -> None:
        if domain not in self.shapes:
            raise UserError(f"no domain {domain!r} in this relevance model, only {self.described()}")
        shape = self.shapes[domain]
        if not items.is_floating_point() or tuple(items.shape[1:]) != shape:
            expected = ", ".join(map(str, ("N", *shape)))
            raise UserError(
                f"domain {domain} ({self.names[domain]}): this relevance model was trained on [{expected}] of a "
                f"floating dtype, got {items.dtype} {list(items.shape)}"
            )
        largest = items.detach().abs().amax().item() if items.numel() else 0.0
        if not math.isfinite(largest) or (len(shape) == 3 and largest > _RANGE):
            raise UserError(
                f"domain {domain} ({self.names[domain]}): expected finite values{', in [-1, 1]' * (len(shape) == 3)}; "
                f"the largest is {largest:g}"
            )

    def described(self) -> str:
        """``x (satellite), y (mask)``, for messages."""
        return ", ".join(f"{letter} ({name})" for letter, name in self.names.items())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write weights and settings to one safetensors file, whole or not at all, replacing one already there.

        Raises:
            UserError: the name does not end in ``.safetensors``, or the file cannot be written.
        """
        path = checked_name(path)
        settings = {
            "shapes": self.shapes,
            "names": list(self.names.values()),
            "width": self.width,
            "embedding": self.embedding,
            "notes": self.notes,
        }
        metadata = {
            "format": "pt",  # what other programs look for: names and layouts are PyTorch's
            "jdm_fast": jdm_fast.__version__,
            "relevance_format": str(FORMAT),
            "settings": json.dumps(settings),
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        content = safetensors.torch.save(tensors, metadata)
        make_folder(path.parent)
        write_atomically(path, lambda file: file.write(content))
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> RelevanceModel:
        """The model in a file of :meth:`save`. Nothing in the file is executed.

        Raises:
            UserError: the file is missing, damaged, something else or of a newer version.
        """
        path = Path(path)
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "there is no such file"
            raise UserError(f"{path}: {what}; expected a file that jdm-fast relevance train wrote")
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
            version, settings = int(metadata["relevance_format"]), json.loads(metadata["settings"])
            if version > FORMAT:
                raise UserError(f"{path}: written by jdm_fast {metadata.get('jdm_fast')}, which is newer: update")
            model = cls(settings.pop("shapes"), **settings)
            model.load_state_dict(tensors)
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
            raise UserError(
                f"{path}: damaged, or no relevance model ({type(error).__name__}); expected a file that jdm-fast "
                "relevance train wrote"
            ) from error
        return model.to(device)


def checked_name(path: str | os.PathLike[str]) -> Path:
    """The name of a file to write. UserError unless it ends in ``.safetensors``."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: the model is written as safetensors; choose a name that ends in .safetensors")
    return path


@dataclass(frozen=True)
class Relevance:
    """The relevance of some pairs: mean cosine, its standard error (None of a single pair), and number of pairs."""

    mean: float
    standard_error: float | None
    count: int

    @classmethod
    def of(cls, cosines: Tensor) -> Relevance:
        """Of the scores [N] of some pairs, N at least 1."""
        count = cosines.numel()
        if count == 0:
            raise UserError("there is no pair to score")
        values = cosines.double()
        error = values.std().item() / math.sqrt(count) if count > 1 else None
        return cls(values.mean().item(), error, count)
