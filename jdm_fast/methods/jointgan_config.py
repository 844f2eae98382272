"""What JointGAN can be told: :class:`JointGANConfig`, used by :mod:`jdm_fast.methods.jointgan`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from jdm_fast.data.dataset import LETTERS
from jdm_fast.methods._config import is_integer, is_number, require
from jdm_fast.methods.sources import Source, parse_sources

Objective = Literal["minimax", "nonsaturating"]
NoiseAt = Literal["layers", "bottleneck"]
CriticNorm = Literal["instance", "none"]
Init = Literal["normal", "default"]


@dataclass(frozen=True)
class JointGANConfig:
    """Networks and objective of JointGAN. The defaults are the paper's where it gives them; each field says.

    Raises:
        UserError: a field has a value it cannot have; the message names field, expectation and value.
    """

    domains: int = 2
    """Number of domains, called x, y, z, … (paper: 2 and 3)."""
    channels: int = 3
    """Channels of the images (paper: 3)."""
    vectors: tuple[str, ...] = ()
    """Domains that are vectors and not images, with their size: ``y:1024`` for features of captions (paper, §5.2)."""
    sources: tuple[str, ...] = ("paired",)
    """What the critic tells apart: paired (paper: p1 … p5), unpaired (p1 … p4 and the cycle), chain (§3.2: three
    domains of which pairs are observed), or a list such as xy:0 xy:1 yx:0 yx:1 xy:2, order and number observed."""
    objective: Objective = "minimax"
    """Of the generators: minimax (paper, eq. 11), or nonsaturating (ours): towards the class of the data, or towards
    the uniform distribution where no source is all data."""
    cycle_weight: float | None = None
    """Weight of the cycle consistency R of eq. (12), as L1 means. Unset: 10 (CycleGAN; the paper prints 1 and an
    unspecified norm) if no two domains are observed together, else 0."""
    paired_weight: float = 0.0
    """Weight of the L1 distance from conditional samples to the observed partner (ours, after pix2pix; off)."""
    gradient_penalty_weight: float = 0.0
    """Weight of the squared gradient of the critic's own logit of each tuple (ours, after Mescheder et al. 2018; off).
    To try where the generators draw few different tuples from nothing."""
    noise: int = 100
    """Numbers of noise for each domain, N(0, I) (paper: 100)."""
    noise_at: NoiseAt = "layers"
    """Where noise enters a generator of images: layers, at the bottleneck and in each norm of the decoder (ours), or
    bottleneck, there alone, which the skip connections let it ignore."""
    width: int = 64
    """Channels after a U-net's first convolution (pix2pix: 64)."""
    depth: int = 8
    """Stride-2 convolutions of a U-net: 8 for 256x256 (pix2pix), 7 for 128, 6 for 64, 5 for 32. Sides of images must be
    multiples of 2^depth."""
    max_width: int = 512
    """A U-net's channels double with each level up to this (pix2pix: 512)."""
    critic_width: int = 64
    """Channels after the critic's first layer (pix2pix: 64)."""
    critic_layers: int = 3
    """Stride-2 convolutions of the critic: 3 for patches of 70x70 (paper), 2 for 34x34, 1 for 16x16."""
    critic_max_width: int = 512
    """The critic's channels double up to this (pix2pix: 512)."""
    critic_norm: CriticNorm = "instance"
    """Norm in the critic: instance (CycleGAN) or none."""
    hidden: int = 512
    """Width of the hidden layers that make and judge vectors (ours)."""
    init: Init = "normal"
    """Initial weights: normal, N(0, init_std) (pix2pix), or default, PyTorch's own (ours)."""
    init_std: float = 0.02
    """Standard deviation of init=normal (pix2pix: 0.02)."""

    def __post_init__(self) -> None:
        require(
            "domains",
            is_integer(self.domains, 2) and self.domains <= len(LETTERS),
            f"2 to {len(LETTERS)}",
            self.domains,
        )
        require("depth", is_integer(self.depth, 2), "an integer of at least 2", self.depth)
        for name in (
            "channels", "noise", "width", "max_width", "critic_width", "critic_layers", "critic_max_width", "hidden",
        ):  # fmt: skip
            require(name, is_integer(getattr(self, name), 1), "an integer of at least 1", getattr(self, name))
        for name in ("paired_weight", "gradient_penalty_weight", "init_std"):
            require(name, is_number(getattr(self, name)), "a finite number of at least 0", getattr(self, name))
        require(
            "cycle_weight",
            self.cycle_weight is None or is_number(self.cycle_weight),
            "a finite number of at least 0, or None",
            self.cycle_weight,
        )
        for name, choices in (
            ("objective", Objective),
            ("noise_at", NoiseAt),
            ("critic_norm", CriticNorm),
            ("init", Init),
        ):
            value = getattr(self, name)
            require(name, value in get_args(choices), f"one of {', '.join(get_args(choices))}", value)
        self.vector_sizes()
        observed_together = any(source.observed > 1 for source in self.source_list())
        require(
            "paired_weight",
            observed_together or self.paired_weight == 0,
            "0, as no source of method.sources has two domains observed together",
            self.paired_weight,
        )

    @property
    def letters(self) -> str:
        """The domains' letters, such as ``xy``."""
        return "".join(LETTERS[: self.domains])

    def vector_sizes(self) -> dict[str, int]:
        """Sizes of the domains that are vectors."""
        sizes: dict[str, int] = {}
        for entry in self.vectors:
            name, _, size = entry.partition(":")
            known = len(name) == 1 and name in self.letters and name not in sizes
            fine = known and size.isdecimal() and int(size) >= 1
            require("vectors", fine, f"DOMAIN:SIZE of {', '.join(self.letters)}, each once, such as y:1024", entry)
            sizes[name] = int(size)
        return sizes

    def source_list(self) -> tuple[Source, ...]:
        """The sources, parsed."""
        return parse_sources(self.sources, self.letters)
