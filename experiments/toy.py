"""JointGAN on a mixture of Gaussians in the plane, where the learned joint can be compared with the true one.

Domains x and y are numbers, so a tuple (x, y) is a point. The truth has six modes: three places of x, and for each two
of four places of y. So p(y|x) has two modes whichever x is given, and the noise has to choose.

    python experiments/toy.py --out experiments/results
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jdm_fast.methods import JointGAN, JointGANConfig
from jdm_fast.training.engines import make_engine

MODES = torch.tensor([[-1.0, -1.0], [-1.0, 0.33], [0.0, -0.33], [0.0, 1.0], [1.0, -1.0], [1.0, 0.33]])
SIGMA = 0.08
CELLS = 48
RANGE = 1.6


def draw(count: int, generator: torch.Generator) -> Tensor:
    """``count`` points of the truth, [count, 2]."""
    mode = torch.randint(len(MODES), (count,), generator=generator)
    return MODES[mode] + SIGMA * torch.randn(count, 2, generator=generator)


def cell_probabilities() -> np.ndarray:
    """The truth's probability of each cell of the grid, [CELLS, CELLS], exactly."""
    edges = torch.linspace(-RANGE, RANGE, CELLS + 1, dtype=torch.float64)
    edges[0], edges[-1] = -torch.inf, torch.inf
    total = torch.zeros(CELLS, CELLS, dtype=torch.float64)
    for x, y in MODES.double():
        along = [torch.special.ndtr((edges - centre) / SIGMA).diff() for centre in (x, y)]
        total += along[0][:, None] * along[1][None, :]
    return (total / len(MODES)).numpy()


def frequencies(points: np.ndarray) -> np.ndarray:
    """The share of points in each cell."""
    edges = np.linspace(-RANGE, RANGE, CELLS + 1)
    edges[0], edges[-1] = -np.inf, np.inf
    return np.histogram2d(points[:, 0], points[:, 1], bins=[edges, edges])[0] / len(points)


def score(points: Tensor) -> dict[str, float]:
    """Total variation from the truth over the grid; modes that get at least a third of their share; points that belong
    to no mode (more than four sigma from all)."""
    distance = torch.cdist(points, MODES)
    nearest = distance.argmin(1)[distance.min(1).values < 4 * SIGMA]
    shares = torch.bincount(nearest, minlength=len(MODES)) / len(points)
    return {
        "total_variation": round(0.5 * float(np.abs(frequencies(points.numpy()) - cell_probabilities()).sum()), 4),
        "modes": int((shares > 1 / (3 * len(MODES))).sum()),
        "astray": round(1 - len(nearest) / len(points), 4),
    }


@torch.no_grad()
def samples_of(method: JointGAN, count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Points of each way to draw a tuple."""
    truth = draw(count, generator)
    x, y = truth[:, :1], truth[:, 1:]
    ways = {"p(x) p(y|x)": ({}, "xy"), "p(y) p(x|y)": ({}, "yx"), "q(x) p(y|x)": ({"x": x}, "xy")}
    ways["q(y) p(x|y)"] = ({"y": y}, "yx")
    points = {"truth": truth}
    for name, (given, order) in ways.items():
        made = method.sample(method.sample_noise(count, generator=generator), given, order)
        points[name] = torch.cat([made["x"], made["y"]], dim=1)
    return points


def train(sources: str, objective: str, seed: int, steps: int, batch: int, lr: float, hidden: int) -> JointGAN:
    """A trained JointGAN of two numbers."""
    torch.manual_seed(seed)
    data = torch.Generator().manual_seed(1000 + seed)
    config = JointGANConfig(
        vectors=("x:1", "y:1"), sources=(sources,), objective=objective, noise=8, hidden=hidden, init="default",
        cycle_weight=1.0 if sources == "unpaired" else None,
    )  # fmt: skip
    method = JointGAN(config).train()
    engine, _ = make_engine("eager", method, lr=lr, betas=(0.5, 0.999), ema_decay=0.999)
    for step in range(steps):
        points = draw(batch, data)
        x = points[:, :1]
        y = points[:, 1:] if sources == "paired" else draw(batch, data)[:, 1:]
        engine.step({"x": x, "y": y}, lr * min(1.0, 2 * (1 - step / steps)))
    with engine.averaged():
        state = {name: value.clone() for name, value in method.state_dict().items()}
    method.load_state_dict(state)
    return method.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("experiments/results"))
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--only", default=None)
    options = parser.parse_args()
    rows = []
    for sources in ("paired", "unpaired"):
        for objective in ("minimax", "nonsaturating"):
            if options.only and options.only != f"{sources}-{objective}":
                continue
            for seed in range(options.seeds):
                began = time.time()
                method = train(sources, objective, seed, options.steps, options.batch, options.lr, options.hidden)
                points = samples_of(method, options.count, torch.Generator().manual_seed(7))
                row = {"sources": sources, "objective": objective, "seed": seed, "seconds": round(time.time() - began)}
                row |= {name: score(of) for name, of in points.items()}
                print(json.dumps(row), flush=True)
                rows.append(row)


if __name__ == "__main__":
    main()
