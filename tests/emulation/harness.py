"""The CUDA kernels on the emulated GPU, called with PyTorch tensors.

:class:`EmulatedGpu` calls the launchers the way the bindings do, on memory that is
hard on kernels: outputs and workspace hold NaN before the call and lie between sentinels that must survive it.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from jdm_fast.ops.reference import accumulation_dtype
from tests.emulation.building import ROOT
from tests.emulation.memory import Guarded, from_memory_order, in_memory_order, pointer
from tests.emulation.structs import (
    ACTIVATIONS,
    DTYPES,
    BetweenArgs,
    BetweenShape,
    CriticArgs,
    CriticBackwardArgs,
    CriticShape,
    FramesShape,
    InterpolateShape,
    NormBackward,
    NormForward,
    norm_shape,
)

#: Order of blocks and threads: number in C++, seed.
ORDERS = {"forward": (0, 0), "reverse": (1, 0), "random": (2, 7)}
STREAM = 12345  # a stream is only handed through: any number will do


def kernels_of(library: Path, headers: Sequence[str]) -> set[str]:
    """Every kernel that ``library`` holds and that is defined in ``csrc/kernels/<header>``, with template arguments."""
    names: set[str] = set()
    for header in headers:
        source = (ROOT / "csrc" / "kernels" / header).read_text()
        names |= set(re.findall(r"__global__ void(?: __launch_bounds__\((?:[^()]|\([^()]*\))*\))?\s+(\w+)\(", source))
    assert names, f"no kernels found in {headers}"
    symbols = subprocess.run(["nm", "-C", library], capture_output=True, text=True, check=True).stdout
    found = re.findall(rf"void ([\w:() ]*\b(?:{'|'.join(sorted(names))})<[^(]*>)\(", symbols)
    return {plain_name(kernel) for kernel in found}


def plain_name(kernel: str) -> str:
    """Without namespaces: ``planes_forward<float, 4, false>``."""
    for namespace in ("jdm_fast::", "cuda::", "(anonymous namespace)::", "{anonymous}::"):
        kernel = kernel.replace(namespace, "")
    return kernel


class EmulatedGpu:
    """The launchers of a library that :func:`tests.emulation.building.build` made."""

    def __init__(self, library: Path) -> None:
        self.path = library
        self.library = ctypes.CDLL(str(library))
        for name in (
            "instance_norm",
            "interpolate_instance_norm",
            "slerp_weights",
            "slerp_backward",
            "softmax_critic_loss",
        ):
            getattr(self.library, f"emulation_{name}_workspace").restype = ctypes.c_int64
        self.library.emulation_take_launches.restype = ctypes.c_char_p
        #: Kernels of the last call with their template arguments, e.g. ``planes_forward<float, 4, false>``.
        self.kernels: list[str] = []
        #: Blocks of each of them.
        self.grids: list[int] = []
        #: Set to count accesses of the next instance norm: how often each element was read or written, by the name of
        #: the tensor, in memory order ([N, H, W, C] in channels_last).
        self.touched: dict[str, Tensor] | None = None

    def set_order(self, order: str) -> None:
        number, seed = ORDERS[order]
        self.library.emulation_set_order(number, ctypes.c_uint64(seed))

    def set_compute_capability(self, capability: int) -> None:
        """Ten times the version, of the device that the launchers see."""
        self.library.emulation_set_compute_capability(capability)

    def _call(self, name: str, *args: object) -> None:
        self.library.emulation_take_launches()
        function = getattr(self.library, f"emulation_{name}")
        function.restype = ctypes.c_char_p
        pointers = [ctypes.c_void_p(arg) if arg is None or isinstance(arg, int) else arg for arg in args]
        message = function(*pointers, ctypes.c_void_p(STREAM))
        if message is not None:
            raise RuntimeError(message.decode())
        self.kernels, self.grids = [], []
        for line in self.library.emulation_take_launches().decode().splitlines():
            stream, grid, kernel = line.split(" ", 2)
            assert int(stream) == STREAM, f"{kernel} was launched on stream {stream}, not on the caller's"
            self.kernels.append(plain_name(kernel))
            self.grids.append(int(grid))

    @contextmanager
    def _watching(self, **tensors: Guarded | None) -> Iterator[None]:
        """Fills :attr:`touched`, if it is set, with the accesses to ``tensors`` in the meantime."""
        given = {name: value for name, value in tensors.items() if value is not None and self.touched is not None}
        counts = {name: torch.zeros(value.tensor.nbytes, dtype=torch.int32) for name, value in given.items()}
        for name, value in given.items():
            bytes_and_counts = ctypes.c_int64(value.tensor.nbytes), ctypes.c_void_p(counts[name].data_ptr())
            self.library.emulation_watch(ctypes.c_void_p(value.pointer), *bytes_and_counts)
        try:
            yield
        finally:
            self.library.emulation_watch_nothing()
        for name, value in given.items():
            by_element = counts[name].view(*value.tensor.shape, value.tensor.itemsize)
            assert bool((by_element == by_element[..., :1]).all()), f"an access cut an element of {name} in two"
            self.touched[name] = by_element[..., 0]

    def _workspace(self, name: str, *args: object) -> Guarded:
        return Guarded((getattr(self.library, f"emulation_{name}_workspace")(*args),), torch.uint8)

    def instance_norm(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        *,
        activation: str = "none",
        negative_slope: float = 0.01,
        eps: float = 1e-5,
        channels_last: bool = False,
        multiprocessors: int = 4,
        capability: int = 80,
        offsets: Sequence[int] = (0, 0, 0),
        parameter_offset: int = 0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(y, mean, rstd) for x [N, C, H, W].

        ``offsets``: elements by which x, y and residual miss a 256-byte boundary; ``parameter_offset``: weight, bias.
        """
        self.set_compute_capability(capability)
        shape = norm_shape(x, (weight, bias), channels_last, activation, negative_slope)
        n, c = x.shape[:2]
        a = accumulation_dtype(x.dtype)
        stored = Guarded.of(in_memory_order(x, channels_last), offsets[0])
        y = Guarded(stored.tensor.shape, x.dtype, offsets[1])
        extra = None if residual is None else Guarded.of(in_memory_order(residual, channels_last), offsets[2])
        mean, rstd = Guarded((n, c), a), Guarded((n, c), a)
        parameters = [None if p is None else Guarded.of(p.to(a), parameter_offset) for p in (weight, bias)]
        workspace = self._workspace("instance_norm", ctypes.byref(shape), False, multiprocessors)
        args = NormForward(
            stored.pointer, pointer(extra), *map(pointer, parameters), y.pointer, mean.pointer, rstd.pointer, eps
        )
        with self._watching(x=stored, residual=extra, y=y):
            self._call(
                "instance_norm_forward",
                ctypes.byref(shape),
                ctypes.byref(args),
                workspace.pointer,
                ctypes.c_int(multiprocessors),
            )
        for guarded in (y, mean, rstd, workspace):
            guarded.check()
        return from_memory_order(y.tensor, channels_last), mean.tensor, rstd.tensor

    def instance_norm_backward(
        self,
        dy: Tensor,
        x: Tensor,
        mean: Tensor,
        rstd: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        activation: str = "none",
        negative_slope: float = 0.01,
        channels_last: bool = False,
        multiprocessors: int = 4,
        capability: int = 80,
        offsets: Sequence[int] = (0, 0, 0),
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(dx, d_weight [N, C], d_bias [N, C]). ``offsets``: of x, dy and dx."""
        self.set_compute_capability(capability)
        shape = norm_shape(x, (weight, bias), channels_last, activation, negative_slope)
        n, c = x.shape[:2]
        a = accumulation_dtype(x.dtype)
        stored = Guarded.of(in_memory_order(x, channels_last), offsets[0])
        gradient = Guarded.of(in_memory_order(dy, channels_last), offsets[1])
        dx = Guarded(stored.tensor.shape, x.dtype, offsets[2])
        d_weight, d_bias = Guarded((n, c), a), Guarded((n, c), a)
        inputs = [None if p is None else Guarded.of(p.to(a)) for p in (mean, rstd, weight, bias)]
        workspace = self._workspace("instance_norm", ctypes.byref(shape), True, multiprocessors)
        args = NormBackward(
            gradient.pointer, stored.pointer, *map(pointer, inputs), dx.pointer, d_weight.pointer, d_bias.pointer
        )
        with self._watching(x=stored, dy=gradient, dx=dx):
            self._call(
                "instance_norm_backward",
                ctypes.byref(shape),
                ctypes.byref(args),
                workspace.pointer,
                ctypes.c_int(multiprocessors),
            )
        for guarded in (dx, d_weight, d_bias, workspace):
            guarded.check()
        return from_memory_order(dx.tensor, channels_last), d_weight.tensor, d_bias.tensor

    def sum_samples(self, x: Tensor, d_weight: Tensor, d_bias: Tensor) -> tuple[Tensor, Tensor]:
        """[C] and [C] of d_weight and d_bias [N, C], as :meth:`instance_norm_backward` gives them for x."""
        shape = norm_shape(x, (None, None), False, "none", 0.0)
        each = [Guarded.of(tensor) for tensor in (d_weight, d_bias)]
        sums = [Guarded(tensor.shape[1:], tensor.dtype) for tensor in (d_weight, d_bias)]
        self._call("instance_norm_sum_samples", ctypes.byref(shape), *(guarded.pointer for guarded in (*each, *sums)))
        for guarded in sums:
            guarded.check()
        return sums[0].tensor, sums[1].tensor

    def interpolate_instance_norm(
        self,
        u: Tensor,
        positions: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        activation: str = "none",
        negative_slope: float = 0.2,
        eps: float = 1e-5,
        channels_last: bool = False,
        multiprocessors: int = 4,
        offset: int = 0,
    ) -> Tensor:
        """u [T, C, h, w], positions float64 [F] -> [F, C, h, w]. ``offset`` of u and y, in elements."""
        stored, places = Guarded.of(in_memory_order(u, channels_last), offset), Guarded.of(positions)
        y = Guarded((len(positions), *stored.tensor.shape[1:]), u.dtype, offset)
        types = DTYPES.index(u.dtype), ACTIVATIONS.index(activation)
        keys, channels, h, w = u.shape
        shape = BetweenShape(keys, len(positions), channels, h * w, channels_last, *types, negative_slope, eps)
        a = accumulation_dtype(u.dtype)
        parameters = [None if p is None else Guarded.of(p.to(a)) for p in (weight, bias)]
        workspace = self._workspace("interpolate_instance_norm", ctypes.byref(shape), multiprocessors)
        args = BetweenArgs(stored.pointer, places.pointer, *map(pointer, parameters), y.pointer)
        with self._watching(u=stored, y=y):
            self._call(
                "interpolate_instance_norm",
                ctypes.byref(shape),
                ctypes.byref(args),
                workspace.pointer,
                ctypes.c_int(multiprocessors),
            )
        for guarded in (y, workspace):
            guarded.check()
        return from_memory_order(y.tensor, channels_last)

    def interpolate_latents(self, z: Tensor, weights: Tensor | None, n: int, offset: int = 0) -> Tensor:
        """z [B, T, E], weights [B, T-1, n + 1, 4] or None for lerp -> [B, (T-1)*n + 1, E]."""
        batch, keys, elements = z.shape
        shape = InterpolateShape(batch, keys, n, elements, DTYPES.index(z.dtype))
        y = Guarded((batch, (keys - 1) * n + 1, elements), z.dtype, offset)
        inputs = Guarded.of(z, offset), None if weights is None else Guarded.of(weights)
        with self._watching(z=inputs[0], y=y):
            self._call("interpolate_latents_forward", ctypes.byref(shape), *map(pointer, inputs), y.pointer)
        y.check()
        return y.tensor

    def interpolate_latents_backward(self, dy: Tensor, n: int, keys: int, offset: int = 0) -> Tensor:
        """dz [B, T, E] of a lerp from dy [B, (T-1)*n + 1, E]."""
        batch, _, elements = dy.shape
        shape = InterpolateShape(batch, keys, n, elements, DTYPES.index(dy.dtype))
        dz, gradient = Guarded((batch, keys, elements), dy.dtype, offset), Guarded.of(dy, offset)
        with self._watching(dy=gradient, dz=dz):
            self._call("interpolate_latents_backward", ctypes.byref(shape), gradient.pointer, dz.pointer)
        dz.check()
        return dz.tensor

    def slerp_weights(self, z: Tensor, n: int, offset: int = 0) -> Tensor:
        """[B, T-1, n + 1, 4] of z [B, T, E]."""
        batch, keys, elements = z.shape
        shape = InterpolateShape(batch, keys, n, elements, DTYPES.index(z.dtype))
        weights = Guarded((batch, keys - 1, n + 1, 4), accumulation_dtype(z.dtype))
        workspace, stored = self._workspace("slerp_weights", ctypes.byref(shape)), Guarded.of(z, offset)
        self._call("slerp_weights", ctypes.byref(shape), stored.pointer, workspace.pointer, weights.pointer)
        weights.check(), workspace.check()
        return weights.tensor

    def slerp_backward(self, dy: Tensor, z: Tensor, weights: Tensor, offset: int = 0) -> Tensor:
        """dz [B, T, E] of a slerp from dy [B, (T-1)*n + 1, E]."""
        batch, keys, elements = z.shape
        shape = InterpolateShape(batch, keys, weights.shape[2] - 1, elements, DTYPES.index(z.dtype))
        dz = Guarded(z.shape, z.dtype, offset)
        inputs = Guarded.of(dy, offset), Guarded.of(z, offset), Guarded.of(weights)
        workspace = self._workspace("slerp_backward", ctypes.byref(shape))
        self._call("slerp_backward", ctypes.byref(shape), *map(pointer, inputs), workspace.pointer, dz.pointer)
        dz.check(), workspace.check()
        return dz.tensor

    def frames_to_uint8(
        self, x: Tensor, *, tanh: bool = False, channels_last: bool = False, offsets: Sequence[int] = (0, 0)
    ) -> Tensor:
        """x [N, C, H, W] -> uint8 [N, H, W, C]. ``offsets``: of x, in elements, and of the bytes."""
        n, c, h, w = x.shape
        shape = FramesShape(n, c, h * w, channels_last, DTYPES.index(x.dtype), tanh)
        y = Guarded((n, h, w, c), torch.uint8, offsets[1])
        stored = Guarded.of(in_memory_order(x, channels_last), offsets[0])
        with self._watching(x=stored, y=y):
            self._call("frames_to_uint8", ctypes.byref(shape), stored.pointer, y.pointer)
        y.check()
        return y.tensor

    def softmax_critic_loss(
        self,
        logits: Tensor,
        source: Tensor,
        num_sources: int,
        *,
        needs_grad: bool = True,
        channels_last: bool = False,
        multiprocessors: int = 4,
        offset: int = 0,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """(loss [], per-source loss [S], per-source accuracy [S], dlogits) for logits [M, K, h, w]."""
        m, k, h, w = logits.shape
        shape = CriticShape(m, k, h * w, num_sources, channels_last, DTYPES.index(logits.dtype))
        a = accumulation_dtype(logits.dtype)
        stored = Guarded.of(in_memory_order(logits, channels_last), offset)
        index = Guarded.of(source)
        results = [Guarded(size, a) for size in ((1,), (num_sources,), (num_sources,))]
        dlogits = Guarded(stored.tensor.shape, logits.dtype, offset) if needs_grad else None
        workspace = self._workspace("softmax_critic_loss", ctypes.byref(shape), multiprocessors)
        args = CriticArgs(stored.pointer, index.pointer, *map(pointer, results), pointer(dlogits))
        with self._watching(logits=stored, dlogits=dlogits):
            self._call(
                "softmax_critic_loss",
                ctypes.byref(shape),
                ctypes.byref(args),
                workspace.pointer,
                ctypes.c_int(multiprocessors),
            )
        for guarded in (*results, workspace, *([dlogits] if dlogits else [])):
            guarded.check()
        gradient = None if dlogits is None else from_memory_order(dlogits.tensor, channels_last)
        loss, source_loss, accuracy = (result.tensor for result in results)
        return loss[0], source_loss, accuracy, gradient

    def softmax_critic_loss_backward(
        self,
        dlogits: Tensor,
        source: Tensor,
        d_loss: Tensor | None,
        d_source_loss: Tensor | None,
        *,
        channels_last: bool = False,
        offset: int = 0,
    ) -> Tensor:
        """The gradient of the logits [M, K, h, w]. ``offset`` of dlogits and the result, in elements."""
        m, k, h, w = dlogits.shape
        sources = 0 if d_source_loss is None else len(d_source_loss)
        shape = CriticShape(m, k, h * w, sources, channels_last, DTYPES.index(dlogits.dtype))
        stored = Guarded.of(in_memory_order(dlogits, channels_last), offset)
        inputs = [None if t is None else Guarded.of(t) for t in (source, d_loss, d_source_loss)]
        result = Guarded(stored.tensor.shape, dlogits.dtype, offset)
        args = CriticBackwardArgs(stored.pointer, *map(pointer, inputs), result.pointer)
        with self._watching(dlogits=stored, result=result):
            self._call("softmax_critic_loss_backward", ctypes.byref(shape), ctypes.byref(args))
        result.check()
        return from_memory_order(result.tensor, channels_last)


def in_every_order(gpu: EmulatedGpu, run: Callable[[], Sequence[Tensor | None]]) -> Sequence[Tensor | None]:
    """What ``run`` returns, which must be the same bits in every order of blocks and threads."""
    results = []
    for order in ORDERS:
        gpu.set_order(order)
        results.append(run())
    for order, result in zip(ORDERS, results, strict=True):
        for first, other in zip(results[0], result, strict=True):
            same = first is None or torch.equal(first.nan_to_num(nan=1e30), other.nan_to_num(nan=1e30))
            assert same, f"the result depends on the order of threads: forward and {order} differ"
    return results[0]
