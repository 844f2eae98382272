from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from jdm_fast.data import read_image
from jdm_fast.methods import JWDM, JWDMConfig
from jdm_fast.training.samples import write_samples
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
