"""Pictures of what the generators make of a few fixed images, to watch a training by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from jdm_fast.data import save_image
from jdm_fast.data.sheet import contact_sheet
from jdm_fast.ops import frames_to_uint8

_GAP = 4
_LEAST_SIDE = 112  # narrower pictures are enlarged, so that their captions fit


def write_samples(path: Path, method: nn.Module, images: dict[str, Tensor]) -> None:
    """Write a PNG grid with one row for each image of a domain and one captioned column for each kind of picture.

    From left to right, domain by domain: the input, its reconstruction, its translation, its cycle, and after those
    whatever else ``method.generate`` makes of images in their size. Neither the method nor any random stream is
    changed.

    Args:
        path: the file.
        method: follows ``jdm_fast.methods.Method``, the networks on the device of ``images``.
        images: [N, C, H, W] in [-1, 1] for each domain.
    """
    device = next(iter(images.values())).device
    training = method.training
    method.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            made = method.generate(images)
    finally:
        method.train(training)
    captions, columns = zip(*_columns(tuple(images), images, made), strict=True)
    pictures = [_pixels(column) for column in columns]
    scale = max(1, -(-_LEAST_SIDE // pictures[0].shape[2]))
    rows = [[column[row] for column in pictures] for row in range(len(pictures[0]))]
    save_image(path, contact_sheet(rows, titles=captions, scale=scale, gap=_GAP))


def _columns(domains: tuple[str, ...], images: dict[str, Tensor], made: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Captions and pictures from left to right. The protocol names fakes ``kind_domain`` after the domain they are
    in, so the translation of an image of x is found under y."""
    left = {name: fake for name, fake in made.items() if fake.shape == images[domains[0]].shape}
    columns = []
    for domain in domains:
        columns.append((f"input {domain}", images[domain]))
        others = [other for other in domains if other != domain]
        for name in [f"reconstruction_{domain}", *(f"translation_{other}" for other in others), f"cycle_{domain}"]:
            if name in left:
                columns.append((name.replace("_", " "), left.pop(name)))
    return columns + [(name.replace("_", " "), fake) for name, fake in left.items()]


def _pixels(images: Tensor) -> np.ndarray:
    """uint8 [N, H, W, 3] of [N, C, H, W] in [-1, 1]; grey ones get three channels."""
    images = images.detach().float()
    if images.shape[1] != 3:
        images = images[:, :1].expand(-1, 3, -1, -1)
    return frames_to_uint8(images.contiguous()).cpu().numpy()
