"""pix2pix's objective against eqs. (1), (3), (4), written out plainly one pair at a time; its dropout is noise."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from jdm_fast.errors import UserError
from jdm_fast.methods import METHODS, Method, Pix2Pix, Pix2PixConfig
from jdm_fast.methods.noise import share_of_batch
from jdm_fast.methods.pix2pix import Dropout
from tests.methods.baseline_cases import (
    SIZE,
    alone,
    assert_each_update_reaches_its_own_parameters,
    assert_losses_are_float32,
    average,
    count_calls,
    detach,
    l1,
    make_batch,
    make_pix2pix,
)


def log_d(logits: Tensor) -> Tensor:
    return torch.log(torch.sigmoid(logits)).mean()


def log_one_minus_d(logits: Tensor) -> Tensor:
    return torch.log(1 - torch.sigmoid(logits)).mean()


def test_losses_are_the_paper_s() -> None:
    model, batch = make_pix2pix(dropout=0.0, paired_weight=30.0), make_batch()
    pairs = list(zip(batch["x"], batch["y"], strict=True))
    G, F = alone(model.generators["y"]), alone(model.generators["x"])
    stacked_y, stacked_x = alone(model.critics["y"]), alone(model.critics["x"])

    def Dy(x: Tensor, y: Tensor) -> Tensor:
        return stacked_y(torch.cat([x, y]))

    def Dx(y: Tensor, x: Tensor) -> Tensor:  # the condition comes first
        return stacked_x(torch.cat([y, x]))

    fakes = model.generate(batch)
    torch.testing.assert_close(fakes["translation_y"], torch.stack([G(x) for x, _ in pairs]))
    torch.testing.assert_close(fakes["translation_x"], torch.stack([F(y) for _, y in pairs]))
    assert set(fakes) == {"translation_x", "translation_y"}

    to_y = average([log_d(Dy(x, y)) + log_one_minus_d(Dy(x, G(x).detach())) for x, y in pairs])
    to_x = average([log_d(Dx(y, x)) + log_one_minus_d(Dx(y, F(y).detach())) for x, y in pairs])
    loss, terms = model.critic_loss(batch, detach(fakes))
    torch.testing.assert_close(loss, -0.5 * (to_y + to_x))
    torch.testing.assert_close(terms, {"critic_x": -to_x.detach(), "critic_y": -to_y.detach()})
    critics = model.critic_parameters()
    for got, plain in zip(
        torch.autograd.grad(loss, critics), torch.autograd.grad(-0.5 * (to_y + to_x), critics), strict=True
    ):
        torch.testing.assert_close(got, plain, rtol=1e-6, atol=1e-10)

    by_hand = {
        "adversarial_y": average([-log_d(Dy(x, G(x))) for x, _ in pairs]),
        "adversarial_x": average([-log_d(Dx(y, F(y))) for _, y in pairs]),
        "paired_y": average([l1(y, G(x)) for x, y in pairs]),
        "paired_x": average([l1(x, F(y)) for x, y in pairs]),
    }
    expected = by_hand["adversarial_x"] + by_hand["adversarial_y"] + 30.0 * (by_hand["paired_x"] + by_hand["paired_y"])
    loss, terms = model.generator_loss(batch, fakes)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(terms, detach(by_hand))
    generators = model.generator_parameters()
    for got, plain in zip(
        torch.autograd.grad(loss, generators), torch.autograd.grad(expected, generators), strict=True
    ):
        torch.testing.assert_close(got, plain, rtol=1e-6, atol=1e-10)


def test_work_is_done_once() -> None:
    model, batch = make_pix2pix(torch.float32), make_batch(dtype=torch.float32)
    calls = count_calls(model)
    fakes = model.generate(batch)
    assert calls == {"Gx": 1, "Gy": 1}
    for ask in (lambda: model.critic_loss(batch, detach(fakes)), lambda: model.generator_loss(batch, fakes)):
        calls.clear()
        ask()
        assert calls == {"Dx": 1, "Dy": 1}


@pytest.mark.parametrize("options", [{}, {"dropout": 0.0}, {"channels": 1, "init": "normal"}])
def test_each_update_reaches_its_own_parameters(options: dict[str, Any]) -> None:
    model = make_pix2pix(torch.float32, **options)
    assert_each_update_reaches_its_own_parameters(model, make_batch(4, torch.float32, channels=model.config.channels))


def test_losses_are_float32() -> None:
    assert_losses_are_float32(make_pix2pix(torch.float32), make_batch(dtype=torch.float32))


# ---- dropout


def test_dropout() -> None:
    dropout, ones = Dropout(0.25), torch.ones(50, 4, 20, 20)
    torch.manual_seed(0)
    made = dropout(ones)
    torch.testing.assert_close(made.unique(), torch.tensor([0, 4 / 3]))
    assert (made == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    torch.manual_seed(0)
    assert torch.equal(dropout.eval()(ones), made)  # after training too
    assert dropout(ones.bfloat16()).dtype == torch.bfloat16
    with dropout.seeded([3, 4, 3]):
        a, b, c = dropout(ones[:3])
    assert torch.equal(a, c) and not torch.equal(a, b)
    with dropout.seeded([4]):
        assert torch.equal(dropout(ones[:1])[0], b)


def test_processes_share_the_masks_of_a_batch() -> None:
    model, batch = make_pix2pix(), make_batch(4)
    parts = []
    for rank, world_size in ((0, 1), (0, 2), (1, 2)):
        share = slice(4 * rank // world_size, 4 * (rank + 1) // world_size)
        with share_of_batch(rank, world_size):
            torch.manual_seed(6)
            parts.append(model.generate({name: value[share] for name, value in batch.items()})["translation_y"])
    torch.testing.assert_close(torch.cat(parts[1:]), parts[0])


# ---- after training


@torch.no_grad()
def test_translate() -> None:
    model, batch = make_pix2pix(torch.float32).eval(), make_batch(dtype=torch.float32)
    x, noise = batch["x"], torch.randn(2, 5, 1, 2, generator=torch.Generator().manual_seed(1))
    state = torch.get_rng_state()
    first = model.translate(x, "y")
    assert torch.equal(first, model.translate(x, to="y", source="x"))
    torch.testing.assert_close(model.translate(x[1:], "y"), first[1:])  # whatever else is in the batch
    chosen = model.translate(x, "y", noise=noise)
    assert torch.equal(chosen, model.translate(x, "y", noise=noise.clone()))
    assert not torch.allclose(chosen, first, atol=1e-3)
    torch.testing.assert_close(model.translate(x[1:], "y", noise=noise[1:]), chosen[1:])
    assert torch.equal(torch.get_rng_state(), state)  # a training that is going on is left alone
    assert first.shape == x.shape and not torch.allclose(first, model.translate(x, "x"), atol=1e-3)

    plain = make_pix2pix(torch.float32, dropout=0.0).eval()
    assert torch.equal(plain.translate(x, "y"), plain.translate(x, "y", noise=noise))
    torch.testing.assert_close(plain.translate(x, "y"), plain.generate(batch)["translation_y"])


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda m, x: m.translate(x, "z"), UserError, "there is no domain z; the domains are x, y"),
        (lambda m, x: m.translate(x, "y", "q"), UserError, "there is no domain q"),
        (lambda m, x: m.translate(x, "y", "y"), UserError, "images of y are of y already; expected x"),
        (lambda m, x: m.translate(x[:, :1], "y"), UserError, r"expected \[N, 3, H, W\], as method.channels=3, got"),
        (lambda m, x: m.translate(x[..., :12], "y"), UserError, "width 12.*multiples of 8"),
        (lambda m, x: m.translate(x, "y", noise=x[:1]), ValueError, "noise: expected 2 samples.*got 1"),
        (lambda m, x: m.generate({"x": x, "y": x[:1]}), ValueError, "same shape"),
        (lambda m, x: m.generate({"x": x[..., :12], "y": x[..., :12]}), UserError, "multiples of 8"),
    ],
)
def test_bad_input(call: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call(make_pix2pix(torch.float32), make_batch(dtype=torch.float32)["x"])


def test_check_size() -> None:
    with torch.device("meta"):
        model = Pix2Pix()
        assert (model.minimum_size, model.size_multiple) == (256, 256)
        model.check_size(256, 512)
        with pytest.raises(UserError, match="height 128.*method.depth=8 needs sides that are multiples of 256"):
            model.check_size(128, 256)
        with pytest.raises(UserError, match="method.critic_layers=3 needs sides of at least 24"):
            Pix2Pix(Pix2PixConfig(depth=4)).check_size(16, 32)


# ---- configuration


def test_defaults_are_the_paper_s() -> None:
    c = Pix2PixConfig()
    assert (c.paired_weight, c.dropout, c.critic_layers, c.init, c.init_std) == (100.0, 0.5, 3, "normal", 0.02)
    assert Pix2PixConfig(**json.loads(json.dumps(dataclasses.asdict(c)))) == c
    with torch.device("meta"):
        model = Pix2Pix()
    assert sum(isinstance(layer, Dropout) for layer in model.modules()) == 2
    # Their unet_256 without batch norm's running statistics has 54.41 M and their critic 2.77 M weights.
    assert sum(p.numel() for p in model.generators["y"].parameters()) == pytest.approx(54.41e6, rel=1e-3)
    assert sum(p.numel() for p in model.critics["y"].parameters()) == pytest.approx(2.77e6, rel=1e-3)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("channels", 0, "an integer of at least 1"),
        ("depth", 1, "an integer of at least 2"),
        ("critic_layers", 2.0, "an integer of at least 1"),
        ("paired_weight", -1.0, "a finite number of at least 0"),
        ("dropout", 1.0, "a number from 0 to below 1"),
        ("dropout", -0.1, "a number from 0 to below 1"),
        ("init", "xavier", "one of normal, default"),
        ("init_std", "1", "a finite number of at least 0"),
    ],
)
def test_bad_configurations(field: str, value: object, expected: str) -> None:
    with pytest.raises(UserError) as error:
        Pix2PixConfig(**{field: value})
    message = str(error.value)
    assert f"method.{field}" in message and expected in message and repr(value) in message


def test_registry() -> None:
    spec = METHODS["pix2pix"]
    with torch.device("meta"):
        model = spec.method_class(spec.config_class(depth=3, critic_layers=1))
        assert model.translate(torch.empty(1, 3, *SIZE), "x").shape == (1, 3, *SIZE)
    assert isinstance(model, Method) and isinstance(model, Pix2Pix)
    assert model.domains == model.image_domains == ("x", "y") and model.vectors == {}
    assert (model.pooled, model.together) == ((), (("x", "y"),))
    assert set(model.regions()) == {*model.generators.values(), *model.critics.values()}
