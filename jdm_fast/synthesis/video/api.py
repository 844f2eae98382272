"""Videos made from files: one, or a folder of them, by one process or several."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jdm_fast.data.video_files import VIDEO_SUFFIXES
from jdm_fast.errors import UserError
from jdm_fast.synthesis.model import Model
from jdm_fast.synthesis.video.job import OnFrames, OnProgress, VideoJob, VideoPlan, VideoResult, make_engine
from jdm_fast.synthesis.video.options import VideoOptions
from jdm_fast.synthesis.video.outputs import Input
from jdm_fast.training.distributed import Processes

VIDEO_INPUTS = (*VIDEO_SUFFIXES, ".avi", ".webm", ".mpg", ".mpeg", ".wmv", ".m4v", ".ts", ".ogv", ".gif", ".flv")


def synthesize_video(
    model: Model,
    input: Input,
    output: str | os.PathLike[str],
    *,
    resume: bool = False,
    processes: Processes | None = None,
    on_progress: OnProgress | None = None,
    on_frames: OnFrames | None = None,
    **options: Any,
) -> VideoResult | None:
    """Make a longer video of a video, in all domains (Algorithm 2 of the JWDM paper); or translate each of its frames.

    Args:
        model: see :func:`jdm_fast.synthesis.load`.
        input: a video file, a folder of frames, or a list of two or more pictures; of domain ``source``.
        output: ``clip.mp4`` (or .mov, .mkv) gives ``clip.mp4`` with the domains side by side, ``clip.x.mp4`` and
            ``clip.y.mp4``; of one domain alone only ``clip.mp4``. Any other name, or ``as_frames``, is a new or empty
            folder for PNG frames in ``both/``, ``x/`` and ``y/``.
        factor: frames made of one; by default 8, unless ``fps`` is given.
        source: domain of the input, "x" unless said.
        every: take every so many frames of the input as key frames, from the first on. Frames after the last key frame
            are not used.
        fps: alone: the output's rate, any number; frames lie at their true times between the key frames, and the video
            lasts as long as the input. With ``factor``: how fast the frames are shown that ``factor`` makes; give the
            input's own rate for slow motion. By default the input's times ``factor / every``, and 24 if the input is
            pictures, which have no times.
        input_fps: take the input at this constant rate, repeating or leaving out frames.
        scene_cut: two key frames that differ by more than this (0 to 1, see
            :func:`jdm_fast.synthesis.video.timeline.difference`) are two scenes, and not interpolated. ``auto`` is
            0.12 for videos and "off" for pictures.
        decoder: of video files, see :func:`jdm_fast.data.video_files.open_frames`.
        mode: ``lerp`` (the paper's) or ``slerp``.
        domains: those to write, in their order from left to right; all unless said.
        to: translate every frame to this domain instead, and make none in between.
        as_frames: write PNG frames.
        codec: any video encoder of PyAV; by default h264_nvenc where the GPU that is used has it, else libx264.
        crf: quality of encoders that have one, 0 (largest file) to 51; by default 18.
        preset: how long the encoder takes to make the file smaller: ``ultrafast`` to ``placebo`` of x264 and x265,
            ``p1`` to ``p7`` of NVIDIA's, ``13`` to ``0`` of SVT-AV1.
        keep_audio: copy the input's first sound track. It goes with an unchanged duration only.
        segment_frames: about so many output frames are made and kept at a time; see ``resume``.
        batch_size, engine, precision, tile, residual: see :class:`jdm_fast.synthesis.frame_engine.FrameEngine`.
        resume: go on where an earlier job with the same input, model and options ended, and keep what is finished if
            this one fails. Without it a job starts over.
        processes: of :meth:`jdm_fast.training.distributed.Processes.start`: segments are shared among them.
        on_progress: called with the number of frames made for each domain and, if the input tells, the number there
            will be.
        on_frames: called with the frames as they are made, before they are encoded: by domain uint8 [b, H, W, 3], in
            time order (scores are taken here, see :mod:`jdm_fast.metrics.files`). Not with ``resume`` or several
            processes, where it would not see all.

    Returns:
        What was made, on the first process; None on others.

    Raises:
        UserError: bad input, output or options, fewer than two key frames (one will do with ``to``). No output exists
            then; what was there before still is.
    """
    processes = processes or Processes(model.device)
    if on_frames is not None and (resume or processes.world_size > 1):
        raise UserError(
            "frames are scored as they are made: --truth and --report go with one process, and without --resume"
        )
    job = VideoJob(model, input, output, VideoOptions(**options))
    done = _make_all({"": job}, resume, processes, on_progress, on_frames)
    if done.failed:
        raise UserError(done.failed[""])
    return done.results.get("")


def plan_video(model: Model, input: Input, output: str | os.PathLike[str], **options: Any) -> VideoPlan:
    """What :func:`synthesize_video` would do, with the same errors for what is bad. Writes nothing."""
    return VideoJob(model, input, output, VideoOptions(**options)).plan()


@dataclass(frozen=True)
class FolderResult:
    """By the input's name what was made of it, or why nothing was."""

    results: dict[str, VideoResult]
    failed: dict[str, str]


def synthesize_folder(
    model: Model,
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    resume: bool = False,
    processes: Processes | None = None,
    on_progress: OnProgress | None = None,
    **options: Any,
) -> FolderResult:
    """:func:`synthesize_video` for every video in a folder, into a folder.

    ``name.mp4`` gives ``output/name.mp4`` and so on; other containers than .mp4, .mov and .mkv become .mp4. With
    ``as_frames`` each gets a folder. A bad video does not keep the others from being made. With ``resume`` those that
    are there already are left as they are and are not in the result.

    Raises:
        UserError: no videos, two that would get one name, or bad options.
    """
    processes = processes or Processes(model.device)
    asked = VideoOptions(**options)
    engine = make_engine(model, asked)
    jobs: dict[str, VideoJob] = {}
    failed: dict[str, str] = {}
    for source, target in folder_outputs(folder, output, asked.as_frames).items():
        if resume and target.exists():
            continue
        try:
            jobs[source.name] = VideoJob(model, source, target, asked, engine)
        except UserError as error:
            failed[source.name] = str(error)
    done = _make_all(jobs, resume, processes, on_progress, None)
    return FolderResult(done.results, failed | done.failed)


def find_videos(folder: str | os.PathLike[str]) -> list[Path]:
    """The videos in a folder by their names' endings, sorted; none if there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_INPUTS and path.is_file())


def folder_outputs(
    folder: str | os.PathLike[str], output: str | os.PathLike[str], as_frames: bool = False
) -> Mapping[Path, Path]:
    """The output of each video in a folder. UserError if there are none, or two would get one name."""
    folder, output = Path(folder), Path(output)
    if output.suffix.lower() in VIDEO_INPUTS or output.is_file():
        raise UserError(f"{output}: {folder} holds several videos; expected the name of a folder for what is made")
    found = find_videos(folder)
    if not found:
        raise UserError(f"{folder}: no videos in this folder")
    outputs: dict[Path, Path] = {}
    for source in found:
        suffix = source.suffix.lower() if source.suffix.lower() in VIDEO_SUFFIXES else ".mp4"
        target = output / (source.stem if as_frames else source.stem + suffix)
        other = next((one for one, taken in outputs.items() if taken == target), None)
        if other is not None:
            raise UserError(f"{source.name} and {other.name} would both become {target}: rename one")
        outputs[source] = target
    return outputs


def _make_all(
    jobs: Mapping[str, VideoJob],
    resume: bool,
    processes: Processes,
    on_progress: OnProgress | None,
    on_frames: OnFrames | None,
) -> FolderResult:
    """Make all jobs, their segments dealt out among the processes, and join them on the first."""
    errors: dict[str, str] = {}
    reused: dict[str, int] = {}
    results: dict[str, VideoResult] = {}

    def attempt(name: str, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except UserError as error:
            errors[name] = str(error)
        except Exception:
            jobs[name].abandon(keep=resume)
            raise

    def publish(name: str) -> None:
        made = attempt(name, lambda: jobs[name].publish(reused[name]))
        if made is not None:
            results[name] = made
        else:
            jobs[name].abandon(keep=resume)

    if processes.is_main:
        for name, job in jobs.items():
            begun = attempt(name, lambda job=job: job.begin(resume))
            reused[name] = begun or 0
    errors = processes.broadcast_object(errors)
    for turn, (name, job) in enumerate(jobs.items()):
        if name in errors:
            continue
        planned = job.plan().segments
        if planned == 1 and turn % processes.world_size != processes.rank:
            continue  # another's alone: it need not even be read

        def is_mine(number: int, turn: int = turn) -> bool:
            return (turn + number) % processes.world_size == processes.rank

        attempt(name, lambda job=job, is_mine=is_mine: job.make(is_mine, on_progress, on_frames))
        if processes.world_size == 1:
            if name in errors:
                job.abandon(keep=resume)
            else:
                publish(name)
    if processes.world_size > 1:
        for other in processes.gather(errors):
            errors |= {name: text for name, text in other.items() if name not in errors}
        if processes.is_main:
            for name in jobs:
                if name in errors:
                    jobs[name].abandon(keep=resume)
                else:
                    publish(name)
        errors = processes.broadcast_object(errors)
    return FolderResult(results, errors)
