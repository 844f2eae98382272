"""What the networks compute: against the same networks of plain PyTorch layers, and how weights begin."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jdm_fast.networks import (
    Critic,
    Decoder,
    Encoder,
    LatentCritic,
    PixelLatentCritic,
    ResidualBlock,
    initialize_weights,
)


class Skip(nn.Module):
    """h + body(h)."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.body(h)


def norm(channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels, affine=True)


def plain_blocks(c: int, blocks: int, convs: int) -> list[nn.Module]:
    def body() -> list[nn.Module]:
        first = [nn.Conv2d(c, c, 3, padding=1, bias=False), norm(c), nn.ReLU()]
        return first if convs == 1 else [*first, nn.Conv2d(c, c, 3, padding=1, bias=False), norm(c)]

    return [Skip(*body()) for _ in range(blocks)]


def plain_encoder(g: int, blocks: int, convs: int, kernel: int, relu: bool) -> nn.Module:
    def layer(fan_in: int, fan_out: int, k: int, stride: int, padding: int) -> list[nn.Module]:
        return [nn.Conv2d(fan_in, fan_out, k, stride, padding, bias=False), norm(fan_out), nn.ReLU()]

    embedding = layer(4 * g, 4 * g, kernel, 1, 0)
    return nn.Sequential(
        *layer(3, g, 7, 1, 3),
        *layer(g, 2 * g, 3, 2, 1),
        *layer(2 * g, 4 * g, 3, 2, 1),
        *plain_blocks(4 * g, blocks, convs),
        *(embedding if relu else embedding[:-1]),
    )


def plain_decoder(g: int, blocks: int, convs: int, kernel: int) -> nn.Module:
    def layer(fan_in: int, fan_out: int, k: int, stride: int, padding: int, extra: int) -> list[nn.Module]:
        return [nn.ConvTranspose2d(fan_in, fan_out, k, stride, padding, extra, bias=False), norm(fan_out), nn.ReLU()]

    return nn.Sequential(
        *layer(4 * g, 4 * g, kernel, 1, 0, 0),
        *plain_blocks(4 * g, blocks, convs),
        *layer(4 * g, 2 * g, 3, 2, 1, 1),
        *layer(2 * g, g, 3, 2, 1, 1),
        nn.Conv2d(g, 3, 7, padding=3),
        nn.Tanh(),
    )


def copy_parameters(source: nn.Module, target: nn.Module) -> None:
    """Both list the same layers in the same order; only the names differ."""
    for (name, value), (_, parameter) in zip(source.named_parameters(), target.named_parameters(), strict=True):
        assert value.shape == parameter.shape, name
        parameter.data.copy_(value.data)


def randomize(network: nn.Module) -> None:
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)


