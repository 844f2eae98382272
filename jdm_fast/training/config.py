"""Everything a training run can be told, with CycleGAN's names where CycleGAN has one."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args

from jdm_fast._plain import to_plain
from jdm_fast.data.dataset import Pairing
from jdm_fast.data.geometry import Preprocess, as_size
from jdm_fast.errors import UserError
from jdm_fast.training.engines import EngineName
from jdm_fast.training.engines.eager import ActivationMemory
from jdm_fast.training.precision import PrecisionChoice
from jdm_fast.training.schedule import LearningRatePolicy

MethodConfig = TypeVar("MethodConfig")

DeviceChoice = Literal["auto", "cpu", "cuda"]
OnNonFinite = Literal["stop", "skip"]


@dataclass(frozen=True)
class DataConfig:
    """Where the images are: the root of a data set in a known layout, or two folders."""

    x: Path | None = None
    """Folder of the training images of domain x."""
    y: Path | None = None
    """Folder of the training images of domain y."""
    root: Path | None = None
    """Instead of x and y: the root of a data set; its layout is found (``jdm-fast data check ROOT`` shows it)."""
    layout: str = "auto"
    """Name of the root's layout, where auto finds another one than meant."""
    domains: tuple[str, ...] | None = None
    """Which of the root's domains are x, y and so on, by the layout's names, such as ``winter summer``; its order is
    kept."""
    pairing: Literal["auto", "paired", "shuffled", "disjoint"] = "auto"
    """Of pictures that belong together: paired keeps them together; shuffled draws each domain in an order of its own
    (CycleGAN); disjoint trains on a different part of the pairs in each domain. auto: paired for methods that are
    trained on pairs, else shuffled."""
    x_test: Path | None = None
    """Held-out images of domain x for sample grids and scores; without them those of the root's test split."""
    y_test: Path | None = None
    """Held-out images of domain y."""
    recursive: bool = False
    """Look for images in sub-folders too."""
    skip_bad: bool = False
    """Leave out files that cannot be read, saying which, instead of refusing the data set."""
    max_dataset_size: int | None = None
    """Use no more than this many images of each domain, the first by name (CycleGAN: no limit)."""
    cache_mb: int = 4096
    """Megabytes on the disk for decoded, resized images of all data sets together, the least recently used going
    first; what does not fit is decoded in each epoch. 0 is off."""
    threads: int | None = None
    """Threads of the image pipeline; by default as many as suit the device."""

    def __post_init__(self) -> None:
        if self.max_dataset_size is not None and self.max_dataset_size < 1:
            raise UserError(f"data.max_dataset_size: expected at least 1 or nothing, got {self.max_dataset_size}")
        if self.cache_mb < 0:
            raise UserError(f"data.cache_mb: expected 0 or more, got {self.cache_mb}")
        if self.threads is not None and self.threads < 1:
            raise UserError(f"data.threads: expected at least 1 or nothing, got {self.threads}")
        if self.pairing not in ("auto", *get_args(Pairing)):
            raise UserError(f"data.pairing: expected one of auto, {', '.join(get_args(Pairing))}, got {self.pairing!r}")


