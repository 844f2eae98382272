"""``jdm-fast export``: what is written runs without this package and equals the run; bad input leaves nothing."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import jdm_fast as jf
from jdm_fast.cli import main
from jdm_fast.export import export_networks, files, formats
from tests.cli.test_sample import SMALL, save_run

JWDM = {"width": 4, "blocks": 1, "embedding_kernel": 2, "critic_width": 4, "critic_layers": 2, "init": "default"}
NETWORKS = ["decoder_x", "decoder_y", "encoder_x", "encoder_y"]
FORMATS = ["onnx", "pt2"]

SIZES = [(1, 12, 12), (3, 32, 20), (2, 16, 52)]

RUN_ALONE = """
import sys
sys.modules["jdm_fast"] = None  # importing it raises
import numpy as np
folder, format = sys.argv[1:]
def load(name):
    if format == "onnx":
        import onnxruntime
        session = onnxruntime.InferenceSession(f"{folder}/{name}.onnx")
        return lambda value: session.run(None, {session.get_inputs()[0].name: value})[0]
    import torch
    module = torch.export.load(f"{folder}/{name}.pt2").module()
    return lambda value: module(torch.from_numpy(value)).numpy()
encoder, decoder = load("encoder_x"), load("decoder_y")
made = {}
for name, images in np.load("images.npz").items():
    made[f"latents-{name}"] = latents = encoder(images)
    made[f"images-{name}"] = decoder(latents)
np.savez("made.npz", **made)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        return save_run(tmp_path_factory.mktemp("runs") / "jwdm", "jwdm", **JWDM)


@pytest.fixture(scope="module", params=FORMATS)
def exported(request: pytest.FixtureRequest, run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("exported") / "new" / request.param
    assert call(run, folder, "--format", request.param) == 0
    return folder, request.param


def call(*arguments: object) -> int:
    try:
        return main(["export", *map(str, arguments)])
    except SystemExit as end:  # how the option parser ends
        return int(end.code or 0)


def test_what_is_in_the_folder(exported: tuple[Path, str]) -> None:
    folder, format = exported
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*(f"{name}.{format}" for name in NETWORKS), "export.json"]
    )
    assert [path.name for path in folder.parent.iterdir()] == [format], "no temporary folder"
    said = json.loads((folder / "export.json").read_text())
    assert (said["method"], said["step"], said["format"], said["domains"]) == ("jwdm", 2, format, ["x", "y"])
    assert (said["size_multiple"], said["minimum_size"], said.get("opset")) == (4, 12, {"onnx": 18}.get(format))
    assert set(said["largest_difference"]) == {f"{name}.{format}" for name in NETWORKS}
    assert all(0 <= difference < 1e-4 for difference in said["largest_difference"].values())


def test_files_run_without_this_package(exported: tuple[Path, str], run: Path, tmp_path: Path) -> None:
    folder, format = exported
    random = np.random.default_rng(0)
    given = {
        str(number): random.uniform(-1, 1, (count, 3, height, width)).astype(np.float32)
        for number, (count, height, width) in enumerate(SIZES)
    }
    np.savez(tmp_path / "images.npz", **given)
    subprocess.run([sys.executable, "-c", RUN_ALONE, folder, format], cwd=tmp_path, check=True)
    model, made = jf.load(run, device="cpu"), np.load(tmp_path / "made.npz")
    for name, images in given.items():
        latents = model.encode(torch.from_numpy(images), "x")
        np.testing.assert_allclose(made[f"latents-{name}"], latents, rtol=0, atol=1e-4)
        np.testing.assert_allclose(made[f"images-{name}"], model.decode(latents, "y"), rtol=0, atol=1e-4)


def test_files_hold_standard_operations_and_no_paths(exported: tuple[Path, str]) -> None:
    folder, format = exported
    for path in folder.glob(f"*.{format}"):
        for part in (str(Path(jf.__file__).parent), "autoencoder.py"):
            assert part.encode() not in path.read_bytes(), "a stack trace"
        if format == "onnx":
            model = onnx.load(path)
            assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
            assert "InstanceNormalization" in {node.op_type for node in model.graph.node}
            sides = [side.dim_param for side in model.graph.input[0].type.tensor_type.shape.dim]
            of_encoder = path.stem.startswith("encoder")
            expected = ["batch", "", "4*height", "4*width"] if of_encoder else ["batch", "", "height", "width"]
            assert sides == expected


