"""JointGAN on three domains, Fashion-MNIST pictures and the same turned clockwise and anticlockwise (Figure 6).

The check cannot be fooled: turn the sampled y and z back and compare them with the sampled x. A small classifier,
trained on real pictures of x, says whether the three are the same piece of clothing.

    python experiments/fashion.py
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from experiments._shared import PICTURES, run_jobs, summarise_ways, write_result
from jdm_fast.data import save_image
from jdm_fast.data.debian import fashion_mnist_files
from jdm_fast.data.layouts import find_layout
from jdm_fast.data.loader import Loader
from jdm_fast.data.sheet import contact_sheet
from jdm_fast.methods import JointGANConfig
from jdm_fast.synthesis import Model, load
from jdm_fast.training import DataConfig, TrainConfig, train

BACK = {"x": 0, "y": 1, "z": -1}  # quarter turns against the clock that bring a domain back to x's position
ORDERS = ("xyz", "zyx")


def settings(options: argparse.Namespace) -> TrainConfig[Any]:
    """The paper's six-way critic of §3.2: of (x, y, z) only pairs (x, y) and (y, z) are shown."""
    half = options.epochs / 2
    method = JointGANConfig(
        domains=3,
        channels=1,
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
        data=DataConfig(root=fashion_mnist_files(), pairing="paired", max_dataset_size=options.pictures),
        preprocess="resize", load_size=32, flip=False, batch_size=options.batch_size,
        n_epochs=round(options.epochs - half), n_epochs_decay=round(half), lr=options.lr, lr_policy="linear_step",
        pool_size=0, ema_decay=0.998, seed=options.seed, device=options.device, save_every_steps=500, log_every=50,
        sample_every=0,
    )  # fmt: skip


def labels(split: str) -> Tensor:
    """The classes of a split's pictures, 0 to 9."""
    name = {"train": "train-labels-idx1-ubyte.gz", "test": "t10k-labels-idx1-ubyte.gz"}[split]
    with gzip.open(fashion_mnist_files() / name) as file:
        return torch.from_numpy(np.frombuffer(file.read(), dtype=np.uint8, offset=8).astype(np.int64))


def pictures(split: str, count: int) -> dict[str, Tensor]:
    """The first pictures of a split in all three domains, [N, 1, 32, 32]."""
    (group,) = find_layout(fashion_mnist_files(), "idx").groups(split)
    group = group.take(range(count))
    return Loader([group], load_size=32, preprocess="resize", channels=1, flip=False, cache_mb=0).fixed(count)


