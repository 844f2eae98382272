"""The DALI pipelines: encoded pictures or decoded ones in, normalised batches out.

There are two graphs. One takes encoded images: decode, cut out the half that is the picture, resize, crop, mirror,
normalise. The other takes pictures that are decoded and resized already, and does the rest. With a GPU all of it
happens there (nvJPEG decodes), without one on the CPU (``device_id=None``); the options are the same.

Both are fed by ``external_source``, one call for the pictures of all domains and of several steps, with the numbers of
each picture's crop beside it: so what DALI does with a picture does not depend on where in a batch it is.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jdm_fast.errors import UserError

Size = tuple[int, int]


class DecodingError(Exception):
    """DALI could not do what it was asked for; it does not say with which picture."""


@dataclass(frozen=True)
class Form:
    """What pictures are made into.

    Attributes:
        load: height and width to resize to, or None. crop: height and width of the crops, or None for whole pictures,
        which must then be of one size. channels: 3 or 1. cut: whether pictures are parts of what is decoded.
        device, dtype, channels_last: of the batches. threads: of the CPU.
    """

    load: Size | None
    crop: Size | None
    channels: int
    cut: bool
    device: torch.device
    dtype: torch.dtype
    channels_last: bool
    threads: int


@dataclass(frozen=True)
class Picture:
    """One picture on its way in.

    Attributes:
        data: uint8 [bytes] of an encoded image, or uint8 [H, W, C]. column, width: the part of the decoded image that
        is the picture, over its whole height. labels: resize by nearest neighbour. down, right: in [0, 1], where
        between the edges the crop is. mirror: whether to mirror it.
    """

    data: np.ndarray
    column: int
    width: int
    labels: bool
    down: float = 0.0
    right: float = 0.0
    mirror: bool = False


def load_dali() -> ModuleType:
    """The package ``nvidia.dali``, imported when it is first needed.

    Raises:
        UserError: it is not installed.
    """
    try:
        import nvidia.dali
    except ImportError as error:
        raise UserError(
            "loading pictures needs NVIDIA DALI, which is not installed here: python -m pip install "
            "nvidia-dali-cuda130 (or the package of your CUDA version)"
        ) from error
    return nvidia.dali


class Pipeline:
    """A DALI pipeline that makes pictures into ``form``. Not for more than one thread at a time.

    Pictures are put in by :meth:`submit` and taken out in the same order by :meth:`collect` or :meth:`collect_pixels`;
    DALI works on them in between, in threads of its own.

    Args:
        form: what to make.
        decode: whether :attr:`Picture.data` are encoded images.
        augment: crop, mirror and normalise; otherwise the pictures come out as uint8.
        capacity: most pictures in one submission.
        depth: most submissions that are not collected yet.
    """

    def __init__(self, form: Form, *, decode: bool, augment: bool = True, capacity: int = 16, depth: int = 2) -> None:
        self._form, self._decode, self._augment = form, decode, augment
        self._dali = load_dali()
        self._waiting: deque[list[np.ndarray]] = deque()
        self._pipeline: Any = self._build(capacity, depth)

    def submit(self, pictures: Sequence[Picture]) -> None:
        """Put pictures in; returns before they are ready."""
        feed = self._pipeline.feed_input
        data = [picture.data for picture in pictures]
        feed("pictures", data, layout=None if self._decode else "HWC")
        if self._decode and self._form.cut:
            feed("column", np.array([[picture.column] for picture in pictures], dtype=np.int32))
            feed("width", np.array([[picture.width] for picture in pictures], dtype=np.int32))
        if self._decode and self._form.load is not None:
            cubic, nearest = int(self._dali.types.INTERP_CUBIC), int(self._dali.types.INTERP_NN)
            feed("filter", np.array([nearest if picture.labels else cubic for picture in pictures], dtype=np.int32))
        if self._augment:
            feed("down", np.array([picture.down for picture in pictures], dtype=np.float32))
            feed("right", np.array([picture.right for picture in pictures], dtype=np.float32))
            feed("mirror", np.array([picture.mirror for picture in pictures], dtype=np.int32))
        self._waiting.append(data)  # DALI reads these arrays where they are: they must live until it is done
        self._pipeline.schedule_run()

    def collect(self, counts: Sequence[int]) -> list[Tensor]:
        """The oldest submission, cut into tensors [count, C, H, W] that own their memory.

        Raises:
            DecodingError: of one of the pictures. The pipeline cannot be used any more.
        """
        values = self._share()
        try:
            if self._form.device.type == "cuda":
                parts = self._copies_on_gpu(torch.from_dlpack(values.as_tensor()), counts)
            else:
                parts = self._copies_on_host(values.as_array(), counts)
        finally:
            self._release()
        return [part.permute(0, 3, 1, 2) for part in parts] if self._form.channels_last else parts

    def collect_pixels(self) -> list[np.ndarray]:
        """The oldest submission as uint8 arrays [H, W, C] that own their memory. Raises as :meth:`collect`."""
        values = self._share()
        try:
            on_host = values.as_cpu() if self._form.device.type == "cuda" else values
            return [np.array(on_host.at(index)) for index in range(len(on_host))]
        finally:
            self._release()

    def close(self) -> None:
        """End DALI's threads and free its memory, whether or not all has been collected."""
        self._pipeline = None
        self._waiting.clear()

    def _copies_on_gpu(self, pictures: Tensor, counts: Sequence[int]) -> list[Tensor]:
        parts = [part.to(self._form.dtype, copy=True) for part in pictures.split(list(counts))]
        torch.cuda.current_stream(self._form.device).synchronize()  # DALI's memory is free for it to use again
        return parts

    def _copies_on_host(self, pictures: np.ndarray, counts: Sequence[int]) -> list[Tensor]:
        # NumPy copies in this thread alone. PyTorch would start a pool of threads for this one, to compete with those
        # of DALI and of training for the same cores.
        edges = np.cumsum([0, *counts]).tolist()
        parts = [pictures[a:b] for a, b in itertools.pairwise(edges)]
        if self._form.dtype == torch.bfloat16:
            return [torch.from_numpy(_bfloat16_bits(part)).view(torch.bfloat16) for part in parts]
        return [torch.from_numpy(part.copy()) for part in parts]

    def _share(self) -> Any:
        try:
            return self._pipeline.share_outputs()[0]
        except RuntimeError as error:
            raise DecodingError(_reason(error)) from error

    def _release(self) -> None:
        self._pipeline.release_outputs()
        self._waiting.popleft()

    def _build(self, capacity: int, depth: int) -> Any:
        form, fn, types = self._form, self._dali.fn, self._dali.types
        on_gpu = form.device.type == "cuda"
        pipeline = self._dali.Pipeline(
            batch_size=capacity,
            num_threads=form.threads,
            device_id=(form.device.index or 0) if on_gpu else None,
            prefetch_queue_depth=depth,
            exec_dynamic=True,
            exec_pipelined=False,  # otherwise the first run is as many as the queue is deep, and waits for their inputs
        )

        def number(name: str, dtype: Any, ndim: int = 0) -> Any:
            return fn.external_source(name=name, dtype=dtype, ndim=ndim)

        with pipeline:
            if self._decode:
                files = fn.external_source(name="pictures", dtype=types.UINT8, ndim=1, no_copy=True)
                images = fn.decoders.image(
                    files,
                    device="mixed" if on_gpu else "cpu",
                    output_type=types.RGB,
                    jpeg_fancy_upsampling=True,  # on a GPU, to spread colours as the CPU does
                )
                if form.cut:
                    column, width = number("column", types.INT32, 1), number("width", types.INT32, 1)
                    images = fn.slice(images, start=column, shape=width, axes=(1,))
                if form.load is not None:
                    # There is no input of this type, only this way to make one.
                    filters = fn.reinterpret(number("filter", types.INT32), dtype=types.INTERP_TYPE)
                    images = fn.resize(images, size=list(form.load), interp_type=filters, antialias=True)
                if form.channels == 1:
                    images = fn.color_space_conversion(images, image_type=types.RGB, output_type=types.GRAY)
            else:
                images = fn.external_source(name="pictures", dtype=types.UINT8, ndim=3, layout="HWC", no_copy=True)
                images = images.gpu() if on_gpu else images
            if self._augment:
                images = fn.crop_mirror_normalize(
                    images,
                    crop=form.crop,
                    crop_pos_y=number("down", types.FLOAT),
                    crop_pos_x=number("right", types.FLOAT),
                    mirror=number("mirror", types.INT32),
                    mean=[127.5] * form.channels,
                    std=[127.5] * form.channels,
                    # DALI has no bfloat16: those batches are rounded from float32 on their way out.
                    dtype=types.FLOAT16 if form.dtype == torch.float16 else types.FLOAT,
                    output_layout="HWC" if form.channels_last else "CHW",
                )
            pipeline.set_outputs(images)
        pipeline.build()
        return pipeline


def _bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """Finite float32 values rounded to the nearest bfloat16, ties to even: its bits as int16."""
    bits = values.view(np.uint32)
    return ((bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)).astype(np.int16)


def _reason(error: RuntimeError) -> str:
    """What DALI says of an error, without the way it takes to say it."""
    lines = [line.strip() for line in str(error).splitlines()]
    after = lines[lines.index("encountered:") + 1 :] if "encountered:" in lines else lines
    said = [line for line in after if line and not line.startswith(("C++ context", "Current pipeline", "Critical"))]
    return said[0] if said else "DALI gives no reason"
