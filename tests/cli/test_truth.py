"""``jdm-fast translate --truth`` and ``jdm-fast video --truth.x``, with a model whose every answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from jdm_fast import synthesis
from jdm_fast.cli import main
from jdm_fast.data.earth import mask_picture
from jdm_fast.data.video_files import write_video
from jdm_fast.metrics import score, score_video

SIZE = (16, 20)
FACTOR = 4


class Negative(nn.Module):
    """Domain y is the negative of x. Latents are pixels rearranged, so interpolation of latents is a cross-fade."""

    domains = ("x", "y")
    size_multiple, minimum_size = 4, 4

    def encode(self, images: Tensor, domain: str) -> Tensor:
        return F.pixel_unshuffle(images if domain == "x" else -images, 4)

    def decode(self, latent: Tensor, domain: str) -> Tensor:
        images = F.pixel_shuffle(latent, 4)
        return images if domain == "x" else -images

    def translate(self, images: Tensor, to: str, source: str) -> Tensor:
        return self.decode(self.encode(images, source), to)


@pytest.fixture(autouse=True)
def negative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "load", lambda path, device: synthesis.Model(Negative(), "cpu"))


def pictures(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), np.uint8)


def write(folder: Path, arrays: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for number, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{number}.png")
    return folder


def call(*arguments: object) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:  # how the option parser ends
        return int(end.code or 0)


# ---- translate ------------------------------------------------------------------------------------------------------


def test_a_folder_against_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs, truth = pictures(0, 4), pictures(1, 4)
    given, true = write(tmp_path / "in", inputs), write(tmp_path / "truth", truth)
    (true / "3.png").unlink()
    assert call("translate", "run", given, tmp_path / "out", "--truth", true) == 0
    said = capsys.readouterr().out
    for word in ("3 pictures translated to y", "L1 error", "PSNR (dB)", "SSIM", "input copied", "mean colour"):
        assert word in said
    assert "mIoU" not in said and "land/sea" not in said
    assert f"no truth for {given / '3.png'}" in said and "out/scores.json" in said
    report = json.loads((tmp_path / "out/scores.json").read_text())
    expected = score(255 - inputs[:3], truth[:3])
    got = report["scores"]["translated"]
    assert set(got) == {"l1", "psnr", "ssim"} and got["l1"] == pytest.approx(expected.l1)
    assert (got["psnr"], got["ssim"]) == (pytest.approx(expected.psnr), pytest.approx(expected.ssim, abs=1e-6))
    assert report["scores"]["input copied"]["l1"] == pytest.approx(score(inputs[:3], truth[:3]).l1)
    assert report["mean_colour"] == np.rint(truth[:3].mean((0, 1, 2))).tolist()
    assert (report["pictures"], report["to"], report["without_truth"]) == (3, "y", [str(given / "3.png")])
    assert len(list((tmp_path / "out").glob("*.png"))) == 4


def test_masks_of_the_earth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    land = np.random.default_rng(0).random((2, *SIZE)) < 0.5
    given, true = write(tmp_path / "in", 255 - mask_picture(land)), write(tmp_path / "truth", mask_picture(land))
    known = write(tmp_path / "land", np.repeat(land[..., None], 3, -1) * np.uint8(255))
    for options, source in (([], "colours of the truth"), (["--truth-land", known], str(known))):
        assert (
            call("translate", "run", given, tmp_path / "out", "--truth", true, "--truth-domain", "mask", *options) == 0
        )
        said = capsys.readouterr().out
        assert "mIoU" in said and "land/sea" in said
        report = json.loads((tmp_path / "out/scores.json").read_text())
        assert report["land"] == source and report["iou"] == {"land": 1, "water": 1}
        assert report["scores"]["translated"]["miou"] == report["scores"]["translated"]["land_sea"] == 1
        assert report["scores"]["input copied"]["land_sea"] == 0
        assert ("truth" in report["scores"]) == bool(options)


def test_classes_of_a_palette_and_a_single_file(tmp_path: Path) -> None:
    colours = np.uint8([[128, 64, 128], [0, 0, 142], [70, 130, 180]])
    truth = colours[np.random.default_rng(0).integers(0, 3, SIZE)]
    made = truth.copy()
    made[:4] = colours[0]
    Image.fromarray(255 - made).save(tmp_path / "in.png")
    Image.fromarray(truth).save(tmp_path / "truth.png")
    (tmp_path / "palette.json").write_text(json.dumps(dict(zip(("road", "car", "sky"), colours.tolist(), strict=True))))
    arguments = ["--truth", tmp_path / "truth.png", "--truth-palette", tmp_path / "palette.json"]
    assert call("translate", "run", tmp_path / "in.png", tmp_path / "out.png", *arguments) == 0
    report = json.loads((tmp_path / "out.scores.json").read_text())
    masks = [(made == colour).all(-1) for colour in colours], [(truth == colour).all(-1) for colour in colours]
    expected = [(ours & true).sum() / (ours | true).sum() for ours, true in zip(*masks, strict=True)]
    assert list(report["iou"].values()) == pytest.approx(expected)
    assert report["scores"]["translated"]["miou"] == pytest.approx(np.mean(expected)) and "land" in report


def test_unreadable_pictures_do_not_cost_the_others_their_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, true = write(tmp_path / "in", pictures(0, 3)), write(tmp_path / "truth", pictures(1, 3))
    (given / "1.png").write_bytes(b"no picture")
    assert call("translate", "run", given, tmp_path / "out", "--truth", true) == 2
    said = capsys.readouterr()
    assert "1.png" in said.err and "2 pictures translated to y" in said.out
    assert json.loads((tmp_path / "out/scores.json").read_text())["pictures"] == 2


@pytest.mark.parametrize(
    "options, named",
    [
        (["--truth", "gone"], "gone: no such file or folder"),
        (["--truth", "small"], "small/0.png: is 8x8 pixels"),
        (["--truth", "other"], "other: no picture here is called as one of"),
        (["--truth-domain", "relief"], "--truth-domain says what the truth is like"),
        (["--truth", "in", "--truth-land", "in"], "--truth-land goes with --truth-domain"),
        (["--truth", "in", "--truth-palette", "in/0.png"], "not a palette"),
        (["--truth", "in", "--truth-domain", "weather"], "weather"),
    ],
)
def test_unfit_truth_is_said_before_anything_is_made(
    tmp_path: Path, options: list[str], named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("in"), pictures(0, 2))
    write(Path("small"), pictures(0, 2)[:, :8, :8])
    Path("other").mkdir()
    Image.fromarray(pictures(0, 1)[0]).save("other/q.png")
    assert call("translate", "run", "in", "out", *options) == 2
    captured = capsys.readouterr()
    said = " ".join((captured.err + captured.out).split())
    assert named in said and "Traceback" not in said
    assert not Path("out").exists()


# ---- video ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["x", "y"])
@pytest.mark.parametrize("name", ["out", "out.mp4"])
def test_video_against_frames(tmp_path: Path, name: str, source: str, capsys: pytest.CaptureFixture[str]) -> None:
    truth = {"x": pictures(0, 9), "y": pictures(1, 9)}
    paths = {domain: write(tmp_path / domain, clip) for domain, clip in truth.items()}
    options = ["--factor", FACTOR, "--every", FACTOR, "--source", source]
    options += [f"--truth.{domain}={path}" for domain, path in paths.items()]
    assert call("video", "run", paths[source], tmp_path / name, *options) == 0
    said = capsys.readouterr().out
    for word in ("frames of x", "frames of y", "synthesised in between", "cross-fade of the true key frames", "SSIM"):
        assert word in said
    path = tmp_path / ("out/scores.json" if name == "out" else "out.scores.json")
    assert path.name in said
    report = json.loads(path.read_text())
    made = synthesis.Model(Negative(), "cpu").video(truth[source][::FACTOR], FACTOR, source)
    expected = score_video(made, truth, FACTOR, source)
    target = "y" if source == "x" else "x"
    for domain, of_domain in ((source, expected.source), (target, expected.target)):
        got = report["scores"][domain]
        assert got["key_frames"]["l1"] == of_domain.key_frames
        assert got["in_between"]["l1"] == pytest.approx(of_domain.in_between, abs=1e-4)  # half bytes round either way
        assert got["in_between"]["psnr"] == pytest.approx(of_domain.psnr, abs=1e-3)
        assert got["in_between"]["ssim"] == pytest.approx(of_domain.ssim, abs=1e-4)
        assert got["cross_fade_decoded"]["l1"] == of_domain.cross_fade_decoded
        assert ("cross_fade_true" in got) == (domain == source)
    assert report["scores"][source]["cross_fade_true"]["l1"] == expected.source.cross_fade_true
    assert (report["frames"], report["key_frames"], report["source"]) == (9, 3, source)


def test_two_pictures_against_a_film_of_one_domain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ramp = np.linspace(40, 200, SIZE[1], dtype=np.uint8)[None, :, None]
    clip = np.stack([np.broadcast_to(ramp + number, (*SIZE, 3)) for number in range(9)])
    write(tmp_path / "keys", clip[[0, 8]])
    film = write_video(tmp_path / "film.mp4", clip, 24, crf=1)
    pair = [tmp_path / "keys/0.png", tmp_path / "keys/1.png"]
    assert call("video", "run", *pair, tmp_path / "out.mp4", "--truth.x", film) == 0
    assert "frames of y" not in capsys.readouterr().out
    report = json.loads((tmp_path / "out.scores.json").read_text())
    assert list(report["scores"]) == ["x"] and report["scores"]["x"]["in_between"]["l1"] < 0.03


def test_video_of_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = mask_picture(np.random.default_rng(0).random((5, *SIZE)) < 0.5)
    given, true = write(tmp_path / "in", 255 - masks), write(tmp_path / "truth", masks)
    options = [
        "--factor",
        FACTOR,
        "--every",
        FACTOR,
        "--truth.x",
        given,
        "--truth.y",
        true,
        "--truth.y-palette",
        "mask",
    ]
    assert call("video", "run", given, tmp_path / "out", *options) == 0
    assert capsys.readouterr().out.count("mIoU") == 1
    scores = json.loads((tmp_path / "out/scores.json").read_text())["scores"]
    assert scores["y"]["key_frames"]["miou"] == 1 and scores["y"]["in_between"]["miou"] < 0.9
    assert "miou" not in scores["x"]["key_frames"]


@pytest.mark.parametrize(
    "options, named",
    [
        (["--truth.y-palette", "mask"], "it goes with --truth.y"),
        (["--truth.x", "in", "--truth.x-palette", "gone.json"], "gone.json: the palette cannot be read"),
        (["--truth.x", "gone.mp4"], "gone.mp4: no such file or folder"),
        (["--truth.y", "short"], "short: has 4 frames, but 5 will be made of in"),
        (["--truth.y", "small"], "small: frames are 8x8 pixels"),
        (["--truth.x", "in", "--factor", "1"], "factor must be 2 or more"),
    ],
)
def test_unfit_video_truth_is_said_before_anything_is_made(
    tmp_path: Path, options: list[str], named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("in"), pictures(0, 2))
    write(Path("short"), pictures(0, 4))
    write(Path("small"), pictures(0, 5)[:, :8, :8])
    assert call("video", "run", "in", "out", "--factor", "4", *options) == 2
    captured = capsys.readouterr()
    said = " ".join((captured.err + captured.out).split())
    assert named in said and "Traceback" not in said
    assert not Path("out").exists()


def test_a_truth_that_ends_early_leaves_the_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = write(tmp_path / "in", pictures(0, 2))
    film = write_video(tmp_path / "film.mkv", pictures(1, 3), 24)  # whose header does not tell how many
    assert call("video", "run", given, tmp_path / "out", "--factor", 4, "--truth.y", film) == 2
    assert "the video is written, but cannot be scored" in capsys.readouterr().err
    assert len(list((tmp_path / "out/y").iterdir())) == 5 and not (tmp_path / "out/scores.json").exists()
