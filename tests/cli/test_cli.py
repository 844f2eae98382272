"""The command line end to end, on a few real crops of the Earth, and what it says to bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import jdm_fast as jf
from jdm_fast.cli import COMMANDS, main
from jdm_fast.cli.train import _what_next
from jdm_fast.data.video_files import open_frames, write_video
from jdm_fast.methods import METHODS

SMALL = ["--method.width", "4", "--method.critic-width", "4", "--crop-size", "32", "--load-size", "36"]


@pytest.fixture(scope="module")
def earth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CycleGAN root of 32-pixel tiles, satellite and topographic."""
    root = tmp_path_factory.mktemp("data") / "earth"
    assert main(["data", "earth", str(root), "--size", "32", "--width", "1350", "--stride", "32"]) == 0
    return root


@pytest.fixture(scope="module")
def run(earth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps, trained by the command line."""
    out = tmp_path_factory.mktemp("runs") / "small"
    assert train(earth, out) == 0
    return out


def train(root: Path, out: Path, *more: str) -> int:
    data = ["--data.root", str(root), "--data.max-dataset-size", "8", "--out", str(out)]
    return main(["train", "jwdm-small", *data, *SMALL, "--n-epochs", "1", "--n-epochs-decay", "1", *more])


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize(
    "command", [*((name,) for name in COMMANDS), ("train", "jwdm"), ("data", "earth"), ("data", "frames")]
)
def test_each_command_explains_itself(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert main([*command, "--help"]) == 0
    except SystemExit as end:  # how the option parser ends after its help
        assert end.code == 0
    assert "usage: jdm-fast " + command[0] in capsys.readouterr().out


def test_the_paper_is_the_default_of_train(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "jwdm", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for option in ("--load-size", "--crop-size", "--n-epochs", "--n-epochs-decay", "--batch-size", "--pool-size"):
        assert option in text
    assert "default: 0.0002" in text


def test_train_leaves_a_whole_run(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 4
    assert np.isfinite(lines[-1]["generator_loss"])
    assert list((run / "checkpoints").iterdir())
    assert json.loads((run / "config.json").read_text())["method"] == "jwdm"


def test_train_again_says_it_is_complete(earth: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(earth, run) == 0
    assert "complete" in capsys.readouterr().out


@pytest.mark.parametrize("to", ["x", "y"])
def test_translate_a_folder_and_a_file(run: Path, earth: Path, tmp_path: Path, to: str) -> None:
    (tmp_path / "in").mkdir()
    for k, size in enumerate(
        [(32, 32), (47, 61), (20, 90)]
    ):  # width, height; the last is smaller than a tile in one way
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (*size[::-1], 3), np.uint8)).save(
            tmp_path / f"in/{k}.png"
        )
    assert main(["translate", str(run), str(tmp_path / "in"), str(tmp_path / "out"), "--to", to]) == 0
    sizes = {path.name: Image.open(path).size for path in (tmp_path / "out").iterdir()}
    assert sizes == {"0.png": (32, 32), "1.png": (47, 61), "2.png": (20, 90)}
    assert main(["translate", str(run), str(tmp_path / "in/1.png"), str(tmp_path / "one.png"), "--to", to]) == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "one.png")), np.asarray(Image.open(tmp_path / "out/1.png")))


def test_video_of_a_folder_and_of_two_pictures(run: Path, earth: Path, tmp_path: Path) -> None:
    frames = sorted((earth / "testA").iterdir())[:3]
    (tmp_path / "in").mkdir()
    for k, frame in enumerate(frames):
        (tmp_path / f"in/{k}.png").write_bytes(frame.read_bytes())
    assert main(["video", str(run), str(tmp_path / "in"), str(tmp_path / "v.mp4"), "--factor", "4"]) == 0
    for name in ("v.mp4", "v.x.mp4", "v.y.mp4"):
        with av.open(str(tmp_path / name)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 9
    pair = [str(frame) for frame in frames[:2]]
    assert main(["video", str(run), *pair, str(tmp_path / "frames"), "--factor", "8", "--frames"]) == 0
    assert len(list((tmp_path / "frames/y").iterdir())) == 9


def test_frames_of_a_sequence_in_a_data_set(tmp_path: Path) -> None:
    frames = tmp_path / "city" / "leftImg8bit_sequence" / "train" / "aachen"
    frames.mkdir(parents=True)
    for snippet in (0, 7):
        for number in (9, 10):
            picture = np.full((8, 16, 3), 10 * snippet + number, np.uint8)
            Image.fromarray(picture).save(frames / f"aachen_{snippet:06d}_{number:06d}_leftImg8bit.png")
    photo = tmp_path / "city" / "leftImg8bit" / "train" / "aachen" / "aachen_000000_000009_leftImg8bit.png"
    labels = tmp_path / "city" / "gtFine" / "train" / "aachen" / "aachen_000000_000009_gtFine_color.png"
    for path in (photo, labels):
        path.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(path)
    command = ["data", "frames", str(tmp_path / "city"), str(tmp_path / "out")]
    assert main([*command, "--sequence", "train/aachen_000007_000009"]) == 0
    pictures = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").iterdir())]
    assert [int(picture[0, 0, 0]) for picture in pictures] == [79, 80]


def test_a_film_of_variable_rate_at_its_true_times(run: Path, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    write_video(film, [np.full((32, 48, 3), 40 * k, np.uint8) for k in range(5)], fps=10)
    assert main(["data", "frames", str(film), str(tmp_path / "frames"), "--fps", "20"]) == 0
    assert len(list((tmp_path / "frames").iterdir())) == 10
    options = ["--input-fps", "5", "--decoder", "pyav", "--factor", "2"]
    assert main(["video", str(run), str(film), str(tmp_path / "out.mp4"), *options]) == 0
    made = open_frames(tmp_path / "out.mp4")
    assert made.fps == 10 and made.count in (3, 5)


def test_frames_of_a_film_are_pictures_to_train_on(run: Path, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    frames = [np.full((32, 48, 3), 20 * k, np.uint8) for k in range(7)]
    write_video(film, frames, fps=24)
    assert main(["data", "frames", str(film), str(tmp_path / "frames"), "--every", "3"]) == 0
    pictures = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "frames").iterdir())]
    assert [picture.shape for picture in pictures] == [(32, 48, 3)] * 3
    assert all(abs(picture.mean() - level) < 3 for picture, level in zip(pictures, (0, 60, 120), strict=True))


def test_the_library_reads_the_run_the_command_made(run: Path) -> None:
    model = jf.load(run)
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    assert model.translate(frames, to="y").shape == (2, 32, 32, 3)
    assert model.video(frames, factor=8)["y"].shape == (9, 32, 32, 3)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("jwdm", "jdm-fast translate RUN IN OUT --to y"),
        ("jointgan", "jdm-fast sample RUN OUT"),
        ("pix2pix", "jdm-fast translate RUN IN OUT --to y"),
        ("cyclegan", "jdm-fast translate RUN IN OUT --to y"),
        ("wgan-gp", "jdm-fast sample CONDITIONALS OUT --marginals RUN"),
    ],
)
def test_training_ends_with_what_the_run_is_for(name: str, command: str) -> None:
    assert command in _what_next(METHODS[name].config_class, Path("RUN"))


def corrupt_image(run: Path, tmp: Path) -> list[str]:
    (tmp / "bad").mkdir()
    (tmp / "bad/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n not a picture")
    return ["translate", str(run), str(tmp / "bad"), str(tmp / "out")]


def cut_checkpoint(run: Path, tmp: Path) -> list[str]:
    copy = tmp / "cut"
    (copy / "checkpoints").mkdir(parents=True)
    (copy / "config.json").write_bytes((run / "config.json").read_bytes())
    for path in (run / "checkpoints").iterdir():
        (copy / "checkpoints" / path.name).write_bytes(path.read_bytes()[:1000])
    return ["translate", str(copy), str(tmp), str(tmp / "out")]


def empty_folder(run: Path, tmp: Path) -> list[str]:
    (tmp / "nothing").mkdir()
    return [
        "train",
        "jwdm",
        "--data.x",
        str(tmp / "nothing"),
        "--data.y",
        str(tmp / "nothing"),
        "--out",
        str(tmp / "run"),
    ]


def too_small(run: Path, tmp: Path) -> list[str]:
    for domain in "xy":
        (tmp / domain).mkdir()
        Image.new("RGB", (16, 16)).save(tmp / domain / "a.png")
    folders = ["--data.x", str(tmp / "x"), "--data.y", str(tmp / "y"), "--out", str(tmp / "run")]
    return ["train", "jwdm", *folders, "--load-size", "16", "--crop-size", "16"]


BAD_INPUT: dict[str, tuple[Callable[[Path, Path], list[str]], str]] = {
    "no such command": (lambda run, tmp: ["paint"], "paint"),
    "no such method": (lambda run, tmp: ["train", "stylegan"], "stylegan"),
    "no such data set": (lambda run, tmp: ["data", "mars"], "mars"),
    "missing run": (lambda run, tmp: ["translate", str(tmp / "gone"), str(tmp), str(tmp / "o")], "gone"),
    "missing input": (lambda run, tmp: ["translate", str(run), str(tmp / "gone"), str(tmp / "o")], "gone"),
    "missing video": (lambda run, tmp: ["video", str(run), str(tmp / "gone.mp4"), str(tmp / "o.mp4")], "gone.mp4"),
    "half the data": (lambda run, tmp: ["demo", "--data.x", str(tmp), "--out", str(tmp / "o")], "--data.y"),
    "a bad field": (lambda run, tmp: ["train", "jwdm", "--method.blocks", "-1", "--out", str(tmp / "o")], "blocks"),
    "corrupt image": (corrupt_image, "broken.png"),
    "checkpoint cut short": (cut_checkpoint, "checkpoints"),
    "no frames": (lambda run, tmp: ["data", "frames", str(tmp / "gone.mp4"), str(tmp / "o")], "gone.mp4"),
    "every 0th frame": (lambda run, tmp: ["data", "frames", str(tmp), str(tmp / "o"), "--every", "0"], "every"),
    "empty folder": (empty_folder, "nothing"),
    "too small for the network": (too_small, "16"),
}


def test_a_damaged_newest_checkpoint_is_passed_over_saying_so(
    earth: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    newest = sorted((copy / "checkpoints").glob("*.pt"))[-1]
    newest.with_name("step-00000009.pt").write_bytes(newest.read_bytes()[:1000])
    assert main(["translate", str(copy), str(earth / "testA"), str(tmp_path / "out"), "--to", "y"]) == 0
    said = capsys.readouterr().err
    assert said.startswith("jdm-fast: ") and "step-00000009.pt" in said and "damaged" in said
    assert "UserWarning" not in said and "newest_checkpoint(" not in said, "a warning to people shows no code"


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_named_and_ends_with_status_2(
    case: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, named = BAD_INPUT[case]
    arguments = make(run, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    said = "".join((captured.err + captured.out).split())  # long paths are wrapped
    assert status == 2
    assert "".join(named.split()) in said
    assert "Traceback" not in said
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before, "bad input must leave no files behind and change none"


def test_module_and_exit_status_of_a_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jdm_fast", "translate", str(tmp_path / "gone"), "a", "b"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "gone" in done.stderr
    assert "Traceback" not in done.stderr
