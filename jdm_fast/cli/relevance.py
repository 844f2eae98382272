"""``jdm-fast relevance train ROOT --out R`` and ``jdm-fast relevance score R --x DIR --y DIR``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from jdm_fast._files import make_folder, write_atomically
from jdm_fast.cli._progress import counting
from jdm_fast.data.dataset import Group, ImageFiles, Layout
from jdm_fast.data.images import find_images
from jdm_fast.data.layouts import LayoutName, find_layout
from jdm_fast.errors import UserError
from jdm_fast.metrics.relevance import Relevance, RelevanceModel, checked_name
from jdm_fast.metrics.relevance_training import RelevanceConfig, paired_and_random, split_pairs, train_relevance

_Scores = Mapping[str, Mapping[str, Relevance]]  # by pair of domains, by row
_ROWS = {
    "given": "the pairs given",
    "given_random": "the same, paired at random",
    "true": "true pairs, held out of training",
    "random": "random pairs of the same data",
    "other": "pairs of another data set",
}
_USAGE = """\
usage: jdm-fast relevance train ROOT --out R.safetensors [OPTIONS]
       jdm-fast relevance score R.safetensors --x DIR --y DIR [OPTIONS]
       jdm-fast relevance score R.safetensors --root ROOT [OPTIONS]

  train  learn from the pairs of a data set how well two pictures belong together
  score  say how well pictures of equal names belong together

jdm-fast relevance train --help lists the options."""


@dataclass
class Train:
    """Learn from the training pairs of a data set how well two pictures belong together, and show the paper's three
    controls: true pairs that are held out, random pairs, and with --other pairs of another data set."""

    root: Annotated[Path, tyro.conf.Positional]
    """The root folder of the data set, in any layout; its test (or val) split, or else the last tenth of its pairs, is
    held out."""
    out: Path
    """The file to write, NAME.safetensors. One already there is replaced."""
    domains: tuple[str, ...] | None = None
    """Which of its domains, by their names in the data set; they become x, y, z."""
    layout: LayoutName = "auto"
    """How the data set lies on the disk; found out by itself where nothing is said."""
    recursive: bool = False
    """Look into the sub-folders of the domains' folders too."""
    size: int = RelevanceConfig.size
    """Height and width that pictures are resized to."""
    channels: Literal[1, 3] = 3
    """1 looks at grey pictures."""
    steps: int = RelevanceConfig.steps
    """Batches to train on."""
    batch_size: int = RelevanceConfig.batch_size
    """Pairs in a batch."""
    mismatches: int = RelevanceConfig.mismatches
    """Wrong partners that the right one is told from at a time (DSSM: 4)."""
    gamma: float = RelevanceConfig.gamma
    """Smoothing of the softmax: what cosines are multiplied by."""
    width: int = RelevanceConfig.width
    """Channels after the first convolution."""
    augment: bool = True
    """Mirror and crop pairs in training."""
    seed: int = 0
    """Of weights, order, crops and mismatches."""
    other: Path | None = None
    """Another data set with pairs, for the third control."""
    other_domains: tuple[str, ...] | None = None
    """Its domains that take the places of x, y, z."""
    other_layout: LayoutName = "auto"
    """Its layout."""
    most: int = 2000
    """Pairs that are scored of each control at most."""
    device: str = "cpu"
    """cpu or cuda."""
    threads: int | None = None
    """For decoding; by default the cores there are, at most 8."""


