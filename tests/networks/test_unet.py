"""The U-net, the generators of vectors and the patch critic: pix2pix's rows, patches' sizes, and noise that arrives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from jdm_fast.networks import ImageFromVectors, ModulatedInstanceNorm, PatchCritic, UNet, VectorGenerator
from tests.networks.test_tables import conv_rows, meta


@pytest.mark.parametrize(("side", "depth"), [(256, 8), (128, 7), (64, 6), (32, 5)])
def test_unet_is_pix2pix_s(side: int, depth: int) -> None:
    with torch.device("meta"):
        network = UNet(3, 3, depth=depth)
    widths = [64, 128, 256, 512, 512, 512, 512, 512][:depth]
    down = [("CONV", w, 4, 2, 1, w, side >> k + 1, side >> k + 1) for k, w in enumerate(widths)]
    up = [("DECONV", w, 4, 2, 1, w, side >> k, side >> k) for k, w in reversed(list(enumerate([3, *widths[:-1]])))]
    assert conv_rows(network, meta(1, 3, side, side)) == down + up


def test_unet_has_pix2pix_s_parameters_but_for_its_norms() -> None:
    """unet_256 has 54,408,832 weights in its convolutions and 3 biases at its end; ours add those of un-normed ones."""
    with torch.device("meta"):
        network = UNet(3, 3)
    weights = [layer.weight for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))]
    channels = [3, 64, 128, 256, 512, 512, 512, 512, 512]
    expected = sum(16 * a * b for a, b in zip(channels[:-1], channels[1:], strict=True))
    expected += sum(
        16 * a * b for a, b in [(512, 512), *[(1024, 512)] * 3, (1024, 256), (512, 128), (256, 64), (128, 3)]
    )
    assert sum(weight.numel() for weight in weights) == expected


@pytest.mark.parametrize("noise_at", ["layers", "bottleneck"])
@pytest.mark.parametrize("size", [(8, 8), (16, 24)])
def test_noise_and_vector_arrive_at_every_sample_of_their_own(noise_at: str, size: tuple[int, int]) -> None:
    network = UNet(3, 2, width=4, depth=3, max_width=8, noise=5, vector=3, noise_at=noise_at).double()
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    noise = torch.randn(2, 5, size[0] // 8, size[1] // 8, dtype=torch.float64)
    vector = torch.randn(2, 3, dtype=torch.float64)
    base = network(images, noise, vector)
    assert base.shape == (2, 2, *size) and base.abs().max() <= 1
    for changed in ((images, noise + torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), vector),
                    (images, noise, vector + torch.tensor([[0.0], [1.0]])),
                    (images + torch.tensor([0.0, 0.1]).view(2, 1, 1, 1), noise, vector)):  # fmt: skip
        other = network(*changed)
        assert torch.equal(other[0], base[0]), "samples do not depend on each other"
        assert not torch.allclose(other[1], base[1], atol=1e-6)


def test_an_instance_norm_wipes_out_constant_noise_and_modulation_brings_it_back() -> None:
    """Why noise at the bottleneck is lost on its way: a norm takes away a plane's mean, where noise has put it."""
    feature, noise = torch.rand(2, 4, 6, 6, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    modulated = ModulatedInstanceNorm(4, 4).double()
    plain = lambda x: modulated(x, torch.zeros(2, 4, dtype=torch.float64))  # noqa: E731  # scale 1, shift 0
    torch.testing.assert_close(plain(feature + noise[:, :, None, None]), plain(feature), rtol=1e-9, atol=1e-9)
    assert (modulated(feature, noise) - plain(feature)).abs().mean() > 0.1


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu"])
def test_modulated_norm_is_its_formula(activation: str, channels_last: bool) -> None:
    layer = ModulatedInstanceNorm(3, 4, activation=activation, negative_slope=0.2).double()
    x, style = torch.randn(2, 3, 5, 7, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()

    def formula(x: Tensor) -> Tensor:
        scale, shift = layer.modulation(style)[:, :, None, None].chunk(2, 1)
        normed = (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
        out = normed * (1 + scale) + shift
        return {"none": out, "relu": out.relu(), "leaky_relu": nn.functional.leaky_relu(out, 0.2)}[activation]

    made, expected = layer(x, style), formula(x)
    torch.testing.assert_close(made, expected)
    parameters = [x, *layer.parameters()]
    for got, wanted in zip(
        torch.autograd.grad(made.square().sum(), parameters),
        torch.autograd.grad(expected.square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


def test_dropout_is_pix2pix_s_and_off_after_training() -> None:
    network = UNet(3, 3, width=4, depth=5, max_width=8, dropout=0.5)
    images = torch.rand(2, 3, 32, 32)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


@pytest.mark.parametrize(("layers", "patch"), [(3, 70), (2, 34), (1, 16)])
def test_a_logit_sees_a_patch(layers: int, patch: int) -> None:
    """Without norms, whose statistics are those of the whole map, a logit depends on its patch and nothing else."""
    critic = PatchCritic(2, 5, width=2, layers=layers, max_width=4, norm="none").double()
    images = torch.rand(1, 2, 3 * patch, 3 * patch, dtype=torch.float64, requires_grad=True)
    logits = critic(images)
    assert logits.shape[1] == 5
    middle = logits[0, :, logits.shape[2] // 2, logits.shape[3] // 2].sum()
    (gradient,) = torch.autograd.grad(middle, images)
    touched = gradient[0].abs().sum(0).nonzero()
    assert (touched.max(0).values - touched.min(0).values + 1).tolist() == [patch, patch]


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_smallest_side_leaves_one_logit(layers: int) -> None:
    least = PatchCritic.minimum_side(layers)
    critic = PatchCritic(3, 4, width=2, layers=layers, max_width=4)
    assert critic(torch.rand(1, 3, least, least)).shape == (1, 4, 1, 1)
    with pytest.raises(RuntimeError):
        critic(torch.rand(1, 3, least - 2**layers, least - 2**layers))


@pytest.mark.parametrize(("images", "vector"), [(3, 0), (0, 4), (3, 4)])
def test_critic_takes_images_vectors_or_both(images: int, vector: int) -> None:
    critic = PatchCritic(images, 4, width=4, layers=1, max_width=8, vector=vector, hidden=8)
    arguments = [torch.rand(2, 3, 16, 16) if images else None, torch.rand(2, 4) if vector else None]
    logits = critic(*arguments)
    assert logits.shape == (2, 4, 6, 6) if images else (2, 4, 1, 1)
    if vector:
        changed = critic(arguments[0], arguments[1] + torch.tensor([[0.0], [1.0]]))
        assert torch.equal(changed[0], logits[0]) and not torch.allclose(changed[1], logits[1])


@pytest.mark.parametrize("vector", [0, 3])
@pytest.mark.parametrize("depth", [2, 5])
def test_images_from_vectors(depth: int, vector: int) -> None:
    network = ImageFromVectors(3, width=4, depth=depth, max_width=8, noise=5, vector=vector)
    noise, given = torch.randn(2, 5, 1, 2), torch.randn(2, 3) if vector else None
    images = network(noise, given)
    assert images.shape == (2, 3, 2**depth, 2 ** (depth + 1)) and images.abs().max() <= 1
    again = network(noise + torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), given)
    assert torch.allclose(again[0], images[0], atol=1e-6) and not torch.allclose(again[1], images[1], atol=1e-3)
    with pytest.raises(ValueError, match="depth"):
        ImageFromVectors(3, depth=1)


@pytest.mark.parametrize(("channels", "vector"), [(3, 0), (0, 4), (3, 4)])
def test_vectors_from_everything(channels: int, vector: int) -> None:
    network = VectorGenerator(channels, vector, 7, noise=5, width=4, depth=3, max_width=8, hidden=8)
    images = torch.rand(2, 3, 16, 16) if channels else None
    given, noise = torch.randn(2, 4) if vector else None, torch.randn(2, 5)
    made = network(images, noise, given)
    assert made.shape == (2, 7)
    assert not torch.allclose(network(images, noise + 1, given), made)
