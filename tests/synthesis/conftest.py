"""A stand-in for a trained method whose every answer can be worked out by hand, and a small real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jdm_fast.methods import JWDM, JWDMConfig
from jdm_fast.synthesis import Model


class Negative(nn.Module):
    """Domain y is the negative of x. Latents are pixels rearranged, so interpolation of latents is a cross-fade."""

    domains = ("x", "y")
    size_multiple, minimum_size = 4, 12

    def __init__(self) -> None:
        super().__init__()
        self.encoded: list[int] = []  # images in each call
        self.decoded: list[int] = []

    def encode(self, images: Tensor, domain: str) -> Tensor:
        height, width = images.shape[-2:]
        assert height % 4 == 0 and width % 4 == 0 and min(height, width) >= 12
        assert not torch.is_grad_enabled() and not self.training
        self.encoded.append(len(images))
        return F.pixel_unshuffle(images if domain == "x" else -images, 4)

    def decode(self, latent: Tensor, domain: str) -> Tensor:
        self.decoded.append(len(latent))
        images = F.pixel_shuffle(latent, 4)
        return images if domain == "x" else -images

    def translate(self, images: Tensor, to: str, source: str | None = None) -> Tensor:
        return self.decode(self.encode(images, source or ("y" if to == "x" else "x")), to)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as these lose far more to waking threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def negative() -> Model:
    return Model(Negative(), "cpu")


@pytest.fixture(scope="session")
def jwdm() -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = JWDMConfig(width=4, blocks=1, embedding_kernel=2, critic_width=4, critic_layers=2, init="default")
        return Model(JWDM(config), "cpu")
