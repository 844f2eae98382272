"""Films to make videos of: every kind that people have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def frame(number: int, height: int = 32, width: int = 48) -> np.ndarray:
    """A bright bar on a ramp that moves to the right."""
    image = np.repeat(np.linspace(40, 120, width, dtype=np.uint8)[None], height, 0)
    image[4:16, 2 * (number % 16) : 2 * (number % 16) + 10] = 200
    return np.repeat(image[..., None], 3, -1)


def write_film(
    path: Path,
    frames: Iterable[np.ndarray],
    fps: int = 25,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    sound: float = 0,
    times: Sequence[int] | None = None,
    options: Mapping[str, str] | None = None,
) -> Path:
    """A film of constant rate, or with each frame at its time in milliseconds; ``sound`` seconds of a tone; the
    encoder's ``options`` beside a good quality."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.pix_fmt, stream.options = pix_fmt, {**({"crf": "4"} if codec == "libx264" else {}), **(options or {})}
        track = container.add_stream("aac", rate=8000) if sound else None
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, pixels in enumerate(frames):
            if number == 0:
                stream.height, stream.width = pixels.shape[:2]
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                picture.pts, picture.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if track is not None:
            count = int(8000 * sound)
            tone = np.sin(np.arange(count, dtype=np.float32) / 5)[None]
            for start in range(0, count, 1024):
                part = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone[:, start : start + 1024]), "fltp", "mono")
                part.rate, part.pts, part.time_base = 8000, start, Fraction(1, 8000)
                container.mux(track.encode(part))
            container.mux(track.encode(None))
    return path


def sound_of(path: Path) -> np.ndarray:
    """The samples of a film's sound track; none if it has none."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return np.zeros(0)
        return np.concatenate([part.to_ndarray()[0] for part in container.decode(audio=0)])


def duration(path: Path) -> float:
    """Seconds of a film's pictures, from the first to the end of the last."""
    with av.open(str(path)) as container:
        pictures = list(container.decode(video=0))
        assert pictures[0].time == 0
        times = [picture.time for picture in pictures]
        rate = container.streams.video[0].average_rate
        assert times == sorted(times)
        return times[-1] + float(1 / rate)
