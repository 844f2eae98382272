"""The two functions that make frames, from tensors to tensors, and what carries them out: eager, compiled, or a graph.

``keys`` makes of key frames what in-between frames are made of; ``frames`` makes those. Both are done in one piece on
the device, so that compiling or capturing them leaves nothing out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, get_args

import torch
from torch import Tensor

from jdm_fast import _captures
from jdm_fast.errors import UserError
from jdm_fast.ops import frames_to_uint8, reference
from jdm_fast.synthesis.residual import add_residual, key_residual
from jdm_fast.synthesis.tiled import decode_tiled, encode_tiled
from jdm_fast.training.engines import EngineName
from jdm_fast.training.precision import Precision

Maps = tuple[Tensor, ...]
Function = Callable[..., Maps]


class FrameFunctions:
    """The functions of one method, source and list of domains.

    Algorithm 2 interpolates latents and decodes each frame. A decoder's first layer is linear, so with ``lerp`` it is
    done for key frames alone and the maps that it gives are interpolated (docs/design.md, the kernels). Other ways
    (``slerp``, tiles, methods without such a layer) interpolate latents.

    Args:
        method: with ``encode`` and ``decode``, on its device.
        source: the domain of the key frames. domains: of the frames that are made.
        mode: ``lerp`` or ``slerp``.
        precision: of the networks.
        tile: side of the tiles that pictures are encoded and decoded in; None is whole.
        residual: frames of ``source``, which must be among the domains, get what decoding loses of the key frames.
    """

    def __init__(
        self,
        method: Any,
        *,
        source: str,
        domains: Sequence[str],
        mode: str,
        precision: Precision,
        tile: int | None,
        device: torch.device,
        residual: bool = False,
    ) -> None:
        self._residual = residual
        self._method, self._source, self._domains = method, source, tuple(domains)
        self._mode, self._precision, self._tile, self._device = mode, precision, tile, device
        self.expands = mode == "lerp" and tile is None and hasattr(method, "decode_between")

    def keys(self, images: Tensor) -> Maps:
        """Key frames [K, 3, H, W] in [-1, 1] to one map a domain, or to latents alone, [K, …]; with ``residual`` one
        more, [K, 3, H, W], of what decoding them loses."""
        with self._precision.autocast(self._device):
            if self._tile is not None:
                maps: Maps = (encode_tiled(self._method, images, self._source, self._tile),)
            else:
                latents = self._method.encode(images, self._source)
                maps = (latents,)
                if self.expands:
                    maps = tuple(self._method.expand(latents, domain) for domain in self._domains)
            if not self._residual:
                return maps
            positions = torch.arange(len(images), dtype=torch.float64, device=images.device)
            decoded = self._images(positions, maps, (self._source,))[0]  # as ``frames`` does it, to the same rounding
        return (*maps, key_residual(images, decoded))

    def frames(self, size: tuple[int, int], positions: Tensor, *maps: Tensor) -> Maps:
        """The frames at ``positions`` float64 [F], in [0, T - 1], between the T key frames of ``maps``: uint8
        [F, height, width, 3] by domain, cropped to ``size``."""
        with self._precision.autocast(self._device):
            images = self._images(positions, maps, self._domains)
        if self._residual:
            place = self._domains.index(self._source)
            images[place] = add_residual(images[place], maps[-1], positions)
        return tuple(frames_to_uint8(made[..., : size[0], : size[1]]) for made in images)

    def _images(self, positions: Tensor, maps: Maps, domains: Sequence[str]) -> list[Tensor]:
        """Pictures in [-1, 1] of some of the domains, of the padded size."""
        if self.expands:
            places = [self._domains.index(domain) for domain in domains]
            return [
                self._method.decode_between(maps[place], positions, domain)
                for place, domain in zip(places, domains, strict=True)
            ]
        latents = between(maps[0], positions, self._mode)
        return [self._decode(latents, domain) for domain in domains]

    def _decode(self, latents: Tensor, domain: str) -> Tensor:
        if self._tile is None:
            return self._method.decode(latents, domain)
        return decode_tiled(self._method, latents, domain, self._tile)


def between(latents: Tensor, positions: Tensor, mode: str) -> Tensor:
    """Latents [F, …] at ``positions`` float64 [F] on the path through ``latents`` [T, …]: straight lines (``lerp``,
    Algorithm 2), or arcs between the flattened latents (``slerp``, straight where the sine of the angle is < 1e-4)."""
    left, right = reference.key_neighbours(positions, len(latents))
    ratio = (positions - left).to(torch.float32)
    a, b = latents[left], latents[right]
    begin, end = 1 - ratio, ratio
    if mode == "slerp":
        flat_a, flat_b = a.flatten(1).double(), b.flatten(1).double()
        norms = (flat_a.norm(dim=1) * flat_b.norm(dim=1)).clamp_min(torch.finfo(torch.float64).tiny)
        angle = ((flat_a * flat_b).sum(1) / norms).clamp(-1, 1).acos()
        sine, share = angle.sin(), positions - left
        straight = sine < 1e-4
        safe = torch.where(straight, torch.ones_like(sine), sine)
        begin = torch.where(straight, 1 - share, ((1 - share) * angle).sin() / safe).to(torch.float32)
        end = torch.where(straight, share, (share * angle).sin() / safe).to(torch.float32)
    shape = (-1,) + (1,) * (latents.dim() - 1)
    return (begin.view(shape) * a + end.view(shape) * b).to(latents.dtype)


# ---- engines --------------------------------------------------------------------------------------------------------


class GraphFunction:
    """``function``, captured into a CUDA graph when it is first called, and replayed from then on.

    Takes and gives tensors of the same shapes in every call; results are valid until the next call.
    """

    def __init__(self, function: Function, stream: torch.cuda.Stream) -> None:
        self._function, self._stream = function, stream
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: Maps = ()

    def __call__(self, *tensors: Tensor) -> Maps:
        if self._graph is None:
            self._capture(tensors)
        assert self._graph is not None
        for fixed, tensor in zip(self._inputs, tensors, strict=True):
            fixed.copy_(tensor)
        self._graph.replay()
        return self._outputs

    def _capture(self, tensors: Sequence[Tensor]) -> None:
        self._inputs = [tensor.clone() for tensor in tensors]
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(2):  # libraries choose their algorithms, outside of the capture
                self._function(*self._inputs)
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with _captures.alone, torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._outputs = self._function(*self._inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise UserError(
                f"engine: the frames could not be captured into a CUDA graph: {error}. Use engine=compile or eager"
            ) from error
        self._graph = graph


def current(device: torch.device) -> AbstractContextManager[Any]:
    """Context in which a GPU is the thread's own: a thread begins with the first one, whichever its maker has."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def choose_engine(name: str, device: torch.device, tile: int | None) -> str:
    """``auto`` as what it stands for: ``graph`` on a GPU, ``eager`` on a CPU and with tiles, whose loops wait for the
    host.

    Raises:
        UserError: no such engine; graph without a GPU; graph or compile with tiles.
    """
    if name not in get_args(EngineName):
        raise UserError(f"engine: expected one of {', '.join(get_args(EngineName))}, got {name!r}")
    if name == "auto":
        return "graph" if device.type == "cuda" and tile is None else "eager"
    if name == "graph" and device.type != "cuda":
        raise UserError("engine: graph is of CUDA GPUs; use engine=eager or compile on a CPU")
    if tile is not None and name != "eager":
        raise UserError(f"engine: {name} does not go with tiles, use eager or auto")
    return name


def carried_out(function: Function, engine: str, device: torch.device) -> Function:
    """``function`` as the engine does it."""
    if engine == "graph":
        return GraphFunction(function, torch.cuda.Stream(device))
    if engine == "compile":
        return torch.compile(function, dynamic=False)
    return function
