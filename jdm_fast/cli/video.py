"""``jdm-fast video RUN IN OUT --factor 8``."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console

from jdm_fast import synthesis
from jdm_fast.cli._progress import counting
from jdm_fast.cli._scores import as_json, show_scores, write_scores
from jdm_fast.cli._signals import stopping
from jdm_fast.cli._video_report import show_folder, show_plan, show_result
from jdm_fast.data.video_files import Decoder, open_frames
from jdm_fast.errors import UserError
from jdm_fast.metrics import find_palette
from jdm_fast.metrics.files import VideoTruth
from jdm_fast.metrics.video_report import VideoReport
from jdm_fast.synthesis.video import find_videos, folder_outputs, plan_video
from jdm_fast.synthesis.video.options import DEFAULT_FACTOR
from jdm_fast.training.distributed import Processes
from jdm_fast.training.engines import EngineName
from jdm_fast.training.precision import PrecisionChoice

_DOMAINS = ("x", "y")
_KEPT = "finished segments are kept, the same command with --resume goes on with them"
_ROWS = {
    "in_between": "synthesised in between",
    "cross_fade_decoded": "cross-fade of the decoded key frames",
    "cross_fade_true": "cross-fade of the true key frames",
    "key_frames": "key frames, decoded (the floor)",
}


@dataclass
class Truth:
    """Score the frames that are made, beside cross-fades."""

    x: Path | None = None
    """The true frames of domain x: a video or a folder of frames, one for each frame that is made."""
    y: Path | None = None
    """The same of domain y."""
    x_palette: str | None = None
    """Domain x shows classes by colours: also score mIoU. mask, cityscapes, or a JSON file such as
    {"road": [128, 64, 128], ...}."""
    y_palette: str | None = None
    """The same of domain y."""


@dataclass
class Video:
    """Two-domain video (Algorithm 2): the input's frames are key frames, and frames are made between them.

    Writes OUT (both domains side by side), and beside it each domain alone. IN may be a folder of videos: OUT is a
    folder then. Under torchrun the work is shared by the processes.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a training run. It carries its configuration: no option here has to match the training."""
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IN [IN2] OUT")]
    """IN is a video, a folder of frames or of videos, or (IN, IN2) two pictures. OUT ends in .mp4, .mkv or .mov, or is
    a folder."""
    factor: int | None = None
    """Frames made of one: T key frames become (T - 1) * factor + 1. 8, unless --fps is given."""
    source: Literal["x", "y"] = "x"
    """The domain the input belongs to."""
    every: int = 1
    """Use only every n-th frame of the input as a key frame."""
    fps: float | None = None
    """Alone: frames per second of the output, any number, at the input's duration. With --factor: how fast its frames
    are shown; the input's own rate gives slow motion."""
    input_fps: float | None = None
    """Take the input at this constant rate, each frame at its true time."""
    scene_cut: str = "auto"
    """Do not interpolate between key frames that differ by more than this, 0 to 1; off; or auto: 0.12 for videos and
    off for pictures."""
    decoder: Decoder = "pyav"
    """Who decodes the input: pyav on the CPU, dali on the GPU, or auto: dali where it can."""
    mode: Literal["lerp", "slerp"] = "lerp"
    """How latents are interpolated: linearly (the paper) or on the sphere."""
    domains: str | None = None
    """The domains to write, from left to right: x,y or y,x; one of them alone becomes OUT. All by default."""
    to: Literal["x", "y"] | None = None
    """Translate every frame to this domain instead, and make none in between."""
    codec: str | None = None
    """Any video encoder of FFmpeg: libx265, ffv1, ...; by default h264_nvenc where the GPU has it, else libx264."""
    crf: int | None = None
    """Quality of the encoder: 0 is lossless or nearly, larger is smaller and worse. 18 by default."""
    preset: str | None = None
    """How long the encoder takes to make the file smaller: ultrafast, veryfast, ... placebo of x264 and x265, p1 to p7
    of NVIDIA's, 13 to 0 of SVT-AV1. Where encoding is what takes the time, a quick one makes the video sooner."""
    keep_audio: bool = False
    """Copy the sound of the input. Goes with an unchanged duration only."""
    resume: bool = False
    """Go on where an earlier job with the same options ended; keep finished segments if this one fails."""
    segment_frames: int = 512
    """A job is done in segments of about so many frames of the output."""
    dry_run: bool = False
    """Check everything, print what would be made, and write nothing."""
    batch: str | None = None
    """Frames decoded at once, or auto; by default as many as fit a sensible amount of memory."""
    engine: EngineName = "auto"
    """How the networks are run."""
    precision: PrecisionChoice = "auto"
    """The networks' arithmetic."""
    tile: int | None = None
    """Side of the tiles that frames go through the networks in, for sizes that do not fit the memory."""
    residual: bool = False
    """Add what encoding and decoding loses of the key frames, cross-faded, to the frames of the source domain: its
    colours and detail come back, and its key frames come out as they are."""
    frames: bool = False
    """Write PNG frames into the folder OUT instead of a video."""
    device: str | None = None
    """cpu or cuda; by default the GPU if there is one."""
    truth: Truth = field(default_factory=Truth)
    """What the frames that are made should have been."""
    report: Path | None = None
    """Score the frames in between against the true ones, and flicker, beside cross-fades and each frame by itself, into
    this .json file. Frames that --every leaves out are true ones if it is a multiple of --factor; others come from
    --truth."""


