from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from jdm_fast.data import read_image
from jdm_fast.errors import UserError
from jdm_fast.methods import JWDM, JWDMConfig
from jdm_fast.training.samples import SampleWriter, write_samples
from tests.training.fake_method import FakeConfig, FakeMethod

CAPTION, GAP = 16, 4


def test_pictures_are_where_their_captions_say(tmp_path: Path) -> None:
    """Known colours in: every cell of the grid is found again at its place."""
    levels = torch.linspace(-1, 1, 6)

    class Painter(torch.nn.Module):
        def generate(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            torch.rand(3)
            names = ("extra", "cycle_x", "translation_x", "translation_y", "reconstruction_y", "latent")
            made = {name: torch.full_like(batch["x"], float(level)) for name, level in zip(names, levels, strict=True)}
            made["latent"] = torch.zeros(2, 1, 3, 3)
            return made

    painter = Painter().train()
    x, y = torch.full((2, 3, 112, 120), 0.1), torch.full((2, 3, 112, 120), -0.1)
    before = torch.get_rng_state()
    write_samples(tmp_path / "grid.png", painter, {"x": x, "y": y})
    assert torch.equal(torch.get_rng_state(), before) and painter.training
    grid = read_image(tmp_path / "grid.png")
    # x: input, translation into y, cycle; y: input, reconstruction, translation into x; then what is left.
    shown = [0.1, levels[3], levels[1], -0.1, levels[4], levels[2], levels[0]]
    assert grid.shape == (CAPTION + 2 * (112 + GAP) - GAP, 7 * (120 + GAP) - GAP, 3)
    for column, level in enumerate(shown):
        for row in range(2):
            top, left = CAPTION + row * (112 + GAP), column * (120 + GAP)
            cell = grid[top : top + 112, left : left + 120]
            assert np.abs(cell.astype(float) - (float(level) + 1) * 127.5).max() <= 0.5 + 1e-3, (row, column)
        assert (grid[:CAPTION, left : left + 120] < 128).any(), "there must be a caption"


@pytest.mark.parametrize("channels", [1, 3])
def test_small_and_grey_pictures_of_jwdm(tmp_path: Path, channels: int) -> None:
    torch.manual_seed(0)
    method = JWDM(JWDMConfig(channels=channels, width=4, blocks=0, embedding_kernel=1, critic_width=4, critic_layers=2))
    images = {name: torch.rand(3, channels, 16, 24) * 2 - 1 for name in ("x", "y")}
    write_samples(tmp_path / "grid.png", method, images)
    grid = read_image(tmp_path / "grid.png")
    scale = 5  # ceil(112 / 24)
    assert grid.shape == (CAPTION + 3 * (16 * scale + GAP) - GAP, 8 * (24 * scale + GAP) - GAP, 3)
    expected = ((images["x"][0].expand(3, -1, -1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
    shown = grid[CAPTION : CAPTION + 16 * scale : scale, : 24 * scale : scale]
    assert np.abs(shown.astype(int) - expected.numpy().astype(int)).max() <= 1


def test_the_fake_method_has_a_grid_too(tmp_path: Path) -> None:
    method = FakeMethod(FakeConfig())
    write_samples(tmp_path / "grid.png", method, {name: torch.zeros(1, 3, 8, 8) for name in ("x", "y")})
    assert read_image(tmp_path / "grid.png").shape[1] == 4 * (112 + GAP) - GAP


class Drawing(FakeMethod):
    """A fake method whose generators draw noise in every way there is, as methods with a noise input do."""

    def generate(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        fakes = super().generate(batch)
        x = batch["x"]
        draws = [torch.rand(1), torch.randn(()), torch.randn_like(x).mean(), torch.rand_like(x).mean()]
        draws += [torch.empty(2).normal_().mean(), torch.randint(3, (2,)).float().mean(), torch.randint(1, 3, (1,))]
        draws += [torch.randperm(4)[0], torch.bernoulli(torch.full((2,), 0.5)).mean(), torch.empty(1).uniform_()]
        fakes["translation_x"] = fakes["translation_x"] * 0.1 + 0.01 * sum(draws)
        return fakes


def held_images(count: int = 2, side: int = 12) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(count, 3, side, side, generator=generator) * 2 - 1 for name in ("x", "y")}


def test_a_grid_shows_the_networks_as_they_were_when_it_was_due(tmp_path: Path) -> None:
    torch.manual_seed(0)
    method = Drawing(FakeConfig()).train()
    images = held_images()
    write_samples(tmp_path / "expected.png", method, images)
    with SampleWriter(method, images) as writer:
        writer.write(3, tmp_path / "3.png")
        with torch.no_grad():
            for parameter in method.parameters():
                parameter.add_(1)  # training goes on at once
        writer.write(4, tmp_path / "4.png")
    assert writer.finished() == [(3, tmp_path / "3.png"), (4, tmp_path / "4.png")] and writer.finished() == []
    grids = [(tmp_path / name).read_bytes() for name in ("expected.png", "3.png", "4.png")]
    assert grids[0] == grids[1] != grids[2]
    assert method.training


def test_the_thread_leaves_the_random_stream_to_training(tmp_path: Path) -> None:
    """Also while both draw at the same time."""
    torch.manual_seed(0)
    method = Drawing(FakeConfig())
    with SampleWriter(method, held_images()) as writer:
        torch.manual_seed(5)
        expected = [torch.randn(3) for _ in range(200)]
        torch.manual_seed(5)
        drawn = []
        for step in range(4):
            writer.write(step, tmp_path / f"{step}.png")
            drawn += [torch.randn(3) for _ in range(50)]
    assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))
    assert len({(tmp_path / f"{step}.png").read_bytes() for step in range(4)}) == 1, "the same noise in every grid"


def test_the_copy_has_no_critics_of_its_own() -> None:
    method = FakeMethod(FakeConfig())
    with SampleWriter(method, held_images()) as writer:
        copied = sum(tensor.numel() for tensor in writer._to)
        assert copied == sum(p.numel() for p in method.generator_parameters()) + method.steps.numel()
        assert not any(a is b for a, b in zip(writer._from, writer._to, strict=True))


def test_grids_come_in_turn_and_are_handed_on(tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    hold = threading.Event()

    def then(step: int, path: Path) -> None:
        assert path.exists() and threading.current_thread() is not threading.main_thread()
        assert hold.wait(10)
        told.append(("handed on", step))

    with SampleWriter(FakeMethod(FakeConfig()), held_images(), then=then) as writer:
        writer.write(1, tmp_path / "1.png")
        assert writer.finished() == [], "it does not wait"
        threading.Timer(0.05, hold.set).start()
        writer.write(2, tmp_path / "2.png")
        told.append(("asked for", 2))
    assert told == [("handed on", 1), ("asked for", 2), ("handed on", 2)] or told == [
        ("handed on", 1), ("handed on", 2), ("asked for", 2)
    ]  # fmt: skip


@pytest.mark.parametrize("at", ["write", "finished", "exit"])
def test_a_grid_that_cannot_be_written_is_told_in_the_training_thread(at: str, tmp_path: Path) -> None:
    writer = SampleWriter(FakeMethod(FakeConfig()), held_images())
    writer.write(1, tmp_path / "there is no such folder" / "1.png")
    assert writer._pending is not None
    writer._pending.exception(timeout=10)
    ask = {
        "write": lambda: writer.write(2, tmp_path / "2.png"),
        "finished": writer.finished,
        "exit": lambda: writer.__exit__(None, None, None),
    }[at]
    with pytest.raises(UserError, match="1.png: cannot be written"):
        ask()
    with pytest.raises(ZeroDivisionError), writer:  # an error of the training is not hidden by one of the grid
        writer.write(3, tmp_path / "there is no such folder" / "3.png") if at == "finished" else None
        raise ZeroDivisionError


def test_a_way_of_drawing_that_is_not_known_is_refused_not_let_through(tmp_path: Path) -> None:
    class Dropping(FakeMethod):
        def generate(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"translation_x": torch.native_dropout(batch["x"], 0.5, True)[0]}

    method = Dropping(FakeConfig())
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="aten.native_dropout.*generator"):
        write_samples(tmp_path / "grid.png", method, held_images())
    assert torch.equal(torch.get_rng_state(), before)
