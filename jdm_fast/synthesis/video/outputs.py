"""What the files are called, and whether they may be written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from jdm_fast.data.video_files import VIDEO_SUFFIXES, FolderWriter, FrameWriter, VideoWriter, require_new_folder
from jdm_fast.errors import UserError

Input = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
_OTHER_VIDEO_SUFFIXES = (".avi", ".webm", ".gif", ".mpg", ".mpeg", ".wmv", ".m4v", ".ts", ".ogv")


@dataclass(frozen=True)
class Outputs:
    """The outputs of one input, and how they are encoded.

    ``paths`` by name: ``both`` (the domains side by side) if there are several, and each domain's own.
    """

    output: Path
    paths: Mapping[str, Path]
    domains: tuple[str, ...]
    as_frames: bool
    codec: str
    crf: int | None
    preset: str | None

    def writer(self, path: Path, fps: Fraction) -> FrameWriter:
        """A writer of frames to ``path``, of the kind of these outputs."""
        return FolderWriter(path) if self.as_frames else VideoWriter(path, fps, self.crf, self.codec, self.preset)


def is_video_name(path: Path) -> bool:
    """Whether a name says that a video shall be written. UserError for containers that are not written."""
    suffix = path.suffix.lower()
    if suffix in _OTHER_VIDEO_SUFFIXES:
        raise UserError(
            f"{path}: videos are written as {', '.join(VIDEO_SUFFIXES)}; any other name is a folder for frames"
        )
    return suffix in VIDEO_SUFFIXES


def output_paths(output: Path, domains: Sequence[str], is_file: bool) -> dict[str, Path]:
    """Where each goes: one domain alone takes the name itself, of several it is that of both side by side."""
    if not is_file:
        return {name: output / name for name in (("both", *domains) if len(domains) > 1 else domains)}
    if len(domains) == 1:
        return {domains[0]: output}
    return {"both": output, **{name: output.with_name(f"{output.stem}.{name}{output.suffix}") for name in domains}}


def require_writable(given: Input, output: Path, paths: Mapping[str, Path], is_file: bool) -> None:
    """UserError if the outputs would replace the input, or their folder does not take files. Writes nothing."""
    inputs = [given] if isinstance(given, (str, os.PathLike)) else given
    taken = {Path(path).resolve() for path in inputs}
    for path in paths.values():
        if path.resolve() in taken:
            raise UserError(f"{path}: the output would replace the input; choose another name")
        if is_file and path.is_dir():
            raise UserError(f"{path}: is a folder; expected the name of a video, or --frames")
    if not is_file:
        require_new_folder(output)
    there = next(folder for folder in output.absolute().parents if folder.exists())
    if not there.is_dir():
        raise UserError(f"cannot make the folder {output.parent}: {there} is a file")
    if not os.access(there, os.W_OK):
        raise UserError(f"cannot write {output}: the folder {there} is read-only; choose another")
