from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from jdm_fast.data.images import check_image
from jdm_fast.data.layouts import LAYOUTS, LayoutName, find_layout, find_sequence, fitting_layouts, two_folders
from jdm_fast.errors import UserError

Paint = Callable[..., Path]


def test_every_layout_has_a_name_for_the_command_line() -> None:
    assert get_args(LayoutName) == ("auto", *LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_shown_in_the_documentation(name: str) -> None:
    docs = Path(__file__).parents[3] / "docs"
    page = (docs / "layouts.md").read_text(encoding="utf-8")
    assert f"\n## {name}\n" in page and f"(pictures/layout_{name}.png)" in page
    assert check_image(docs / "pictures" / f"layout_{name}.png")[0] > 100


def test_when_none_fits_the_message_says_what_was_looked_for_and_what_is_there(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "apples" / "1.png")
    paint(tmp_path / "apples" / "2.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(UserError) as caught:
        find_layout(tmp_path)
    message = str(caught.value)
    assert "Found in it: folder(s) apples (2 pictures), empty (no files); 2 folders, 1 other file" in message
    for name, layout in LAYOUTS.items():
        assert f"  {name:13} {layout.EXPECTED}" in message.splitlines()


def test_a_root_one_level_too_high_is_recognised(tmp_path: Path, paint: Paint) -> None:
    for name in ("trainA", "trainB"):
        paint(tmp_path / "horse2zebra" / name / "1.png")
    with pytest.raises(UserError, match="horse2zebra has layout cyclegan: give that folder"):
        find_layout(tmp_path)


def test_two_that_fit_are_told(tmp_path: Path, paint: Paint, caplog: pytest.LogCaptureFixture) -> None:
    for domain in ("photo", "sketch"):
        paint(tmp_path / "train" / domain / "1.png")
    assert fitting_layouts(tmp_path) == ("aligned", "folders")
    with caplog.at_level(logging.WARNING):
        assert find_layout(tmp_path).name == "aligned"
    assert "taken as aligned" in caplog.text and "choose with --data.layout folders" in caplog.text
    told: list[str] = []
    assert find_layout(tmp_path, "folders", on_choice=told.append).name == "folders"
    assert not told, "a choice that was made is no guess"


def test_no_root_and_no_such_layout(tmp_path: Path, paint: Paint) -> None:
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        find_layout(tmp_path / "nowhere")
    with pytest.raises(UserError, match="1.png: is a file, not a folder"):
        find_layout(paint(tmp_path / "1.png"))
    with pytest.raises(UserError, match="layout: expected auto, cityscapes, .*; got 'cyclegun'"):
        find_layout(tmp_path, "cyclegun")


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_asked_for_that_is_not_there(tmp_path: Path, name: str) -> None:
    """The message says what was looked for."""
    with pytest.raises(UserError, match=f"{tmp_path}: ") as caught:
        find_layout(tmp_path, name)
    assert LAYOUTS[name].EXPECTED in str(caught.value)


def test_two_folders_given_apart(tmp_path: Path, paint: Paint) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/deep/2.png"):
        paint(tmp_path / name)
    layout = two_folders(tmp_path / "a", tmp_path / "b")
    assert layout.domains == ("x", "y") and layout.root == tmp_path
    assert [len(group) for group in layout.groups("train")] == [2, 1]
    assert [len(group) for group in two_folders(tmp_path / "a", tmp_path / "b", True).groups("train")] == [2, 2]
    with pytest.raises(UserError, match="c: there is no such folder"):
        two_folders(tmp_path / "a", tmp_path / "c")


def test_sequences_by_name(tmp_path: Path, paint: Paint) -> None:
    for season in ("01-SUMMER", "01-WINTER", "02-WINTER"):
        for frame in range(2):
            paint(tmp_path / f"SYNTHIA-SEQS-{season}" / "RGB" / "Stereo_Left" / "Omni_F" / f"{frame:06d}.png")
    layout = find_layout(tmp_path)
    frames = find_sequence(layout, "SYNTHIA-SEQS-02-WINTER")
    assert [path.name for path in frames] == ["000000.png", "000001.png"] and "02-WINTER" in str(frames[0])
    assert find_sequence(layout, "winter/SYNTHIA-SEQS-02-WINTER") == frames
    with pytest.raises(UserError, match="expected the name of one sequence, such as summer/SYNTHIA-SEQS-01-SUMMER"):
        find_sequence(layout, "SYNTHIA-SEQS-09-SUMMER")
    with pytest.raises(UserError, match="this two folders data set has no sequences"):
        find_sequence(two_folders(frames[0].parent, frames[0].parent), "x")
