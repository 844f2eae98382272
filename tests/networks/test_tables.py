"""The networks against Tables 4 and 5 of the JWDM paper: each layer's shape, each parameter; on the meta device."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jdm_fast.networks import Critic, Decoder, Encoder, InstanceNorm, LatentCritic

SIZES = [(256, 256), (256, 512)]
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def conv_rows(network: nn.Module, sample: torch.Tensor) -> list[tuple]:
    """(kind, out channels, kernel, stride, padding, output shape) of each convolution, in the order they run."""
    rows: list[tuple] = []

    def record(layer: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        kind = "DECONV" if isinstance(layer, nn.ConvTranspose2d) else "CONV"
        k, stride, padding = layer.kernel_size[0], layer.stride[0], layer.padding[0]
        rows.append((kind, layer.out_channels, k, stride, padding, *output.shape[1:]))

    for layer in network.modules():
        if isinstance(layer, CONVOLUTIONS):
            layer.register_forward_hook(record)
    network(sample)
    return rows


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta")


@pytest.mark.parametrize("residual_convs", [1, 2])
@pytest.mark.parametrize(("h", "w"), SIZES)
def test_encoder_is_table_4(h: int, w: int, residual_convs: int) -> None:
    with torch.device("meta"):
        encoder = Encoder(residual_convs=residual_convs)
    expected = [
        ("CONV", 64, 7, 1, 3, 64, h, w),
        ("CONV", 128, 3, 2, 1, 128, h // 2, w // 2),
        ("CONV", 256, 3, 2, 1, 256, h // 4, w // 4),
        *[("CONV", 256, 3, 1, 1, 256, h // 4, w // 4)] * (6 * residual_convs),
        ("CONV", 256, 8, 1, 0, 256, h // 4 - 7, w // 4 - 7),
    ]
    assert conv_rows(encoder, meta(1, 3, h, w)) == expected


@pytest.mark.parametrize("residual_convs", [1, 2])
@pytest.mark.parametrize(("h", "w"), SIZES)
def test_decoder_is_table_4(h: int, w: int, residual_convs: int) -> None:
    with torch.device("meta"):
        decoder = Decoder(residual_convs=residual_convs)
    expected = [
        ("DECONV", 256, 8, 1, 0, 256, h // 4, w // 4),
        *[("CONV", 256, 3, 1, 1, 256, h // 4, w // 4)] * (6 * residual_convs),
        ("DECONV", 128, 3, 2, 1, 128, h // 2, w // 2),
        ("DECONV", 64, 3, 2, 1, 64, h, w),
        ("CONV", 3, 7, 1, 3, 3, h, w),
    ]
    assert conv_rows(decoder, meta(1, 256, h // 4 - 7, w // 4 - 7)) == expected


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_critic_is_table_5(h: int, w: int) -> None:
    with torch.device("meta"):
        critic = Critic()
    expected = [("CONV", 64 * 2**i, 4, 2, 1, 64 * 2**i, h // 2 ** (i + 1), w // 2 ** (i + 1)) for i in range(6)]
    expected.append(("CONV", 1, 3, 1, 1, 1, h // 64, w // 64))
    assert conv_rows(critic, meta(1, 3, h, w)) == expected
    slopes = [layer.negative_slope for layer in critic.modules() if isinstance(layer, nn.LeakyReLU)]
    assert slopes == [0.01] * 6
    assert not any(isinstance(layer, InstanceNorm) for layer in critic.modules())


# Weights of the convolutions (none has a bias before a norm), weight and bias of the norms.
BLOCK = 256 * 256 * 9 + 2 * 256
ENCODER_ENDS = (
    (3 * 64 * 49 + 2 * 64)  # 7x7
    + (64 * 128 * 9 + 2 * 128)  # down
    + (128 * 256 * 9 + 2 * 256)  # down
    + (256 * 256 * 64 + 2 * 256)  # 8x8 embedding
)
DECODER_ENDS = (
    (256 * 256 * 64 + 2 * 256)  # 8x8 embedding
    + (256 * 128 * 9 + 2 * 128)  # up
    + (128 * 64 * 9 + 2 * 64)  # up
    + (64 * 3 * 49 + 3)  # 7x7, with a bias: tanh follows, not a norm
)
CRITIC = 3 * 64 * 16 + 64 + sum(64 * 2**i * 64 * 2 ** (i + 1) * 16 + 64 * 2 ** (i + 1) for i in range(5)) + 2048 * 9
LATENT_CRITIC = (256 * 64 * 9 + 64) + (64 * 128 * 16 + 128) + (128 * 256 * 9 + 256) + 256 * 9


@pytest.mark.parametrize(
    ("network", "options", "parameters"),
    [
        (Encoder, {"residual_convs": 2}, ENCODER_ENDS + 12 * BLOCK),
        (Encoder, {"residual_convs": 1}, ENCODER_ENDS + 6 * BLOCK),
        (Decoder, {"residual_convs": 2}, DECODER_ENDS + 12 * BLOCK),
        (Decoder, {"residual_convs": 1}, DECODER_ENDS + 6 * BLOCK),
        (Critic, {}, CRITIC),
        (LatentCritic, {}, LATENT_CRITIC),
    ],
)
def test_parameter_counts(network: type[nn.Module], options: dict, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in network(**options).parameters()) == parameters


def activations(network: nn.Module) -> list[str]:
    return [layer.activation for layer in network.modules() if isinstance(layer, InstanceNorm)]


def test_what_follows_each_norm() -> None:
    with torch.device("meta"):
        assert activations(Encoder(blocks=1)) == ["relu"] * 3 + ["relu", "none"] + ["relu"]
        assert activations(Encoder(blocks=1, residual_convs=1)) == ["relu"] * 5
        assert activations(Encoder(blocks=1, latent_activation="none"))[-1] == "none"
        assert activations(Decoder(blocks=1)) == ["relu"] + ["relu", "none"] + ["relu"] * 2


@pytest.mark.parametrize(
    ("options", "size", "latent"),
    [
        ({"embedding_kernel": 8}, (36, 40), (48, 2, 3)),  # the smallest height the 8x8 kernel takes
        ({"embedding_kernel": 1, "blocks": 2, "residual_convs": 1}, (64, 64), (48, 16, 16)),  # the demo's network
        ({"embedding_kernel": 1, "blocks": 0}, (8, 8), (48, 2, 2)),
        ({"embedding_kernel": 4, "latent_channels": 5, "channels": 1}, (24, 52), (5, 3, 10)),
    ],
)
def test_small_networks(options: dict, size: tuple[int, int], latent: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        encoder, decoder = Encoder(width=12, **options), Decoder(width=12, **options)
        critic = LatentCritic(latent[0], width=12, max_width=24)
    images = meta(2, options.get("channels", 3), *size)
    code = encoder(images)
    assert code.shape == (2, *latent)
    assert decoder(code).shape == images.shape
    assert critic(code).shape == (2, 1, latent[1] // 2, latent[2] // 2)


def test_critic_width_stops_growing() -> None:
    with torch.device("meta"):
        rows = conv_rows(Critic(width=12, layers=4, max_width=40), meta(1, 3, 64, 48))
    assert [row[1] for row in rows] == [12, 24, 40, 40, 1]
    assert rows[-1][-2:] == (4, 3)
