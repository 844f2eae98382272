"""Tiles against the whole picture: encoder, decoder, translation, for sizes and tiles that do not fit each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from jdm_fast.errors import UserError
from jdm_fast.methods import JWDM, JWDMConfig, Pix2Pix, Pix2PixConfig
from jdm_fast.synthesis import Model, translate_files
from jdm_fast.synthesis.tiled import decode_tiled, encode_tiled

SIZES = [(36, 36), (64, 100), (40, 132)]
TILES = [16, 17, 37, 64, 500]
NETWORKS = [
    {"embedding_kernel": 8},
    {"embedding_kernel": 2, "residual_convs": 1},
    {"embedding_kernel": 1, "latent_activation": "none", "latent_channels": 3},
]


def method(dtype: torch.dtype = torch.float64, **config: Any) -> JWDM:
    """With norms whose weights and biases matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = JWDM(JWDMConfig(width=4, blocks=2, critic_width=4, critic_layers=2, init="default", **config))
        for parameter in made.parameters():
            if parameter.dim() == 1:
                nn.init.uniform_(parameter, 0.5, 1.5)
    return made.to(dtype).eval()


def images(*size: int, count: int = 2, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, *size, generator=generator, dtype=dtype) * 2 - 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: f"kernel{config['embedding_kernel']}")
def test_tiles_equal_the_whole(config: dict[str, Any], tile: int, size: tuple[int, int]) -> None:
    networks, pictures = method(**config), images(*size)
    with torch.no_grad():
        latents = networks.encode(pictures, "x")
        expected = networks.decode(latents, "y")
    before = pictures.clone(), latents.clone()
    torch.testing.assert_close(encode_tiled(networks, pictures, "x", tile), latents, rtol=0, atol=1e-11)
    made = decode_tiled(networks, latents, "y", tile)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-11)
    assert torch.equal(pictures, before[0]) and torch.equal(latents, before[1]), "the inputs are the caller's"


@pytest.mark.parametrize("offset, tolerance", [(0.0, 2e-5), (30.0, 2e-3)])
def test_float32_keeps_its_precision(offset: float, tolerance: float) -> None:
    """Also of planes whose mean is far larger than what varies in them, where sums of squares lose it."""
    exact, networks, pictures = method(), method(torch.float32), images(64, 100)
    pictures = (0.1 * pictures + offset).float()
    with torch.no_grad():
        expected = exact.encode(pictures.double(), "x")
        whole = networks.encode(pictures, "x")
    made = encode_tiled(networks, pictures, "x", 32)
    assert (whole - expected).abs().max() < tolerance, "the case itself must be possible in float32"
    assert (made - expected).abs().max() < tolerance


def test_autocast_costs_no_more_than_without_tiles() -> None:
    exact, networks, pictures = method(), method(torch.float32), images(64, 100)
    with torch.no_grad():
        latents = exact.encode(pictures, "x")
        expected = exact.decode(latents, "y")
        with torch.autocast("cpu", torch.bfloat16):
            whole = networks.encode(pictures.float(), "x"), networks.decode(latents.float(), "y")
            tiled = encode_tiled(networks, pictures.float(), "x", 32), decode_tiled(networks, latents.float(), "y", 32)
    for made, alone, wanted in zip(tiled, whole, (latents, expected), strict=True):
        assert made.dtype == alone.dtype == torch.bfloat16
        assert (made - wanted).square().mean() < 1.2 * (alone - wanted).square().mean()


def test_the_tiles_would_show_without_common_statistics() -> None:
    """What the module is for: the same picture encoded in parts, even far from their edges, comes out otherwise."""
    networks, pictures = method(embedding_kernel=1), images(64, 256, count=1)
    pictures[..., 128:] *= 0.2
    with torch.no_grad():
        whole, part = networks.encode(pictures, "x"), networks.encode(pictures[..., :128], "x")
    assert (whole[..., 12:16] - part[..., 12:16]).abs().max() > 0.1
    torch.testing.assert_close(encode_tiled(networks, pictures, "x", 64), whole, rtol=0, atol=1e-11)


