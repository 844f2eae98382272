"""``jdm-fast translate RUN IN OUT --to x|y``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from jdm_fast import synthesis
from jdm_fast.cli._progress import counting
from jdm_fast.cli._scores import as_json, show_scores, write_scores
from jdm_fast.errors import UserError
from jdm_fast.metrics import find_palette
from jdm_fast.metrics.files import PictureTruth

_ROWS = {
    "translated": "translated",
    "input copied": "input copied",
    "mean colour": "mean colour of the truth",
    "truth": "the truth itself",
}
_NAMED = 10  # files without a truth that are named on the screen; scores.json names all


@dataclass
class Translate:
    """Translate a picture, or every picture in a folder, into another domain. Sizes are kept."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a training run. It carries its configuration: no option here has to match the training."""
    input: Annotated[Path, tyro.conf.Positional]
    """A picture, or a folder of pictures."""
    output: Annotated[Path, tyro.conf.Positional]
    """For a picture: the file to write. For a folder: the folder to write to."""
    to: Literal["x", "y"] = "y"
    """The domain to translate to."""
    batch_size: int | None = None
    """Pictures of one size translated at once; by default as many as fit a sensible amount of memory."""
    tile: int | None = None
    """Work on each picture in tiles of so many pixels a side, such as 256: large pictures in little memory. The result
    is that of the whole picture, without seams. Models of jwdm only."""
    skip_bad: bool = False
    """Leave out pictures that cannot be read instead of failing at the end."""
    device: str | None = None
    """cpu or cuda; by default the GPU if there is one."""
    truth: Path | None = None
    """Score the translations: the true ones, a folder with the same names as IN (or, of a picture, a file)."""
    truth_domain: Literal["satellite", "relief", "topographic", "mask"] | None = None
    """The truth is this domain of the Earth: also score land and water by its colours; of mask, mIoU."""
    truth_land: Path | None = None
    """Masks (white land, black water) with the same names; without them land is read off the colours of the truth."""
    truth_palette: str | None = None
    """The truth shows classes by colours: also score mIoU. mask, cityscapes, or a JSON file such as
    {"road": [128, 64, 128], ...}."""


def run(arguments: list[str]) -> int:
    """Translate files; every unreadable one is named at the end, and makes the status 2 unless ``--skip-bad``."""
    options = tyro.cli(Translate, args=arguments, prog="jdm-fast translate")
    console = Console()
    model = synthesis.load(options.run, device=options.device)
    truth = _truth(options, console)
    try:
        with counting(console, "translating", "pictures") as on_progress:
            done = synthesis.translate_files(
                model,
                options.input,
                options.output,
                to=options.to,
                batch_size=options.batch_size,
                tile=options.tile,
                skip_bad=options.skip_bad,
                on_progress=on_progress,
                on_pictures=None if truth is None else truth.add,
            )
    except UserError:
        if truth is not None and truth.pictures:  # some pictures could not be read: the others have their scores
            _report(options, truth, console)
        raise
    for path, reason in done.failed.items():
        console.print(f"left out {path}: {reason}", markup=False)
    console.print(f"{len(done.files)} pictures in {options.output}", markup=False)
    if truth is not None:
        _report(options, truth, console)
    return 0


def _truth(options: Translate, console: Console) -> PictureTruth | None:
    more = {"domain": options.truth_domain, "land": options.truth_land, "palette": options.truth_palette}
    if options.truth is None:
        for name, value in more.items():
            if value is not None:
                raise UserError(f"--truth-{name} says what the truth is like: it goes with --truth FOLDER")
        return None
    if options.truth_land is not None and options.truth_domain is None:
        raise UserError("--truth-land goes with --truth-domain: whose colours are to show land and water?")
    palette = None if options.truth_palette is None else find_palette(options.truth_palette)
    with counting(console, "checking the truth", "pictures") as on_progress:
        return PictureTruth(
            options.input,
            options.truth,
            domain=options.truth_domain,
            land=options.truth_land,
            palette=palette,
            on_progress=on_progress,
        )


def _report(options: Translate, truth: PictureTruth, console: Console) -> None:
    scores = truth.result()
    count = "1 picture" if truth.pictures == 1 else f"{truth.pictures} pictures"
    show_scores(console, f"{count} translated to {options.to}, against the truth", scores, _ROWS)
    missing = sorted(map(str, truth.without_truth))
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        names = ", ".join(missing[:_NAMED])
        console.print(f"no truth for {names}{more}", markup=False, soft_wrap=True)
    land = None if options.truth_domain is None else str(options.truth_land or "colours of the truth")
    report = {
        "run": str(options.run),
        "input": str(options.input),
        "to": options.to,
        "truth": str(options.truth),
        "truth_domain": options.truth_domain,
        "land": land,
        "pictures": truth.pictures,
        "mean_colour": truth.mean_colour.tolist(),
        "scores": as_json(scores),
        "iou": truth.iou(),
        "without_truth": missing,
    }
    write_scores(console, options.output, report)
