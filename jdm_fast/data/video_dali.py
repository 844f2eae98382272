"""Frames out of video files by NVIDIA DALI: decoded by the GPU's own decoder, onto the GPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from jdm_fast import _captures
from jdm_fast.data.pipeline import load_dali
from jdm_fast.data.video_source import FrameSource, TimedFrame
from jdm_fast.errors import UserError

if TYPE_CHECKING:
    from jdm_fast.data.video_read import PyAVSource

CODECS = {
    "cuda": ("h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "mjpeg"),
    "cpu": ("vp8", "vp9", "mjpeg"),
}
_PIXEL_FORMATS = ("yuv420p", "yuvj420p")  # of 8 bits: what DALI's conversion on the GPU reads
_LOOK_AHEAD = 16  # frames decoded at once where they are asked for one by one
_601 = (0.299, 0.114)  # shares of red and blue in brightness, of ITU-R BT.601
_SHARES = {1: (0.2126, 0.0722), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}  # by colour space


def suits(video: PyAVSource, device: str | torch.device | None = None) -> bool:
    """Whether there is a GPU (``device``, if one is given), DALI, and a video that they decode as it is to be seen."""
    if _device(device).type != "cuda" or not torch.cuda.is_available() or not _is_installed():
        return False
    return _refusal(video, "cuda") is None


class DaliSource(FrameSource):
    """A video file, decoded by DALI on ``device``; by default the GPU if there is one.

    :meth:`chunks` gives frames where they were decoded; iterating copies them to the host. Colours are those of PyAV
    but for rounding, and for how the colour samples that four pixels share are spread over them.

    DALI remembers the index of a file by its name for as long as the process lives: a file must not change under it.

    Raises UserError if DALI is not installed or cannot decode this video on this device.
    """

    def __init__(self, video: PyAVSource, device: str | torch.device | None = None) -> None:
        self.device = _device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise UserError(f"device: DALI was asked to decode {video.name} on {self.device}, but there is no GPU")
        refusal = _refusal(video, self.device.type)
        if refusal is not None:
            raise UserError(f"{video.path}: {refusal}; use decoder='pyav'")
        load_dali()
        self._video, self.name, self.size = video, video.name, video.size
        self.fps, self.count = video.fps, video.count

    def __iter__(self) -> Iterator[np.ndarray]:
        for frames, _ in self._decode(_LOOK_AHEAD):
            yield from frames.cpu().numpy()

    def timed(self, start: int = 0) -> Iterator[TimedFrame]:
        return islice(self._timed(), start, None)

    def _timed(self) -> Iterator[TimedFrame]:
        held: tuple[Fraction, np.ndarray] | None = None
        for frames, times in self._decode(_LOOK_AHEAD):
            for pixels, time in zip(frames.cpu().numpy(), times, strict=True):
                if held is not None:
                    yield TimedFrame(held[0], time - held[0], held[1])
                held = (time, pixels)
        if held is not None:
            yield TimedFrame(held[0], 1 / self.fps if self.fps else Fraction(1), held[1])

    def chunks(self, size: int = 16, device: str | torch.device | None = None) -> Iterator[torch.Tensor]:
        for frames, _ in self._decode(size):
            yield frames if device is None else frames.to(device)

    def _decode(self, size: int) -> Iterator[tuple[torch.Tensor, list[Fraction]]]:
        """Frames uint8 [N, H, W, 3] on the device, which own their memory, and their times in seconds."""
        turns, colours = round(self._video.rotation / 90), _correction(self._video.colorspace)
        try:
            with _captures.alone:
                pipeline = self._pipeline(size)
                sequences = pipeline.reader_meta("video")["epoch_size"]
            for _ in range(sequences):
                with _captures.alone:
                    frames, numbers, times = pipeline.run()
                    count = int((np.asarray(numbers[0]) >= 0).sum())  # the last sequence is filled up
                    chunk = self._copied(frames, count)
                if colours is not None:
                    _correct(chunk, colours.to(self.device))
                yield (
                    torch.rot90(chunk, turns, (1, 2)).contiguous() if turns else chunk,
                    [Fraction(time).limit_denominator(1_000_000) for time in np.asarray(times[0]).tolist()[:count]],
                )
        except RuntimeError as error:
            reason = next((line for line in str(error).splitlines() if line.startswith("Assert")), str(error))
            raise UserError(
                f"{self._video.path}: DALI cannot decode it on {self.device}: {reason}; use decoder='pyav'"
            ) from error

    def _pipeline(self, size: int) -> Any:
        from nvidia.dali import Pipeline, fn

        on_gpu = self.device.type == "cuda"
        pipeline = Pipeline(
            batch_size=1,
            num_threads=1,
            device_id=(self.device.index or 0) if on_gpu else None,
            prefetch_queue_depth=1,
            exec_dynamic=True,  # the only one that hands what the GPU has made to the CPU
            exec_pipelined=False,  # it works while it is run and at no other time: see _captures
        )
        with pipeline:
            video = fn.experimental.readers.video(
                device="gpu" if on_gpu else "cpu",
                filenames=[str(self._video.path.resolve())],
                sequence_length=size,
                pad_mode="constant",  # without, frames at the end that do not fill a sequence would be lost
                enable_frame_num="sequence",
                enable_timestamps=True,
                name="video",
            )
            pipeline.set_outputs(*(output.cpu() if on_gpu and place else output for place, output in enumerate(video)))
        pipeline.build()
        return pipeline

    def _copied(self, frames: Any, count: int) -> torch.Tensor:
        """The first frames of DALI's output as a tensor of its own, for DALI will use that memory again."""
        if self.device.type == "cpu":
            return torch.from_numpy(np.array(frames.at(0)[:count]))
        chunk = torch.from_dlpack(frames.as_tensor())[0, :count].clone()
        torch.cuda.current_stream(self.device).synchronize()
        return chunk


