"""Truth that lies in files, for what is translated from files to files; read as it is needed, never held as a whole."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from jdm_fast.data.images import check_image, find_images, read_image
from jdm_fast.data.video_files import FrameSource, open_frames
from jdm_fast.errors import UserError
from jdm_fast.metrics.classes import Palette
from jdm_fast.metrics.sea import read_sea
from jdm_fast.metrics.truth import Score, TruthScores
from jdm_fast.metrics.video import DomainVideoScores

_LAND_GREY = 127  # masks are white on land, black on water


class PictureTruth:
    """Scores translated pictures against files of the same names, beside trivial answers.

    What can be known beforehand is checked at once, before anything is translated: every file of the truth is read, its
    size compared with that of its input picture, and the mean colour taken.

    Args:
        input: the picture, or the folder of pictures, that will be translated.
        truth: the true translation, a file (of a file), or a folder with the same names; endings may differ.
        domain: the Earth domain of the truth, for land/sea and, if it is ``mask``, mIoU.
        land: where there is land, masks (white land, black water) named as the truth is; without them land and water
            are read off the colours of the truth.
        palette: classes of the truth's colours, for mIoU.
        on_progress: called with the number of files of the truth that have been checked and the number in all.

    Attributes:
        mean_colour: of the truth; the best answer that does not look at its input.
        without_truth: the files that :meth:`add` got and for which there is no truth.

    Raises:
        UserError: truth or masks are missing, cannot be read, are ambiguous, or have another size than the input.
    """

    def __init__(
        self,
        input: str | os.PathLike[str],
        truth: str | os.PathLike[str],
        *,
        domain: str | None = None,
        land: str | os.PathLike[str] | None = None,
        palette: Palette | None = None,
        on_progress: Callable[[int, int | None], None] | None = None,
    ) -> None:
        if land is not None and domain is None:
            raise UserError(
                f"{land}: masks of land are compared with what the colours of an Earth domain show: name the domain"
            )
        self._domain = domain
        self._truth = _namesakes(Path(input), Path(truth), "truth")
        self._land = None if land is None else _namesakes(Path(input), Path(land), "masks of land")
        names = ("translated", "input copied", "mean colour", *(("truth",) if land is not None else ()))
        self._scores = {name: TruthScores(domain, palette) for name in names}
        self.without_truth: list[Path] = []
        self.mean_colour = self._check(on_progress)

    @property
    def pictures(self) -> int:
        """How many pictures have been scored."""
        return self._scores["translated"].pictures

    def _check(self, on_progress: Callable[[int, int | None], None] | None) -> np.ndarray:
        total, pixels = np.zeros(3, np.int64), 0
        for done, (path, true_path) in enumerate(self._truth.items(), 1):
            if on_progress:
                on_progress(done, len(self._truth))
            try:
                size = check_image(path)
            except UserError:
                continue  # no truth is at fault: whoever translates the picture reports it
            truth = read_image(true_path)
            self._require_size(true_path, truth.shape[:2], path, size)
            if self._land is not None:
                if path not in self._land:
                    raise UserError(f"{path}: there is a truth for it, {true_path}, but no mask of land of this name")
                self._require_size(self._land[path], check_image(self._land[path]), path, size)
            total += truth.sum(axis=(0, 1), dtype=np.int64)
            pixels += truth.shape[0] * truth.shape[1]
        return np.rint(total / max(1, pixels)).astype(np.uint8)

    @staticmethod
    def _require_size(path: Path, size: Sequence[int], of: Path, expected: Sequence[int]) -> None:
        if tuple(size) != tuple(expected):
            raise UserError(
                f"{path}: is {size[1]}x{size[0]} pixels, the picture it is compared with, {of}, is "
                f"{expected[1]}x{expected[0]}: the truth must have the size of the input"
            )

    def add(self, paths: Sequence[Path], pictures: np.ndarray, translated: np.ndarray) -> None:
        """Score some translations; fits ``on_pictures`` of :func:`jdm_fast.synthesis.translate_files`.

        Args:
            paths: the input files. pictures, translated: what was read and what was made, uint8 [N, H, W, 3].

        Raises:
            UserError: a file of the truth has changed since it was checked, and does not fit any more.
        """
        self.without_truth += [path for path in paths if path not in self._truth]
        known = [index for index, path in enumerate(paths) if path in self._truth]
        if not known:
            return
        truth = self._read([self._truth[paths[index]] for index in known], pictures.shape[1:])
        land = None
        if self._land is not None:
            land = self._read([self._land[paths[index]] for index in known], pictures.shape[1:])[..., 0] > _LAND_GREY
        elif self._domain is not None:
            land = ~read_sea(truth, self._domain)
        answers = {
            "translated": translated[known],
            "input copied": pictures[known],
            "mean colour": np.broadcast_to(self.mean_colour, truth.shape),
            "truth": truth,
        }
        for name, scores in self._scores.items():
            scores.add(answers[name], truth, land)

    @staticmethod
    def _read(paths: Sequence[Path], shape: tuple[int, ...]) -> np.ndarray:
        pictures = [read_image(path) for path in paths]
        for path, picture in zip(paths, pictures, strict=True):
            if picture.shape != shape:
                raise UserError(f"{path}: its size has changed while pictures were being translated; start again")
        return np.stack(pictures)

    def result(self) -> dict[str, Score]:
        """Scores of ``translated``, ``input copied``, ``mean colour`` and, if there are masks, of the ``truth`` (what
        reading land off colours can reach). UserError if no picture with a truth has been added."""
        if not self.pictures:
            raise UserError("no picture with a truth was translated: there is nothing to score")
        return {name: scores.result() for name, scores in self._scores.items()}

    def iou(self) -> dict[str, float] | None:
        """Intersection over union of the translations' classes; None where colours mean no classes."""
        return self._scores["translated"].iou()


