"""JWDM's decode_between against Algorithm 2 as written: interpolate latents, decode frame by frame."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from jdm_fast.methods import JWDM, JWDMConfig

POSITIONS = [
    1,
    2,
    3,
    8,
    (0.0, 0.3, 0.3, 1.0, 1.9, 2.0),  # uneven
    (0.25, 1.75),  # no key frame
    (2.0,),  # the last one alone
]


def make(dtype: torch.dtype, kernel: int = 2) -> JWDM:
    torch.manual_seed(0)
    sizes = {"width": 4, "blocks": 1, "embedding_kernel": kernel, "critic_width": 4, "critic_layers": 2}
    return JWDM(JWDMConfig(**sizes, init="default")).to(dtype)


def frame_by_frame(model: JWDM, latents: Tensor, positions: int | Sequence[float], domain: str) -> Tensor:
    if isinstance(positions, int):
        positions = [k / positions for k in range((len(latents) - 1) * positions + 1)]
    images = []
    for p in positions:
        k = math.floor(p)
        t = p - k
        latent = latents[k] if t == 0 else (1 - t) * latents[k] + t * latents[k + 1]
        images.append(model.decode(latent[None], domain))
    return torch.cat(images)


@pytest.mark.parametrize("positions", POSITIONS, ids=str)
@pytest.mark.parametrize("domain", ["x", "y"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)], ids=str)
@torch.no_grad()
def test_equal_to_decoding_every_latent(
    positions: int | Sequence[float], domain: str, channels_last: bool, dtype: torch.dtype, tolerance: float
) -> None:
    model = make(dtype)
    generator = torch.Generator().manual_seed(1)
    images = (torch.rand(3, 3, 20, 28, generator=generator, dtype=torch.float64) * 2 - 1).to(dtype)
    if channels_last:
        model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    latents = model.encode(images, "x")
    made = model.decode_between(model.expand(latents, domain), positions, domain)
    expected = frame_by_frame(model, latents, positions, domain)
    assert made.shape == expected.shape
    assert (made - expected).abs().max() < tolerance
    assert (made - model.decode(latents[:1], domain)).abs().max() > 0.01, "the frames differ from each other"


@torch.no_grad()
def test_one_key_frame() -> None:
    model = make(torch.float64)
    latent = model.encode(torch.rand(1, 3, 16, 16, dtype=torch.float64), "y")
    made = model.decode_between(model.expand(latent, "y"), [0.0, 0.0], "y")
    torch.testing.assert_close(made, model.decode(latent, "y").expand(2, -1, -1, -1))


@torch.no_grad()
def test_it_compiles_in_one_graph() -> None:
    model = make(torch.float32)
    feature = model.expand(model.encode(torch.rand(2, 3, 16, 16), "x"), "x")
    compiled = torch.compile(lambda u: model.decode_between(u, 3, "x"), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(feature), model.decode_between(feature, 3, "x"))


@pytest.mark.parametrize("call", ["expand", "decode_between"])
def test_an_unknown_domain_is_named(call: str) -> None:
    model = make(torch.float32)
    arguments = {"expand": (), "decode_between": (2,)}[call]
    with pytest.raises(ValueError, match="domain: expected one of x, y, got 'z'"):
        getattr(model, call)(torch.zeros(2, 16, 4, 4), *arguments, "z")
