"""What people give: films that are odd and work, films that are broken and are named, options that cannot be."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jdm_fast.data.video_files import read_frames
from jdm_fast.errors import UserError
from jdm_fast.synthesis import Model, synthesize_video
from tests.synthesis.video.films import frame, write_film


def cut_short(path: Path) -> None:
    write_film(path, map(frame, range(10)))
    path.write_bytes(path.read_bytes()[:-400])


def sound_only(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        track = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.rate = 8000
        container.mux(track.encode(silence))
        container.mux(track.encode(None))


def two_sizes(path: Path) -> None:
    parts = [path.with_name(f"{name}.h264") for name in "ab"]
    write_film(parts[0], map(frame, range(4)))
    write_film(parts[1], (frame(k, 48, 64) for k in range(4)))
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()


BROKEN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated": ("in.mp4", cut_short, "in.mp4: (cut short|not a video)"),
    "empty": ("in.mp4", lambda path: path.write_bytes(b""), "in.mp4"),
    "text": ("in.mp4", lambda path: path.write_text("hello"), "in.mp4: not a video"),
    "sound only": ("in.mp4", sound_only, "in.mp4: no video in this file, it holds audio"),
    "one frame": ("in.mp4", lambda path: write_film(path, [frame(0)]), "in.mp4: has one frame"),
    "changing size": ("in.h264", two_sizes, "in.h264: this frame is 64x48 pixels, those before are 48x32"),
    "missing": ("in.mp4", lambda path: None, "no such file"),
}


@pytest.mark.parametrize("out", ["out.mp4", "out"])
@pytest.mark.parametrize("case", BROKEN)
def test_broken_films_are_named_and_leave_nothing(negative: Model, tmp_path: Path, case: str, out: str) -> None:
    name, make, message = BROKEN[case]
    make(tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        synthesize_video(negative, tmp_path / name, tmp_path / out, factor=2, segment_frames=2)
    assert sorted(tmp_path.rglob("*")) == before


ODD: dict[str, tuple[str, tuple[int, int], dict]] = {
    "odd size": ("in.mkv", (31, 45), {"codec": "ffv1", "pix_fmt": "yuv444p"}),
    "portrait": ("in.mp4", (96, 32), {}),
    "10 bit": ("in.mkv", (32, 48), {"codec": "ffv1", "pix_fmt": "yuv420p10le"}),
    "grey": ("in.mkv", (32, 48), {"codec": "ffv1", "pix_fmt": "gray"}),
    "tiny": ("in.mp4", (16, 16), {}),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_films_work(negative: Model, tmp_path: Path, case: str) -> None:
    name, (height, width), options = ODD[case]
    write_film(tmp_path / name, (frame(k, height, width) for k in range(3)), **options)
    result = synthesize_video(negative, tmp_path / name, tmp_path / "out.mp4", factor=2)
    shown = list(read_frames(result.files["x"]))
    assert len(shown) == 5
    assert shown[0].shape == (height + height % 2, width + width % 2, 3), "H.264 knows even sizes: nothing is cut off"
    assert np.abs(shown[0][:height, :width].astype(int) - frame(0, height, width)).mean() < 6


def test_one_frame_can_be_translated(negative: Model, tmp_path: Path) -> None:
    write_film(tmp_path / "in.mp4", [frame(0)])
    assert synthesize_video(negative, tmp_path / "in.mp4", tmp_path / "out.mp4", to="y").frames == 1


OPTIONS: list[tuple[dict, str, str]] = [
    ({"factor": 0}, "out.mp4", "factor must be at least 1, got 0"),
    ({"fps": -1}, "out.mp4", "fps must be above 0"),
    ({"fps": float("nan")}, "out.mp4", "fps must be above 0"),
    ({"fps": 1e-9}, "out.mp4", "fps must be above 0"),
    ({"input_fps": 0}, "out.mp4", "fps"),
    ({"scene_cut": 2.0}, "out.mp4", "scene_cut must be auto, off, or a threshold"),
    ({"mode": "cubic"}, "out.mp4", "mode must be one of lerp, slerp"),
    ({"codec": "h265x"}, "out.mp4", "no video encoder 'h265x'; it has .*libx264"),
    ({"codec": "aac"}, "out.mp4", "no video encoder 'aac'"),
    ({"codec": "mpeg4", "crf": 20}, "out.mp4", "crf: mpeg4 has no such quality"),
    ({"preset": "warp"}, "out.mp4", "libx264 has ultrafast, .*placebo, quickest first; got 'warp'"),
    ({"codec": "libsvtav1", "preset": "fast"}, "out.mp4", "libsvtav1 has 13, 12"),
    ({"codec": "mpeg4", "preset": "fast"}, "out.mp4", "preset: mpeg4 has none, libx264, .* have; leave it out"),
    ({"preset": "fast", "as_frames": True}, "out", "preset: frames are written as PNG"),
    ({"crf": 99}, "out.mp4", "crf must be from 0 to 51"),
    ({"codec": "ffvhuff"}, "out.mp4", "ffvhuff does not start for 96x32 pixels in a .mp4 file.*mkv"),
    ({"codec": "ffv1", "as_frames": True}, "out", "written as PNG"),
    ({"domains": ["z"]}, "out.mp4", "'z'"),
    ({"domains": ["x", "x"]}, "out.mp4", "each once"),
    ({"domains": []}, "out.mp4", "expected some of x, y"),
    ({"to": "x"}, "out.mp4", "of domain x already"),
    ({"to": "y", "factor": 2}, "out.mp4", "goes without factor"),
    ({"keep_audio": True, "factor": 2, "fps": 25}, "out.mp4", "slow motion"),
    ({"keep_audio": True, "as_frames": True}, "out", "frames have no sound"),
    ({"source": "z"}, "out.mp4", "'z'"),
    ({}, "out.webm", "videos are written as"),
    ({}, "in.mp4", "would replace the input"),
    ({}, "folder.mp4", "is a folder"),
]


@pytest.mark.parametrize("options, out, message", OPTIONS)
def test_impossible_options(negative: Model, tmp_path: Path, options: dict, out: str, message: str) -> None:
    film = write_film(tmp_path / "in.mp4", map(frame, range(3)))
    (tmp_path / "folder.mp4").mkdir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(UserError, match=message):
        synthesize_video(negative, film, tmp_path / out, **options)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_read_only_folder_is_found_out_first(
    negative: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = write_film(tmp_path / "in.mp4", map(frame, range(3)))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root, who may run this, may write anywhere
    with pytest.raises(UserError, match="is read-only; choose another"):
        synthesize_video(negative, film, tmp_path / "out.mp4")
    assert negative.method.encoded == []


@pytest.mark.parametrize("out", ["out.mp4", "out"])
def test_a_full_disk(negative: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    film = write_film(tmp_path / "in.mp4", map(frame, range(3)))

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jdm_fast.data.video_write.VideoWriter._append", full)
    monkeypatch.setattr("jdm_fast.data.video_write.FolderWriter._append", full)
    with pytest.raises(UserError, match="No space left on device"):
        synthesize_video(negative, film, tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_a_disk_that_fills_up_while_segments_are_joined(
    negative: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = write_film(tmp_path / "in.mp4", map(frame, range(3)))
    from jdm_fast.synthesis.video import join

    real = join.av.open
    monkeypatch.setattr(
        join.av,
        "open",
        lambda path, *mode: real("/dev/full", *mode, format="mp4") if ".part." in str(path) else real(path, *mode),
    )
    with pytest.raises(UserError, match="No space left on device"):
        synthesize_video(negative, film, tmp_path / "out.mp4")
    shutil.rmtree(tmp_path / ".out.mp4.segments", ignore_errors=True)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]
