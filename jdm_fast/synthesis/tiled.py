"""Large pictures through the auto-encoder in tiles, with the result of the whole picture and no seams.

Two things tie a pixel to the rest of a picture: the reach of the convolutions, and the instance norms, whose mean and
variance are those of a whole plane. So tiles that are worked on alone show seams and drift in colour, however they
overlap. Here every layer is worked on tile by tile: a tile takes the halo that its convolution reaches, and the
statistics of all tiles are put together before any of them is normalised.

Maps of the picture's own size are never stored. Where there are several layers between two stored maps, each gets its
statistics by a pass of its own, which computes the layers in front of it again: tiles of the second layer's output come
from tiles of the first one's, normalised with what the first pass found. What is stored are maps at a quarter of the
height and width, two at a time. Time grows by the passes, to about one and a half to two times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jdm_fast.errors import UserError
from jdm_fast.networks.autoencoder import SIZE_MULTIPLE, Decoder, Encoder, ResidualBlock
from jdm_fast.networks.layers import InstanceNorm

MINIMUM_TILE = 16
"""Of smaller tiles nearly all is halo."""

_ROWS = 32  # of a map in half precision that are float32 at a time

Span = tuple[int, int]
"""Rows, or columns, from the first to the one after the last."""


@torch.no_grad()
def encode_tiled(method: Any, images: Tensor, domain: str, tile: int) -> Tensor:
    """``method.encode(images, domain)`` up to rounding, in the memory of a tile and two maps of a quarter of the side.

    Args:
        method: of an auto-encoder for each domain: JWDM.
        images: [N, channels, H, W] in [-1, 1], of the networks' dtype, or any under autocast;
            worked on one by one.
        domain: of ``images``.
        tile: side of a tile in pixels of the image, at least 16. Any size goes with any tile.

    Returns:
        Latents [N, latent_channels, h, w].

    Raises:
        UserError: ``method`` has no auto-encoders, or ``tile`` or the size of the images does not fit.
        ValueError: ``images`` is not [N, channels, H, W], or ``domain`` is not one of the method's.
    """
    encoder = _network(method, "encoders", domain, Encoder)
    check_tile(tile)
    down = _stages(encoder.down_sampling)
    _check_map("images", images, down[0].layer.in_channels)
    height, width = images.shape[-2:]
    multiple, minimum = method.size_multiple, method.minimum_size
    if height % multiple or width % multiple or min(height, width) < minimum:
        raise UserError(
            f"images of height {height} and width {width} do not fit the networks: both must be multiples of "
            f"{multiple} and at least {minimum}"
        )
    # The output's tiles, at a quarter of the side, come from `tile` pixels of the input.
    made = []
    for image in images.split(1):
        feature = _through(image, down, tile, scales=(1, 2, SIZE_MULTIPLE))
        _blocks(feature, encoder.bottleneck, tile)
        made.append(_through(feature, _stages(encoder.embedding), tile // 2))
    return torch.cat(made) if len(made) != 1 else made[0]


@torch.no_grad()
def decode_tiled(method: Any, latents: Tensor, domain: str, tile: int) -> Tensor:
    """``method.decode(latents, domain)`` up to rounding, in the memory of a tile and two maps of a quarter of the side.

    Args:
        method: of an auto-encoder for each domain: JWDM.
        latents: [N, latent_channels, h, w], of the networks' dtype, or any under autocast; worked on one by one.
        domain: of the images to make.
        tile: side of a tile in pixels of the image, at least 16. Any size goes with any tile.

    Returns:
        Images [N, channels, H, W] in [-1, 1].

    Raises:
        UserError: ``method`` has no auto-encoders, or ``tile`` does not fit.
        ValueError: ``latents`` is not [N, latent_channels, h, w], or ``domain`` is not one of the method's.
    """
    decoder = _network(method, "decoders", domain, Decoder)
    check_tile(tile)
    embedding = _stages([decoder.embedding, decoder.embedding_norm])
    _check_map("latents", latents, decoder.embedding.in_channels)
    up = _stages(layer for layer in decoder.up_sampling if not isinstance(layer, nn.Tanh))
    made = []
    for latent in latents.split(1):
        feature = _through(latent, embedding, tile // 2)
        _blocks(feature, decoder.bottleneck, tile)
        made.append(_through(feature, up, tile, scales=(2, 1, 1)).tanh_())
    return torch.cat(made) if len(made) != 1 else made[0]


def check_tile(tile: int) -> None:
    """UserError if ``tile`` is no side of a tile."""
    if not isinstance(tile, int) or isinstance(tile, bool) or tile < MINIMUM_TILE:
        raise UserError(f"tile: expected a number of pixels of at least {MINIMUM_TILE}, such as 256, got {tile!r}")


def has_tiles(method: Any) -> bool:
    """Whether :func:`encode_tiled` and :func:`decode_tiled` know the networks of ``method``."""
    return all(
        hasattr(method, networks) and all(isinstance(network, kind) for network in getattr(method, networks).values())
        for networks, kind in (("encoders", Encoder), ("decoders", Decoder))
    )


def _network(method: Any, networks: str, domain: str, kind: type[nn.Module]) -> Any:
    if not has_tiles(method):
        raise UserError(
            f"tile: a model of {type(method).__name__} cannot work in tiles; expected one of jwdm. Leave tile out"
        )
    if domain not in getattr(method, networks):
        raise ValueError(f"domain: expected one of {', '.join(method.domains)}, got {domain!r}")
    return getattr(method, networks)[domain]


def _check_map(name: str, value: Tensor, channels: int) -> None:
    if value.dim() != 4 or value.shape[1] != channels or not len(value):
        raise ValueError(f"{name}: expected [N, {channels}, H, W] with N at least 1, got {list(value.shape)}")


# ---- a layer and the norm behind it ---------------------------------------------------------------------------------


@dataclass
class _Stage:
    """A convolution, either way round, and the instance norm that follows it, if one does."""

    layer: nn.Conv2d | nn.ConvTranspose2d
    norm: InstanceNorm | None = None

    def out_size(self, size: int) -> int:
        """Length of the output's axis for ``size`` of the input's. Kernels are square, as are strides."""
        kernel, stride, padding = self._shape()
        if isinstance(self.layer, nn.ConvTranspose2d):
            return (size - 1) * stride - 2 * padding + kernel + self.layer.output_padding[0]
        return (size + 2 * padding - kernel) // stride + 1

    def needed(self, span: Span, size: int) -> Span:
        """The part of an input axis of ``size`` that ``span`` of the output comes from.

        Of a convolution it begins at a multiple of its stride, so that the part's outputs lie where those of the whole
        do. An even length is what :class:`jdm_fast.networks.output_conv.OutputConv` is fast for.
        """
        first, end = span
        kernel, stride, padding = self._shape()
        if isinstance(self.layer, nn.ConvTranspose2d):
            # Output o is a sum over the inputs i with 0 <= o + padding - i * stride < kernel.
            low, high = -(-(first + padding - kernel + 1) // stride), (end - 1 + padding) // stride + 1
        else:
            low, high = first * stride - padding, (end - 1) * stride - padding + kernel
            grid = max(2, stride)
            low, high = low // grid * grid, -(-high // grid) * grid
        return max(0, low), min(size, high)

    def offset(self, first: int) -> int:
        """Where in the output the layer's own output of an input that begins at ``first`` begins."""
        stride = self.layer.stride[0]
        return first * stride if isinstance(self.layer, nn.ConvTranspose2d) else first // stride

    def _shape(self) -> tuple[int, int, int]:
        return self.layer.kernel_size[0], self.layer.stride[0], self.layer.padding[0]


