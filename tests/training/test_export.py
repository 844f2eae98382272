"""A run's generators in one safetensors file, and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from rich.console import Console
from torch import nn

import jdm_fast
from jdm_fast import runs
from jdm_fast.errors import UserError
from jdm_fast.methods import JWDMConfig
from jdm_fast.runs import FORMAT, RunFolder, export_generators, load_generators, load_run
from jdm_fast.training import DataConfig, train
from tests.training.fake_method import FakeConfig, FakeMethod


@pytest.fixture
def run(configure: Callable, console: Console) -> Path:
    return train(configure(n_epochs_decay=0, method=FakeConfig(width=3)), console=console)


def test_what_is_in_the_file(run: Path, tmp_path: Path) -> None:
    path = export_generators(run, tmp_path / "new" / "generators.safetensors")
    assert path == tmp_path / "new" / "generators.safetensors" and list(path.parent.iterdir()) == [path]
    tensors = safetensors.torch.load_file(path)
    document = torch.load(RunFolder(run).checkpoint(7), weights_only=True)
    names = {f"generators.{domain}.{part}" for domain in "xy" for part in ("weight", "bias")}
    assert tensors.keys() == names | {"steps"}, "no critics; a buffer of the method as a whole belongs to both"
    assert all(torch.equal(tensors[name], document["ema"][name]) for name in names), "the averaged ones"
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["method"], metadata["step"], metadata["jdm_fast_format"]) == ("fake", "7", str(FORMAT))
    assert json.loads(metadata["config"])["method"] == {"width": 3, "broken_at": 0}


def test_the_file_replaces_the_run(run: Path, tmp_path: Path) -> None:
    path = export_generators(run, tmp_path / "generators.safetensors", step=5)
    before = torch.get_rng_state()
    loaded, trained = load_run(path), load_run(run, step=5)
    assert torch.equal(torch.get_rng_state(), before), "the caller's random stream must not move"
    assert (loaded.path, loaded.step, loaded.method_name, loaded.config) == (path, 5, "fake", trained.config)
    assert isinstance(loaded.method, FakeMethod) and not loaded.method.training
    assert torch.equal(loaded.method.generators["x"].weight, trained.method.generators["x"].weight)
    with pytest.raises(UserError, match="has one step only"):
        load_run(path, step=5)


def test_a_real_method_translates_as_before(
    configure: Callable, console: Console, images: Path, tmp_path: Path
) -> None:
    method = JWDMConfig(width=4, blocks=1, embedding_kernel=1, critic_width=4, critic_layers=2, init="default")
    run = train(
        configure(method=method, data=DataConfig(root=images), n_epochs=1, n_epochs_decay=0, ema_decay=0),
        console=console,
    )
    path = export_generators(run, tmp_path / "generators.safetensors")
    assert not [name for name in safetensors.torch.load_file(path) if name.startswith("critics")]
    picture = torch.rand(1, 3, 16, 16) * 2 - 1
    made, expected = (jdm_fast.load(source, device="cpu").translate(picture, to="y") for source in (path, run))
    assert torch.equal(made, expected)


class Normed(nn.Module):
    """Buffers on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, affine=False))
        self.critic = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
        self.critics = nn.Sequential(nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, affine=False)))

    def critic_parameters(self) -> list[nn.Parameter]:
        return [*self.critic.parameters(), *self.critics.parameters()]


def test_buffers_go_with_their_networks() -> None:
    assert set(runs._of_generators(Normed())) == {
        "generator.0.weight", "generator.0.bias", "generator.1.running_mean", "generator.1.running_var",
        "generator.1.num_batches_tracked",
    }  # fmt: skip


def rewritten(path: Path, changes: dict[str, str], tensors: dict[str, torch.Tensor] | None = None) -> None:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), **changes}
    safetensors.torch.save_file(safetensors.torch.load_file(path) if tensors is None else tensors, path, metadata)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: path.write_bytes(b""), "cannot be read as generators"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "cannot be read as generators"),
        (lambda path: safetensors.torch.save_file({}, path), "cannot be read as generators: .*jdm_fast_format"),
        (lambda path: rewritten(path, {"config": "{"}), "cannot be read as generators"),
        (lambda path: rewritten(path, {"jdm_fast_format": "99"}), "written in format 99 .*upgrade"),
        (lambda path: rewritten(path, {"method": "other"}), "the method 'other' is not known here; expected one of"),
        (lambda path: rewritten(path, {"config": "[]"}), "expected the fields of FakeConfig, got"),
        (lambda path: rewritten(path, {}, {"steps": torch.zeros(())}), "generators.x.bias, .* missing or too many"),
        (
            lambda path: rewritten(path, {}, {**safetensors.torch.load_file(path), "steps": torch.zeros(2)}),
            "do not fit the networks",
        ),
    ],
    ids=["empty", "cut short", "no metadata", "json", "newer", "method", "config", "missing", "shape"],
)
def test_a_bad_file_is_named(run: Path, tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    path = export_generators(run, tmp_path / "generators.safetensors")
    damage(path)
    with pytest.raises(UserError, match=f"generators.safetensors: .*{message}"):
        load_generators(path)


def test_what_cannot_be_exported(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose a name that ends in .safetensors"):
        export_generators(run, tmp_path / "generators.pt")
    with pytest.raises(UserError, match="there is no such folder"):
        export_generators(tmp_path / "nowhere", tmp_path / "generators.safetensors")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="the folder cannot be made"):
        export_generators(run, tmp_path / "file" / "generators.safetensors")
