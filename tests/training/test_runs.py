from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from jdm_fast._files import make_folder, write_atomically
from jdm_fast.errors import UserError
from jdm_fast.runs import FORMAT, BestCheckpoint, DamagedCheckpoint, Run, RunFolder, load_run, write_best
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
        ('{"format": 99, "jdm_fast": "9.0", "method": "fake", "config": {}}', "format 99 by jdm_fast 9.0.*upgrade"),
        (
            '{"format": 1, "method": "stargan", "config": {}}',
            "the method 'stargan' is not known here; expected one of jwdm",
        ),
        ('{"format": 1, "method": "fake", "config": {"method": {"depth": 3}}}', "FakeConfig has no field depth"),
        ('{"format": 1, "method": "fake", "config": {}}', "expected the fields of FakeConfig"),
        ('{"format": 1, "method": "fake", "config": [1]}', "expected the fields of FakeConfig"),
    ],
)
def test_a_bad_configuration_is_named(folder: RunFolder, text: str, message: str) -> None:
    folder.config.write_text(text)
    with pytest.raises(UserError, match=f"config.json.*{message}"):
        load_run(folder.path)


def cut_short(path: Path, cut: int) -> None:
    path.write_bytes(path.read_bytes()[:cut])


def one_bit_flipped(path: Path, of: str) -> None:
    """One bit of the tensor or record ``of`` in the file changes, as on a disk that forgets."""
    with zipfile.ZipFile(path) as archive:
        record = next(info for info in archive.infolist() if info.filename.endswith(of))
    content = bytearray(path.read_bytes())
    name_length, extra_length = struct.unpack_from("<HH", content, record.header_offset + 26)
    content[record.header_offset + 30 + name_length + extra_length + record.file_size // 2] ^= 4
    path.write_bytes(content)


def marked_as_folder(path: Path) -> None:
    """The first tensor's entry in the file's table says it is a folder: one bit."""
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\1\2", 0, content.rindex(b"data/0"))
    content[entry + 38] |= 0x10
    path.write_bytes(content)


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: cut_short(path, 0), "damaged or cut short"),
        (lambda path: cut_short(path, 10), "damaged or cut short"),
        (lambda path: cut_short(path, 2000), "damaged or cut short"),
        (lambda path: cut_short(path, -1), "damaged or cut short"),
        (lambda path: one_bit_flipped(path, "data/0"), "damaged: the bytes of .*data/0 have changed"),
        (lambda path: one_bit_flipped(path, "data.pkl"), "damaged: the bytes of .*data.pkl have changed"),
        (marked_as_folder, "damaged: the bytes of .*data/0 have changed"),
        (lambda path: torch.save({"state_dict": {}}, path), "not a checkpoint of jdm_fast; expected format"),
        (lambda path: torch.save([1], path), "not a checkpoint of jdm_fast; expected a dict"),
        (
            lambda path: torch.save({"format": 1, "step": 7, "networks": Attack(path.with_name("executed"))}, path),
            "something else in it than tensors and plain values, which is not executed",
        ),
    ],
    ids=["empty", "10 bytes", "2000 bytes", "last byte", "tensor", "structure", "folder", "other file", "list", "code"],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    folder: RunFolder, damage: Callable[[Path], object], message: str
) -> None:
    damage(folder.checkpoint(7))
    with pytest.warns(UserWarning, match=f"step-00000007.pt: .*{message}.*; looking for the one before") as caught:
        assert load_run(folder.path).step == 5
    assert len(caught) == 1
    told: list[str] = []
    assert load_run(folder.path, warn=told.append).step == 5
    assert told == [str(caught[0].message)]
    with pytest.raises(DamagedCheckpoint, match=f"{message}.*step 5 may be whole: ask for it"):
        load_run(folder.path, step=7)
    assert load_run(folder.path, step=5).step == 5
    cut_short(folder.checkpoint(5), 100)
    with pytest.raises(UserError, match="none of the checkpoints .steps 5, 7. can be read"):
        load_run(folder.path, warn=told.append)
    assert not (folder.checkpoints / "executed").exists()


def test_the_best_can_be_asked_for(folder: RunFolder) -> None:
    with pytest.raises(UserError, match="no checkpoint was chosen as the best.*one of the steps 5, 7"):
        load_run(folder.path, step="best")
    write_best(folder, BestCheckpoint(5, "truth/x_to_y/l1", 0.25))
    assert load_run(folder.path, step="best").step == 5 and load_run(folder.path).step == 7
    folder.checkpoint(5).unlink()
    with pytest.raises(UserError, match="no checkpoint was chosen"):
        load_run(folder.path, step="best")
    for text in ("{", "[]", '{"step": "5"}'):
        folder.best.write_text(text)
        with pytest.raises(UserError, match="best.json: .*Delete it to choose"):
            load_run(folder.path, step="best")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"method": "jwdm"}, "a checkpoint of the method 'jwdm' in a run of 'fake'"),
        ({"format": 99, "jdm_fast": "8.1"}, "format 99 by jdm_fast 8.1"),
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
    assert document["method"] == "fake" and document["format"] == FORMAT and document["jdm_fast"]
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


def test_a_training_killed_before_it_wrote_its_settings_can_begin_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    (folder.checkpoints / ".step-00000001.pt.tmp").write_bytes(b"half")
    assert not folder.config.exists()
    folder.create()
    folder.checkpoint(1).write_bytes(b"somebody's")
    with pytest.raises(UserError, match="there is checkpoints but no config.json"):
        folder.create()