@dataclass
class Score:
    """Score pictures that belong together by name, or the pairs of a data set, beside the model's controls."""

    model: Annotated[Path, tyro.conf.Positional]
    """The file that jdm-fast relevance train wrote."""
    x: Path | None = None
    """Folder of pictures of domain x. Sub-folders are searched; endings of names may differ."""
    y: Path | None = None
    """Folder of pictures of domain y."""
    z: Path | None = None
    """Folder of pictures of domain z, of a model of three domains."""
    root: Path | None = None
    """Instead of folders: a data set with pairs."""
    domains: tuple[str, ...] | None = None
    """Its domains that are x, y, z; by default those of the training, by name."""
    layout: LayoutName = "auto"
    """Its layout."""
    other: Path | None = None
    """Another data set with pairs, for the third control; by default what training measured."""
    other_domains: tuple[str, ...] | None = None
    """Its domains that take the places of x, y, z."""
    other_layout: LayoutName = "auto"
    """Its layout."""
    most: int | None = None
    """Pairs that are scored at most, evenly spaced; all by default."""
    report: Path | None = None
    """Write the scores as JSON to this file."""
    device: str = "cpu"
    """cpu or cuda."""
    threads: int | None = None
    """For decoding; by default the cores there are, at most 8."""


def run(arguments: list[str]) -> int:
    """Train or score."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if arguments else 2
    what, rest = arguments[0], arguments[1:]
    if what == "train":
        return _train(tyro.cli(Train, args=rest, prog="jdm-fast relevance train"))
    if what == "score":
        return _score(tyro.cli(Score, args=rest, prog="jdm-fast relevance score"))
    raise UserError(f"jdm-fast relevance has no {what!r}; there are: train, score")


def _train(options: Train) -> int:
    console = Console(highlight=False)
    make_folder(checked_name(options.out).parent)
    config = RelevanceConfig(
        **{name: getattr(options, name) for name in asdict(RelevanceConfig()) if hasattr(options, name)}
    )
    layout = find_layout(options.root, options.layout, recursive=options.recursive, on_choice=_telling(console))
    train, held_out = _split(layout, options.domains)
    other = _other_pairs(options, console)
    chosen = {letter for group in train for letter in group.domains}
    with counting(Console(stderr=True), "training", "steps") as on_progress:
        model = train_relevance(
            train,
            config,
            names=(options.domains or layout.domains)[: len(chosen)],
            channels=options.channels,
            augment=options.augment,
            device=options.device,
            threads=options.threads,
            on_step=lambda step, steps, loss: on_progress(step, steps),
        )
    controls = _named(_scored(model, held_out, options), paired="true", random="random")
    if other is not None:
        _merge(controls, _named(_scored(model, other, options), paired="other"))
    model.notes["controls"] = _as_json(controls)
    model.save(options.out)
    _show(console, model, "relevance, by the model's own data", controls)
    console.print(f"the model is in {options.out}", markup=False, soft_wrap=True)
    return 0


def _score(options: Score) -> int:
    console = Console(highlight=False)
    model = RelevanceModel.load(options.model, options.device)
    folders = {letter: path for letter in "xyz" if (path := getattr(options, letter)) is not None}
    if (options.root is None) == (not folders):
        raise UserError("what is to be scored? Give either two folders, --x DIR --y DIR, or a data set, --root ROOT")
    without_partner = 0
    if options.root is not None:
        domains = options.domains or tuple(model.names.values())
        layout = find_layout(options.root, options.layout, on_choice=_telling(console))
        _, groups = _split(layout, domains)
    else:
        group, without_partner = _by_name(folders)
        groups = (group,)
    other = _other_pairs(options, console)
    scores = _named(_scored(model, groups, options), paired="given", random="given_random")
    controls = {
        pair: {row: Relevance(**values) for row, values in rows.items()}
        for pair, rows in model.notes.get("controls", {}).items()
        if pair in scores
    }
    if other is not None:
        _merge(controls, _named(_scored(model, other, options), paired="other"), only=scores)
    _merge(scores, controls)
    _show(console, model, "relevance", scores)
    if without_partner:
        console.print(f"{without_partner} pictures are left out: no partner of their name", markup=False)
    if options.report is not None:
        report = {
            "model": str(options.model),
            "scored": str(options.root) if options.root else {letter: str(path) for letter, path in folders.items()},
            "other": None if options.other is None else str(options.other),
            "domains": model.names,
            "relevance": _as_json(scores),
            "left_out": without_partner,
        }
        text = json.dumps(report, indent=1, ensure_ascii=False)
        make_folder(options.report.parent)
        write_atomically(options.report, lambda file: file.write(text.encode() + b"\n"))
        console.print(f"report: {options.report}", markup=False, soft_wrap=True)
    return 0


def _telling(console: Console, prefix: str = "--") -> Any:
    return lambda text: console.print(f"note: {text.replace('--data.', prefix)}", markup=False, soft_wrap=True)


def _split(layout: Layout, domains: Sequence[str] | None, prefix: str = "--") -> tuple[tuple[Group, ...], ...]:
    """:func:`split_pairs`, whose advice names the options of this command and not those of ``jdm-fast train``."""
    try:
        return split_pairs(layout, domains)
    except UserError as error:
        raise UserError(str(error).replace("--data.", prefix)) from error


def _other_pairs(options: Train | Score, console: Console) -> tuple[Group, ...] | None:
    if options.other is None:
        return None
    layout = find_layout(options.other, options.other_layout, on_choice=_telling(console, "--other-"))
    return _split(layout, options.other_domains, "--other-")[1]


def _by_name(folders: Mapping[str, Path]) -> tuple[Group, int]:
    """The pictures whose names are in all folders, and how many others there are."""
    if len(folders) < 2:
        raise UserError(f"relevance is between two domains, got a folder of {', '.join(folders)} only")
    named: dict[str, dict[str, Path]] = {}
    for letter, folder in folders.items():
        named[letter] = {}
        for path in find_images(folder, recursive=True):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in named[letter]:
                raise UserError(f"{folder}: has the name {name} twice, with different endings; remove one")
            named[letter][name] = path
    common = sorted(set.intersection(*(set(paths) for paths in named.values())))
    if not common:
        firsts = ", ".join(f"{next(iter(paths))} in {folders[letter]}" for letter, paths in named.items())
        raise UserError(f"no picture of one folder is called as one of the other: {firsts}; expected equal names")
    domains = {
        letter: ImageFiles(tuple(paths[name] for name in common), root=folders[letter])
        for letter, paths in named.items()
    }
    return Group(domains), sum(len(paths) - len(common) for paths in named.values())


def _scored(model: RelevanceModel, groups: Sequence[Group], options: Train | Score) -> _Scores:
    with counting(Console(stderr=True), "scoring", "items") as on_progress:
        return paired_and_random(model, groups, most=options.most, threads=options.threads, on_progress=on_progress)


def _named(scores: _Scores, **names: str) -> dict[str, dict[str, Relevance]]:
    """The scores under the names of rows; kinds without a name are left out."""
    return {
        pair: {names[kind]: score for kind, score in kinds.items() if kind in names} for pair, kinds in scores.items()
    }


def _merge(scores: dict[str, dict[str, Relevance]], more: _Scores, only: _Scores | None = None) -> None:
    for pair, rows in more.items():
        if only is None or pair in only:
            scores.setdefault(pair, {}).update(rows)


def _as_json(scores: _Scores) -> dict[str, dict[str, dict[str, Any]]]:
    return {pair: {row: asdict(score) for row, score in rows.items()} for pair, rows in scores.items()}


def _show(console: Console, model: RelevanceModel, title: str, scores: _Scores) -> None:
    table = Table("domains", "pairs", title=title, title_justify="left")
    for head in ("relevance", "standard error", "n"):
        table.add_column(head, justify="right")
    for pair, rows in scores.items():
        between = " and ".join(model.names[letter] for letter in pair)
        for row, name in _ROWS.items():
            if row in rows:
                score = rows[row]
                error = "" if score.standard_error is None else f"{score.standard_error:.3f}"
                table.add_row(between, name, f"{score.mean:.3f}", error, str(score.count))
                between = ""
        table.add_section()
    console.print(table)
