from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from jdm_fast.data.check import check, without_bad
from jdm_fast.data.layouts import find_layout, fitting_layouts
from jdm_fast.data.preview import read_item, read_items
from jdm_fast.data.video_files import write_video

Paint = Callable[..., Path]


def film(path: Path, frames: int, grey: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    steps = (np.arange(frames, dtype=np.uint8) * 20 + grey)[:, None, None, None]
    write_video(path, np.broadcast_to(steps, (frames, 32, 48, 3)).copy(), fps=10)


def test_a_folder_of_films_for_each_domain(tmp_path: Path) -> None:
    film(tmp_path / "day" / "b.mp4", 3)
    film(tmp_path / "day" / "a.MOV", 2)
    film(tmp_path / "night" / "c.mkv", 4, grey=20)
    (tmp_path / "night" / "notes.txt").write_text("no film")
    assert fitting_layouts(tmp_path) == ("videos",)
    layout = find_layout(tmp_path)
    assert layout.domains == ("day", "night") and set(layout.splits) == {"train"}
    day, night = (group.domains[name] for group, name in zip(layout.splits["train"], layout.domains, strict=True))
    assert [(path.name, number) for path, number in day.frames] == [
        ("a.MOV", 0), ("a.MOV", 1), ("b.mp4", 0), ("b.mp4", 1), ("b.mp4", 2),
    ]  # fmt: skip
    assert len(night) == 4
    third = read_item(night, 2)
    assert third.shape == (32, 48, 3) and np.abs(third.astype(int) - 60).max() < 8


def test_cyclegans_names_with_films(tmp_path: Path) -> None:
    for name in ("trainA", "trainB", "testA"):
        film(tmp_path / name / "film.mp4", 2)
    film(tmp_path / "other" / "film.mp4", 2)
    layout = find_layout(tmp_path)
    assert layout.name == "videos" and layout.domains == ("A", "B")
    assert [list(group.domains) for group in layout.splits["train"]] == [["A"], ["B"]]
    assert [list(group.domains) for group in layout.splits["test"]] == [["A"]]


def test_films_that_cannot_be_read_are_told_and_left_out(tmp_path: Path) -> None:
    for name in ("day/a.mp4", "day/c.mp4", "night/a.mp4"):
        film(tmp_path / name, 3)
    (tmp_path / "day" / "b.mp4").write_bytes(b"no video")
    whole = (tmp_path / "day" / "c.mp4").read_bytes()
    layout = find_layout(tmp_path)
    assert {item.path.name for item in check(layout).bad} == {"b.mp4"}
    told: list[str] = []
    day, night = without_bad(layout.groups("train"), lambda path, reason: told.append(path.name))
    assert told == ["b.mp4"] and len(day) == 6 and len(night) == 3
    (tmp_path / "day" / "c.mp4").write_bytes(whole[:-40])
    bad = {item.path.name: item.reason for item in check(find_layout(tmp_path)).bad}
    assert set(bad) == {"b.mp4", "c.mp4"}, bad


def test_a_preview_of_films_shows_the_frames_asked_for(tmp_path: Path) -> None:
    film(tmp_path / "day" / "a.mp4", 3, grey=0)
    film(tmp_path / "day" / "b.mp4", 4, grey=100)
    film(tmp_path / "night" / "c.mp4", 2)
    day = find_layout(tmp_path).splits["train"][0].domains["day"]
    levels = [int(picture.mean().round()) for picture in read_items(day, [0, 2, 3, 6])]
    assert np.abs(np.array(levels) - [0, 40, 100, 160]).max() < 8
