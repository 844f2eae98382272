"""WGAN-GP's objective against eq. (3), written out plainly one sample at a time; its domains are apart."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from jdm_fast.errors import UserError
from jdm_fast.methods import METHODS, WGANGP, Method, WGANGPConfig
from jdm_fast.methods.noise import normal, share_of_batch
from tests.methods.baseline_cases import (
    SIZE,
    alone,
    assert_each_update_reaches_its_own_parameters,
    assert_losses_are_float32,
    average,
    count_calls,
    detach,
    make_batch,
    make_wgan_gp,
)


def test_generate_equals_one_sample_at_a_time() -> None:
    model, batch = make_wgan_gp(), make_batch()
    torch.manual_seed(2)
    fakes = model.generate(batch)
    torch.manual_seed(2)
    noise = {name: torch.randn(2, 5, 1, 2, dtype=torch.float64) for name in "xy"}
    assert set(fakes) == {"sample_x", "sample_y"}
    for name in "xy":
        expected = torch.stack([alone(model.generators[name])(z) for z in noise[name]])
        torch.testing.assert_close(fakes[f"sample_{name}"], expected)
    assert fakes["sample_x"].shape == batch["x"].shape


def losses_by_hand(model: WGANGP, batch: dict[str, Tensor], fakes: dict[str, Tensor], weight: float) -> dict[str, Any]:
    """E[D(x̃)] - E[D(x)], its penalty, and -E[D(x̃)], by name; ε as the model draws it."""
    result: dict[str, Any] = {}
    for name in model.domains:
        D = alone(model.critics[name])
        epsilon = torch.rand(2, 1, 1, 1, dtype=torch.float64)
        real, fake = batch[name], fakes[f"sample_{name}"]
        penalties = []
        for e, x, x_tilde in zip(epsilon, real, fake.detach(), strict=True):
            x_hat = (e * x + (1 - e) * x_tilde).requires_grad_(True)
            (gradient,) = torch.autograd.grad(D(x_hat).mean(), x_hat, create_graph=True)
            penalties.append((gradient.square().sum().sqrt() - 1) ** 2)
        of_fake = average([D(x).mean() for x in fake])
        result[f"critic_{name}"] = of_fake - average([D(x).mean() for x in real])
        result[f"gradient_penalty_{name}"] = average(penalties)
        result[f"adversarial_{name}"] = -of_fake
    return result


@pytest.mark.parametrize("weight", [10.0, 3.0])
def test_losses_are_the_paper_s(weight: float) -> None:
    model, batch = make_wgan_gp(gradient_penalty_weight=weight), make_batch()
    fakes = model.generate(batch)
    torch.manual_seed(3)
    by_hand = losses_by_hand(model, batch, detach(fakes), weight)
    expected = sum(by_hand[f"critic_{name}"] + weight * by_hand[f"gradient_penalty_{name}"] for name in "xy")
    torch.manual_seed(3)
    loss, terms = model.critic_loss(batch, detach(fakes))
    torch.testing.assert_close(loss, expected)
    assert set(terms) == {f"{kind}_{name}" for kind in ("critic", "gradient_penalty") for name in "xy"}
    critics = model.critic_parameters()
    for got, plain in zip(
        torch.autograd.grad(loss, critics, allow_unused=True),
        torch.autograd.grad(expected, critics, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(got, plain, rtol=1e-7, atol=1e-12)

    by_hand = losses_by_hand(model, batch, fakes, weight)
    loss, generator_terms = model.generator_loss(batch, fakes)
    expected = by_hand["adversarial_x"] + by_hand["adversarial_y"]
    torch.testing.assert_close(loss, expected)
    assert set(generator_terms) == {"adversarial_x", "adversarial_y"}
    for name, term in (terms | generator_terms).items():
        if not name.startswith("gradient"):  # its ε was drawn anew
            torch.testing.assert_close(term, by_hand[name].detach())
    generators = model.generator_parameters()
    plains = torch.autograd.grad(expected, generators, retain_graph=True)  # the fakes' graph is one
    for got, plain in zip(torch.autograd.grad(loss, generators), plains, strict=True):
        torch.testing.assert_close(got, plain, rtol=1e-7, atol=1e-12)


def test_without_a_penalty_there_is_none() -> None:
    model, batch = make_wgan_gp(gradient_penalty_weight=0.0), make_batch()
    loss, terms = model.critic_loss(batch, detach(model.generate(batch)))
    assert set(terms) == {"critic_x", "critic_y"}
    torch.testing.assert_close(loss.detach(), terms["critic_x"] + terms["critic_y"])
    assert set(model.critics.values()) <= set(model.regions())
    assert not set(model.critics.values()) & set(make_wgan_gp().regions())  # differentiated twice


def test_work_is_done_once() -> None:
    model, batch = make_wgan_gp(torch.float32), make_batch(dtype=torch.float32)
    calls = count_calls(model)
    fakes = model.generate(batch)
    assert calls == {"Gx": 1, "Gy": 1}
    calls.clear()
    model.critic_loss(batch, detach(fakes))
    assert calls == {"Dx": 2, "Dy": 2}  # the penalty's points are their own
    calls.clear()
    model.generator_loss(batch, fakes)
    assert calls == {"Dx": 1, "Dy": 1}


def test_training_together_is_training_apart() -> None:
    """The gradients of x's networks are the same whatever y's data and networks are."""
    gradients = []
    for seed in (1, 2):
        model, batch = make_wgan_gp(), make_batch()
        if seed == 2:
            batch["y"] = make_batch(seed=9)["y"]
            for p in (*model.generators["y"].parameters(), *model.critics["y"].parameters()):
                p.data.mul_(1.5)
        torch.manual_seed(4)
        fakes = model.generate(batch)
        loss = model.critic_loss(batch, detach(fakes))[0] + model.generator_loss(batch, fakes)[0]
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    own = [name for name in gradients[0] if ".x." in name]
    assert own and all(torch.equal(gradients[0][name], gradients[1][name]) for name in own)
    others = [name for name in gradients[0] if ".y." in name and gradients[0][name].dim() > 1]
    assert others and not any(torch.equal(gradients[0][name], gradients[1][name]) for name in others)


def test_a_domain_of_several_pairs() -> None:
    model = make_wgan_gp(domains=3)
    batch = make_batch(keys=("x", "y_xy", "y_yz", "z"))
    fakes = model.generate(batch)
    assert {name: len(fake) for name, fake in fakes.items()} == {"sample_x": 2, "sample_y": 4, "sample_z": 2}
    torch.manual_seed(5)
    _, terms = model.critic_loss(batch, detach(fakes))
    real = torch.cat([batch["y_xy"], batch["y_yz"]])
    expected = model.critics["y"](fakes["sample_y"]).mean() - model.critics["y"](real).mean()
    torch.testing.assert_close(terms["critic_y"], expected.detach())
    with pytest.raises(ValueError, match="expected images of z, got the keys x, y"):
        model.generate(make_batch())


@pytest.mark.parametrize("options", [{}, {"domains": 1}, {"domains": 3, "channels": 1, "gradient_penalty_weight": 0.0}])
def test_each_update_reaches_its_own_parameters(options: dict[str, Any]) -> None:
    model = make_wgan_gp(torch.float32, **options)
    batch = make_batch(2, torch.float32, model.domains, model.config.channels)
    assert_each_update_reaches_its_own_parameters(model, batch)


def test_losses_are_float32() -> None:
    assert_losses_are_float32(make_wgan_gp(torch.float32), make_batch(dtype=torch.float32))


def test_processes_share_the_noise_of_a_batch() -> None:
    model, batch = make_wgan_gp(), make_batch(4)
    parts = []
    for rank, world_size in ((0, 1), (0, 2), (1, 2)):
        share = slice(4 * rank // world_size, 4 * (rank + 1) // world_size)
        with share_of_batch(rank, world_size):
            torch.manual_seed(6)
            parts.append(model.generate({name: value[share] for name, value in batch.items()})["sample_y"])
    torch.testing.assert_close(torch.cat(parts[1:]), parts[0])
    like = torch.empty(1)
    torch.manual_seed(7)
    drawn = normal((3, 2), like)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.randn(3, 2))


# ---- after training


def test_sampling() -> None:
    model = make_wgan_gp(torch.float32)
    noise = model.sample_noise(3, SIZE, torch.Generator().manual_seed(1))
    assert {name: value.shape for name, value in noise.items()} == dict.fromkeys("xy", (3, 5, 1, 2))
    again = model.sample_noise(3, SIZE, torch.Generator().manual_seed(1))
    assert torch.equal(noise["y"], again["y"]) and not torch.equal(noise["x"], noise["y"])
    assert model.sample_noise(1)["x"].shape == (1, 5, 1, 1)
    with torch.no_grad():
        sampled = model.sample(noise)
        assert set(sampled) == {"x", "y"} and sampled["x"].shape == (3, 3, *SIZE)
        assert sampled["x"].abs().max() <= 1
        for name in "xy":
            torch.testing.assert_close(sampled[name], model.marginal(name, noise[name]))
        assert set(model.sample(noise, only="y")) == {"y"}
    for message, call in (
        ("there is no domain q; the domains are x, y", lambda: model.marginal("q", noise["x"])),
        ("there is no domain q", lambda: model.sample(noise, only="q")),
        ("x cannot be given: wgan-gp has the marginal", lambda: model.sample(noise, given={"x": sampled["x"]})),
        ("height 12 and width 16.*multiples of 8", lambda: model.sample_noise(1, (12, 16))),
    ):
        with pytest.raises(UserError, match=message):
            call()
    assert not hasattr(model, "translate")  # so that eval_every says it makes no translations


@pytest.mark.parametrize(
    ("height", "width", "options", "words"),
    [
        (256, 512, {}, None),
        (64, 64, {"depth": 6}, None),
        (128, 256, {}, ("height 128", "method.depth=8", "multiples of 256")),
        (64, 96, {"depth": 6}, ("width 96", "multiples of 64")),
        (8, 8, {"depth": 3, "critic_layers": 2}, ("method.critic_layers=2 needs sides of at least 12",)),
    ],
)
def test_check_size(height: int, width: int, options: dict[str, Any], words: tuple[str, ...] | None) -> None:
    with torch.device("meta"):
        model = WGANGP(WGANGPConfig(**options))
    if words is None:
        return model.check_size(height, width)
    with pytest.raises(UserError) as error:
        model.check_size(height, width)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("depth", [3, 4, 5, 6])
def test_by_default_a_logit_sees_the_whole_image(depth: int) -> None:
    model = make_wgan_gp(depth=depth, critic_layers=None, domains=1)
    side = 2**depth
    model.check_size(side, side)
    image = torch.rand(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    logits = model.critics["x"](image)[0, 0]
    (gradient,) = torch.autograd.grad(logits[logits.shape[0] // 2, logits.shape[1] // 2], image)
    seen = (gradient[0].abs().sum(0) > 0).double()
    assert seen.mean() > 0.7 and seen[side // 2].any()  # an even patch is not centred on an odd map


# ---- configuration


def test_defaults() -> None:
    c = WGANGPConfig()
    assert (c.gradient_penalty_weight, c.noise, c.channels, c.domains) == (10.0, 100, 3, 2)
    assert WGANGPConfig(**json.loads(json.dumps(dataclasses.asdict(c)))) == c
    assert not any("Norm" in type(layer).__name__ for layer in make_wgan_gp().critics.modules())


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("domains", 0, "1 to 6"),
        ("domains", 7, "1 to 6"),
        ("channels", 0, "an integer of at least 1"),
        ("noise", 0, "an integer of at least 1"),
        ("width", True, "an integer of at least 1"),
        ("depth", 1, "an integer of at least 2"),
        ("critic_layers", 0, "or None for depth - 3"),
        ("gradient_penalty_weight", -1.0, "a finite number of at least 0"),
        ("init_std", float("nan"), "a finite number of at least 0"),
        ("init", "he", "one of normal, default"),
    ],
)
def test_bad_configurations(field: str, value: object, expected: str) -> None:
    with pytest.raises(UserError) as error:
        WGANGPConfig(**{field: value})
    message = str(error.value)
    assert f"method.{field}" in message and expected in message and repr(value) in message


def test_registry() -> None:
    spec = METHODS["wgan-gp"]
    with torch.device("meta"):
        model = spec.method_class(spec.config_class())
    assert isinstance(model, Method) and isinstance(model, WGANGP)
    assert model.domains == model.image_domains == ("x", "y") and model.vectors == {}
    assert (model.pooled, model.together) == ((), ())
