"""The report of a video: what stands beside what, and where the truth comes from."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jdm_fast.data.video_files import open_frames
from jdm_fast.errors import UserError
from jdm_fast.metrics import cross_fade, l1
from jdm_fast.metrics.temporal import flicker
from jdm_fast.metrics.video_report import VideoReport

FACTOR, SIZE = 4, (16, 20)


def moving(count: int = 9, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A bright square that crosses a ramp, one pixel a frame."""
    clip = np.repeat(np.linspace(40, 150, size[1], dtype=np.uint8)[None, None, :, None], count, 0)
    clip = np.broadcast_to(clip, (count, *size, 3)).copy()
    for number in range(count):
        clip[number, 4:9, number : number + 5] = 230
    return clip


def write(folder: Path, clip: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for number, frame in enumerate(clip):
        Image.fromarray(frame).save(folder / f"{number}.png")
    return folder


def translate(frames: np.ndarray, to: str) -> np.ndarray:
    """Domain y is the negative of x; both ways through the networks everything is 5 brighter."""
    frames = frames + np.uint8(5)
    return frames if to == "x" else 255 - frames


def finish(report: VideoReport) -> tuple[dict, str]:
    said = io.StringIO()
    returned = report.finish(Console(file=said, width=150), {"run": "runs/r"})
    assert json.loads(report.path.read_text()) == returned
    return returned, said.getvalue()


@pytest.mark.parametrize("parts", [[9], [5, 1, 3]])
def test_both_domains_beside_their_baselines(tmp_path: Path, parts: list[int]) -> None:
    truth = {"x": moving(), "y": 255 - moving()}
    keys = truth["x"][::FACTOR]
    made = {domain: translate(cross_fade(keys, FACTOR) // 2, domain) for domain in "xy"}  # far from the truth
    given, other = write(tmp_path / "x", truth["x"]), write(tmp_path / "y", truth["y"])
    path = tmp_path / "new/folder/report.json"
    report = VideoReport(path, translate, open_frames(given), {"y": other}, factor=FACTOR, every=FACTOR)
    start = 0
    for count in parts:
        report.add({domain: clip[start : start + count] for domain, clip in made.items()})
        start += count
    told, said = finish(report)

    assert told["run"] == "runs/r" and "[-1, 1]" in told["units"] and list(told["domains"]) == ["x", "y"]
    assert told["domains"]["x"]["truth"] == f"the frames of {open_frames(given).name}"
    assert told["domains"]["y"]["truth"] == str(other)
    between = [1, 2, 3, 5, 6, 7]
    for domain, is_source in (("x", True), ("y", False)):
        clips = {
            "in_between": made[domain],
            "one_by_one": translate(truth["x"], domain),
            "cross_fade_decoded": cross_fade(made[domain][::FACTOR], FACTOR),
        }
        if is_source:
            clips["cross_fade_true"] = cross_fade(truth[domain][::FACTOR], FACTOR)
        rows = told["domains"][domain]["rows"]
        assert set(rows) == {*clips, "key_frames", "truth"}
        of_truth = flicker(truth[domain])
        for name, clip in clips.items():
            assert rows[name]["l1"] == pytest.approx(l1(clip[between], truth[domain][between]))
            assert rows[name]["flicker"] == pytest.approx(flicker(clip))
            assert rows[name]["flicker_ratio"] == pytest.approx(flicker(clip) / of_truth)
            assert {"psnr", "ssim"} < set(rows[name])
        assert rows["truth"] == {"flicker": pytest.approx(of_truth), "flicker_ratio": 1}
        assert rows["key_frames"]["l1"] == pytest.approx(l1(made[domain][::FACTOR], truth[domain][::FACTOR]))
        assert "flicker" not in rows["key_frames"]
    for words in ("synthesised", "key frames translated, then cross-faded", "cross-fade of the true key frames"):
        assert words in said
    assert "all true frames of x, translated" in said and "all true frames, encoded and decoded" in said
    assert "report.json" in said


def test_the_frames_left_out_are_the_truth_where_every_is_a_multiple(tmp_path: Path) -> None:
    """Key frames 0, 8, 16 at factor 4: the true frames are every second of the input."""
    clip = moving(17, (16, 40))
    given = open_frames(write(tmp_path / "x", clip))
    report = VideoReport(tmp_path / "r.json", translate, given, {}, factor=4, every=8)
    report.add({"x": clip[::2], "y": clip[::2]})
    told, _ = finish(report)
    assert list(told["domains"]) == ["x"] and told["domains"]["x"]["rows"]["in_between"]["l1"] == 0
    assert told["domains"]["x"]["rows"]["in_between"]["flicker_ratio"] == 1
    assert told["domains"]["x"]["truth"] == f"frames 0, 2, 4, … of {given.name}"


def test_only_the_other_domain_is_known(tmp_path: Path) -> None:
    """Without the true frames of the source nothing can be sent through the networks one by one."""
    given = open_frames(write(tmp_path / "x", moving(3)))
    other = write(tmp_path / "y", moving())
    report = VideoReport(tmp_path / "r.json", translate, given, {"y": other}, factor=4)
    report.add({"x": moving(), "y": moving()})
    told, said = finish(report)
    assert set(told["domains"]["y"]["rows"]) == {"in_between", "cross_fade_decoded", "key_frames", "truth"}
    assert "one by one" not in said and "all true frames" not in said


def test_a_still_truth_has_no_ratio(tmp_path: Path) -> None:
    still = np.repeat(moving(1), 9, 0)
    report = VideoReport(
        tmp_path / "r.json", translate, open_frames(write(tmp_path / "x", still)), {}, factor=4, every=4
    )
    report.add({"x": still})
    rows = finish(report)[0]["domains"]["x"]["rows"]
    assert rows["truth"] == {"flicker": 0} and rows["in_between"]["flicker"] == 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"factor": 4, "every": 1}, "none are known: with --every a multiple of --factor"),
        ({"factor": 4, "every": 6}, r"now 6 and 4\)"),
        ({"factor": 1, "every": 2, "truth": {"x": "x"}}, "factor must be 2 or more"),
        ({"factor": 4, "every": 4, "path": "r.txt"}, "ends in .json"),
        ({"factor": 4, "every": 4, "path": "folder.json"}, "ends in .json"),
        ({"factor": 4, "every": 4, "path": "x/0.png/r.json"}, "no folder that can be written"),
        ({"factor": 4, "every": 4, "truth": {"y": "gone"}}, "gone: no such"),
    ],
)
def test_bad_input_is_said_before_anything_is_made(
    tmp_path: Path, options: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = open_frames(write(Path("x"), moving()))
    Path("folder.json").mkdir()
    path, truth = options.pop("path", "new/r.json"), options.pop("truth", {})
    with pytest.raises(UserError, match=message):
        VideoReport(path, translate, given, truth, **options)
    assert not Path("new").exists()


def test_too_few_frames_leave_no_file(tmp_path: Path) -> None:
    given = open_frames(write(tmp_path / "x", moving()))
    report = VideoReport(tmp_path / "r.json", translate, given, {}, factor=4, every=4)
    report.add({"x": moving(13, (16, 20))[:9]})
    report.add({"x": moving(13, (16, 20))[9:]})
    with pytest.raises(UserError, match="has 9 frames only"):
        report.finish(Console(file=io.StringIO()), {})
    assert not (tmp_path / "r.json").exists()