def run(arguments: list[str]) -> int:
    """Synthesise the video; the files appear under their names only when they are whole."""
    options = tyro.cli(Video, args=arguments, prog="jdm-fast video")
    *inputs, output = options.paths
    if len(inputs) not in (1, 2):
        raise UserError(
            f"expected RUN IN OUT with a video or a folder of frames, or RUN IN IN2 OUT with two pictures, "
            f"got {len(options.paths)} paths after RUN"
        )
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    # Of several processes one that cleaned up would keep the others waiting: torchrun's SIGTERM ends them at once.
    with Processes.start(device) as processes, stopping(_KEPT) if processes.world_size == 1 else nullcontext():
        console = Console(quiet=not processes.is_main)
        model = synthesis.load(options.run, device=str(processes.device))
        input = inputs[0] if len(inputs) == 1 else inputs
        wanted = _wanted(options)
        if len(inputs) == 1 and find_videos(input):
            return _folder(console, model, options, inputs[0], output, wanted, processes)
        if options.dry_run:
            show_plan(
                console,
                str(input if len(inputs) == 1 else ", ".join(map(str, inputs))),
                plan_video(model, input, output, **wanted),
            )
            return 0
        paths = {domain: path for domain in _DOMAINS if (path := getattr(options.truth, domain)) is not None}
        truth = _truth(options, model, input, paths)
        with counting(console, "synthesising", "frames") as on_progress:
            made = synthesis.synthesize_video(
                model,
                input,
                output,
                resume=options.resume,
                processes=processes,
                on_progress=on_progress,
                on_frames=None if truth is None else truth.add,
                **wanted,
            )
        if made is not None:
            show_result(console, made, options.keep_audio)
            if truth is not None:
                _report(console, options, truth, paths, made)
    return 0


def _wanted(options: Video) -> dict[str, Any]:
    """The options of :func:`jdm_fast.synthesis.synthesize_video`."""
    names = (
        "factor source every fps input_fps decoder mode to codec crf preset keep_audio segment_frames engine precision"
        " tile residual"
    )
    return {
        **{name: getattr(options, name) for name in names.split()},
        "as_frames": options.frames,
        "domains": None if options.domains is None else [name.strip() for name in options.domains.split(",")],
        "scene_cut": _number("--scene-cut", options.scene_cut, float, "auto, off or a number"),
        "batch_size": None if options.batch is None else _number("--batch", options.batch, int, "auto or an integer"),
    }


def _number(name: str, text: str, kind: type, expected: str) -> Any:
    if text in expected.replace(",", "").split():
        return text
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"{name}: expected {expected}, got {text!r}") from None


def _folder(
    console: Console,
    model: synthesis.Model,
    options: Video,
    folder: Path,
    output: Path,
    wanted: dict[str, Any],
    processes: Processes,
) -> int:
    """A folder of videos; those that cannot be made are named at the end, with status 2."""
    if options.truth != Truth() or options.report is not None:
        raise UserError("--truth and --report go with one video, not with a folder of them")
    if options.dry_run:
        for source, target in folder_outputs(folder, output, options.frames).items():
            try:
                show_plan(console, source.name, plan_video(model, source, target, **wanted))
            except UserError as error:
                console.print(f"would fail: {error}", markup=False, soft_wrap=True)
        return 0
    with counting(console, "synthesising", "frames") as on_progress:
        done = synthesis.synthesize_folder(
            model, folder, output, resume=options.resume, processes=processes, on_progress=on_progress, **wanted
        )
    show_folder(console, done.results, output, options.keep_audio)
    if done.failed:
        raise UserError("; ".join(f"{name} was not made: {reason}" for name, reason in done.failed.items()))
    return 0


def _report(
    console: Console,
    options: Video,
    truth: VideoTruth | VideoReport,
    paths: dict[str, Path],
    made: synthesis.VideoResult,
) -> None:
    *inputs, output = options.paths
    about = {
        "run": str(options.run),
        "input": [str(path) for path in inputs],
        "source": options.source,
        "factor": options.factor or DEFAULT_FACTOR,
        "every": options.every,
        "mode": options.mode,
        "residual": options.residual,
        "frames": made.frames,
        "key_frames": made.key_frames,
    }
    if isinstance(truth, VideoReport):
        truth.finish(console, about)
        return
    scores = truth.result()
    for domain, of_domain in scores.items():
        show_scores(console, f"frames of {domain} against the true ones", of_domain, _ROWS)
    about["truth"] = {domain: str(path) for domain, path in paths.items()}
    write_scores(console, output, {**about, "scores": {domain: as_json(of) for domain, of in scores.items()}})


def _truth(
    options: Video, model: synthesis.Model, input: Path | list[Path], paths: dict[str, Path]
) -> VideoTruth | VideoReport | None:
    palettes = {}
    for domain in _DOMAINS:
        name = getattr(options.truth, f"{domain}_palette")
        if name is not None:
            if domain not in paths:
                raise UserError(f"--truth.{domain}-palette says what the truth is like: it goes with --truth.{domain}")
            palettes[domain] = find_palette(name)
    if options.report is None and not paths:
        return None
    if options.to is not None or (options.fps is not None and options.factor is None):
        raise UserError(
            "--truth and --report score frames that --factor makes in between: they go without --to, and --fps alone"
        )
    known: dict[str, Any] = {
        "factor": options.factor or DEFAULT_FACTOR, "every": options.every, "source": options.source,
        "palettes": palettes,
    }  # fmt: skip
    if options.report is None:
        return VideoTruth(paths, input, **known)
    batch = int(options.batch) if options.batch is not None and options.batch.isdecimal() else None
    return VideoReport(
        options.report,
        lambda frames, to: model.translate(frames, to, options.source, batch),
        open_frames(input, fps=options.input_fps, decoder=options.decoder, device=model.device),
        paths,
        **known,
    )
