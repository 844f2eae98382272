"""``jdm-fast video RUN IN OUT --factor 8``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from jdm_fast import synthesis
from jdm_fast.cli._progress import counting
from jdm_fast.cli._scores import as_json, show_scores, write_scores
from jdm_fast.data.video_files import Decoder, open_frames
from jdm_fast.errors import UserError
from jdm_fast.metrics import find_palette
from jdm_fast.metrics.files import VideoTruth
from jdm_fast.metrics.video_report import VideoReport

_DOMAINS = ("x", "y")
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
    """Two-domain video (Algorithm 2): the input's frames are key frames; factor - 1 frames are made between two.

    Writes OUT (both domains side by side), and beside it each domain alone.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a training run. It carries its configuration: no option here has to match the training."""
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IN [IN2] OUT")]
    """IN is a video, a folder of frames, or (IN, IN2) two pictures. OUT ends in .mp4, .mkv or .mov, or is a folder."""
    factor: int = 8
    """Frames made of one: T key frames become (T - 1) * factor + 1."""
    source: Literal["x", "y"] = "x"
    """The domain the input belongs to."""
    every: int = 1
    """Use only every n-th frame of the input as a key frame."""
    fps: float | None = None
    """Frames per second of the output; by default the input's duration is kept."""
    input_fps: float | None = None
    """Take the input at this constant rate, each frame at its true time; for videos of variable rate."""
    decoder: Decoder = "pyav"
    """Who decodes the input: pyav on the CPU, dali on the GPU, or auto: dali where it can."""
    mode: Literal["lerp", "slerp"] = "lerp"
    """How latents are interpolated: linearly (the paper) or on the sphere."""
    crf: int = 18
    """H.264 quality: 0 is lossless, larger is smaller and worse."""
    batch_size: int | None = None
    """Frames decoded at once; by default as many as fit a sensible amount of memory."""
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
    console = Console()
    input = inputs[0] if len(inputs) == 1 else inputs
    model = synthesis.load(options.run, device=options.device)
    paths = {domain: path for domain in _DOMAINS if (path := getattr(options.truth, domain)) is not None}
    truth = _truth(options, model, input, paths)
    with counting(console, "synthesising", "frames") as on_progress:
        made = synthesis.synthesize_video(
            model,
            input,
            output,
            factor=options.factor,
            source=options.source,
            every=options.every,
            fps=options.fps,
            input_fps=options.input_fps,
            decoder=options.decoder,
            mode=options.mode,
            crf=options.crf,
            batch_size=options.batch_size,
            residual=options.residual,
            as_frames=options.frames,
            on_progress=on_progress,
            on_frames=None if truth is None else truth.add,
        )
    console.print(
        f"{made.frames} frames from {made.key_frames} key frames, {float(made.fps):g} frames/s:", markup=False
    )
    for name, path in made.files.items():
        console.print(f"  {name:5} {path}", markup=False)
    if truth is None:
        return 0
    about = {
        "run": str(options.run),
        "input": [str(path) for path in inputs],
        "source": options.source,
        "factor": options.factor,
        "every": options.every,
        "mode": options.mode,
        "residual": options.residual,
        "frames": made.frames,
        "key_frames": made.key_frames,
    }
    if isinstance(truth, VideoReport):
        truth.finish(console, about)
        return 0
    scores = truth.result()
    for domain, of_domain in scores.items():
        show_scores(console, f"frames of {domain} against the true ones", of_domain, _ROWS)
    about["truth"] = {domain: str(path) for domain, path in paths.items()}
    write_scores(console, output, {**about, "scores": {domain: as_json(of) for domain, of in scores.items()}})
    return 0


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
    if options.report is not None:
        return VideoReport(
            options.report,
            lambda frames, to: model.translate(frames, to, options.source, options.batch_size),
            open_frames(input, fps=options.input_fps, decoder=options.decoder, device=model.device),
            paths,
            factor=options.factor,
            every=options.every,
            source=options.source,
            palettes=palettes,
        )
    if not paths:
        return None
    return VideoTruth(
        paths, input, factor=options.factor, source=options.source, every=options.every, palettes=palettes
    )
