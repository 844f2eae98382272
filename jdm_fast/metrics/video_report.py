"""``jdm-fast video --report FILE``: how good the frames in between are, in each domain and from frame to frame.

Beside the synthesised frames stand the ways to do without them: cross-fades of the key frames, true and decoded, and
every true frame sent through the networks by itself. The error of the decoded key frames is the floor: what encoding
and decoding costs with no interpolation.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jdm_fast._files import make_folder, write_atomically
from jdm_fast.data.video_source import FrameSource
from jdm_fast.errors import UserError
from jdm_fast.metrics.classes import Palette
from jdm_fast.metrics.files import VideoTruth
from jdm_fast.metrics.temporal import ratio
from jdm_fast.metrics.truth import Score

UNITS = "l1 and flicker in units of [-1, 1], psnr in dB; scores are of the frames in between, flicker of whole clips"

_SOURCE_ROWS = {
    "in_between": "synthesised",
    "key_frames": "key frames (the floor)",
    "one_by_one": "all true frames, encoded and decoded",
    "cross_fade_decoded": "cross-fade of the decoded key frames",
    "cross_fade_true": "cross-fade of the true key frames",
    "truth": "true frames",
}
_TARGET_ROWS = {
    "in_between": "synthesised",
    "key_frames": "key frames (the floor)",
    "one_by_one": "all true frames of {source}, translated",
    "cross_fade_decoded": "key frames translated, then cross-faded",
    "truth": "true frames",
}
_COLUMNS = {"l1": ("L1 error", "{:.4f}"), "psnr": ("PSNR (dB)", "{:.2f}"), "ssim": ("SSIM", "{:.3f}")}
_COLUMNS |= {"miou": ("mIoU", "{:.3f}"), "flicker": ("flicker", "{:.4f}"), "flicker_ratio": ("of the true", "{:.2f}")}


class VideoReport:
    """Scores the frames of :func:`jdm_fast.synthesis.synthesize_video` as they are made, in constant memory.

    True frames of the source domain need no file where ``every`` is a multiple of ``factor``: they are the frames of
    the input that are left out between the key frames. Where they are known, they are also sent through the networks
    one by one, which takes about as long again as making the video.

    Args:
        path: the file that :meth:`finish` writes, ending in .json. Its folder is made then if need be.
        translate: true frames of the source, uint8 [N, H, W, 3], as pictures of a domain, the source among them; such
            as ``lambda frames, to: model.translate(frames, to=to, source=source)``.
        input: what the key frames are taken from, opened as it is for the synthesis.
        truth: by domain, videos or folders of the true frames, if there are any.
        factor, every, source: of the synthesis. palettes: see :class:`VideoTruth`.

    Raises:
        UserError: there are no true frames to compare with, ``path`` cannot be written, or as :class:`VideoTruth`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        translate: Callable[[np.ndarray, str], np.ndarray],
        input: FrameSource,
        truth: Mapping[str, str | os.PathLike[str]],
        *,
        factor: int,
        every: int = 1,
        source: str = "x",
        palettes: Mapping[str, Palette] | None = None,
    ) -> None:
        self.path = Path(path)
        _require_writable(self.path)
        self._source = source
        self._origin = {domain: str(of) for domain, of in truth.items()}
        known: dict[str, str | os.PathLike[str] | FrameSource] = dict(truth)
        if source not in known and factor > 1 and every > 1 and every % factor == 0:
            step = every // factor
            known[source] = _EveryNth(input, step)
            self._origin[source] = (
                f"the frames of {input.name}" if step == 1 else f"frames 0, {step}, {2 * step}, … of {input.name}"
            )
        if not known:
            raise UserError(
                f"--report compares with true frames, and none are known: with --every a multiple of --factor (now "
                f"{every} and {factor}) the frames of the input that are left out are the true ones of domain "
                f"{source}; or name them with --truth.x or --truth.y"
            )
        self._truth = VideoTruth(
            dict(sorted(known.items())),
            input,
            factor=factor,
            every=every,
            source=source,
            palettes=palettes,
            translate=translate if source in known else None,
        )

    def add(self, made: Mapping[str, np.ndarray]) -> None:
        """Score the next frames by domain, uint8 [N, H, W, 3]; fits ``on_frames`` of ``synthesize_video``."""
        self._truth.add(made)

    def finish(self, console: Console, about: Mapping[str, Any]) -> dict[str, Any]:
        """Print a table for each domain and write the JSON file; return what is in it.

        Args:
            about: what else belongs into the file, such as the run and the options.

        Raises:
            UserError: as :meth:`VideoTruth.result`, or the file cannot be written.
        """
        scores, flicker = self._truth.result(), self._truth.flicker()
        domains = {}
        for domain, of_domain in scores.items():
            rows = as_rows(of_domain, flicker[domain])
            domains[domain] = {"truth": self._origin[domain], "rows": rows}
            labels = _SOURCE_ROWS if domain == self._source else _TARGET_ROWS
            labels = {name: label.format(source=self._source) for name, label in labels.items()}
            console.print(_table(f"{domain}, the frames in between against {self._origin[domain]}", rows, labels))
        report = {**about, "units": UNITS, "domains": domains}
        text = json.dumps(report, indent=1, ensure_ascii=False)
        make_folder(self.path.parent)
        write_atomically(self.path, lambda file: file.write(text.encode() + b"\n"))
        console.print(f"report in {self.path}", markup=False, soft_wrap=True)
        return report


def as_rows(scores: Mapping[str, Score], flicker: Mapping[str, float | None]) -> dict[str, dict[str, float]]:
    """Plain numbers by contender: those of :class:`Score`, ``flicker``, and ``flicker_ratio`` to the truth's.

    Numbers there are none of are left out: ``truth`` has a flicker only, ``key_frames`` have none.
    """
    rows: dict[str, dict[str, float | None]] = {name: dataclasses.asdict(score) for name, score in scores.items()}
    for name, value in flicker.items():
        rows.setdefault(name, {}).update(flicker=value, flicker_ratio=ratio(value, flicker["truth"]))
    return {
        name: {kind: value for kind, value in row.items() if value is not None and kind in _COLUMNS}
        for name, row in rows.items()
    }


def _table(title: str, rows: Mapping[str, Mapping[str, float]], labels: Mapping[str, str]) -> Table:
    kinds = [kind for kind in _COLUMNS if any(kind in row for row in rows.values())]
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for kind in kinds:
        table.add_column(_COLUMNS[kind][0], justify="right")
    for name, label in labels.items():
        if name in rows:
            cells = [_COLUMNS[kind][1].format(rows[name][kind]) if kind in rows[name] else "" for kind in kinds]
            table.add_row(label, *cells)
    return table


def _require_writable(path: Path) -> None:
    """UserError if it can be known beforehand that the report cannot be written, so that no video is made in vain."""
    if path.suffix.lower() != ".json" or path.is_dir():
        raise UserError(f"{path}: the report is a file whose name ends in .json, such as report.json")
    folder = next(parent for parent in (path.parent, *path.parent.parents) if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(
            f"{path}: cannot be written: {folder} is no folder that can be written to. Choose another folder"
        )


class _EveryNth(FrameSource):
    """Every ``step``-th frame of another source, from the first on."""

    def __init__(self, source: FrameSource, step: int) -> None:
        self._source, self._step = source, step
        self.name, self.size = source.name, source.size
        self.fps = None if source.fps is None else source.fps / step
        self.count = None if source.count is None else -(-source.count // step)

    def __iter__(self) -> Iterator[np.ndarray]:
        return islice(iter(self._source), 0, None, self._step)