@dataclass(frozen=True)
class TrainConfig(Generic[MethodConfig]):
    """A training run. The defaults are the paper's, which are CycleGAN's.

    Raises:
        UserError: a field has a value it cannot have; the message names field, expectation and value.
    """

    method: MethodConfig
    """Networks and objective: the configuration of one of ``jdm_fast.methods.METHODS``."""
    data: DataConfig = field(default_factory=DataConfig)
    """Where the images are."""
    out: Path = Path("runs/train")
    """The run's folder. If it holds the same run, training continues from its newest checkpoint."""

    # ---- Images -----------------------------------------------------------------------------------------------------
    preprocess: Preprocess = "resize_and_crop"
    """resize_and_crop: to load_size, then a random crop_size crop; crop: the crop alone; resize: to load_size; none."""
    load_size: int | tuple[int, int] = 286
    """Size images are resized to: a square's side, or height and width (CycleGAN: 286)."""
    crop_size: int | tuple[int, int] = 256
    """Size of the random crops: a square's side, or height and width (CycleGAN: 256)."""
    flip: bool = True
    """Mirror every other image at random (CycleGAN: yes)."""
    batch_size: int = 1
    """Images of each domain in a forward pass, over all processes: under torchrun each takes an equal share. A step has
    accumulate times as many (paper: 1)."""

    # ---- Optimisation -----------------------------------------------------------------------------------------------
    n_epochs: int = 100
    """Epochs at the full learning rate (paper: 100). An epoch shows each image of the larger domain once."""
    n_epochs_decay: int = 100
    """Further epochs in which the learning rate falls linearly to zero (paper: 100)."""
    lr: float = 2e-4
    """Learning rate of both Adam optimisers (paper: 0.0002)."""
    lr_policy: LearningRatePolicy = "linear"
    """linear: falls with each epoch, CycleGAN's formula; linear_step: with each step, for runs of few epochs; cosine:
    half a wave over n_epochs_decay; step: to a tenth every lr_decay_iters epochs (CycleGAN's)."""
    lr_decay_iters: int = 50
    """Of lr_policy=step: epochs from one fall to the next (CycleGAN: 50)."""
    beta1: float = 0.5
    """Adam's first beta (CycleGAN: 0.5)."""
    beta2: float = 0.999
    """Adam's second beta (CycleGAN: 0.999)."""
    pool_size: int = 50
    """Generated images of each kind kept to show the critics older ones too (CycleGAN: 50), over all processes; 0 is
    off, which methods that have no such pool ask for."""
    ema_decay: float = 0.0
    """Decay a step of an exponential moving average of the generators, used after training; 0 is off (ours)."""
    clip_norm: float = 0.0
    """Largest norm of the gradients of each update; larger ones are scaled down (ours); 0 is off."""
    accumulate: int = 1
    """Batches whose gradients make one step (ours): as large a step in less memory."""
    critic_steps: int = 1
    """Updates of the critics in a step, each on newly generated images (paper: 1; WGAN-GP: 5)."""
    on_nonfinite: OnNonFinite = "stop"
    """When a loss or gradient is infinite or not a number: stop, keeping the last checkpoint; or skip that update, say
    so, and go on."""
    seed: int = 0
    """Seed of the initial weights, the order of the images, crops, flips, the prior and the image pool."""
    device: DeviceChoice = "auto"
    """Where to train: auto is CUDA if there is a GPU, else the CPU."""
    engine: EngineName = "auto"
    """What carries out the steps. eager: operation by operation; compile: networks by torch.compile; graph: whole steps
    as CUDA graphs; auto: graph on a GPU, else eager."""
    precision: PrecisionChoice = "auto"
    """Of convolutions; losses, norms' statistics and optimisers are float32 always. auto: bf16 on GPUs that have it,
    fp32 on a CPU."""
    activation_memory: ActivationMemory = "full"
    """recompute: normalised activations are computed again in the backward pass instead of kept."""
    deterministic: bool = False
    """The same bits in every run on the same machine, or an error where PyTorch has no such operation."""

    # ---- What is kept -----------------------------------------------------------------------------------------------
    save_every_steps: int = 1000
    """Steps between checkpoints; 0 is only at the end and when interrupted."""
    keep_last: int = 2
    """How many of the newest checkpoints are kept; older ones are deleted."""
    log_every: int = 50
    """Steps between lines in metrics.jsonl; each holds the means of the losses since the line before."""
    sample_every: int = 500
    """Steps between sample grids; 0 is none."""
    sample_count: int = 4
    """Images of each domain in a sample grid."""
    eval_every: int = 0
    """Steps between scores of translations against the truth, where held-out images are paired; 0 is none."""
    eval_count: int = 64
    """Held-out pairs that are scored, evenly spaced by name."""
    tensorboard: bool = False
    """Also write TensorBoard's files, into the run's folder; needs the package tensorboard."""
    wandb: str | None = None
    """Also log to this project of Weights & Biases; needs the package wandb."""
    profile: bool = False
    """Profile ten steps: a trace in the run's folder, and a table of where a step goes."""

    def __post_init__(self) -> None:
        for name in ("load_size", "crop_size"):
            value = getattr(self, name)
            sides = as_size(value)
            self._require(name, len(sides) == 2 and min(sides) >= 1, "a positive side, or height and width")
        if self.preprocess == "resize_and_crop":
            load, crop = as_size(self.load_size), as_size(self.crop_size)
            self._require(
                "load_size", load[0] >= crop[0] and load[1] >= crop[1], f"at least crop_size={self.crop_size}"
            )
        for name, least in (
            ("batch_size", 1), ("n_epochs", 0), ("n_epochs_decay", 0), ("pool_size", 0), ("save_every_steps", 0),
            ("keep_last", 1), ("log_every", 1), ("sample_every", 0), ("sample_count", 1), ("seed", 0),
            ("eval_every", 0), ("eval_count", 1), ("lr_decay_iters", 1), ("accumulate", 1),
            ("critic_steps", 1),
        ):  # fmt: skip
            self._require(name, getattr(self, name) >= least, f"an integer of at least {least}")
        self._require("n_epochs", self.n_epochs + self.n_epochs_decay >= 1, "n_epochs + n_epochs_decay of at least 1")
        self._require("lr", math.isfinite(self.lr) and self.lr > 0, "a number above 0")
        self._require("clip_norm", math.isfinite(self.clip_norm) and self.clip_norm >= 0, "a number of at least 0")
        for name in ("beta1", "beta2", "ema_decay"):
            self._require(name, 0 <= getattr(self, name) < 1, "a number in [0, 1)")
        for name, choices in (
            ("preprocess", Preprocess),
            ("lr_policy", LearningRatePolicy),
            ("device", DeviceChoice),
            ("on_nonfinite", OnNonFinite),
            ("engine", EngineName),
            ("precision", PrecisionChoice),
            ("activation_memory", ActivationMemory),
        ):
            self._require(name, getattr(self, name) in get_args(choices), f"one of {', '.join(get_args(choices))}")

    def _require(self, name: str, condition: bool, expected: str) -> None:
        if not condition:
            raise UserError(f"{name}: expected {expected}, got {getattr(self, name)!r}")