def classifier(options: argparse.Namespace) -> tuple[nn.Module, float]:
    """A small CNN on pictures of x, and its accuracy on the test split; trained once."""
    network = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(16, 32, 5, stride=2, padding=2), nn.ReLU(),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * 8 * 8, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    path = options.work / "classifier.pt"
    if path.is_file():
        document = torch.load(path)
        network.load_state_dict(document["network"])
        return network.eval(), document["accuracy"]
    torch.manual_seed(0)
    images, classes = pictures("train", 20_000)["x"], labels("train")[:20_000]
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(5):
        for chosen in torch.randperm(len(images)).split(64):
            loss = F.cross_entropy(network(images[chosen]), classes[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.eval()
    with torch.no_grad():
        accuracy = (network(pictures("test", 5000)["x"]).argmax(1) == labels("test")[:5000]).float().mean().item()
    torch.save({"network": network.state_dict(), "accuracy": accuracy}, path)
    return network, accuracy


def turned_back(tuples: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Sampled tuples, each domain in x's position, [N, 1, 32, 32] in [-1, 1]."""
    return {
        name: torch.from_numpy(np.ascontiguousarray(np.rot90(tuples[name][..., 0], turns, axes=(1, 2)))).float()[
            :, None
        ]
        / 127.5
        - 1
        for name, turns in BACK.items()
    }


@torch.no_grad()
def score(tuples: dict[str, Tensor], network: nn.Module) -> dict[str, float]:
    """How alike the three pictures of a tuple are once they stand the same way.

    ``error_xy``: mean absolute difference in units of [-1, 1]; ``error_xy_others``: that to another tuple's picture;
    ``found_xy``: how often y is nearer to its own x than to any of 99 others; ``agreement``: the classifier says the
    same of all three; ``agreement_chance``: if they were drawn apart. ``classes``: exp of the entropy of what it says.
    """
    scores = {}
    for a, b in ("xy", "yz", "xz"):
        scores[f"error_{a}{b}"] = float((tuples[a] - tuples[b]).abs().mean())
        scores[f"error_{a}{b}_others"] = float((tuples[a] - tuples[b].roll(1, 0)).abs().mean())
        found = []
        for first, second in zip(tuples[a].split(100), tuples[b].split(100), strict=True):
            distance = (first[:, None] - second[None]).abs().mean((2, 3, 4))
            found.append(distance.argmin(1) == torch.arange(len(first)))
        scores[f"found_{a}{b}"] = float(torch.cat(found).float().mean())
    said = {name: network(images).argmax(1) for name, images in tuples.items()}
    shares = {name: torch.bincount(classes, minlength=10) / len(classes) for name, classes in said.items()}
    scores["agreement"] = float(((said["x"] == said["y"]) & (said["y"] == said["z"])).float().mean())
    scores["agreement_chance"] = float((shares["x"] * shares["y"] * shares["z"]).sum())
    scores["classes"] = float(torch.distributions.Categorical(shares["x"]).entropy().exp())
    return {name: round(value, 4) for name, value in scores.items()}


def draw(model: Model, real: Tensor, options: argparse.Namespace) -> dict[str, dict[str, np.ndarray]]:
    """Tuples from nothing in both orders, and z and y made from real x, uint8 [N, H, W, 1 or 3]."""
    drawn = {f"joint {order}": model.sample(options.count, order=order, seed=1) for order in ORDERS}
    return drawn | {"given x": model.sample(given={"x": real}, seed=1)}


def evaluate(drawn: dict[str, dict[str, np.ndarray]], options: argparse.Namespace) -> dict[str, Any]:
    """All scores of what was drawn, and of real tuples."""
    network, accuracy = classifier(options)
    scores = {way: score(turned_back(tuples), network) for way, tuples in drawn.items()}
    real = pictures("test", options.count)
    truth = score({name: torch.rot90(v, BACK[name], (2, 3)) for name, v in real.items()}, network)
    return {"classifier_accuracy": round(accuracy, 4), **scores, "truth": truth}


def picture(tuples_of: dict[str, dict[str, np.ndarray]], folder: Path = PICTURES) -> None:
    """Tuples in columns: three rows drawn from left to right in the chain, then three the other way round."""
    rows = [[tuples[name][k] for k in range(16)] for order, tuples in tuples_of.items() for name in order]
    save_image(folder / "jointgan_fashion.png", contact_sheet(rows, scale=1, gap=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/fashion"))
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--critic-width", type=int, default=24)
    parser.add_argument("--objective", default="minimax")
    parser.add_argument(
        "--paired-weight", type=float, default=10.0, help="of pix2pix's L1 to the true partner; the paper has none"
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.seed is not None:
        began = time.monotonic()
        model = load(train(settings(options), console=Console(stderr=True)))
        seconds = round(time.monotonic() - began)
        drawn = draw(model, pictures("test", options.count)["x"], options)
        answer = {"seed": options.seed, "seconds": seconds, **evaluate(drawn, options)}
        (options.work / f"{options.seed}.json").write_text(json.dumps(answer))
        return
    classifier(options)
    names = ("pictures", "epochs", "batch_size", "lr", "width", "critic_width", "objective", "paired_weight", "count")
    chosen = {name: getattr(options, name) for name in names}
    shared = [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items()]
    jobs = [["--seed", str(seed), *shared, "--work", str(options.work)] for seed in range(options.seeds)]
    waiting = [job for job in jobs if not (options.work / f"{job[1]}.json").is_file()]
    run_jobs(__file__, waiting, options.at_once)
    rows = [json.loads((options.work / f"{seed}.json").read_text()) for seed in range(options.seeds)]
    summary = summarise_ways(rows)
    print(json.dumps(summary, indent=1))
    write_result("fashion", {**chosen, "seeds": options.seeds}, rows, mean_and_spread=summary)
    options.seed = 0
    model = load(options.work / "run-0")
    picture({order: model.sample(16, order=order, seed=2) for order in ORDERS})


if __name__ == "__main__":
    main()
