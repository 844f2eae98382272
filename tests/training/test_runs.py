from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from jdm_fast._files import make_folder, write_atomically
from jdm_fast.errors import UserError
from jdm_fast.runs import DamagedCheckpoint, Run, RunFolder, load_run
from jdm_fast.training import train
from tests.training.fake_method import FakeConfig, FakeMethod


@pytest.fixture
def folder(configure: Callable, console: Console) -> RunFolder:
    """A finished run of the fake method with checkpoints of steps 5 and 7."""
    return RunFolder(train(configure(n_epochs_decay=0, method=FakeConfig(width=3)), console=console))


def test_a_run_needs_its_path_and_nothing_else(folder: RunFolder) -> None:
    before = torch.get_rng_state()
    run = load_run(folder.path)
    assert torch.equal(torch.get_rng_state(), before), "the caller's random stream must not move"
    assert isinstance(run, Run) and isinstance(run.method, FakeMethod)
    assert (run.method_name, run.step, run.method.config) == ("fake", 7, FakeConfig(width=3))
    assert run.config["crop_size"] == 16 and not run.method.training
    document = torch.load(folder.checkpoint(7), weights_only=True)
    for name, tensor in run.method.state_dict().items():
        source = document["ema"] if name.startswith("generators") else document["networks"]
        assert torch.equal(tensor, source[name]), name
    assert not torch.equal(document["ema"]["generators.x.weight"], document["networks"]["generators.x.weight"])


def test_an_older_step_can_be_asked_for(folder: RunFolder) -> None:
    assert load_run(str(folder.path), step=5).step == 5
    with pytest.raises(UserError, match="no checkpoint of step 6, only of 5, 7"):
        load_run(folder.path, step=6)


@pytest.mark.parametrize(
    "missing, message", [("all", "no such folder"), ("config.json", "not a run"), ("checkpoints", "no checkpoint yet")]
)
def test_what_is_missing_is_named(folder: RunFolder, missing: str, message: str) -> None:
    if missing == "checkpoints":
        for path in folder.checkpoints.iterdir():
            path.unlink()
    elif missing == "config.json":
        folder.config.unlink()
    path = folder.path / "nowhere" if missing == "all" else folder.path
    with pytest.raises(UserError, match=message):
        load_run(path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "cannot be read as JSON"),
        ('{"format": 1', "cannot be read as JSON"),
        ("[]", "not a run's configuration"),
        ('{"format": 1}', "not a run's configuration"),
        ('{"format": 2, "jdm_fast": "9.0", "method": "fake", "config": {}}', "format 2 by jdm_fast 9.0.*upgrade"),
        (
            '{"format": 1, "method": "cyclegan", "config": {}}',
            "the method 'cyclegan' is not known here; expected one of jwdm",
        ),
        ('{"format": 1, "method": "fake", "config": {"method": {"depth": 3}}}', "FakeConfig has no field depth"),
        ('{"format": 1, "method": "fake", "config": {}}', "expected the fields of FakeConfig"),
    ],
)
def test_a_bad_configuration_is_named(folder: RunFolder, text: str, message: str) -> None:
    folder.config.write_text(text)
    with pytest.raises(UserError, match=f"config.json.*{message}"):
        load_run(folder.path)


@pytest.mark.parametrize("cut", [0, 10, 2000], ids=lambda cut: f"{cut} bytes")
def test_a_checkpoint_cut_short_is_never_passed_over_in_silence(folder: RunFolder, cut: int) -> None:
    newest = folder.checkpoint(7)
    newest.write_bytes(newest.read_bytes()[:cut])
    with pytest.raises(DamagedCheckpoint, match="step-00000007.pt: .*cut short.*step 5 may be whole"):
        load_run(folder.path)
    assert load_run(folder.path, step=5).step == 5


def test_files_that_are_no_checkpoints(folder: RunFolder) -> None:
    torch.save({"state_dict": {}}, folder.checkpoint(7))
    with pytest.raises(DamagedCheckpoint, match="not a checkpoint of jdm_fast"):
        load_run(folder.path)


def test_code_in_a_checkpoint_is_not_run(folder: RunFolder, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"format": 1, "method": "fake", "step": 7, "networks": Attack()}, folder.checkpoint(7))
    with pytest.raises(UserError):
        load_run(folder.path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"method": "jwdm"}, "a checkpoint of the method 'jwdm' in a run of 'fake'"),
        ({"format": 9, "jdm_fast": "8.1"}, "format 9 by jdm_fast 8.1"),
        ({"networks": {"generators.x.weight": torch.zeros(1)}, "ema": None}, "do not fit the networks"),
    ],
    ids=["other method", "newer", "other networks"],
)
def test_a_checkpoint_from_elsewhere(folder: RunFolder, changes: dict, message: str) -> None:
    document = torch.load(folder.checkpoint(7), weights_only=True)
    torch.save({**document, **changes}, folder.checkpoint(7))
    with pytest.raises(UserError, match=f"step-00000007.pt: .*{message}"):
        load_run(folder.path)


def test_configuration_on_disk_is_plain_and_complete(folder: RunFolder) -> None:
    document = json.loads(folder.config.read_text())
    assert document["method"] == "fake" and document["format"] == 1 and document["jdm_fast"]
    assert document["config"]["method"] == {"width": 3, "broken_at": 0}
    assert document["images"]["x"]["count"] == 7


def test_writing_replaces_a_file_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def broken(file: object) -> None:
        file.write(b"half of the ")
        raise RuntimeError("the power is gone")

    with pytest.raises(RuntimeError):
        write_atomically(path, broken)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    with pytest.raises(UserError, match="missing/file: cannot be written: No such file"):
        write_atomically(tmp_path / "missing" / "file", lambda file: None)
    with pytest.raises(UserError, match="the folder cannot be made"):
        make_folder(path / "below")
