"""The demo's story: data, training, translation scored against the truth, two-domain video scored against the truth.

On Earth pictures (:mod:`jdm_fast.data.earth`) everything has a truth to be compared with. On a user's own folders the
same steps run without scores.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from jdm_fast import synthesis
from jdm_fast._files import make_folder, write_atomically
from jdm_fast.data import find_images, read_image, resize_image, save_image
from jdm_fast.data.earth import Earth
from jdm_fast.data.flyover import Camera, Clip, fly_over
from jdm_fast.data.sheet import contact_sheet
from jdm_fast.data.video_files import write_video
from jdm_fast.errors import UserError
from jdm_fast.metrics import DomainVideoScore, Score, score_translation, score_video
from jdm_fast.presets import jwdm_small
from jdm_fast.training import TrainConfig, train

EARTH_DOMAINS = {"x": "satellite", "y": "topographic"}
SIZE = 64
FACTOR = 8
EVAL_EVERY = 350  # steps between scores of the held-out places: four times in the whole training
FLY_OVERS = 4  # scored; the first is made into a video


@dataclass(frozen=True)
class DemoData:
    """A user's own pictures instead of the Earth's."""

    x: Path | None = None
    """Folder of pictures of domain x."""
    y: Path | None = None
    """Folder of pictures of domain y."""


@dataclass(frozen=True)
class Demo:
    """Train JWDM, translate both ways, make a two-domain video. Interrupted and run again, it continues."""

    out: Path = Path("runs/demo")
    """Folder for everything the demo makes; also the run that translate, video and jf.load take."""
    data: DemoData = field(default_factory=DemoData)
    """Your own pictures; without them, satellite and topographic pictures of the Earth."""
    video: Path | None = None
    """With your own pictures: a video or folder of frames of domain x, to make eight times smoother in both domains."""
    epochs: int | None = None
    """Epochs of training; by default what the preset jwdm-small has."""
    seed: int = 0
    """Seed of the training."""


def run_demo(demo: Demo, console: Console) -> Path:
    """Tell the whole story into ``demo.out`` and return the folder.

    Raises:
        UserError: only one of the two folders was given, a video without folders, or whatever a step has to say.
    """
    own = demo.data.x is not None or demo.data.y is not None
    if own and (demo.data.x is None or demo.data.y is None):
        raise UserError("the demo on your own pictures needs both --data.x DIR and --data.y DIR")
    if demo.video is not None and not own:
        raise UserError("--video goes with --data.x and --data.y: the Earth demo makes its own video, a fly-over")
    return _own_story(demo, console) if own else _earth_story(demo, console)


# ---- Earth ----------------------------------------------------------------------------------------------------------


def _earth_story(demo: Demo, console: Console) -> Path:
    console.rule("1/4  data: satellite (x) and topographic (y) pictures of the Earth")
    with console.status("fetching and cutting the Earth"):
        earth = Earth.load(domains=tuple(EARTH_DOMAINS.values()))
        written = earth.write_unpaired(demo.out / "earth", tuple(EARTH_DOMAINS.values()), SIZE)
    of_x, of_y, held_out = (written.counts[name] for name in ("trainA", "trainB", "testA"))
    console.print(f"{of_x} + {of_y} training pictures of different places, {held_out} held-out places")

    console.rule("2/4  training")
    config = dataclasses.replace(_config(demo), preprocess="none", eval_every=EVAL_EVERY)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=written.root))
    train(config, console=console)
    model = synthesis.load(demo.out)

    console.rule("3/4  translating held-out places")
    report = {"translation": _translate_earth(model, written.root, demo.out, console)}

    console.rule("4/4  two-domain video of a fly-over, every 8th frame given")
    report["video"] = _fly_over_earth(model, earth, demo.out, console)

    write_atomically(demo.out / "report.json", lambda file: file.write(json.dumps(report, indent=1).encode() + b"\n"))
    _say_where(demo.out, console)
    return demo.out


def _translate_earth(model: synthesis.Model, root: Path, out: Path, console: Console) -> dict[str, dict]:
    held_out = {"x": _read_folder(root / "testA"), "y": _read_folder(root / "testB")}
    training = {"x": _read_folder(root / "trainA"), "y": _read_folder(root / "trainB")}
    land = _read_folder(root / "testMask")[..., 0] > 127
    names = [path.name for path in find_images(root / "testA")]
    report, rows = {}, []
    for source, to in (("x", "y"), ("y", "x")):
        translated = model.translate(held_out[source], to=to)
        make_folder(out / "translations" / f"to-{to}")
        for name, picture in zip(names, translated, strict=True):
            save_image(out / "translations" / f"to-{to}" / name, picture)
        scores = score_translation(
            translated, held_out[to], held_out[source], training[to], domain=EARTH_DOMAINS[to], land=land
        )
        console.print(_score_table(f"{EARTH_DOMAINS[source]} → {EARTH_DOMAINS[to]}", scores))
        report[f"{source}_to_{to}"] = {name: dataclasses.asdict(score) for name, score in scores.items()}
        rows += [held_out[source], translated, held_out[to]]
    shown = np.linspace(0, len(names) - 1, min(8, len(names))).astype(int)
    save_image(out / "translations.png", contact_sheet([row[shown] for row in rows], scale=2))
    console.print("translations.png, from the top: satellite, translated, truth; topographic, translated, truth")
    return report


def _fly_over_earth(model: synthesis.Model, earth: Earth, out: Path, console: Console) -> dict[str, dict]:
    folder = out / "flyover"
    camera = Camera(frames=8 * FACTOR + 1, size=(SIZE, SIZE))
    scores = []
    for seed in range(FLY_OVERS):
        clip = fly_over(earth, tuple(EARTH_DOMAINS.values()), camera, tile=SIZE, seed=seed)
        truth = {name: clip.frames[domain] for name, domain in EARTH_DOMAINS.items()}
        made = model.video(truth["x"][::FACTOR], factor=FACTOR)
        scores.append(score_video(made, truth, FACTOR))
        if seed == 0:
            _write_fly_over(model, clip, truth, made, folder)
    report = {
        domain: _mean_score([getattr(score, role) for score in scores])
        for role, domain in (("source", EARTH_DOMAINS["x"]), ("target", EARTH_DOMAINS["y"]))
    }
    console.print(_video_table(report))
    console.print("flyover.png, from the top: satellite true and made, topographic true and made")
    return report


def _write_fly_over(
    model: synthesis.Model, clip: Clip, truth: dict[str, np.ndarray], made: dict[str, np.ndarray], folder: Path
) -> None:
    frames = folder / "frames"
    make_folder(frames)
    for number, frame in enumerate(truth["x"]):
        save_image(frames / f"{number:06d}.png", frame)
    synthesis.synthesize_video(model, frames, folder / "video.mp4", factor=FACTOR, every=FACTOR)
    for name in EARTH_DOMAINS:
        write_video(folder / f"truth.{name}.mp4", truth[name], fps=24)
    shown = slice(0, 2 * FACTOR + 1, 2)
    rows = [pictures[name][shown] for name in EARTH_DOMAINS for pictures in (truth, made)]
    save_image(folder.parent / "flyover.png", contact_sheet(rows, scale=2))


def _mean_score(scores: list[DomainVideoScore]) -> dict[str, float | None]:
    names = [item.name for item in dataclasses.fields(DomainVideoScore)]
    columns = {name: [getattr(score, name) for score in scores] for name in names}
    return {name: None if None in column else float(np.mean(column)) for name, column in columns.items()}


# ---- the user's own pictures ----------------------------------------------------------------------------------------


def _own_story(demo: Demo, console: Console) -> Path:
    console.rule("1/3  training")
    config = _config(demo)
    folders = dataclasses.replace(config.data, x=demo.data.x, y=demo.data.y)
    train(dataclasses.replace(config, data=folders), console=console)
    model = synthesis.load(demo.out)

    console.rule("2/3  translating some of your pictures")
    rows = []
    for to, folder in (("y", demo.data.x), ("x", demo.data.y)):
        paths = find_images(folder)[:8]
        make_folder(demo.out / "translations" / f"to-{to}")
        for path in paths:
            synthesis.translate_files(model, path, demo.out / "translations" / f"to-{to}" / f"{path.stem}.png", to=to)
        pictures = np.stack([resize_image(read_image(path), (SIZE, SIZE)) for path in paths])
        rows += [pictures, model.translate(pictures, to=to)]
    save_image(demo.out / "translations.png", contact_sheet(rows, scale=2))
    console.print("translations.png, from the top: x, translated to y, y, translated to x")

    console.rule("3/3  two-domain video")
    if demo.video is None:
        console.print("no video was given: --video FILE makes one (frames of domain x)")
    else:
        made = synthesis.synthesize_video(model, demo.video, demo.out / "video.mp4", factor=FACTOR)
        console.print(f"{made.frames} frames from {made.key_frames} key frames")
    _say_where(demo.out, console)
    return demo.out


# ---- shared ---------------------------------------------------------------------------------------------------------


def _config(demo: Demo) -> TrainConfig:
    preset = jwdm_small()
    epochs = preset.n_epochs + preset.n_epochs_decay if demo.epochs is None else demo.epochs
    return dataclasses.replace(
        preset, out=demo.out, seed=demo.seed, n_epochs=epochs // 2, n_epochs_decay=epochs - epochs // 2
    )


def _read_folder(folder: Path) -> np.ndarray:
    """uint8 [N, H, W, 3], by name."""
    return np.stack([read_image(path) for path in find_images(folder)])


def _score_table(title: str, scores: dict[str, Score]) -> Table:
    table = Table("", "L1 error", "PSNR (dB)", "SSIM", "land/sea agreement", title=title)
    for name, score in scores.items():
        agreement = "" if score.land_sea is None else f"{score.land_sea:.3f}"
        ssim = "" if score.ssim is None else f"{score.ssim:.3f}"
        table.add_row(name, f"{score.l1:.3f}", f"{score.psnr:.1f}", ssim, agreement)
    return table


def _video_table(report: dict[str, dict[str, float | None]]) -> Table:
    table = Table("L1 error against the true frames", *report, title=f"fly-over, {FACTOR}x, mean of {FLY_OVERS} clips")
    for name in ("in_between", "cross_fade_decoded", "cross_fade_true", "key_frames"):
        cells = ["" if report[domain][name] is None else f"{report[domain][name]:.3f}" for domain in report]
        table.add_row(_VIDEO_ROWS[name], *cells)
    return table


_VIDEO_ROWS = {
    "in_between": "in-between frames, synthesised",
    "cross_fade_decoded": "in-between frames, cross-fade of the decoded key frames",
    "cross_fade_true": "in-between frames, cross-fade of the true key frames",
    "key_frames": "key frames, decoded (the floor)",
}


def _say_where(out: Path, console: Console) -> None:
    console.rule("done")
    for name, what in (
        ("translations.png", "translated pictures beside the truth"),
        ("translations", "the pictures themselves"),
        ("flyover.png", "frames of the fly-over, true and made"),
        ("flyover/video.mp4", "the two domains side by side; video.x.mp4 and video.y.mp4 each alone"),
        ("video.mp4", "the two domains side by side; video.x.mp4 and video.y.mp4 each alone"),
        ("samples", "pictures made during training"),
        ("metrics.jsonl", "losses of every step that was logged"),
        ("report.json", "the figures above"),
    ):
        if (out / name).exists():
            console.print(f"  {out / name}  [dim]{what}[/dim]", soft_wrap=True)
    console.print(
        f"\nnext: jdm-fast translate {out} PICTURES OUT --to y    jdm-fast video {out} VIDEO OUT.mp4 --factor 8",
        soft_wrap=True,
    )
