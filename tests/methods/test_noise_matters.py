"""After training, two draws for one condition differ: the noise matters, which at the bottleneck alone it does not.

The measure is the mean absolute difference of two draws' pixels, in [-1, 1], over 32 conditions. The floor, which is in
docs/jointgan.md too: above 0.01, and more than 5 times what noise at the bottleneck alone gives.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jdm_fast.methods import JointGAN, JointGANConfig
from jdm_fast.training.engines import make_engine

SIDE, STEPS, BATCH = 16, 150, 8


def squares(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """x: a white square of 8x8 somewhere on black. y: the same square, red or blue by chance. So two draws of y given x
    ought to differ by 1/6: in half of the cases, in a quarter of the area, by 2 in two of three channels."""
    batch = {name: torch.full((count, 3, SIDE, SIDE), -1.0) for name in ("x", "y")}
    colours = torch.tensor([[1.0, 0.0, -1.0], [-1.0, 0.0, 1.0]])
    for k in range(count):
        row, column = torch.randint(1, 8, (2,), generator=generator).tolist()
        colour = colours[torch.randint(2, (), generator=generator)]
        batch["x"][k, :, row : row + 8, column : column + 8] = 1.0
        batch["y"][k, :, row : row + 8, column : column + 8] = colour[:, None, None]
    return batch


def difference_of_draws(noise_at: str, objective: str) -> float:
    """Of y given x, after training."""
    torch.manual_seed(0)
    config = JointGANConfig(
        depth=4, width=8, max_width=32, noise=8, noise_at=noise_at, critic_width=16, critic_layers=1,
        objective=objective, init="default",
    )  # fmt: skip
    model = JointGAN(config)
    engine, _ = make_engine("eager", model, lr=1e-3, betas=(0.5, 0.999))
    generator = torch.Generator().manual_seed(0)
    data, conditions = squares(256, generator), squares(32, generator)["x"]
    for _ in range(STEPS):
        chosen = torch.randint(256, (BATCH,), generator=generator)
        engine.step({name: images[chosen] for name, images in data.items()}, 1e-3)
    with torch.no_grad():
        first, second = (
            model.sample(model.sample_noise(32, (SIDE, SIDE), torch.Generator().manual_seed(k)), {"x": conditions})["y"]
            for k in (1, 2)
        )
    return (first - second).abs().mean().item()


@pytest.mark.parametrize("objective", ["minimax", "nonsaturating"])
def test_two_draws_for_one_condition_differ(objective: str) -> None:
    everywhere = difference_of_draws("layers", objective)
    at_bottleneck = difference_of_draws("bottleneck", objective)
    assert everywhere > 0.01
    assert everywhere > 5 * at_bottleneck, f"{everywhere:.4f} and {at_bottleneck:.4f}"