@pytest.mark.parametrize("convs", [1, 2])
@pytest.mark.parametrize(("kernel", "latent_activation"), [(1, "relu"), (3, "none")])
def test_equals_the_same_network_of_plain_layers(convs: int, kernel: int, latent_activation: str) -> None:
    torch.manual_seed(0)
    shape = (3, 4, 2, convs, None, kernel)
    pairs = [
        (Encoder(*shape, latent_activation), plain_encoder(4, 2, convs, kernel, latent_activation == "relu")),
        (Decoder(*shape), plain_decoder(4, 2, convs, kernel)),
    ]
    sample = torch.rand(2, 3, 24, 32) * 2 - 1
    for ours, plain in pairs:
        randomize(ours)
        copy_parameters(ours, plain)
        ours, plain = ours.double(), plain.double()
        values = {}
        for name, network in (("ours", ours), ("plain", plain)):
            x = sample.double().requires_grad_()
            y = network(x)
            (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
            values[name] = [y, x.grad, *(p.grad for p in network.parameters())]
        for got, expected in zip(values["ours"], values["plain"], strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-7)
        with torch.no_grad():
            torch.testing.assert_close(ours.float()(sample), plain(sample.double()).float(), rtol=1e-3, atol=1e-3)
        sample = values["ours"][0].detach().float()  # the decoder gets the encoder's latent


def test_decoder_is_finish_of_a_linear_expand() -> None:
    torch.manual_seed(0)
    decoder = Decoder(width=4, blocks=1, embedding_kernel=3)
    a, b = torch.randn(2, 1, 16, 4, 5)
    torch.testing.assert_close(decoder(a), decoder.finish(decoder.expand(a)), rtol=0, atol=0)
    mixed = decoder.expand(0.25 * a + 0.75 * b)
    torch.testing.assert_close(mixed, 0.25 * decoder.expand(a) + 0.75 * decoder.expand(b))
    assert decoder(a).abs().max() <= 1


def test_critic_equals_plain_layers() -> None:
    torch.manual_seed(0)
    critic = Critic(channels=1, width=4, layers=3, negative_slope=0.2)
    x = torch.randn(2, 1, 16, 24)
    weights = dict(critic.named_parameters())
    h = x
    for i in range(3):
        convolved = F.conv2d(h, weights[f"hidden.{2 * i}.weight"], weights[f"hidden.{2 * i}.bias"], stride=2, padding=1)
        h = torch.where(convolved > 0, convolved, 0.2 * convolved)
    expected = F.conv2d(h, weights["output.weight"], padding=1)
    torch.testing.assert_close(critic(x), expected)


def test_residual_block_refuses_other_depths() -> None:
    with pytest.raises(ValueError, match="1 or 2 convolutions, got 3"):
        ResidualBlock(4, convs=3)


@pytest.mark.parametrize(("init", "std"), [("normal", 0.02), ("normal", 0.1), ("default", None)])
def test_initial_weights(init: str, std: float | None) -> None:
    torch.manual_seed(0)
    network = nn.ModuleList([Encoder(width=16, blocks=1), Decoder(width=16, blocks=1), Critic(width=16, layers=3)])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    initialize_weights(network, init, std or 0.02)
    for name, layer in network.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            if std is None:
                torch.testing.assert_close(layer.weight, before[f"{name}.weight"], rtol=0, atol=0)
                continue
            n = layer.weight.numel()
            assert abs(layer.weight.std().item() / std - 1) < 5 / (2 * n) ** 0.5 + 1e-3, name
            assert abs(layer.weight.mean().item()) < 5 * std / n**0.5, name
            assert layer.bias is None or not layer.bias.any()
        elif "norm" in type(layer).__name__.lower():
            assert (layer.weight == 1).all() and not layer.bias.any()


def test_pixel_latent_critic_judges_each_position_alone() -> None:
    torch.manual_seed(0)
    critic, latent = PixelLatentCritic(6), torch.randn(2, 6, 3, 5)
    logits = critic(latent)
    assert logits.shape == (2, 1, 3, 5)
    shuffled = latent.flatten(2)[:, :, torch.randperm(15)]
    torch.testing.assert_close(
        critic(shuffled[..., None]).flatten().sort().values, logits.flatten().sort().values, rtol=1e-5, atol=1e-6
    )


def test_initialize_weights_refuses_other_names() -> None:
    with pytest.raises(ValueError, match="xavier"):
        initialize_weights(Critic(width=4, layers=1), "xavier")


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (Encoder(width=4, blocks=1, embedding_kernel=2), (2, 3, 16, 24)),
        (Decoder(width=4, blocks=1, residual_convs=1, embedding_kernel=2), (2, 16, 3, 5)),
        (Critic(width=4, layers=2), (2, 3, 16, 24)),
        (LatentCritic(16, width=4), (2, 16, 4, 6)),
        (PixelLatentCritic(16), (2, 16, 4, 6)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_compiles_in_one_graph(network: nn.Module, shape: tuple[int, ...]) -> None:
    # aot_eager traces, functionalises and splits forward from backward as inductor does, without its minutes of g++.
    torch.manual_seed(0)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    x = torch.randn(shape, requires_grad=True)
    gradients = []
    for function in (network, compiled):
        y = function(x)
        gradients.append([y, *torch.autograd.grad(y.square().sum(), [x, *network.parameters()])])
    for got, expected in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
