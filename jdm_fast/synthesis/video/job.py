"""One input made into its outputs: segments by whoever has the turn, joined by one, under their names when whole."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jdm_fast._files import make_folder
from jdm_fast.data import video_index
from jdm_fast.data.video_codec import DEFAULT_CODEC, opens, require_encoder
from jdm_fast.data.video_files import open_frames
from jdm_fast.errors import UserError
from jdm_fast.synthesis.frame_engine import AHEAD, READ_AHEAD, FrameEngine, usual_batch
from jdm_fast.synthesis.in_thread import in_thread
from jdm_fast.synthesis.model import Model
from jdm_fast.synthesis.video.join import has_sound, join_videos
from jdm_fast.synthesis.video.options import VideoOptions, rates
from jdm_fast.synthesis.video.outputs import Input, Outputs, is_video_name, output_paths, require_writable
from jdm_fast.synthesis.video.store import SegmentStore
from jdm_fast.synthesis.video.timeline import Segment, Timeline, segments
from jdm_fast.synthesis.video.translator import Translator
from jdm_fast.synthesis.video.writing import WAITING, Part, SegmentWriters

OnProgress = Callable[[int, int | None], None]
OnFrames = Callable[[dict[str, np.ndarray]], None]


@dataclass(frozen=True)
class VideoResult:
    """What was made.

    ``files`` by name: ``both`` (the domains side by side) and each domain's own; ``frames`` of a domain; ``fps`` of the
    videos; ``scene_cuts`` that were not interpolated across; ``reused`` segments of an earlier job; whether there is
    ``sound``.
    """

    files: dict[str, Path]
    frames: int
    key_frames: int
    fps: Fraction
    scene_cuts: int = 0
    reused: int = 0
    sound: bool = False


@dataclass(frozen=True)
class VideoPlan:
    """What a job would do.

    ``frames`` and ``segments`` are None if only reading the input to its end can tell; they are estimates where its
    rate varies. ``picture_bytes``: memory of the pictures that are held at a time, beside the networks' own.
    """

    files: dict[str, Path]
    frames: int | None
    fps: Fraction
    size: tuple[int, int]
    segments: int | None
    keys_per_segment: int
    codec: str
    batch_size: int
    picture_bytes: int
    sound: bool


class VideoJob:
    """One input and its outputs. Making one opens the input and checks all, and writes nothing.

    Raises:
        UserError: what :func:`jdm_fast.synthesis.synthesize_video` says.
    """

    def __init__(
        self, model: Model, given: Input, output: str | os.PathLike[str], options: VideoOptions, engine: Any = None
    ) -> None:
        self.model, self.given, self.options = model, given, options
        output = Path(output)
        is_file = not options.as_frames and is_video_name(output)
        domains = chosen_domains(model, options)
        paths = output_paths(output, domains, is_file)
        require_writable(given, output, paths, is_file)
        self.frames = open_frames(given, fps=options.input_fps, decoder=options.decoder, device=model.device)
        sampled, shown, to_end = rates(options, self.frames)
        self.fps = shown.limit_denominator(65535)
        codec = "PNG" if not is_file else options.codec or _usual_codec(model, self.frames.size, self.fps, len(domains))
        if is_file:
            require_encoder(codec, options.crf, options.preset)
        self.outputs = Outputs(output, paths, domains, not is_file, codec, options.crf, options.preset)
        self._timeline = partial(
            Timeline,
            self.frames,
            rate=sampled,
            every=options.every,
            cut=options.cut_for(self.frames),
            hold=options.to is not None,
            to_end=to_end,
        )
        self._per_key = sampled * options.every / (self.frames.fps or 1)
        self.keys = max(1, round(options.segment_frames / max(1, self._per_key)))
        count = self._key_count()
        self.segments = None if count is None else -(-count // self.keys)
        self.total = self._expected(sampled, to_end)
        self.sound = self._sound()
        self.store = SegmentStore(output, paths, output.suffix if is_file else "")
        self._engine = engine if engine is not None else make_engine(model, options)

    def plan(self) -> VideoPlan:
        """What :meth:`make` and :meth:`publish` would do."""
        height, width = self.frames.size
        batch = self.options.batch_size
        if not isinstance(batch, int):
            batch = usual_batch((height, width), self.model.device)
        # Of every domain: those that wait to be written, and what each stage has in hand; and once side by side.
        pictures = 1 + len(self.outputs.domains) * (AHEAD + WAITING + 4)
        return VideoPlan(
            files=dict(self.outputs.paths),
            frames=self.total,
            fps=self.fps,
            size=(height, width),
            segments=self.segments,
            keys_per_segment=self.keys,
            codec=self.outputs.codec,
            batch_size=batch,
            picture_bytes=batch * height * width * 3 * pictures,
            sound=self.sound,
        )

    def begin(self, resume: bool) -> int:
        """Prepare the folder of segments, once for all processes; returns how many are finished already."""
        make_folder(self.outputs.output.absolute().parent)
        return self.store.open(self._fingerprint(), resume)

    def make(
        self,
        is_mine: Callable[[int], bool] = lambda number: True,
        on_progress: OnProgress | None = None,
        on_frames: OnFrames | None = None,
    ) -> None:
        """Make the segments that are mine by their number, and are not there yet."""
        made = self._made(is_mine)
        if not self._engine.in_callers_thread:
            made = in_thread(made, AHEAD, "jdm_fast-frames")
        done = 0  # of the segment
        with closing(made), SegmentWriters(self.store, lambda path: self.outputs.writer(path, self.fps)) as writers:
            for segment, part in made:
                if part is not None:
                    if on_frames:
                        on_frames(part)
                    writers.write(segment.number, part)
                    done += len(next(iter(part.values())))
                else:
                    note = {"key_frames": segment.key_frames, "last": segment.following is None, "cuts": segment.cuts}
                    writers.end(segment.number, note)
                if on_progress:  # as if all before it had been made
                    on_progress(math.ceil(segment.number * self.keys * self._per_key) + done, self.total)
                done = 0 if part is None else done

    def _made(self, is_mine: Callable[[int], bool]) -> Generator[tuple[Segment, Part | None], None, None]:
        """The parts of every segment that is mine to make, and after them None.

        The input is read ahead, so that it has been when the next segment begins. Where that is far, reading begins
        there anew.
        """
        next_of = partial(self._next, is_mine)
        per_segment = self.keys * self.options.every  # frames of the input
        number = next_of(0)
        while number is not None:
            timeline = self._timeline(first=number * per_segment)
            with closing(in_thread(timeline, READ_AHEAD, "jdm_fast-timeline")) as pieces:
                for segment in segments(pieces, self.keys, number):
                    if segment.number == number:
                        with closing(self._engine.compute(segment)) as parts:
                            for part in parts:
                                yield segment, part
                        for _ in segment:
                            pass
                        yield segment, None
                        number = next_of(number + 1)
                    if number is None or (number - segment.number - 1) * per_segment >= video_index.FAR:
                        break
                else:
                    return

    def _next(self, is_mine: Callable[[int], bool], number: int) -> int | None:
        """The first segment from ``number`` on that is mine and not there yet; None if that is past the end, as far as
        is known."""
        while self.segments is None or number < self.segments:
            note = self.store.finished(number)
            if note is None and is_mine(number):
                return number
            if note is not None and note["last"]:
                break
            number += 1
        return None

    def publish(self, reused: int = 0) -> VideoResult:
        """Join the segments, give the outputs their names, and remove the segments."""
        notes = self.store.all_finished()
        numbers = [number for number, note in enumerate(notes) if note["frames"]]
        frames = sum(note["frames"] for note in notes)
        if not numbers:
            raise UserError(f"{self.frames.name}: no frames were made of it")
        if self.outputs.as_frames:
            self._publish_folders(numbers)
        else:
            self._publish_videos(numbers, frames)
        self.store.clear()
        return VideoResult(
            files=dict(self.outputs.paths),
            frames=frames,
            key_frames=sum(note["key_frames"] for note in notes),
            fps=self.fps,
            scene_cuts=sum(note["cuts"] for note in notes),
            reused=reused,
            sound=self.sound,
        )

    def abandon(self, keep: bool) -> None:
        """After a failure: remove the segments, unless they are to be kept for ``resume``."""
        if not keep:
            self.store.clear()

    # ---- joining ----------------------------------------------------------------------------------------------------

    def _publish_videos(self, numbers: Sequence[int], frames: int) -> None:
        sound = Path(self.given) if self.sound else None
        with ExitStack() as stack:
            parts = {}
            for name, path in self.outputs.paths.items():
                parts[name] = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
                stack.callback(parts[name].unlink, missing_ok=True)
                joined = join_videos(
                    [self.store.path(number, name) for number in numbers], parts[name], self.fps, sound
                )
                if joined != frames:
                    raise UserError(
                        f"{path}: the segments hold {joined} frames, expected {frames}; remove {self.store.folder} and "
                        "start over"
                    )
            for name, path in self.outputs.paths.items():
                _rename(parts[name], path)

    def _publish_folders(self, numbers: Sequence[int]) -> None:
        output = self.outputs.output
        scratch = output.with_name(f".{output.name}.{os.getpid()}.part")
        try:
            for name in self.outputs.paths:
                make_folder(scratch / name)
                count = 0
                for number in numbers:
                    for picture in sorted(self.store.path(number, name).iterdir()):
                        # Linked, not moved: a job that is killed here still has its segments.
                        _link(picture, scratch / name / f"{count:06d}.png")
                        count += 1
            _rename(scratch, output)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    # ---- what there will be -----------------------------------------------------------------------------------------

    def _key_count(self) -> int | None:
        return None if self.frames.count is None else -(-self.frames.count // self.options.every)

    def _expected(self, sampled: Fraction, to_end: bool) -> int | None:
        """Output frames, if the input has the rate it says all through."""
        count = self._key_count()
        if not count:
            return None
        fps = self.frames.fps or Fraction(1)
        last = (count - 1) * self.options.every / fps
        frames = int(last * sampled) + 1
        return max(frames, int((last + 1 / fps) * sampled + Fraction(1, 2))) if to_end else frames

    def _sound(self) -> bool:
        if not self.options.keep_audio:
            return False
        if self.outputs.as_frames or not isinstance(self.given, (str, os.PathLike)) or Path(self.given).is_dir():
            raise UserError("keep_audio: sound goes from a video into a video; pictures have none")
        return has_sound(Path(self.given))

    def _fingerprint(self) -> dict[str, Any]:
        """What the frames depend on: a segment of the same is the same."""
        options = asdict(self.options)
        return {
            **{name: None if value is None else str(value) for name, value in options.items()},
            "codec": self.outputs.codec,
            "domains": ",".join(self.outputs.domains),
            "keys_per_segment": self.keys,
            "input": _digest_of_files(self.given),
            "model": _digest_of_weights(self.model),
        }


def make_engine(model: Model, options: VideoOptions) -> FrameEngine | Translator:
    """What makes frames of pieces. UserError for a model that cannot, or has no such domains."""
    if options.to is not None:
        batch = options.batch_size if isinstance(options.batch_size, int) else None
        return Translator(model, source=options.source, to=model._domain(options.to), batch_size=batch)
    return FrameEngine(
        model,
        source=options.source,
        domains=chosen_domains(model, options),
        mode=options.mode,
        engine=options.engine,
        precision=options.precision,
        batch_size=options.batch_size,
        tile=options.tile,
        residual=options.residual,
    )


def chosen_domains(model: Model, options: VideoOptions) -> tuple[str, ...]:
    """The domains that are written. UserError for unknown or repeated ones."""
    model._domain(options.source)
    if options.to is not None:
        if options.to == options.source:
            raise UserError(f"to: the input is of domain {options.source} already; choose another, or another source")
        return (model._domain(options.to),)
    chosen = model.domains if options.domains is None else tuple(options.domains)
    if not chosen or len(set(chosen)) != len(chosen):
        raise UserError(f"domains: expected some of {', '.join(model.domains)}, each once, got {', '.join(chosen)}")
    return tuple(model._domain(domain) for domain in chosen)


def _usual_codec(model: Model, size: tuple[int, int], fps: Fraction, domains: int) -> str:
    """NVIDIA's encoder where a GPU is used that has one (not all do), else x264."""
    height, width = size
    if model.device.type == "cuda" and all(opens("h264_nvenc", (height, width * n), fps) for n in {1, domains}):
        return "h264_nvenc"
    return DEFAULT_CODEC


def _digest_of_files(given: Input) -> str:
    digest = hashlib.sha256()
    for path in _files(given):
        about = path.stat()
        digest.update(f"{path.resolve()} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _files(given: Input) -> Iterator[Path]:
    if not isinstance(given, (str, os.PathLike)):
        yield from map(Path, given)
    elif Path(given).is_dir():
        yield from sorted(Path(given).iterdir())
    else:
        yield Path(given)


def _digest_of_weights(model: Model) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.method.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _link(source: Path, target: Path) -> None:
    try:
        try:
            os.link(source, target)
        except OSError:  # file systems without links
            shutil.copyfile(source, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error


def _rename(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from error