class _Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.numel = max(self.numel, made.untyped_storage().nbytes() // made.element_size())
        return made


@pytest.mark.parametrize("half", ["encode", "decode"])
def test_no_map_of_the_pictures_size_is_made(half: str) -> None:
    networks, pictures = method(torch.float32), images(256, 256, count=1, dtype=torch.float32)
    latents = encode_tiled(networks, pictures, "x", 64)
    with _Largest() as largest:
        encode_tiled(networks, pictures, "x", 64) if half == "encode" else decode_tiled(networks, latents, "y", 64)
    assert largest.numel <= pictures.numel(), "the pictures themselves, in and out; all else is smaller"
    whole = networks.config.width * 256 * 256  # after the first convolution
    with _Largest() as largest, torch.no_grad():
        networks.encode(pictures, "x") if half == "encode" else networks.decode(latents, "y")
    assert largest.numel >= whole


# ---- Model.translate, translate_files -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(13, 15), (37, 51), (90, 30)])
def test_translation_of_every_kind_of_pictures(jwdm: Model, size: tuple[int, int]) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    whole = jwdm.translate(pictures, "x").astype(int)

    def close(made: np.ndarray, expected: np.ndarray) -> bool:
        difference = np.abs(made.astype(int) - expected)
        return difference.max() <= 1 and difference.astype(bool).mean() < 1e-3  # rounding at a half

    assert close(jwdm.translate(pictures, "x", tile=16), whole)
    listed = jwdm.translate([Image.fromarray(picture) for picture in pictures], "x", tile=16)
    assert close(np.stack([np.asarray(picture) for picture in listed]), whole)
    assert close(np.asarray(jwdm.translate(Image.fromarray(pictures[0]), "x", tile=16)), whole[0])
    tensor = torch.from_numpy(pictures.transpose(0, 3, 1, 2) / np.float32(127.5) - 1)
    torch.testing.assert_close(
        jwdm.translate(tensor, "x", tile=16), jwdm.translate(tensor, "x"), rtol=0, atol=2e-5, check_stride=False
    )


def test_files(jwdm: Model, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (70, 45, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    translate_files(jwdm, tmp_path / "a.png", tmp_path / "out.png", tile=20)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), jwdm.translate(picture, tile=20))


# ---- what cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [0, -1, 15, 2.5, True])
def test_impossible_tiles(jwdm: Model, tile: Any) -> None:
    with pytest.raises(UserError, match="tile: expected a number of pixels of at least 16"):
        jwdm.translate(np.zeros((32, 32, 3), np.uint8), tile=tile)


def test_a_method_without_auto_encoders(negative: Model, tmp_path: Path) -> None:
    unet = Model(Pix2Pix(Pix2PixConfig(width=2, depth=2, critic_width=2, critic_layers=1)), "cpu")
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    for model in (unet, negative):
        with pytest.raises(UserError, match="cannot work in tiles"):
            translate_files(model, tmp_path / "a.png", tmp_path / "out.png", tile=32)
        with pytest.raises(UserError, match="cannot work in tiles"):
            encode_tiled(model.method, images(32, 32), "x", 32)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda m: encode_tiled(m, images(34, 36), "x", 16), UserError, "height 34 and width 36 .* multiples of 4"),
        (lambda m: encode_tiled(m, images(36, 32), "x", 16), UserError, "at least 36"),
        (lambda m: encode_tiled(m, images(36, 36)[:, :2], "x", 16), ValueError, r"images: expected \[N, 3, H, W\]"),
        (lambda m: encode_tiled(m, images(36, 36)[:0], "x", 16), ValueError, "N at least 1"),
        (lambda m: encode_tiled(m, images(36, 36), "z", 16), ValueError, "domain: expected one of x, y, got 'z'"),
        (lambda m: decode_tiled(m, images(9, 9), "x", 16), ValueError, r"latents: expected \[N, 16, H, W\]"),
        (lambda m: decode_tiled(m, images(9, 9), "latent", 16), ValueError, "domain: expected one of x, y"),
    ],
)
def test_bad_input(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(method())