def _namesakes(input: Path, other: Path, what: str) -> dict[Path, Path]:
    """For each input picture that has one, the file of ``other`` of the same name; endings may differ."""
    if not input.exists():
        raise UserError(f"{input}: no such file or folder")
    if not other.exists():
        raise UserError(f"{other}: no such file or folder; expected the {what} for {input}")
    if not other.is_dir():
        if input.is_dir():
            raise UserError(
                f"{other}: is a file; the {what} for the folder {input} must be a folder with the same names"
            )
        return {input: other}
    by_stem: dict[Path, list[Path]] = defaultdict(list)
    for path in find_images(other, recursive=True):
        by_stem[path.relative_to(other).with_suffix("")].append(path)
    root = input if input.is_dir() else input.parent
    paths = find_images(input, recursive=True) if input.is_dir() else [input]
    pairs = {}
    for path in paths:
        name = path.relative_to(root)
        found = by_stem.get(name.with_suffix(""), [])
        if len(found) > 1:
            found = [candidate for candidate in found if candidate.relative_to(other) == name]
            if not found:
                raise UserError(f"{other}: several files are called {name.with_suffix('')}; expected one for {path}")
        if found:
            pairs[path] = found[0]
    if not pairs:
        raise UserError(
            f"{other}: no picture here is called as one of {input}; expected the same names, such as "
            f"{paths[0].relative_to(root).with_suffix('')}"
        )
    return pairs


