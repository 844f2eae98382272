"""``jdm-fast video --report`` and ``--residual``, with a model whose every answer is known."""

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
from jdm_fast.metrics import cross_fade, l1
from jdm_fast.metrics.temporal import flicker

SIZE = (16, 20)


class Dim(nn.Module):
    """Domain y is the negative of x, and decoding halves the contrast. Latents are pixels rearranged."""

    domains = ("x", "y")
    size_multiple, minimum_size = 4, 4

    def encode(self, images: Tensor, domain: str) -> Tensor:
        return F.pixel_unshuffle(images if domain == "x" else -images, 4)

    def decode(self, latent: Tensor, domain: str) -> Tensor:
        images = F.pixel_shuffle(latent, 4) / 2
        return images if domain == "x" else -images

    def translate(self, images: Tensor, to: str, source: str) -> Tensor:
        return self.decode(self.encode(images, source), to)


@pytest.fixture(autouse=True)
def dim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "load", lambda path, device: synthesis.Model(Dim(), "cpu"))


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


@pytest.mark.parametrize("source", ["x", "y"])
def test_the_frames_left_out_are_the_truth(tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (9, *SIZE, 3), np.uint8)
    other = "y" if source == "x" else "x"
    given, truth = write(tmp_path / "given", clip), write(tmp_path / "other", 255 - clip)
    path = tmp_path / "report.json"
    options = ["--factor", 4, "--every", 4, "--source", source, f"--truth.{other}", truth, "--report", path]
    dimmed = np.rint(127.5 + (clip / 127.5 - 1) / 2 * 127.5).astype(np.uint8)
    between = [1, 2, 3, 5, 6, 7]
    for residual in (False, True):
        assert call("video", "run", given, tmp_path / f"out{residual}", *options, *["--residual"] * residual) == 0
        said = capsys.readouterr().out
        assert f"report in {path}" in " ".join(said.split()) and not (tmp_path / f"out{residual}/scores.json").exists()
        report = json.loads(path.read_text())
        assert (report["source"], report["factor"], report["every"], report["frames"]) == (source, 4, 4, 9)
        assert report["residual"] == residual and report["run"] == "run" and report["input"] == [str(given)]
        rows = report["domains"][source]["rows"]
        fade = cross_fade(clip[::4], 4)
        assert rows["cross_fade_true"]["l1"] == pytest.approx(l1(fade[between], clip[between]))
        assert rows["one_by_one"]["l1"] == pytest.approx(l1(dimmed[between], clip[between]), abs=0.005)
        assert rows["truth"]["flicker"] == pytest.approx(flicker(clip))
        # Interpolated pixels are cross-fades; half the contrast is lost, and the residual is the other half.
        made = fade if residual else cross_fade(dimmed[::4], 4)
        assert rows["in_between"]["l1"] == pytest.approx(l1(made[between], clip[between]), abs=0.005)
        assert rows["key_frames"]["l1"] == pytest.approx(0 if residual else l1(dimmed[::4], clip[::4]), abs=0.005)
        assert rows["in_between"]["flicker_ratio"] == pytest.approx(flicker(made) / flicker(clip), abs=0.005)
        of_other = report["domains"][other]["rows"]
        assert of_other["one_by_one"]["l1"] == pytest.approx(l1(dimmed[between], clip[between]), abs=0.005)
        assert of_other["key_frames"]["l1"] > 0.2  # the other domain is as it is decoded


@pytest.mark.parametrize(
    "options, named",
    [
        (["--report", "r.json"], "--every a multiple of --factor"),
        (["--report", "r.txt", "--every", 4], "ends in .json"),
        (["--report", "r.json", "--every", 4, "--factor", 1], "--every a multiple of --factor"),
        (["--report", "r.json", "--truth.y", "gone"], "gone: no such file or folder"),
    ],
)
def test_bad_input_is_said_before_anything_is_made(
    tmp_path: Path,
    options: list[object],
    named: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("in"), np.zeros((9, *SIZE, 3), np.uint8))
    assert call("video", "run", "in", "out", "--factor", 4, *options) == 2
    captured = capsys.readouterr()
    said = " ".join((captured.err + captured.out).split())
    assert named in said and "Traceback" not in said
    assert not Path("out").exists() and not Path("r.json").exists()
