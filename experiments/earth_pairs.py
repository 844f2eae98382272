"""JointGAN against the two-step baseline on satellite pictures and topographic maps of the same places.

The paper's comparison (§5.1, Table 2) where the truth is known: relevance of sampled pairs, Fréchet distance of sampled
pictures in Inception features, land and water of a pair's two pictures, and the error of conditional samples.

    python experiments/earth_pairs.py                     # every row and seed, then the table and the picture
    python experiments/earth_pairs.py --row jointgan-paired --seed 0     # one job of it

The two-step rows train WGAN-GP marginals and pix2pix or CycleGAN conditionals, each with as many updates of every
generator as JointGAN gets, on the same pictures. pix2pix's loss has an L1 term to the true partner, JointGAN's as
published has none: ``jointgan-paired-l1`` is JointGAN with such a term.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from experiments._shared import (
    PICTURES,
    RESULTS,
    as_images,
    as_pictures,
    between,
    mean_and_spread,
    run_jobs,
    write_result,
)
from jdm_fast.data import save_image
from jdm_fast.data.earth import Earth, write_layout
from jdm_fast.data.layouts import find_layout
from jdm_fast.data.loader import Loader
from jdm_fast.data.sheet import contact_sheet
from jdm_fast.methods import CycleGANConfig, JointGANConfig, Pix2PixConfig, WGANGPConfig
from jdm_fast.metrics.frechet import InceptionFeatures, frechet_distance
from jdm_fast.metrics.relevance import RelevanceModel
from jdm_fast.metrics.relevance_training import RelevanceConfig, train_relevance
from jdm_fast.metrics.sea import read_sea
from jdm_fast.synthesis import Model, load, load_two_step
from jdm_fast.training import DataConfig, TrainConfig, train

DOMAINS = ("satellite", "topographic")
MARGINALS = "marginals"  # a job, not a row: WGAN-GP, which both two-step rows begin with
ROWS = ("jointgan-paired", "jointgan-paired-l1", "two-step-paired", "jointgan-unpaired", "two-step-unpaired")
SIZE = 32


def networks(options: argparse.Namespace) -> dict[str, Any]:
    """Settings that all rows share."""
    return {"width": options.width, "depth": 5, "max_width": 8 * options.width, "init": "default"}


def settings(name: str, method: Any, options: argparse.Namespace, **changes: Any) -> TrainConfig[Any]:
    """A training of ``options.epochs`` epochs, the last half of them with a falling learning rate."""
    half = options.epochs // 2
    common: dict[str, Any] = dict(
        method=method, out=options.work / "runs" / f"{name}-{options.seed}", load_size=36, crop_size=SIZE,
        batch_size=options.batch_size, n_epochs=options.epochs - half, n_epochs_decay=half, lr=options.lr,
        lr_policy="linear_step", pool_size=0, ema_decay=0.998, seed=options.seed, device=options.device,
        save_every_steps=500, log_every=50, sample_every=0,
    )  # fmt: skip
    return TrainConfig(**{**common, "data": data(options, "paired" in name and "unpaired" not in name), **changes})


def data(options: argparse.Namespace, paired: bool) -> DataConfig:
    pairing = "paired" if paired else "shuffled"
    return DataConfig(root=options.work / "pairs", layout="aligned", domains=DOMAINS, pairing=pairing)


def trained(row: str, options: argparse.Namespace) -> Model:
    """The model of a row, trained if it is not yet."""
    critic = {"critic_width": options.critic_width, "critic_layers": 2}
    console = Console(stderr=True)
    if row.startswith("jointgan"):
        method: Any = JointGANConfig(
            sources=("unpaired",) if row.endswith("-unpaired") else ("paired",),
            objective=options.objective,
            paired_weight=options.paired_weight if row.endswith("-l1") else 0.0,
            gradient_penalty_weight=options.penalty_weight,
            **networks(options),
            **critic,
        )
        return load(train(settings(row, method, options), console=console))
    method = WGANGPConfig(**networks(options), critic_width=options.critic_width)
    own = {"critic_steps": options.critic_steps, "beta1": 0.0, "beta2": 0.9, "lr": options.marginal_lr}
    marginals = train(settings(MARGINALS, method, options, **own), console=console)
    if row == MARGINALS:
        return load(marginals)
    if row.endswith("-paired"):
        second = settings(row, Pix2PixConfig(**networks(options), **critic), options)
    else:
        second = settings(row, CycleGANConfig(**networks(options), **critic), options, pool_size=50)
    return load_two_step(train(second, console=console), marginals)


def held_out(options: argparse.Namespace) -> dict[str, Tensor]:
    """All places of the test and val splits, [N, 3, 32, 32] by letter."""
    layout = find_layout(options.work / "pairs", "aligned")
    parts = [
        Loader(layout.groups(split, DOMAINS), load_size=SIZE, crop_size=SIZE, preprocess="resize", cache_mb=0).fixed(
            10**6
        )
        for split in ("test", "val")
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in ("x", "y")}


def reals(options: argparse.Namespace, count: int) -> dict[str, Tensor]:
    """``count`` training places."""
    layout = find_layout(options.work / "pairs", "aligned")
    loader = Loader(layout.groups("train", DOMAINS), load_size=SIZE, preprocess="resize", cache_mb=0)
    return loader.fixed(count)


def same_sea(pairs: dict[str, np.ndarray]) -> float:
    """Share of pixels that both pictures of a pair show as land, or both as water."""
    return float((read_sea(pairs["x"], DOMAINS[0]) == read_sea(pairs["y"], DOMAINS[1])).mean())


def draw(model: Model, truth: dict[str, Tensor], options: argparse.Namespace) -> dict[str, np.ndarray]:
    """All that is scored of a model: pairs, half of them in each order, and what it makes of true pictures."""
    pairs = [model.sample(options.count // 2, order=order, seed=options.seed) for order in ("xy", "yx")]
    drawn = {name: np.concatenate([pair[name] for pair in pairs]) for name in ("x", "y")}
    for source, to in (("x", "y"), ("y", "x")):
        given = {source: truth[source]}
        drawn[f"{source}_to_{to}"] = model.sample(given=given, order=source + to, seed=options.seed)[to]
    return drawn


def score(drawn: dict[str, np.ndarray], truth: dict[str, Tensor], work: Path) -> dict[str, float]:
    """All scores of what was drawn of a model."""
    joint = {name: drawn[name] for name in ("x", "y")}
    relevance = RelevanceModel.load(work / "relevance.safetensors")
    scores = {
        "relevance": float(relevance.score(as_images(joint["x"]), as_images(joint["y"])).mean()),
        "same_sea": same_sea(joint),
    }
    features = InceptionFeatures()
    for name, reference in torch.load(work / "inception.pt").items():
        scores[f"frechet_{name}"] = frechet_distance(reference, features(as_images(joint[name])))
    for source, to in (("x", "y"), ("y", "x")):
        made = as_images(drawn[f"{source}_to_{to}"])
        scores[f"truth_error_{source}_to_{to}"] = float((made - truth[to]).abs().mean())
    half = len(joint["x"]) // 2
    scores["diversity_x"] = between(joint["x"][:half])
    scores["diversity_y"] = between(joint["y"][:half])
    return {name: round(value, 4) for name, value in scores.items()}


def references(options: argparse.Namespace) -> dict[str, float]:
    """The same scores of the truth: what a perfect model, or a trivial answer, would get."""
    relevance = RelevanceModel.load(options.work / "relevance.safetensors")
    truth, real = held_out(options), reals(options, 2 * options.count)
    features = InceptionFeatures()
    scores, kept = {}, {}
    for name in ("x", "y"):
        images = features(real[name])
        kept[name] = images[::2]
        scores[f"frechet_{name}"] = frechet_distance(images[::2], images[1::2])
        scores[f"diversity_{name}"] = float((real[name][::7][1:] - real[name][::7][:-1]).abs().mean())
    torch.save(kept, options.work / "inception.pt")
    scores["relevance"] = float(relevance.score(truth["x"], truth["y"]).mean())
    scores["relevance_random"] = float(relevance.score(truth["x"], truth["y"].roll(len(truth["y"]) // 2, 0)).mean())
    for source, to in (("x", "y"), ("y", "x")):
        colour = real[to].mean((0, 2, 3), keepdim=True)
        scores[f"mean_colour_error_{source}_to_{to}"] = float((truth[to] - colour).abs().mean())
    pictures = {name: as_pictures(v) for name, v in truth.items()}
    scores["same_sea"] = same_sea(pictures)
    scores["same_sea_random"] = same_sea({"x": pictures["x"], "y": np.roll(pictures["y"], 50, axis=0)})
    return {name: round(value, 4) for name, value in scores.items()}


def prepare(options: argparse.Namespace) -> None:
    """The pictures, the ranking model and the features of real pictures."""
    if not (options.work / "pairs").is_dir():
        earth = Earth.load(5400, DOMAINS)
        write_layout(earth, options.work / "pairs", "aligned", DOMAINS, SIZE, train_size=36, land=(0.15, 0.85))
    if not (options.work / "relevance.safetensors").is_file():
        layout = find_layout(options.work / "pairs", "aligned")
        config = RelevanceConfig(size=SIZE, steps=options.relevance_steps)
        train_relevance(layout.groups("train", DOMAINS), config, names=DOMAINS).save(
            options.work / "relevance.safetensors"
        )
    path = options.work / "references.json"
    if not path.is_file():
        path.write_text(json.dumps(references(options)))


def picture(pairs_of: dict[str, dict[str, np.ndarray]], folder: Path = PICTURES) -> None:
    """Pairs of the truth and of every row, satellite above map."""
    rows = [[pairs[name][k] for k in range(12)] for pairs in pairs_of.values() for name in ("x", "y")]
    save_image(folder / "jointgan_earth_pairs.png", contact_sheet(rows, scale=2, gap=2))


def some_places(truth: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """A few true pairs for a picture."""
    return {name: as_pictures(v[::9]) for name, v in truth.items()}


def summarise(rows: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Mean and spread over the seeds of every score of every row."""
    summary = {}
    for row in ROWS:
        own = [entry for entry in rows if entry["row"] == row]
        scores = [name for name in own[0] if name not in ("row", "seed")]
        summary[row] = {name: [round(v, 4) for v in mean_and_spread([e[name] for e in own])] for name in scores}
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/earth_pairs"), help="data, runs and models")
    parser.add_argument("--row", choices=(MARGINALS, *ROWS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--critic-width", type=int, default=24)
    parser.add_argument("--critic-steps", type=int, default=5, help="of WGAN-GP (its paper: 5)")
    parser.add_argument("--marginal-lr", type=float, default=1e-3, help="of WGAN-GP")
    parser.add_argument("--objective", default="minimax")
    parser.add_argument(
        "--paired-weight", type=float, default=10.0, help="of L1 to the true partner in jointgan-paired-l1"
    )
    parser.add_argument("--penalty-weight", type=float, default=0.0, help="of JointGAN's critic")
    parser.add_argument("--count", type=int, default=256, help="sampled pairs that are scored")
    parser.add_argument("--relevance-steps", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=2, help="jobs side by side")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.row is not None:
        began = time.monotonic()
        model = trained(options.row, options)
        seconds = round(time.monotonic() - began)
        if options.row == MARGINALS:
            (options.work / f"{MARGINALS}-{options.seed}.json").write_text(json.dumps({"seconds": seconds}))
            return
        truth = held_out(options)
        scores = score(draw(model, truth, options), truth, options.work)
        answer = {"row": options.row, "seed": options.seed, "seconds": seconds, **scores}
        (options.work / f"{options.row}-{options.seed}.json").write_text(json.dumps(answer))
        return
    prepare(options)
    names = (
        "epochs",
        "batch_size",
        "lr",
        "width",
        "critic_width",
        "critic_steps",
        "marginal_lr",
        "objective",
        "paired_weight",
        "penalty_weight",
    )
    chosen = {name: getattr(options, name) for name in (*names, "count", "relevance_steps")}
    shared = [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items()]
    shared += ["--work", str(options.work), "--device", options.device]
    for names_of_jobs in ((*(row for row in ROWS if row.startswith("jointgan")), MARGINALS), ROWS):
        jobs = [
            ["--row", name, "--seed", str(seed), *shared] for name in names_of_jobs for seed in range(options.seeds)
        ]
        waiting = [job for job in jobs if not (options.work / f"{job[1]}-{job[3]}.json").is_file()]
        run_jobs(__file__, waiting, options.at_once)
    rows = [json.loads((options.work / f"{job[1]}-{job[3]}.json").read_text()) for job in jobs]
    marginal = [json.loads((options.work / f"{MARGINALS}-{k}.json").read_text()) for k in range(options.seeds)]
    summary = summarise(rows)
    truth = json.loads((options.work / "references.json").read_text())
    print(json.dumps({"truth": truth, **summary}, indent=1))
    write_result(
        "earth_pairs",
        {**chosen, "seeds": options.seeds},
        rows,
        truth=truth,
        mean_and_spread=summary,
        marginals=marginal,
    )
    options.seed = 0
    drawn = {row: trained(row, options).sample(12, order="xy", seed=1) for row in ROWS}
    picture({"truth": some_places(held_out(options)), **drawn})
    print(f"written: {RESULTS / 'earth_pairs.json'}")


if __name__ == "__main__":
    main()