class VideoTruth:
    """Scores synthesised frames against true ones from files, frame by frame.

    Args:
        truth: by domain, one or both: a video or a folder of frames, as many as are made, at the same rate: the true
            frame of every frame that is made. It may go on for less than ``factor`` frames after the last key frame.
        input: what the key frames are taken from. source: its domain.
        factor, every: as in :func:`jdm_fast.synthesis.synthesize_video`.
        palettes: of domains whose colours mean classes, for mIoU.
        translate: called with true frames of the source domain, uint8 [N, H, W, 3], and a domain; returns them as
            pictures of that domain, each by itself. With it this is scored too, as ``one_by_one``. The source domain
            must then be among the ``truth``.

    What is opened already, a :class:`FrameSource`, may be given instead of any path.

    Raises:
        UserError: a file is missing or no video, sizes differ, there is nothing in between (``factor`` 1), or the
            headers already tell that the numbers of frames do not fit.
        ValueError: ``translate`` without the truth of the source domain.
    """

    def __init__(
        self,
        truth: Mapping[str, str | os.PathLike[str] | FrameSource],
        input: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | FrameSource,
        *,
        factor: int,
        source: str = "x",
        every: int = 1,
        palettes: Mapping[str, Palette] | None = None,
        translate: Callable[[np.ndarray, str], np.ndarray] | None = None,
    ) -> None:
        if factor < 2:
            raise UserError(f"scores of a video are those of frames in between: factor must be 2 or more, got {factor}")
        if translate is not None and source not in truth:
            raise ValueError(f"translate takes the true frames of {source}, which the truth must have: {list(truth)}")
        given = _opened(input)
        made = None if given.count is None or every < 1 else (-(-given.count // every) - 1) * factor + 1
        self._factor, self._source, self._translate = factor, source, translate
        self._names: dict[str, str] = {}
        self._frames: dict[str, Iterator[np.ndarray]] = {}
        palettes = palettes or {}
        self._scores = {
            domain: DomainVideoScores(
                factor, is_source=domain == source, palette=palettes.get(domain), one_by_one=translate is not None
            )
            for domain in truth
        }
        self._problem: str | None = None
        for domain, path in truth.items():
            frames = _opened(path)
            self._names[domain] = frames.name if isinstance(path, FrameSource) else str(path)
            self._require_fit(self._names[domain], frames, given, made)
            self._frames[domain] = iter(frames)

    def _require_fit(self, path: str, frames: FrameSource, given: FrameSource, made: int | None) -> None:
        if frames.size != given.size:
            raise UserError(
                f"{path}: frames are {frames.size[1]}x{frames.size[0]} pixels, those of {given.name} are "
                f"{given.size[1]}x{given.size[0]}: the truth must have the size of the input"
            )
        if made is not None and frames.count is not None and not made <= frames.count < made + self._factor:
            raise UserError(
                f"{path}: has {frames.count} frames, but {made} will be made of {given.name}: expected as many, the "
                "true frame of each; check --factor and --every"
            )

    def add(self, made: Mapping[str, np.ndarray]) -> None:
        """Score the next frames by domain, uint8 [N, H, W, 3]; fits ``on_frames`` of
        :func:`jdm_fast.synthesis.synthesize_video`.

        A truth that turns out to be damaged or too short does not cost the video: :meth:`result` tells.
        """
        if self._problem is not None:
            return
        truths = {}
        for domain, frames in self._frames.items():
            try:
                truth = list(islice(frames, len(made[domain])))
            except UserError as error:
                self._problem = str(error)
                return
            if len(truth) < len(made[domain]):
                there = self._scores[domain].frames + len(truth)
                self._problem = f"{self._names[domain]}: has {there} frames only, fewer than were made"
                return
            truths[domain] = np.stack(truth)
        for domain, scores in self._scores.items():
            alone = None if self._translate is None else self._translate(truths[self._source], domain)
            scores.add(made[domain], truths[domain], alone)

    def flicker(self) -> dict[str, dict[str, float | None]]:
        """By domain the flicker of :meth:`jdm_fast.metrics.DomainVideoScores.flicker`."""
        return {domain: scores.flicker() for domain, scores in self._scores.items()}

    def result(self) -> dict[str, dict[str, Score]]:
        """By domain the scores of :meth:`jdm_fast.metrics.DomainVideoScores.scores`.

        UserError if the truth was damaged, or has fewer or more frames than were made.
        """
        for domain, frames in self._frames.items():
            if self._problem is None and len(list(islice(frames, self._factor))) == self._factor:
                self._problem = f"{self._names[domain]}: goes on after the {self._scores[domain].frames} frames made"
        if self._problem is not None:
            raise UserError(f"the video is written, but cannot be scored: {self._problem}")
        return {domain: scores.scores() for domain, scores in self._scores.items()}


def _opened(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | FrameSource) -> FrameSource:
    return source if isinstance(source, FrameSource) else open_frames(source)
