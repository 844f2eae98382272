"""JointGAN on a mixture of Gaussians in the plane, where the learned joint can be compared with the true one.

Domains x and y are numbers, so a tuple (x, y) is a point. The truth has six modes: three places of x, and for each two
of four places of y. So p(y|x) has two modes whichever x is given, and the noise has to choose.

With pairs the joint is the data's, and total variation over a grid says how near the model comes. Without pairs only
the marginals are known, and many joints have them: there the marginals are compared, and the joint of one order with
that of the other, which the critic makes alike.

    python experiments/toy.py                # every row and seed, then the table and the picture
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments._shared import PICTURES, mean_and_spread, run_jobs, write_result
from jdm_fast.data import save_image
from jdm_fast.data.sheet import contact_sheet
from jdm_fast.methods import JointGAN, JointGANConfig
from jdm_fast.training.engines import make_engine

MODES = torch.tensor([[-1.0, -1.0], [-1.0, 0.33], [0.0, -0.33], [0.0, 1.0], [1.0, -1.0], [1.0, 0.33]])
SIGMA = 0.1
CELLS = 48
RANGE = 1.6
ROWS = ("paired minimax", "paired nonsaturating", "unpaired minimax", "unpaired nonsaturating")
WAYS = ("p(x) p(y|x)", "p(y) p(x|y)", "q(x) p(y|x)", "q(y) p(x|y)")


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


def variation(a: np.ndarray, b: np.ndarray) -> float:
    """The total variation between two distributions over the same cells."""
    return round(0.5 * float(np.abs(a - b).sum()), 4)


def score(points: Tensor) -> dict[str, float]:
    """Total variation from the truth, of the joint and of each marginal, over the grid; modes that get at least a third
    of their share; points that belong to no mode (more than four sigma from all)."""
    distance = torch.cdist(points, MODES)
    nearest = distance.argmin(1)[distance.min(1).values < 4 * SIGMA]
    shares = torch.bincount(nearest, minlength=len(MODES)) / len(points)
    made, truth = frequencies(points.numpy()), cell_probabilities()
    return {
        "joint": variation(made, truth),
        "marginal_x": variation(made.sum(1), truth.sum(1)),
        "marginal_y": variation(made.sum(0), truth.sum(0)),
        "modes": int((shares > 1 / (3 * len(MODES))).sum()),
        "astray": round(1 - len(nearest) / len(points), 4),
    }


@torch.no_grad()
def samples_of(method: JointGAN, count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Points of each way to draw a tuple, and of the truth, [count, 2]."""
    truth = draw(count, generator)
    x, y = truth[:, :1], truth[:, 1:]
    points = {}
    for way, given, order in zip(WAYS, ({}, {}, {"x": x}, {"y": y}), ("xy", "yx", "xy", "yx"), strict=True):
        made = method.sample(method.sample_noise(count, generator=generator), given, order)
        points[way] = torch.cat([made["x"], made["y"]], dim=1)
    return points | {"truth": truth}


def train(options: argparse.Namespace) -> JointGAN:
    """A trained JointGAN of two numbers, with the average of its generators' weights."""
    sources, objective = options.row.split()
    torch.manual_seed(options.seed)
    data = torch.Generator().manual_seed(1000 + options.seed)
    config = JointGANConfig(
        vectors=("x:1", "y:1"), sources=(sources,), objective=objective, noise=4, hidden=options.hidden,
        init="default", cycle_weight=1.0 if sources == "unpaired" else None,
    )  # fmt: skip
    method = JointGAN(config).train()
    engine, _ = make_engine("eager", method, lr=options.lr, betas=(0.5, 0.999), ema_decay=0.999)
    for step in range(options.steps):
        points = draw(options.batch, data)
        x = points[:, :1]
        y = points[:, 1:] if sources == "paired" else draw(options.batch, data)[:, 1:]
        engine.step({"x": x, "y": y}, options.lr * min(1.0, 2 * (1 - step / options.steps)))
    with engine.averaged():
        state = {name: value.clone() for name, value in method.state_dict().items()}
    method.load_state_dict(state)
    return method.eval()


def evaluate(
    method: JointGAN, options: argparse.Namespace
) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """Scores of each way, and the densities."""
    points = samples_of(method, options.count, torch.Generator().manual_seed(7))
    scores = {way: score(of) for way, of in points.items()}
    densities = {way: frequencies(of.numpy()) for way, of in points.items()}
    scores["orders"] = {"between": variation(densities["p(x) p(y|x)"], densities["p(y) p(x|y)"])}
    return scores, densities


def picture(work: Path) -> None:
    """One row a way of training, seed 0; from the left the truth and each way to draw. x to the right, y upwards."""
    most = cell_probabilities().max()
    rows = []
    for row in ROWS:
        densities = np.load(work / f"{row.replace(' ', '-')}-0.npz")
        shades = [255 - 255 * np.clip(densities[way] / most, 0, 1) ** 0.5 for way in ("truth", *WAYS)]
        rows.append([np.repeat(shade.T[::-1, :, None], 3, axis=2).astype(np.uint8) for shade in shades])
    save_image(
        PICTURES / "jointgan_toy.png",
        contact_sheet(rows, titles=["truth", "p(x)p(y|x)", "p(y)p(x|y)", "q(x)p(y|x)", "q(y)p(x|y)"], scale=2, gap=4),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/toy"), help="results of single jobs")
    parser.add_argument("--row", choices=ROWS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--at-once", type=int, default=2, help="jobs side by side")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.row is not None:
        began = time.monotonic()
        method = train(options)
        seconds = round(time.monotonic() - began)
        scores, densities = evaluate(method, options)
        name = f"{options.row.replace(' ', '-')}-{options.seed}"
        np.savez(options.work / f"{name}.npz", **densities)
        answer = {"row": options.row, "seed": options.seed, "seconds": seconds, **scores}
        (options.work / f"{name}.json").write_text(json.dumps(answer))
        return
    chosen = {name: getattr(options, name) for name in ("steps", "batch", "lr", "hidden", "count")}
    shared = [f"--{name}={value}" for name, value in chosen.items()] + [f"--work={options.work}"]
    keys = [(row, seed) for row in ROWS for seed in range(options.seeds)]
    files = [options.work / f"{row.replace(' ', '-')}-{seed}.json" for row, seed in keys]
    run_jobs(
        __file__,
        [
            ["--row", row, "--seed", str(seed), *shared]
            for (row, seed), file in zip(keys, files, strict=True)
            if not file.is_file()
        ],
        options.at_once,
    )
    rows = [json.loads(file.read_text()) for file in files]
    summary = {
        row: {
            way: {
                name: [round(v, 4) for v in mean_and_spread([e[way][name] for e in rows if e["row"] == row])]
                for name in rows[0][way]
            }
            for way in (*WAYS, "truth", "orders")
        }
        for row in ROWS
    }
    print(json.dumps(summary, indent=1))
    write_result("toy", {**chosen, "sigma": SIGMA, "seeds": options.seeds}, rows, mean_and_spread=summary)
    picture(options.work)


if __name__ == "__main__":
    main()