def _stages(layers: Iterable[nn.Module]) -> list[_Stage]:
    """Convolutions with the norms behind them."""
    stages: list[_Stage] = []
    for layer in layers:
        if isinstance(layer, InstanceNorm):
            stages[-1].norm = layer
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            stages.append(_Stage(layer))
        else:
            raise TypeError(f"a {type(layer).__name__} cannot be worked on in tiles")
    return stages


class _Statistics:
    """Mean and variance of planes from those of their tiles, merged in float64 (Chan, Golub & LeVeque 1983).

    Sums of squares would lose the variance of planes whose mean is far from zero.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0  # summed squares of the differences from the mean

    def add(self, tile: Tensor) -> None:
        """``tile``: [1, C, h, w]."""
        value = tile if tile.dtype == torch.float64 else tile.float()
        var, mean = torch.var_mean(value, dim=(2, 3), correction=0, keepdim=True)
        count = tile.shape[2] * tile.shape[3]
        both = self.count + count
        difference = mean.double() - self.mean
        self.mean = self.mean + difference * (count / both)
        self.squares = self.squares + var.double() * count + difference**2 * (self.count * count / both)
        self.count = both

    def apply_(self, feature: Tensor, norm: InstanceNorm) -> Tensor:
        """``norm`` of ``feature`` in its own memory, a part of the planes or all of them.

        Half precision is worked on in float32, as the kernels do, some rows at a time.
        """
        if feature.dtype in (torch.float16, torch.bfloat16):
            for rows in feature.split(_ROWS, dim=2):
                rows.copy_(self._apply_(rows.float(), norm))
            return feature
        return self._apply_(feature, norm)

    def _apply_(self, feature: Tensor, norm: InstanceNorm) -> Tensor:
        scale = torch.rsqrt(self.squares / self.count + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight.double()[:, None, None]
        # The mean first: x * scale + shift would round away what is left of it.
        feature.sub_(self.mean.to(feature.dtype)).mul_(scale.to(feature.dtype))
        if norm.bias is not None:
            feature.add_(norm.bias.to(feature.dtype)[:, None, None])
        if norm.activation == "relu":
            return feature.relu_()
        if norm.activation == "leaky_relu":
            return nn.functional.leaky_relu_(feature, norm.negative_slope)
        return feature


# ---- several of them, from one stored map to the next ---------------------------------------------------------------


def _through(source: Tensor, stages: Sequence[_Stage], side: int, scales: Sequence[int] = ()) -> Tensor:
    """``stages`` one after another on the map ``source`` [1, C, H, W]; nothing is stored but the last one's output.

    Args:
        source: left as it is.
        side: of a tile.
        scales: for each stage what a tile's side in its output is divided by; 1 unless said.
    """
    sizes = [(source.shape[2], source.shape[3])]
    for stage in stages:
        sizes.append((stage.out_size(sizes[-1][0]), stage.out_size(sizes[-1][1])))
    found: list[_Statistics] = []
    out: Tensor | None = None
    for last, stage in enumerate(stages):
        statistics = _Statistics()
        is_stored = last == len(stages) - 1
        step = max(1, side // (scales[last] if scales else 1))
        for rows, columns in _grid(sizes[last + 1], step):
            tile = _tile(source, stages[: last + 1], sizes, found, rows, columns)
            if stage.norm is not None:
                statistics.add(tile)
            if is_stored:
                if out is None:
                    out = tile.new_empty(1, tile.shape[1], *sizes[-1])
                out[:, :, slice(*rows), slice(*columns)] = tile
        found.append(statistics)
    return out if stages[-1].norm is None else found[-1].apply_(out, stages[-1].norm)


def _grid(size: tuple[int, int], side: int) -> Iterator[tuple[Span, Span]]:
    """Rows and columns of tiles that cover ``size`` without overlap."""
    for top in range(0, size[0], side):
        for left in range(0, size[1], side):
            yield (top, min(top + side, size[0])), (left, min(left + side, size[1]))


def _tile(
    source: Tensor,
    stages: Sequence[_Stage],
    sizes: Sequence[tuple[int, int]],
    found: Sequence[_Statistics],
    rows: Span,
    columns: Span,
) -> Tensor:
    """Rows and columns of the last stage's output, before its norm; ``found`` are the statistics of those before it."""
    parts = [(rows, columns)]  # of each map on the way from the source
    for stage, (height, width) in zip(reversed(stages), reversed(sizes[: len(stages)]), strict=True):
        rows, columns = parts[0]
        parts.insert(0, (stage.needed(rows, height), stage.needed(columns, width)))
    (top, bottom), (left, right) = parts[0]
    feature = source[:, :, top:bottom, left:right].contiguous()
    for index, stage in enumerate(stages):
        (top, _), (left, _) = parts[index]
        (first_row, end_row), (first_column, end_column) = parts[index + 1]
        y, x = stage.offset(top), stage.offset(left)
        # At an inner edge the layer pads with zeros where the picture goes on: those outputs are cut off here.
        feature = stage.layer(feature)[:, :, first_row - y : end_row - y, first_column - x : end_column - x]
        if index < len(found):
            feature = found[index].apply_(feature.contiguous(), stage.norm)
    return feature


def _blocks(feature: Tensor, blocks: Iterable[ResidualBlock], tile: int) -> None:
    """Residual blocks on ``feature``, in its own memory.

    A tile's side is half, not a quarter, of that in the image: maps have four times the channels here.
    """
    for block in blocks:
        layers = [block.conv1, block.norm1, block.conv2, block.norm2]
        feature.add_(_through(feature, _stages(layer for layer in layers if layer is not None), tile // 2))
