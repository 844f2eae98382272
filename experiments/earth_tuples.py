"""JointGAN on three domains of which only pairs are known (§3.2, the paper's Figure 7), on the Earth.

x is shaded relief, y satellite pictures, z masks of land and water. Training sees pairs (x, y) and other pairs (y, z),
never an x beside its z. Are the three pictures of a sampled tuple one place? Land and water are read off the colours of
each and compared, and a ranking model that was trained on true tuples scores every two of them.

    python experiments/earth_tuples.py
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from experiments._shared import (
    PICTURES,
    as_images,
    as_pictures,
    between,
    run_jobs,
    summarise_ways,
    write_result,
)
from jdm_fast.data import save_image
from jdm_fast.data.earth import Earth, write_layout
from jdm_fast.data.layouts import find_layout
from jdm_fast.data.loader import Loader
from jdm_fast.data.sheet import contact_sheet
from jdm_fast.methods import JointGANConfig
from jdm_fast.metrics.relevance import RelevanceModel
from jdm_fast.metrics.relevance_training import RelevanceConfig, train_relevance
from jdm_fast.metrics.sea import read_sea
from jdm_fast.synthesis import Model, load
from jdm_fast.training import DataConfig, TrainConfig, train

DOMAINS = {"x": "relief", "y": "satellite", "z": "mask"}
ORDERS = ("xyz", "zyx")
SIZE = 32


def settings(options: argparse.Namespace) -> TrainConfig[Any]:
    """The six-way critic of §3.2."""
    half = options.epochs // 2
    method = JointGANConfig(
        domains=3,
        sources=("chain",),
        objective=options.objective,
        width=options.width,
        depth=5,
        paired_weight=options.paired_weight,
        max_width=8 * options.width,
        critic_width=options.critic_width,
        critic_layers=2,
        init="default",
    )
    return TrainConfig(
        method=method, out=options.work / f"run-{options.seed}",
        data=DataConfig(root=options.work / "pairs", layout="tuples", domains=tuple(DOMAINS.values())),
        load_size=36, crop_size=SIZE, batch_size=options.batch_size, n_epochs=options.epochs - half,
        n_epochs_decay=half, lr=options.lr, lr_policy="linear_step", pool_size=0, ema_decay=0.998, seed=options.seed,
        device=options.device, save_every_steps=500, log_every=50, sample_every=0,
    )  # fmt: skip


def true_tuples(options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Places of the test split in all three domains."""
    layout = find_layout(options.work / "pairs", "tuples")
    groups = layout.groups("test", tuple(DOMAINS.values()))
    images = Loader(groups, load_size=SIZE, preprocess="resize", cache_mb=0).fixed(10**6)
    return {name: as_pictures(images[name]) for name in DOMAINS}


def score(tuples: dict[str, np.ndarray], work: Path) -> dict[str, float]:
    """Agreement of land and water, relevance, and the same of tuples put together at random."""
    relevance = RelevanceModel.load(work / "relevance.safetensors")
    sea = {name: read_sea(pictures, DOMAINS[name]) for name, pictures in tuples.items()}
    images = {name: as_images(pictures) for name, pictures in tuples.items()}
    shift = len(sea["x"]) // 2
    scores = {}
    for a, b in combinations(DOMAINS, 2):
        scores[f"same_sea_{a}{b}"] = float((sea[a] == sea[b]).mean())
        scores[f"same_sea_{a}{b}_random"] = float((sea[a] == np.roll(sea[b], shift, axis=0)).mean())
        scores[f"relevance_{a}{b}"] = float(relevance.score(images[a], images[b], (a, b)).mean())
        scores[f"relevance_{a}{b}_random"] = float(relevance.score(images[a], images[b].roll(shift, 0), (a, b)).mean())
    for name in DOMAINS:
        scores[f"diversity_{name}"] = between(tuples[name])
        scores[f"sea_{name}"] = float(sea[name].mean())
    return {name: round(value, 4) for name, value in scores.items()}


