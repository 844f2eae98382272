"""Video encoders: which there are, how they are told the quality, what pixels they take."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import av
import av.error
import torch

from jdm_fast.errors import UserError

DEFAULT_CODEC = "libx264"
DEFAULT_CRF = 18  #: hard to tell from the source in H.264
_CRF_CODECS = ("libx264", "libx264rgb", "libx265", "libvpx", "libvpx-vp9", "libsvtav1")
_X26X = "ultrafast superfast veryfast faster fast medium slow slower veryslow placebo".split()
_PRESETS = {
    **dict.fromkeys(("libx264", "libx264rgb", "libx265"), _X26X),
    **dict.fromkeys(("h264_nvenc", "hevc_nvenc", "av1_nvenc"), [f"p{k}" for k in range(1, 8)]),
    "libsvtav1": [str(k) for k in range(13, -1, -1)],
}
_PIXEL_FORMATS = ("yuv420p", "yuvj420p", "rgb24", "bgr0", "gbrp", "bgra", "yuv422p", "yuv422p10le")  # best liked first
TRIAL_SECONDS = 20.0  #: for an encoder of a GPU to start
_TRIAL = """
import sys
from fractions import Fraction
import av
name, width, height, pixels, time_base, rate = sys.argv[1:]
context = av.CodecContext.create(name, "w")
context.width, context.height, context.pix_fmt = int(width), int(height), pixels
context.time_base, context.framerate = Fraction(time_base), Fraction(rate)
context.open()
"""
_BITS_PER_PIXEL = Fraction(1, 2)  # for encoders that know a bit rate only


def video_encoders() -> list[str]:
    """Names of the video encoders of this build of PyAV."""
    return sorted(name for name in av.codecs_available if _encoder(name) is not None)


def require_encoder(codec: str, crf: int | None = None, preset: str | None = None) -> av.Codec:
    """The encoder of this name. UserError if there is none, or it has no quality ``crf`` or no such ``preset``."""
    found = _encoder(codec)
    if found is None:
        there = ", ".join(video_encoders())
        raise UserError(f"codec: this build of PyAV has no video encoder {codec!r}; it has {there}")
    if crf is not None and quality_option(codec) is None:
        raise UserError(f"crf: {codec} has no such quality; leave it out")
    if preset is not None and preset not in _PRESETS.get(codec, ()):
        if codec not in _PRESETS:
            raise UserError(f"preset: {codec} has none, {', '.join(_PRESETS)} have; leave it out")
        raise UserError(f"preset: {codec} has {', '.join(_PRESETS[codec])}, quickest first; got {preset!r}")
    return found


def quality_option(codec: str) -> str | None:
    """What an encoder calls constant quality, 0 to 51: ``crf``, NVIDIA's ``cq``; None if it has none."""
    if codec in _CRF_CODECS:
        return "crf"
    return "cq" if codec.endswith("_nvenc") else None


def encoder_options(codec: str, crf: int | None, preset: str | None = None) -> dict[str, str]:
    """The encoder's options for a quality, by default ``DEFAULT_CRF`` where it has qualities, and for a preset, by
    default its own."""
    options = {} if preset is None else {"preset": preset}
    name = quality_option(codec)
    if name is None:
        return options
    options[name] = str(DEFAULT_CRF if crf is None else crf)
    if name == "cq":
        options["rc"] = "vbr"
    if codec.startswith("libvpx"):
        options["b"] = "0"  # without, the quality is only a limit
    if codec.startswith("libx264") and torch.cpu.get_capabilities().get("avx512_f", False):
        # x264's AVX-512 code gives other bits from run to run at some sizes (320x240: 30 different files in 40 trials,
        # with this one in 60), and is no quicker. A job that is continued is to give the same file.
        options["x264-params"] = "asm=AVX2"
    return options


def bit_rate(codec: str, size: tuple[int, int], fps: Fraction) -> int | None:
    """Bits per second for encoders that know no quality: half a bit for a pixel, which is generous."""
    if quality_option(codec) is not None:
        return None
    return max(100_000, int(size[0] * size[1] * fps * _BITS_PER_PIXEL))


def pixel_format(encoder: av.Codec) -> str:
    """The best liked pixel format that an encoder takes."""
    taken = [entry.name for entry in encoder.video_formats or ()]
    return next((name for name in _PIXEL_FORMATS if name in taken), taken[0] if taken else "yuv420p")


def opens(codec: str, size: tuple[int, int], fps: Fraction) -> bool:
    """Whether an encoder is there and starts for pictures of (H, W): those of GPUs need the GPU to have them.

    These are tried in a process of their own, and not longer than ``TRIAL_SECONDS``: that a driver has an encoder's
    library does not mean that the library is good for anything, and what hangs or crashes in it could not be stopped.
    """
    encoder = _encoder(codec)
    if encoder is None:
        return False
    height, width = (side + side % 2 for side in size)
    if encoder.name.endswith("_nvenc"):
        words = [encoder.name, str(width), str(height), pixel_format(encoder), str(1 / fps), str(fps)]
        nothing = subprocess.DEVNULL
        trial = subprocess.Popen([sys.executable, "-c", _TRIAL, *words], stdin=nothing, stdout=nothing, stderr=nothing)
        try:
            return trial.wait(TRIAL_SECONDS) == 0
        except subprocess.TimeoutExpired:
            trial.kill()  # and no waiting for it: what hangs in a driver ends when the driver lets it
            return False
    context = av.CodecContext.create(encoder.name, "w")
    context.height, context.width = height, width
    context.pix_fmt, context.time_base, context.framerate = pixel_format(encoder), 1 / fps, fps
    try:
        context.open()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def _encoder(name: str) -> av.Codec | None:
    try:
        codec = av.Codec(name, "w")
    except (av.codec.codec.UnknownCodecError, ValueError):
        return None
    return codec if codec.type == "video" else None
