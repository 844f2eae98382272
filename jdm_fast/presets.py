"""Training configurations by name: what ``jdm-fast train NAME`` starts from. Any field can be changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from jdm_fast.methods import CycleGANConfig, JointGANConfig, JWDMConfig, Pix2PixConfig, WGANGPConfig
from jdm_fast.training import TrainConfig


def jwdm() -> TrainConfig[JWDMConfig]:
    """The paper's networks and schedule."""
    return TrainConfig(method=JWDMConfig(), out=Path("runs/jwdm"))


def jwdm_small() -> TrainConfig[JWDMConfig]:
    """Small pictures on a CPU in minutes: what the demo trains.

    At 64x64 the paper's 8x8 embedding leaves a latent of 9x9 positions and its critics see the whole picture at once;
    trained for minutes that gives blurred pictures with the colours inverted. A 1x1 embedding keeps the latent at a
    quarter of the picture's side, shallow critics judge patches, a larger learning rate makes up for few steps, and the
    identity term ties the colours down. The pixel critic of the latent keeps dark sea and dark forest apart: with the
    patch critic, 1720 steps got land and sea right on 0.90 of the pixels of held-out maps made from satellite
    pictures, with this one 1204 steps on 0.93.
    """
    return TrainConfig(
        method=JWDMConfig(
            width=12,
            blocks=2,
            residual_convs=1,
            embedding_kernel=1,
            critic_width=32,
            critic_layers=3,
            latent_critic="pixel",
            identity_weight=1.0,
            init="default",
        ),
        out=Path("runs/jwdm-small"),
        load_size=72,
        crop_size=64,
        batch_size=4,
        lr=2e-3,
        lr_policy="linear_step",
        n_epochs=8,
        n_epochs_decay=8,
        ema_decay=0.998,
        save_every_steps=200,
        log_every=20,
    )


def jointgan() -> TrainConfig[JointGANConfig]:
    """The paper's networks and its five sources of two domains, of which there are pairs; CycleGAN's schedule, since
    the paper gives none."""
    return TrainConfig(method=JointGANConfig(), out=Path("runs/jointgan"), pool_size=0)


def jointgan_unpaired() -> TrainConfig[JointGANConfig]:
    """The paper's four sources and cycle consistency, where there are no pairs."""
    return replace(jointgan(), method=JointGANConfig(sources=("unpaired",)), out=Path("runs/jointgan-unpaired"))


def jointgan_small() -> TrainConfig[JointGANConfig]:
    """Small pictures on a CPU in minutes. Critics with two layers judge patches of 34x34."""
    return TrainConfig(
        method=JointGANConfig(depth=6, width=16, max_width=128, critic_width=32, critic_layers=2),
        out=Path("runs/jointgan-small"),
        load_size=72,
        crop_size=64,
        batch_size=8,
        lr=4e-4,
        lr_policy="linear_step",
        n_epochs=8,
        n_epochs_decay=8,
        pool_size=0,
        ema_decay=0.998,
        save_every_steps=200,
        log_every=20,
    )


def wgan_gp() -> TrainConfig[WGANGPConfig]:
    """Marginals of two domains with the paper's optimiser: Adam with learning rate 1e-4 and betas (0, 0.9), batches of
    64, five updates of the critics in a step."""
    return TrainConfig(
        method=WGANGPConfig(),
        out=Path("runs/wgan-gp"),
        pool_size=0,
        critic_steps=5,
        lr=1e-4,
        beta1=0.0,
        beta2=0.9,
        batch_size=64,
    )


def pix2pix() -> TrainConfig[Pix2PixConfig]:
    """Translations both ways learned from pairs, with the paper's schedule."""
    return TrainConfig(method=Pix2PixConfig(), out=Path("runs/pix2pix"), pool_size=0)


def cyclegan() -> TrainConfig[CycleGANConfig]:
    """Translations both ways learned without pairs, with the paper's schedule and image pool."""
    return TrainConfig(method=CycleGANConfig(), out=Path("runs/cyclegan"))


PRESETS: dict[str, tuple[str, Callable[[], TrainConfig[Any]]]] = {
    "jwdm": ("Joint Wasserstein Distribution Matching, the paper's configuration (256x256)", jwdm),
    "jwdm-small": ("the same for 64x64 pictures on a CPU in minutes, as the demo uses it", jwdm_small),
    "jointgan": ("JointGAN: marginals, conditionals and the joint of paired domains (256x256)", jointgan),
    "jointgan-unpaired": ("the same for domains of which there are no pairs", jointgan_unpaired),
    "jointgan-small": ("jointgan for 64x64 pictures on a CPU in minutes", jointgan_small),
    "wgan-gp": ("WGAN-GP: the marginal of each domain (256x256)", wgan_gp),
    "pix2pix": ("pix2pix: translations both ways, learned from pairs (256x256)", pix2pix),
    "cyclegan": ("CycleGAN with U-nets: translations both ways, learned without pairs (256x256)", cyclegan),
}
