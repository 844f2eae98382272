"""CycleGAN's objective against its equations, written out plainly one sample and one network call at a time."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch

from jdm_fast.errors import UserError
from jdm_fast.methods import METHODS, CycleGAN, CycleGANConfig, Method
from tests.methods.baseline_cases import (
    alone,
    assert_each_update_reaches_its_own_parameters,
    assert_losses_are_float32,
    average,
    count_calls,
    detach,
    l1,
    make_batch,
    make_cyclegan,
)

identity_weights = pytest.mark.parametrize("identity_weight", [0.0, 5.0])


@identity_weights
def test_losses_are_the_paper_s(identity_weight: float) -> None:
    model, batch = make_cyclegan(identity_weight=identity_weight, cycle_weight=7.0), make_batch()
    pairs = list(zip(batch["x"], batch["y"], strict=True))
    G, F = alone(model.generators["y"]), alone(model.generators["x"])
    Dy, Dx = alone(model.critics["y"]), alone(model.critics["x"])

    fakes = model.generate(batch)
    by_hand = {
        "translation_x": [F(y) for _, y in pairs],
        "translation_y": [G(x) for x, _ in pairs],
        "cycle_x": [F(G(x)) for x, _ in pairs],
        "cycle_y": [G(F(y)) for _, y in pairs],
    }
    if identity_weight:
        by_hand |= {"identity_x": [F(x) for x, _ in pairs], "identity_y": [G(y) for _, y in pairs]}
    assert set(fakes) == set(by_hand)
    for name, rows in by_hand.items():
        torch.testing.assert_close(fakes[name], torch.stack(rows))

    of_x = average([((Dx(x) - 1) ** 2).mean() + (Dx(F(y).detach()) ** 2).mean() for x, y in pairs])
    of_y = average([((Dy(y) - 1) ** 2).mean() + (Dy(G(x).detach()) ** 2).mean() for x, y in pairs])
    loss, terms = model.critic_loss(batch, detach(fakes))
    torch.testing.assert_close(loss, 0.5 * (of_x + of_y))
    torch.testing.assert_close(terms, {"critic_x": of_x.detach(), "critic_y": of_y.detach()})

    parts = {
        "adversarial_x": average([((Dx(F(y)) - 1) ** 2).mean() for _, y in pairs]),
        "adversarial_y": average([((Dy(G(x)) - 1) ** 2).mean() for x, _ in pairs]),
        "cycle_x": average([l1(F(G(x)), x) for x, _ in pairs]),
        "cycle_y": average([l1(G(F(y)), y) for _, y in pairs]),
    }
    expected = parts["adversarial_x"] + parts["adversarial_y"] + 7.0 * (parts["cycle_x"] + parts["cycle_y"])
    if identity_weight:
        parts["identity_x"] = average([l1(F(x), x) for x, _ in pairs])
        parts["identity_y"] = average([l1(G(y), y) for _, y in pairs])
        expected = expected + identity_weight * (parts["identity_x"] + parts["identity_y"])
    loss, terms = model.generator_loss(batch, fakes)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(terms, detach(parts))
    generators = model.generator_parameters()
    for got, plain in zip(
        torch.autograd.grad(loss, generators), torch.autograd.grad(expected, generators), strict=True
    ):
        torch.testing.assert_close(got, plain, rtol=1e-6, atol=1e-10)


@identity_weights
def test_work_is_done_once(identity_weight: float) -> None:
    model, batch = make_cyclegan(torch.float32, identity_weight=identity_weight), make_batch(dtype=torch.float32)
    calls = count_calls(model)
    fakes = model.generate(batch)
    assert calls == {"Gx": 2, "Gy": 2}
    for ask in (lambda: model.critic_loss(batch, detach(fakes)), lambda: model.generator_loss(batch, fakes)):
        calls.clear()
        ask()
        assert calls == {"Dx": 1, "Dy": 1}


def test_critic_loss_uses_the_fakes_it_is_given() -> None:
    """An image pool hands over older fakes."""
    model, batch = make_cyclegan(), make_batch()
    assert model.pooled == ("translation_x", "translation_y")
    fakes = detach(model.generate(batch))
    losses = [
        model.critic_loss(batch, fakes if name is None else {**fakes, name: -fakes[name]})[0].item()
        for name in (None, *model.pooled)
    ]
    assert all(abs(loss - losses[0]) > 1e-9 for loss in losses[1:])


@pytest.mark.parametrize("options", [{}, {"identity_weight": 0.0}, {"channels": 1, "init": "normal"}])
def test_each_update_reaches_its_own_parameters(options: dict[str, Any]) -> None:
    model = make_cyclegan(torch.float32, **options)
    assert_each_update_reaches_its_own_parameters(model, make_batch(1, torch.float32, channels=model.config.channels))


def test_losses_are_float32() -> None:
    assert_losses_are_float32(make_cyclegan(torch.float32), make_batch(dtype=torch.float32))


@torch.no_grad()
def test_translate() -> None:
    model, batch = make_cyclegan().eval(), make_batch()
    fakes = model.generate(batch)
    torch.testing.assert_close(model.translate(batch["x"], "y"), fakes["translation_y"])
    torch.testing.assert_close(model.translate(batch["y"], "x", "y"), fakes["translation_x"])
    noise = torch.randn(2, 5)
    assert torch.equal(model.translate(batch["x"], "y"), model.translate(batch["x"], "y", noise=noise))


# ---- configuration; what it has in common with pix2pix is tested there


def test_defaults() -> None:
    c = CycleGANConfig()
    assert (c.cycle_weight, c.identity_weight, c.critic_layers, c.init, c.init_std) == (10.0, 5.0, 3, "normal", 0.02)
    assert CycleGANConfig(**json.loads(json.dumps(dataclasses.asdict(c)))) == c


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("width", 0, "an integer of at least 1"),
        ("cycle_weight", -1.0, "a finite number of at least 0"),
        ("identity_weight", float("inf"), "a finite number of at least 0"),
    ],
)
def test_bad_configurations(field: str, value: object, expected: str) -> None:
    with pytest.raises(UserError) as error:
        CycleGANConfig(**{field: value})
    message = str(error.value)
    assert f"method.{field}" in message and expected in message and repr(value) in message


def test_registry() -> None:
    spec = METHODS["cyclegan"]
    with torch.device("meta"):
        model = spec.method_class(spec.config_class())
    assert isinstance(model, Method) and isinstance(model, CycleGAN)
    assert model.domains == model.image_domains == ("x", "y") and model.vectors == {} and model.together == ()
    assert set(model.regions()) == {*model.generators.values(), *model.critics.values()}