def test_a_checkpoint_is_chosen(run: Path, tmp_path: Path) -> None:
    made = export_networks(run, tmp_path / "out", "pt2", step=1)
    images = torch.rand(1, 3, 12, 16) * 2 - 1
    latents = torch.export.load(made.folder / "encoder_y.pt2").module()(images)
    torch.testing.assert_close(latents, jf.load(run, "cpu", step=1).encode(images, "y"), rtol=0, atol=1e-4)
    assert (latents - jf.load(run, "cpu", step=2).encode(images, "y")).abs().max() > 0.1


# ---- what cannot be -------------------------------------------------------------------------------------------------


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors that can be known before must not wait for an export."""
    monkeypatch.setattr(formats, "write", lambda *_: pytest.fail("exported before the check"))


@pytest.mark.parametrize(
    "source, target, options, message",
    [
        ("jwdm", "out", ["--format", "tflite"], "tflite"),
        ("jointgan", "out", [], "a run of jointgan has no latents"),
        ("pix2pix", "out", [], "a run of pix2pix has no latents"),
        ("nothing", "out", [], "there is no such folder"),
        ("jwdm", "out", ["--step", "7"], "there is no checkpoint of step 7, only of 1, 2"),
        ("jwdm", "file", [], "a file is there"),
        ("jwdm", "full", [], "there is something in this folder"),
        ("jwdm", "file/out", [], "the folder cannot be made"),
    ],
)
def test_bad_input(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    no_export: None,
    source: str,
    target: str,
    options: list[str],
    message: str,
) -> None:
    with torch.random.fork_rng():
        save_run(tmp_path / "jointgan", "jointgan", **SMALL)
        save_run(tmp_path / "pix2pix", "pix2pix", **SMALL)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    assert call(run if source == "jwdm" else tmp_path / source, tmp_path / target, *options) == 2
    text = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in text and "Traceback" not in text
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "file").read_text() == "kept"


def test_missing_packages_are_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], no_export: None
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find_spec(name))
    assert call(run, tmp_path / "out") == 2
    assert "format=onnx needs onnxruntime: pip install 'jdm_fast[export]'" in capsys.readouterr().err


def fake_write(change: Any = None) -> Any:
    """Writes the module itself in place of an export, after ``change`` to it."""

    def write(format: str, path: Path, network: torch.nn.Module, *_: Any) -> None:
        if change:
            change(network)
        torch.save(network, path)

    return write


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    def read(format: str, path: Path) -> Any:
        module = torch.load(path, weights_only=False)
        return lambda value: module(value).detach().numpy()

    monkeypatch.setattr(formats, "read", read)
    monkeypatch.setattr(formats, "write", fake_write())
    return monkeypatch


def spoil(value: float) -> Any:
    def change(network: torch.nn.Module) -> None:
        next(network.parameters()).view(-1)[0] = value

    return change


@pytest.mark.parametrize("value", [3.0, float("nan")])
def test_a_file_that_differs_from_the_run_is_not_kept(
    run: Path, tmp_path: Path, quick: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    quick.setattr(formats, "write", fake_write(spoil(value)))
    assert call(run, tmp_path / "out", "--format", "pt2") == 2
    assert "encoder_x.pt2: differs from the run by" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(
    run: Path, tmp_path: Path, quick: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    quick.setattr(formats, "write", full)
    assert call(run, tmp_path / "out", "--format", "pt2") == 2
    assert "out: cannot be written: No space left on device. Free some space" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_used(run: Path, tmp_path: Path, quick: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    seen: list[Any] = []
    made = files.export_networks(run, tmp_path / "out", "pt2", on_progress=lambda *done: seen.append(done))
    assert made.folder == tmp_path / "out" and all(path.is_file() for path in made.files) and len(made.files) == 5
    assert seen == [(done, 4) for done in range(5)]
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
