"""Two-domain video from files: Algorithm 2 of the JWDM paper between a reader and three writers, in constant memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

import numpy as np

from jdm_fast.data.video_files import (
    VIDEO_SUFFIXES,
    Decoder,
    FolderWriter,
    FrameWriter,
    VideoWriter,
    open_frames,
    require_new_folder,
)
from jdm_fast.errors import UserError
from jdm_fast.synthesis.model import Model

DEFAULT_FPS = Fraction(24)  #: of a video made from pictures, which have no rate of their own
_OTHER_VIDEO_SUFFIXES = (".avi", ".webm", ".gif", ".mpg", ".mpeg", ".wmv", ".m4v", ".ts", ".ogv")


@dataclass(frozen=True)
class VideoResult:
    """What was made.

    ``files`` by name: ``both`` (x on the left, y on the right) and each domain's own; ``frames`` of a domain; ``fps``
    of the videos.
    """

    files: dict[str, Path]
    frames: int
    key_frames: int
    fps: Fraction


def synthesize_video(
    model: Model,
    input: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    factor: int = 8,
    source: str = "x",
    every: int = 1,
    fps: Fraction | float | None = None,
    input_fps: Fraction | float | None = None,
    decoder: Decoder = "pyav",
    mode: str = "lerp",
    as_frames: bool = False,
    crf: int = 18,
    batch_size: int | None = None,
    residual: bool = False,
    on_progress: Callable[[int, int | None], None] | None = None,
    on_frames: Callable[[dict[str, np.ndarray]], None] | None = None,
) -> VideoResult:
    """Make ``factor`` times the frames of a video, in both domains.

    Args:
        model: see :func:`jdm_fast.synthesis.load`.
        input: a video file, a folder of frames, or a list of two or more pictures; of domain ``source``.
        output: ``clip.mp4`` (or .mov, .mkv) gives ``clip.mp4`` with x and y side by side, ``clip.x.mp4`` and
            ``clip.y.mp4``. Any other name, or ``as_frames``, is a new or empty folder for PNG frames in ``both/``,
            ``x/`` and ``y/``.
        every: take every so many frames of the input as key frames, from the first on. Frames after the last key frame
            are not used.
        fps: of the output; by default the input's times ``factor / every``, so that the video lasts as long as the
            input, and 24 if the input is pictures. Give the input's own rate for slow motion.
        input_fps: take the input at this constant rate, repeating or leaving out frames so that each is seen at its
            true time; for videos of variable rate, whose frames are otherwise taken to be equally long.
        decoder: of video files, see :func:`jdm_fast.data.video_files.open_frames`.
        mode, batch_size, residual: see :meth:`Model.video`. crf: see :class:`VideoWriter`.
        on_progress: called with the number of frames made for each domain and, if the input tells, the number there
            will be.
        on_frames: called with the frames as they are made, before they are encoded: by domain uint8 [b, H, W, 3], in
            time order (scores are taken here, see :mod:`jdm_fast.metrics.files`).

    Raises:
        UserError: bad input or output, fewer than two key frames. No output exists then; what was there before still
            is.
    """
    if every < 1:
        raise UserError(f"every must be at least 1, got {every}")
    output = Path(output)
    is_file = not as_frames and _is_video_name(output)
    paths = _output_paths(output, model.domains, is_file)
    _refuse_overwriting_input(input, paths)
    if not is_file:
        require_new_folder(output)
    frames = open_frames(input, fps=input_fps, decoder=decoder, device=model.device)
    key_frames = _Counted(_at_least_two(islice(frames, 0, None, every), frames.name, every))
    if fps is not None:
        rate = Fraction(fps).limit_denominator(65535)
    else:
        rate = DEFAULT_FPS if frames.fps is None else frames.fps * Fraction(factor, every)
    parts = model.stream_video(key_frames, factor, source, mode, batch_size, residual=residual)
    if on_frames is not None:
        parts = _shown(parts, on_frames)
    total = None if frames.count is None else (-(-frames.count // every) - 1) * factor + 1
    if is_file:
        made = _write(parts, {name: VideoWriter(path, rate, crf) for name, path in paths.items()}, total, on_progress)
    else:
        scratch = output.with_name(f".{output.name}.{os.getpid()}.part")
        try:
            writers = {name: FolderWriter(scratch / path.name) for name, path in paths.items()}
            made = _write(parts, writers, total, on_progress)
            _publish_folder(scratch, output)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return VideoResult(paths, made, key_frames.count, rate)


def _write(
    parts: Iterable[dict[str, np.ndarray]],
    writers: dict[str, FrameWriter],
    total: int | None,
    on_progress: Callable[[int, int | None], None] | None,
) -> int:
    """Write all parts to the domains' writers and to ``both``; every output appears under its name, or none does."""
    made = 0
    with ExitStack() as stack:
        for writer in writers.values():
            stack.callback(writer.discard)
        for part in parts:
            both = np.concatenate(list(part.values()), axis=2)
            for name, frames in {"both": both, **part}.items():
                writers[name].write(frames)
            made += len(both)
            if on_progress:
                on_progress(made, total)
        for writer in writers.values():
            writer.finish()
        for writer in writers.values():
            writer.publish()
    return made


def _shown(
    parts: Iterable[dict[str, np.ndarray]], show: Callable[[dict[str, np.ndarray]], None]
) -> Iterator[dict[str, np.ndarray]]:
    for part in parts:
        show(part)
        yield part


def _publish_folder(scratch: Path, output: Path) -> None:
    try:
        os.replace(scratch, output)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from error


def _is_video_name(output: Path) -> bool:
    suffix = output.suffix.lower()
    if suffix in _OTHER_VIDEO_SUFFIXES:
        raise UserError(
            f"{output}: videos are written as {', '.join(VIDEO_SUFFIXES)}; any other name is a folder for frames"
        )
    return suffix in VIDEO_SUFFIXES


def _output_paths(output: Path, domains: Sequence[str], is_file: bool) -> dict[str, Path]:
    if is_file:
        return {"both": output, **{name: output.with_name(f"{output.stem}.{name}{output.suffix}") for name in domains}}
    return {name: output / name for name in ("both", *domains)}


def _refuse_overwriting_input(
    input: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], paths: dict[str, Path]
) -> None:
    inputs = [input] if isinstance(input, (str, os.PathLike)) else input
    taken = {Path(path).resolve() for path in inputs}
    for path in paths.values():
        if path.resolve() in taken:
            raise UserError(f"{path}: the output would replace the input; choose another name")


def _at_least_two(frames: Iterator[np.ndarray], name: str, every: int) -> Iterator[np.ndarray]:
    """The same frames, once it is sure that there is a pair; reading two ahead costs no more than that."""
    first = list(islice(frames, 2))
    if len(first) < 2:
        what = "one frame" if every == 1 else f"one key frame at every={every}"
        raise UserError(f"{name}: has {what}; video needs two or more (translate makes one picture of one)")
    return chain(first, frames)


class _Counted:
    """An iterator that knows how many items it has given."""

    def __init__(self, items: Iterator[np.ndarray]) -> None:
        self._items, self.count = items, 0

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> np.ndarray:
        item = next(self._items)
        self.count += 1
        return item