def _device(device: str | torch.device | None) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # not even the package above it
        return False


def _refusal(video: PyAVSource, kind: str) -> str | None:
    """Why DALI cannot decode a video rightly on the CPU or a GPU, if so."""
    codecs = CODECS.get(kind, ())
    if video.codec not in codecs:
        return f"DALI decodes {', '.join(codecs) or 'nothing'} on {kind}, not {video.codec}"
    if video.pixel_format not in _PIXEL_FORMATS:
        return f"DALI decodes {' and '.join(_PIXEL_FORMATS)}, not {video.pixel_format}"
    if video.hidden:
        return "the file holds frames that are not to be shown (an edit list), which DALI would show"
    return None


def _correction(colorspace: int) -> torch.Tensor | None:
    """The matrix that makes right colours of those that DALI gives, or None where it is right.

    DALI takes every video for ITU-R BT.601, whatever its header says; most of HD size are of BT.709. Both turn
    brightness and colour difference into RGB by a matrix, so one follows from the other, but for what was cut off at 0
    and 255.
    """
    if colorspace not in _SHARES:
        return None
    return torch.from_numpy(_to_rgb(*_SHARES[colorspace]) @ np.linalg.inv(_to_rgb(*_601))).float()


def _to_rgb(red: float, blue: float) -> np.ndarray:
    """The matrix that makes R, G, B of Y, Cb, Cr, from the shares of red and blue in brightness."""
    green = 1 - red - blue
    return np.array(
        [
            [1, 0, 2 * (1 - red)],
            [1, -2 * (1 - blue) * blue / green, -2 * (1 - red) * red / green],
            [1, 2 * (1 - blue), 0],
        ]
    )


def _correct(frames: torch.Tensor, colours: torch.Tensor) -> None:
    """Apply a colour matrix in place; frame by frame, for the work takes ten times a frame's memory."""
    for frame in frames:
        frame.copy_((frame.float() @ colours.T).round_().clamp_(0, 255))
