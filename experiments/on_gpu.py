"""The experiments with pictures (Earth pairs, Earth tuples, Fashion-MNIST), longer and wider, on one GPU at a time.

Three steps, because only the second needs the GPU, and the machine that has one may have neither data nor network:

    python experiments/on_gpu.py pack                # pictures into runs/on_gpu/pictures.npz
    python experiments/on_gpu.py train               # all trainings side by side, what they draw into runs/on_gpu/drawn
    python experiments/on_gpu.py score               # scores, results and pictures of what was drawn

All trainings see the same pictures and take the same number of steps. WGAN-GP updates its critics five times a step and
has a learning rate of its own, as its paper says; all others share every setting.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import earth_pairs, earth_tuples, fashion
from experiments._shared import summarise_ways, write_result
from experiments._together import Job, train_together
from jdm_fast.methods import (
    WGANGP,
    CycleGAN,
    CycleGANConfig,
    JointGAN,
    JointGANConfig,
    Method,
    Pix2Pix,
    Pix2PixConfig,
    TwoStep,
    WGANGPConfig,
)
from jdm_fast.synthesis import Model

SIZE = 32
ADAM = {"betas": (0.5, 0.999)}
NAMES = {"pairs": "earth_pairs", "tuples": "earth_tuples", "fashion": "fashion"}


# ---- pictures -------------------------------------------------------------------------------------------------------


def pack(options: argparse.Namespace) -> None:
    """All pictures that trainings and draws need, uint8."""
    from jdm_fast.data.layouts import find_layout
    from jdm_fast.data.loader import Loader

    arrays: dict[str, np.ndarray] = {}

    def add(prefix: str, images: dict[str, Tensor]) -> None:
        for key, value in images.items():
            arrays[f"{prefix}/{key}"] = ((value + 1) * 127.5).round().to(torch.uint8).numpy()

    for name, module in (("pairs", earth_pairs), ("tuples", earth_tuples)):
        work = argparse.Namespace(**vars(options), work=options.folder / name, relevance_steps=1000)
        work.work.mkdir(parents=True, exist_ok=True)
        module.prepare(work)
        layout = find_layout(work.work / "pairs", "aligned" if name == "pairs" else "tuples")
        domains = earth_pairs.DOMAINS if name == "pairs" else tuple(earth_tuples.DOMAINS.values())
        for group in layout.groups("train", domains):
            images = Loader([group], load_size=36, preprocess="resize", cache_mb=0).fixed(10**6)
            if name == "tuples":  # y is in both kinds of pairs
                images = {f"y_{''.join(images)}" if key == "y" else key: value for key, value in images.items()}
            add(f"{name}/train", images)
        if name == "pairs":
            add("pairs/truth", earth_pairs.held_out(work))
        else:
            truth = earth_tuples.true_tuples(work)
            add("tuples/truth", {key: earth_pairs.as_images(value) for key, value in truth.items()})
    add("fashion/train", {"x": fashion.pictures("train", options.pictures)["x"]})
    add("fashion/truth", {"x": fashion.pictures("test", options.count)["x"]})
    np.savez_compressed(options.folder / "pictures.npz", **arrays)
    print({name: value.shape for name, value in arrays.items()})


# ---- trainings ------------------------------------------------------------------------------------------------------


def jobs(arrays: dict[str, Tensor], options: argparse.Namespace) -> list[Job]:
    """Every training of every seed."""
    nets: dict[str, Any] = {
        "width": options.width, "depth": 5, "max_width": 8 * options.width, "init": "default",
    }  # fmt: skip
    critic = {"critic_width": options.width, "critic_layers": 2}
    joint = partial(JointGANConfig, objective="minimax", **nets, **critic)
    chained = partial(joint, domains=3, sources=("chain",), paired_weight=10.0)

    def pictures(prefix: str) -> dict[str, Tensor]:
        return {key.rpartition("/")[2]: value for key, value in arrays.items() if key.startswith(prefix)}

    pairs, tuples = pictures("pairs/train"), pictures("tuples/train")
    together, apart = (("x", "y"),), (("x",), ("y",))
    x = pictures("fashion/train")["x"]
    turned = {"x": x, "y": torch.rot90(x, -fashion.BACK["y"], (2, 3)), "z": torch.rot90(x, -fashion.BACK["z"], (2, 3))}
    clothes = {"x": turned["x"], "y_xy": turned["y"], "y_yz": turned["y"], "z": turned["z"]}
    chain = (("x", "y_xy"), ("y_yz", "z"))
    gradient_penalty = {"critic_steps": 5, "betas": (0.0, 0.9)}
    kinds: dict[str, tuple[Any, dict[str, Tensor], Any, bool, float, dict[str, Any]]] = {
        "jointgan-paired": (lambda: JointGAN(joint(sources=("paired",))), pairs, together, True, options.lr, ADAM),
        "jointgan-paired-l1": (
            lambda: JointGAN(joint(sources=("paired",), paired_weight=10.0)), pairs, together, True, options.lr, ADAM,
        ),
        "jointgan-unpaired": (lambda: JointGAN(joint(sources=("unpaired",))), pairs, apart, True, options.lr, ADAM),
        "pix2pix": (lambda: Pix2Pix(Pix2PixConfig(**nets, **critic)), pairs, together, True, options.lr, ADAM),
        "cyclegan": (
            lambda: CycleGAN(CycleGANConfig(**nets, **critic)), pairs, apart, True, options.lr,
            {**ADAM, "pool_size": 50},
        ),
        "wgan-gp": (
            lambda: WGANGP(WGANGPConfig(**nets, critic_width=options.width)), pairs, apart, True, options.marginal_lr,
            gradient_penalty,
        ),
        "tuples": (lambda: JointGAN(chained()), tuples, chain, True, options.lr, ADAM),
        "fashion": (
            lambda: JointGAN(chained(channels=1)), clothes, chain, False, options.lr, ADAM,
        ),
    }  # fmt: skip
    return [
        Job(f"{kind}-{seed}", make, images, places, SIZE, flip, options.batch_size, lr, seed, engine)
        for kind, (make, images, places, flip, lr, engine) in kinds.items()
        for seed in range(options.seeds)
    ]


def train(options: argparse.Namespace) -> None:
    """Train everything and keep what it draws."""
    with np.load(options.folder / "pictures.npz") as packed:
        arrays = {name: torch.from_numpy(packed[name]) for name in packed.files}
    device = torch.device(options.device)
    methods, steps, seconds = train_together(jobs(arrays, options), options.steps, device, options.seconds)
    print(f"{len(methods)} trainings of {steps} steps in {seconds:.0f} s", flush=True)

    def model(method: Method) -> Model:
        return Model(method, device, size=(SIZE, SIZE))  # type: ignore[arg-type]

    def truth(prefix: str) -> dict[str, Tensor]:
        found = {key.rpartition("/")[2]: value for key, value in arrays.items() if key.startswith(prefix)}
        return {key: value.float() / 127.5 - 1 for key, value in found.items()}

    drawn: dict[str, np.ndarray] = {}
    for seed in range(options.seeds):
        options.seed = seed
        marginals: Any = methods[f"wgan-gp-{seed}"]
        rows = {row: methods[f"{row}-{seed}"] for row in earth_pairs.ROWS if row.startswith("jointgan")}
        for row, second in (("two-step-paired", "pix2pix"), ("two-step-unpaired", "cyclegan")):
            conditionals: Any = methods[f"{second}-{seed}"]
            rows[row] = TwoStep(marginals, conditionals)
        for row, method in rows.items():
            made = earth_pairs.draw(model(method), truth("pairs/truth"), options)
            drawn |= {f"pairs/{row}-{seed}/{key}": value for key, value in made.items()}
        given = truth("tuples/truth")
        for way, made in earth_tuples.draw(model(methods[f"tuples-{seed}"]), given, options).items():
            drawn |= {f"tuples/{seed}/{way}/{key}": value for key, value in made.items()}
        given = truth("fashion/truth")
        for way, made in fashion.draw(model(methods[f"fashion-{seed}"]), given["x"], options).items():
            drawn |= {f"fashion/{seed}/{way}/{key}": value[..., :1] for key, value in made.items()}
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else "no GPU"
    (options.folder / "training.json").write_text(json.dumps({"steps": steps, "seconds": round(seconds), "gpu": gpu}))
    for name in NAMES:
        own = {key: value for key, value in drawn.items() if key.startswith(f"{name}/")}
        np.savez_compressed(options.folder / f"drawn-{name}.npz", **own)


# ---- scores ---------------------------------------------------------------------------------------------------------


def score(options: argparse.Namespace) -> None:
    """Score what was drawn; results go beside those of the single scripts, pictures into the folder."""
    training = json.loads((options.folder / "training.json").read_text())
    kept = ("seeds", "batch_size", "lr", "marginal_lr", "width", "count", "pictures")
    settings = {**{name: getattr(options, name) for name in kept}, **training}
    for name in NAMES if options.only is None else (options.only,):
        with np.load(options.folder / f"drawn-{name}.npz") as packed:
            drawn: dict[str, dict[str, np.ndarray]] = {}
            for path in packed.files:
                way, _, key = path.removeprefix(f"{name}/").rpartition("/")
                drawn.setdefault(way, {})[key] = packed[path]
        work = argparse.Namespace(**vars(options), work=options.folder / name, relevance_steps=1000)
        {"pairs": _score_pairs, "tuples": _score_tuples, "fashion": _score_fashion}[name](drawn, work, settings)


def _score_pairs(drawn: dict[str, Any], options: argparse.Namespace, settings: dict[str, Any]) -> None:
    truth = earth_pairs.held_out(options)
    rows = []
    for row in earth_pairs.ROWS:
        for seed in range(options.seeds):
            rows.append({"row": row, "seed": seed, **earth_pairs.score(drawn[f"{row}-{seed}"], truth, options.work)})
            print(rows[-1], flush=True)
    reference = json.loads((options.work / "references.json").read_text())
    summary = earth_pairs.summarise(rows)
    write_result("earth_pairs_on_gpu", settings, rows, truth=reference, mean_and_spread=summary)
    first = {row: drawn[f"{row}-0"] for row in earth_pairs.ROWS}
    earth_pairs.picture({"truth": earth_pairs.some_places(truth), **first}, options.folder)


def _score_tuples(drawn: dict[str, Any], options: argparse.Namespace, settings: dict[str, Any]) -> None:
    truth = earth_tuples.true_tuples(options)
    ways = [f"joint {order}" for order in earth_tuples.ORDERS] + ["given x", "given z"]
    rows = []
    for seed in range(options.seeds):
        scores = {way: earth_tuples.score(drawn[f"{seed}/{way}"], options.work) for way in ways}
        rows.append({"seed": seed, **scores, "truth": earth_tuples.score(truth, options.work)})
    write_result("earth_tuples_on_gpu", settings, rows, mean_and_spread=summarise_ways(rows))
    shown = {order: drawn[f"0/joint {order}"] for order in earth_tuples.ORDERS}
    earth_tuples.picture(shown, truth, options.folder)


def _score_fashion(drawn: dict[str, Any], options: argparse.Namespace, settings: dict[str, Any]) -> None:
    options.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(options.seeds):
        own = {way.partition("/")[2]: made for way, made in drawn.items() if way.startswith(f"{seed}/")}
        rows.append({"seed": seed, **fashion.evaluate(own, options)})
    write_result("fashion_on_gpu", settings, rows, mean_and_spread=summarise_ways(rows))
    repeated = {order: {k: v.repeat(3, -1) for k, v in drawn[f"0/joint {order}"].items()} for order in fashion.ORDERS}
    fashion.picture(repeated, options.folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("pack", "train", "score"))
    parser.add_argument("--folder", type=Path, default=Path("runs/on_gpu"))
    parser.add_argument("--only", choices=tuple(NAMES), help="score one experiment")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, help="take fewer steps if these do not suffice")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--marginal-lr", type=float, default=2e-4, help="of WGAN-GP")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--count", type=int, default=256, help="tuples that are drawn in each way")
    parser.add_argument("--pictures", type=int, default=10_000, help="of Fashion-MNIST")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    {"pack": pack, "train": train, "score": score}[options.step](options)


if __name__ == "__main__":
    main()