def draw(model: Model, truth: dict[str, np.ndarray], options: argparse.Namespace) -> dict[str, dict[str, np.ndarray]]:
    """Tuples from nothing in both orders; tuples completed from a true x, and from a true z."""
    drawn = {f"joint {order}": model.sample(options.count, order=order, seed=options.seed) for order in ORDERS}
    for given in ("x", "z"):
        drawn[f"given {given}"] = model.sample(given={given: truth[given]}, seed=options.seed)
    return drawn


def prepare(options: argparse.Namespace) -> None:
    """Pairs to train on, and a ranking model of true tuples, which training never sees."""
    earth = None
    for folder, layout in (("pairs", "tuples"), ("together", "aligned")):
        if not (options.work / folder).is_dir():
            earth = earth or Earth.load(5400, tuple(DOMAINS.values()))
            write_layout(
                earth, options.work / folder, layout, tuple(DOMAINS.values()), SIZE, train_size=36, land=(0.15, 0.85)
            )
    if not (options.work / "relevance.safetensors").is_file():
        groups = find_layout(options.work / "together", "aligned").groups("train", tuple(DOMAINS.values()))
        config = RelevanceConfig(size=SIZE, steps=options.relevance_steps)
        names = tuple(DOMAINS.values())
        train_relevance(groups, config, names=names).save(options.work / "relevance.safetensors")


def picture(tuples_of: dict[str, dict[str, np.ndarray]], truth: dict[str, np.ndarray], folder: Path = PICTURES) -> None:
    """Six rows of tuples: drawn from x to z, and below from z to x; three of true ones."""
    rows = [[tuples[name][k] for k in range(14)] for order, tuples in tuples_of.items() for name in order]
    step = max(1, len(truth["x"]) // 14)
    rows += [[truth[name][k * step] for k in range(14)] for name in DOMAINS]
    save_image(folder / "jointgan_earth_tuples.png", contact_sheet(rows, scale=2, gap=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/earth_tuples"), help="data, runs and models")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--critic-width", type=int, default=24)
    parser.add_argument("--objective", default="minimax")
    parser.add_argument(
        "--paired-weight", type=float, default=10.0, help="of pix2pix's L1 to the true partner; the paper has none"
    )
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--relevance-steps", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.seed is not None:
        began = time.monotonic()
        model = load(train(settings(options), console=Console(stderr=True)))
        seconds = round(time.monotonic() - began)
        truth = true_tuples(options)
        scores = {way: score(tuples, options.work) for way, tuples in draw(model, truth, options).items()}
        answer = {"seed": options.seed, "seconds": seconds, **scores, "truth": score(truth, options.work)}
        (options.work / f"{options.seed}.json").write_text(json.dumps(answer))
        return
    prepare(options)
    names = (
        "epochs",
        "batch_size",
        "lr",
        "width",
        "critic_width",
        "objective",
        "paired_weight",
        "count",
        "relevance_steps",
    )
    chosen = {name: getattr(options, name) for name in names}
    shared = [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items()]
    jobs = [["--seed", str(seed), *shared, "--work", str(options.work)] for seed in range(options.seeds)]
    waiting = [job for job in jobs if not (options.work / f"{job[1]}.json").is_file()]
    run_jobs(__file__, waiting, options.at_once)
    rows = [json.loads((options.work / f"{seed}.json").read_text()) for seed in range(options.seeds)]
    summary = summarise_ways(rows)
    print(json.dumps(summary, indent=1))
    write_result("earth_tuples", {**chosen, "seeds": options.seeds}, rows, mean_and_spread=summary)
    options.seed = 0
    model = load(options.work / "run-0")
    picture({order: model.sample(14, order=order, seed=3) for order in ORDERS}, true_tuples(options))


if __name__ == "__main__":
    main()