# Fields that may change when a run is continued: they say where files are and how often to write, not what is computed.
# The images themselves are compared by their fingerprint, so that a data set may move.
_FREE = {
    "out", "device", "save_every_steps", "keep_last", "log_every", "sample_every", "sample_count", "eval_every",
    "eval_count", "tensorboard", "wandb", "profile", "engine", "activation_memory", "deterministic", "on_nonfinite",
}  # fmt: skip
_FREE_DATA = {"x", "y", "root", "layout", "x_test", "y_test", "recursive", "skip_bad", "cache_mb", "threads"}


def shared_settings(config: TrainConfig[Any]) -> dict[str, Any]:
    """The fields that must be the same in all processes of a training, as plain values: all but where files are, and
    how a machine reads them."""
    plain = to_plain(dataclasses.replace(config, out=Path()))
    plain["data"] = {name: value for name, value in plain["data"].items() if name not in _FREE_DATA}
    return plain


def differing_fields(config: TrainConfig[Any], other: TrainConfig[Any]) -> list[str]:
    """What stops ``config`` from continuing the run of ``other``, as ``name=value here (value there)``."""
    differing = []
    for part, free, prefix in (
        ("", _FREE | {"data", "method"}, ""),
        ("data", _FREE_DATA, "data."),
        ("method", set(), "method."),
    ):
        mine, theirs = (getattr(config, part), getattr(other, part)) if part else (config, other)
        if type(mine) is not type(theirs):
            differing.append(f"{part}: {type(mine).__name__} ({type(theirs).__name__})")
            continue
        for item in fields(mine):
            ours, old = getattr(mine, item.name), getattr(theirs, item.name)
            if item.name not in free and ours != old:
                differing.append(f"{prefix}{item.name}={ours} ({old})")
    return differing
