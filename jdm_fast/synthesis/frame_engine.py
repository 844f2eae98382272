"""A stream of frames between key frames, in two domains at once: Algorithm 2 of the JWDM paper at full speed.

    reader thread -> key frames encoded, once each -> frames between them, all domains, in batches -> uint8 -> caller

Reading, computing and what the caller does with the frames (encoding a video, say) run side by side, a few batches
apart. Memory does not grow with the length of the stream.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from jdm_fast.errors import UserError
from jdm_fast.ops.interpolate_latents import MODES
from jdm_fast.synthesis.frame_functions import FrameFunctions, Function, Maps, carried_out, choose_engine, current
from jdm_fast.synthesis.in_thread import in_thread
from jdm_fast.synthesis.pictures import to_float
from jdm_fast.training.precision import choose_precision, numerics

AHEAD = 2  # batches of frames that may wait for the caller
READ_AHEAD = 4  # key frames that may wait to be encoded
MOST_FRAMES, GPU_PIXELS = 64, 2**23  # frames in a batch on a GPU, and their pixels: more fill memory and nothing else
MOST_ON_CPU, CPU_PIXELS = 8, 2**16  # the same on a CPU: more do not stay in its caches
_SHARE_OF_MEMORY = 0.4  # of what is free on a GPU, for a batch
_KEPT = 4  # pairs of functions that an engine keeps compiled or captured for streams to come

Size = tuple[int, int]


class Piece(NamedTuple):
    """A key frame and the frames from it to the next.

    Attributes:
        key: uint8 [H, W, 3]; one size for a whole stream.
        positions: of the frames, from 0 (this key frame) to 1 (the next), never decreasing; may be empty. Those of the
            last piece, which has no next, are 0.
        is_cut: whether the next key frame begins another scene; ``positions`` are only 0 and 1 then. It is here for
            whoever counts scenes.
    """

    key: np.ndarray
    positions: tuple[float, ...]
    is_cut: bool = False


def even_pieces(keys: Iterable[np.ndarray], factor: int) -> Iterator[Piece]:
    """``factor`` frames, evenly spaced, from each key frame to the next, and the last key frame."""
    steps = tuple(k / factor for k in range(factor))
    last = None
    for key in keys:
        if last is not None:
            yield Piece(last, steps)
        last = key
    if last is not None:
        yield Piece(last, (0.0,))


def usual_batch(size: Size, device: torch.device) -> int:
    """Frames in a batch by their size if nobody says; on a GPU the most there can be."""
    most, pixels = (MOST_FRAMES, GPU_PIXELS) if device.type == "cuda" else (MOST_ON_CPU, CPU_PIXELS)
    return max(1, min(most, pixels // (size[0] * size[1])))


class FrameEngine:
    """Makes frames between key frames with a model that has latents.

    What is compiled or captured for a size of frames serves the engine's later streams too; several streams at a time
    have each their own. The model's weights stay where they are meanwhile.

    Args:
        model: see :func:`jdm_fast.synthesis.load`.
        source: the domain of the key frames.
        domains: of the frames that are made; unset: all.
        mode: how latents are interpolated, ``lerp`` (the paper's) or ``slerp``.
        engine: ``eager``, ``compile``, ``graph`` or ``auto``: ``graph`` on a GPU, ``eager`` on a CPU.
        precision: ``fp32``, ``tf32``, ``bf16``, ``fp16`` or ``auto``, as in training.
        batch_size: frames decoded at once; ``"auto"`` or None: on a CPU by their size, on a GPU by the memory that a
            few frames are seen to take.
        tile: encode and decode in tiles of this side, for pictures of which even one would not fit.
        residual: give the frames of ``source`` back what decoding loses of the key frames, see
            :mod:`jdm_fast.synthesis.residual`.

    Raises:
        UserError: the model has no latents; an unknown domain, mode, engine or precision; an engine that the device or
            tiles do not go with; a batch size below 1; ``residual`` where ``source`` is not among the domains made.
    """

    def __init__(
        self,
        model: Any,
        *,
        source: str = "x",
        domains: Sequence[str] | None = None,
        mode: str = "lerp",
        engine: str = "auto",
        precision: str = "auto",
        batch_size: int | str | None = None,
        tile: int | None = None,
        residual: bool = False,
    ) -> None:
        model._require("encode")
        self.domains = tuple(model._domain(name) for name in (model.domains if domains is None else domains))
        if mode not in MODES:
            raise UserError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if isinstance(batch_size, str) and batch_size != "auto":
            raise UserError(f"batch: expected a number of frames or auto, got {batch_size!r}")
        self._batch_size = None if batch_size == "auto" else batch_size
        if isinstance(self._batch_size, int) and self._batch_size < 1:
            raise UserError(f"batch: expected at least 1 frame, got {batch_size}")
        if tile is not None:
            model._check_tile(tile)
        if residual and source not in self.domains:
            raise UserError(
                f"residual: what decoding loses is known of the key frames' domain, {source}, and only "
                f"{', '.join(self.domains)} is made: leave it out"
            )
        self.device = model.device
        self.engine = choose_engine(engine, self.device, tile)
        self.precision = choose_precision(precision, self.device)
        self._model, self._method = model, model.method
        self._channels_last = self.device.type == "cuda" and self.precision.name != "fp32"
        self._functions = FrameFunctions(
            self._method,
            source=model._domain(source),
            domains=self.domains,
            mode=mode,
            precision=self.precision,
            tile=tile,
            device=self.device,
            residual=residual,
        )
        self._most: dict[Size, int] = {}
        self._ready: OrderedDict[tuple[Size, int], tuple[Function, Function]] = OrderedDict()
        self._lock = threading.Lock()

    def stream(self, pieces: Iterable[Piece]) -> Generator[dict[str, np.ndarray], None, None]:
        """The frames of all pieces, by domain uint8 [b, H, W, 3], b at most the batch size, in time order.

        ``pieces`` is read in a thread of its own, a few key frames ahead. Raises what reading raises, and ValueError
        for key frames that are not uint8 or change their size.
        """
        made = self.compute(pieces)
        yield from made if self.in_callers_thread else in_thread(made, AHEAD, "jdm_fast-frames")

    @property
    def in_callers_thread(self) -> bool:
        """Whether frames must be computed in a thread that lives on: code compiled in one that has ended crashes later
        backward passes."""
        return self.engine == "compile"

    @torch.inference_mode()  # a generator under this decorator leaves the mode whenever it hands over
    def compute(self, pieces: Iterable[Piece]) -> Generator[dict[str, np.ndarray], None, None]:
        """As :meth:`stream`, computed in the thread that asks, for whoever has a thread for it."""
        with (
            closing(in_thread(pieces, READ_AHEAD, "jdm_fast-reader")) as read,
            current(self.device),
            numerics(self.precision, self.device),
        ):
            if self._channels_last:
                self._method.to(memory_format=torch.channels_last)
            waiting: deque[_Sent] = deque()
            copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
            with closing(self._batches(read)) as batches:
                for frames in batches:
                    waiting.append(_Sent(frames, self.domains, copies))
                    while len(waiting) > 1:  # the copy of a batch runs while the next is computed
                        yield waiting.popleft().arrays()
            while waiting:
                yield waiting.popleft().arrays()

    # ---- in the thread that computes --------------------------------------------------------------------------------

    def _batches(self, pieces: Iterator[Piece]) -> Generator[Maps, None, None]:
        """Frames of all domains on the device, a batch at a time."""
        first = next(pieces, None)
        if first is None:
            return
        size: Size = first.key.shape[:2]
        last = first
        with closing(_Run(self, size, first)) as run:
            while group := list(islice(pieces, run.pairs)):
                positions = [i + p for i, piece in enumerate([last, *group[:-1]]) for p in piece.positions]
                run.take([piece.key for piece in group])
                yield from run.frames(positions)
                last = group[-1]
            if any(last.positions):
                raise ValueError(
                    f"positions of the last piece must be 0, as no key frame follows, got {last.positions}"
                )
            run.end()
            yield from run.frames(list(last.positions))

    def images(self, keys: Sequence[np.ndarray], size: Size) -> Tensor:
        """Key frames as the networks take them, padded, on the device."""
        images = self._model._padded(to_float(_stacked(keys, size), self.device))
        return images.contiguous(memory_format=torch.channels_last) if self._channels_last else images

    def known_at_once(self, size: Size) -> int | None:
        """Frames in a batch, or None where that is still to be measured."""
        if self._batch_size is not None:
            return self._batch_size
        return self._most.get(size) if self.device.type == "cuda" else usual_batch(size, self.device)

    def most_at_once(self, maps: Maps, size: Size) -> int:
        """The same; measured, if it must be, by the engine's first stream of this size."""
        known = self.known_at_once(size)
        if known is None:
            known = self._most[size] = self._measure(maps, size)
        return known

    def _measure(self, maps: Maps, size: Size) -> int:
        positions = torch.zeros(2, dtype=torch.float64, device=self.device)
        self._functions.frames(size, positions, *maps)
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self._functions.frames(size, positions, *maps)
        torch.cuda.synchronize(self.device)
        each = max(1, (torch.cuda.max_memory_allocated(self.device) - before) // 2)
        free, _ = torch.cuda.mem_get_info(self.device)
        return max(1, min(usual_batch(size, self.device), int(_SHARE_OF_MEMORY * free / each)))

    def take_functions(self, size: Size, pairs: int) -> tuple[Function, Function]:
        """What makes maps of key frames, and frames of maps: that of an earlier stream, or new. It is the caller's own
        until it is given back."""
        with self._lock:
            ready = self._ready.pop((size, pairs), None)
        if ready is not None:
            return ready
        functions = (self._functions.keys, partial(self._functions.frames, size))
        keys, frames = (carried_out(function, self.engine, self.device) for function in functions)
        return keys, frames

    def give_back(self, size: Size, pairs: int, functions: tuple[Function, Function]) -> None:
        """For the next stream; those that were not used for longest are dropped."""
        with self._lock:
            self._ready[size, pairs] = functions
            while len(self._ready) > _KEPT:
                self._ready.popitem(last=False)


class _Run:
    """One stream: the maps of the key frames between which frames are being made, and the functions that make them.

    Compiled and captured functions take tensors of one shape: key frames and positions are filled up with the last.
    """

    def __init__(self, engine: FrameEngine, size: Size, first: Piece) -> None:
        self._engine, self._size = engine, size
        self._fixed = engine.engine != "eager"
        self._missing = 0
        keys = engine.images([first.key], size)
        batch = engine.known_at_once(size)
        if batch is None:
            batch = engine.most_at_once(engine._functions.keys(keys), size)
        self._batch = batch
        #: Key frames that are encoded together, each the end of a pair.
        self.pairs = max(1, batch // max(1, len(first.positions)))
        self._keys, self._frames = engine.take_functions(size, self.pairs)
        # Where functions take one shape, also the first key frame goes through them. Alone it would cost a GPU more
        # than all others: every stream has a thread of its own, and cuDNN tries its algorithms anew for each thread.
        copies = self.pairs if self._fixed else 1
        self._maps: Maps = tuple(encoded[:1].clone() for encoded in self._keys(torch.cat([keys] * copies)))

    def close(self) -> None:
        """The functions go back for the next stream."""
        self._engine.give_back(self._size, self.pairs, (self._keys, self._frames))

    def take(self, keys: list[np.ndarray]) -> None:
        """Go on to the next key frames; the last one so far begins the first pair. Fewer than ``pairs`` are the last
        of the stream."""
        missing = self.pairs - len(keys) if self._fixed else 0
        new = self._keys(self._engine.images(keys + keys[-1:] * missing, self._size))
        held = self._held()
        self._maps = tuple(torch.cat([old[held - 1 : held], fresh]) for old, fresh in zip(self._maps, new, strict=True))
        self._missing = missing

    def _held(self) -> int:
        """Key frames that are held, without fillers."""
        return len(self._maps[0]) - self._missing

    def end(self) -> None:
        """The last key frame alone is left."""
        held = self._held()
        copies = self.pairs + 1 if self._fixed else 1
        self._maps = tuple(torch.cat([old[held - 1 : held]] * copies) for old in self._maps)

    def frames(self, positions: list[float]) -> Iterator[Maps]:
        """Frames at these positions, 0 at the first of the key frames that are held."""
        for start in range(0, len(positions), self._batch):
            chosen = positions[start : start + self._batch]
            if self._fixed:
                filled = chosen + chosen[-1:] * (self._batch - len(chosen))
                made = self._frames(self._tensor(filled), *self._maps)
                yield tuple(frames[: len(chosen)] for frames in made)
            else:
                begin, end = int(chosen[0]), -int(-chosen[-1] // 1)
                maps = (old[begin : end + 1] for old in self._maps)
                yield self._frames(self._tensor([p - begin for p in chosen]), *maps)

    def _tensor(self, positions: list[float]) -> Tensor:
        return torch.tensor(positions, dtype=torch.float64).to(self._engine.device)


class _Sent:
    """Frames on their way to the host: from a GPU on a stream of their own into page-locked memory."""

    def __init__(self, frames: Maps, domains: Sequence[str], copies: torch.cuda.Stream | None) -> None:
        self._domains, self._frames, self._there = domains, frames, None
        if copies is not None:
            kept = [made.clone() for made in frames]  # a captured function writes into the same memory again
            copies.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(copies):
                self._frames = tuple(torch.empty(made.shape, dtype=made.dtype, pin_memory=True) for made in kept)
                for host, made in zip(self._frames, kept, strict=True):
                    host.copy_(made, non_blocking=True)
                    made.record_stream(copies)
                self._there = torch.cuda.Event()
                self._there.record(copies)

    def arrays(self) -> dict[str, np.ndarray]:
        """By domain; waits for the copy."""
        if self._there is not None:
            self._there.synchronize()
        return {name: frames.numpy() for name, frames in zip(self._domains, self._frames, strict=True)}


def _stacked(keys: Sequence[np.ndarray], size: Size) -> np.ndarray:
    for key in keys:
        if key.dtype != np.uint8 or key.shape != (*size, 3):
            raise ValueError(f"frames must be uint8 {[*size, 3]} as the first one, got {key.dtype} {list(key.shape)}")
    return np.stack(keys)
