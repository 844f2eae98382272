"""``jdm-fast data earth`` and the dispatcher of ``jdm-fast data``, as typed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from jdm_fast.cli import main
from jdm_fast.cli.data import WHAT
from jdm_fast.data.layouts import find_layout

SMALL = ["--size", "32", "--width", "1350"]


def earth(out: Path, *options: str) -> int:
    return main(["data", "earth", str(out), *SMALL, *options])


def words(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("arguments, status", [([], 2), (["--help"], 0)])
def test_help_lists_what_there_is(arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", *arguments]) == status
    text = capsys.readouterr().out
    assert all(re.search(rf"^  {what} +{re.escape(told)}$", text, re.MULTILINE) for what, told in WHAT.items())


@pytest.mark.parametrize("what", WHAT)
def test_each_explains_itself(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["data", what, "--help"])
    assert end.value.code == 0
    assert f"usage: jdm-fast data {what}" in capsys.readouterr().out


def test_unknown_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "moon"]) == 2
    assert "'moon'; there are: earth," in capsys.readouterr().err


def test_nothing_is_imported_before_it_is_called() -> None:
    code = "import sys, jdm_fast.cli.data as d; d.run(['-h']); print([m for m in sys.modules if 'jdm_fast.data' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    "domains", [["satellite,mask,relief"], ["satellite", "mask", "relief"], ["satellite,", "mask,relief"]]
)
def test_domains_with_commas_and_with_spaces(domains: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert earth(out, "--domains", *domains, "--layout", "tuples", "--count", "4", "--held-out", "2") == 0
    layout = find_layout(out)
    assert layout.name == "tuples" and set(layout.domains) == {"satellite", "mask", "relief"}
    assert {path.name for path in out.iterdir()} == {"satellite_mask", "mask_relief", "test", "earth.json"}


def test_screen_says_how_many_are_disjoint_and_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert earth(tmp_path / "out", "--layout", "ab", "--count", "30", "--held-out", "5") == 0
    text = words(capsys)
    assert re.search(r"train │ train │ 30 │ 30 │ \d+ │", text)
    assert re.search(r"test │ test │ 5 │ 5 │ \d │", text)
    assert "40 crops, 40 of them disjoint, at 1350 pixels round the equator" in text
    assert "T" in text.split("both sides")[1]


def test_width_is_chosen_for_the_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "earth", str(tmp_path / "out"), "--count", "3", "--held-out", "3"]) == 0
    assert "at 5400 pixels round the equator" in words(capsys)


def test_clips_with_cuts_and_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--layout", "frames", "--camera", "abrupt", "--clips", "1", "--frames", "40", "--mp4", "--part", "train"]
    assert earth(tmp_path / "out", *options) == 0
    assert re.search(r"train-000: 40 frames in 2 domains, cuts at \d+", words(capsys))
    assert len(list((tmp_path / "out/train-000/topographic").glob("*.png"))) == 40
    assert (tmp_path / "out/videos/satellite/train-000.mp4").is_file()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--domains", "satellite,fog"], "'fog'; there are: satellite, relief, topographic, mask"),
        (["--domains", "satellite,mask,relief"], "layout cyclegan (aligned takes two to four)"),
        (["--clips", "2"], "--clips has no meaning with --layout cyclegan"),
        (["--camera", "abrupt", "--layout", "ab"], "--camera has no meaning with --layout ab"),
        (["--mp4"], "--mp4 has no meaning with --layout cyclegan"),
        (["--held-out", "3", "--layout", "frames"], "--held-out has no meaning with --layout frames"),
        (["--frames", "0", "--layout", "frames"], "at least 1 frame"),
        (["--size", "100"], "at most 67 pixels"),
        (["--width", "20000"], "64 to 10800, got 20000"),
    ],
)
def test_what_makes_no_sense_is_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert earth(tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
