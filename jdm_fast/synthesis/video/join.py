"""Segments into one file, without encoding again, and with the sound of the input if it is wanted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path

import av
import av.error

from jdm_fast.errors import UserError, first_line

_LEAD_IN = Fraction(3, 10)  # seconds of sound before the first picture that are kept: decoders need some to start


def has_sound(path: Path) -> bool:
    """Whether a video has a sound track. False for what cannot be opened."""
    try:
        with av.open(os.fspath(path)) as container:
            return bool(container.streams.audio)
    except (av.error.FFmpegError, OSError):
        return False


def join_videos(parts: Sequence[Path], output: Path, fps: Fraction, sound: Path | None = None) -> int:
    """Copy the pictures of ``parts`` one after the other into ``output``, and the first sound track of ``sound``.

    Frames are shown at 0, 1 / fps, 2 / fps, …, whatever the parts' time stamps were rounded to. Sound keeps its place
    relative to the first frame of the video it is taken from; what lies before that or after the end is left out.

    Returns the number of frames. UserError if ``output`` cannot be written, or its container does not take the sound.
    """
    delay = max(_reordering(part, fps) for part in parts)
    with ExitStack() as stack:
        target = stack.enter_context(_written(output))
        first = stack.enter_context(av.open(os.fspath(parts[0])))
        # Opaque: packets are passed on. Else an encoder of the decoder's name is asked for, which AV1's has not.
        stream = target.add_stream_from_template(first.streams.video[0], opaque=True)
        stream.time_base = 1 / fps
        track: Iterator[tuple[Fraction, av.Packet]] = iter(())
        if sound is not None:
            track = _sound(stack.enter_context(av.open(os.fspath(sound))), target, output)
        try:
            target.start_encoding()
        except (ValueError, av.error.FFmpegError) as error:
            raise UserError(f"cannot write {output}: {first_line(error)}; .mkv takes most codecs") from error
        waiting = next(track, None)
        done = copied = 0
        for part in parts:
            with av.open(os.fspath(part)) as source:
                frames = 0
                for packet in source.demux(video=0):
                    if not packet.size:
                        continue
                    packet.pts = done + _place(packet, fps)
                    packet.dts, packet.duration = copied - delay, 1
                    packet.time_base, packet.stream = 1 / fps, stream
                    while waiting is not None and waiting[0] <= copied / fps:
                        target.mux(waiting[1])
                        waiting = next(track, None)
                    target.mux(packet)
                    copied, frames = copied + 1, frames + 1
                done += frames
        while waiting is not None and waiting[0] < done / fps:
            target.mux(waiting[1])
            waiting = next(track, None)
    return done


class _written:
    """A container that is written; errors of the system become messages."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> av.container.OutputContainer:
        try:
            self._container = av.open(os.fspath(self._path), "w")
        except (OSError, ValueError) as error:
            raise UserError(f"cannot write {self._path}: {first_line(error)}") from error
        return self._container

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            with suppress(OSError, ValueError):
                self._container.close()
            if isinstance(error, OSError):
                raise UserError(f"cannot write {self._path}: {error.strerror or error}") from error
            return
        try:
            self._container.close()  # writes the index
        except OSError as problem:
            raise UserError(f"cannot write {self._path}: {problem.strerror or problem}") from problem


def _place(packet: av.Packet, fps: Fraction) -> int:
    """The number of the frame in its part."""
    return round(packet.pts * packet.time_base * fps)


def _reordering(part: Path, fps: Fraction) -> int:
    """By how many frames decoding must run ahead of showing, for frames are stored in the order they are decoded."""
    with av.open(os.fspath(part)) as source:
        packets = (packet for packet in source.demux(video=0) if packet.size)
        return max((number - _place(packet, fps) for number, packet in enumerate(packets)), default=0)


def _sound(
    source: av.container.InputContainer, target: av.container.OutputContainer, output: Path
) -> Iterator[tuple[Fraction, av.Packet]]:
    """The sound's packets with their times in seconds from the first picture."""
    track, pictures = source.streams.audio[0], source.streams.video[0]
    begin = (pictures.start_time or 0) * pictures.time_base
    try:
        stream = target.add_stream_from_template(track)
    except (ValueError, av.error.FFmpegError) as error:
        raise UserError(
            f"cannot write {output}: its container does not take the sound ({track.codec_context.name}): "
            f"{first_line(error)}; choose .mkv"
        ) from error

    # Matroska knows no times below 0: it would move the pictures instead.
    lead_in = Fraction(0) if "matroska" in target.format.name else _LEAD_IN

    def packets() -> Iterator[tuple[Fraction, av.Packet]]:
        shift = round(begin / track.time_base)
        for packet in source.demux(track):
            if not packet.size or packet.pts is None:
                continue
            packet.pts -= shift
            if packet.dts is not None:
                packet.dts -= shift
            time = packet.pts * packet.time_base
            if time < -lead_in:
                continue
            packet.stream = stream
            yield time, packet

    return packets()
