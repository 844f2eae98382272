"""The two-step baseline samples as one would by hand, and its methods train with the trainer's engines."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jdm_fast.errors import UserError
from jdm_fast.methods import TwoStep
from tests.methods.baseline_cases import SIZE, make_batch, make_cyclegan, make_pix2pix, make_wgan_gp
from tests.training.engine_cases import build, steps

MAKERS: dict[str, Any] = {"wgan-gp": make_wgan_gp, "pix2pix": make_pix2pix, "cyclegan": make_cyclegan}
conditionals = pytest.mark.parametrize("kind", ["pix2pix", "cyclegan"])


def make(kind: str = "pix2pix") -> TwoStep:
    return TwoStep(make_wgan_gp(torch.float32), MAKERS[kind](torch.float32)).eval()


@conditionals
@pytest.mark.parametrize(
    ("given", "order", "expected_order"),
    [("", None, "xy"), ("", "xy", "xy"), ("", "yx", "yx"), ("x", None, "xy"), ("y", None, "yx"), ("xy", None, "xy")],
)
@torch.no_grad()
def test_sampling_is_done_by_hand(kind: str, given: str, order: str | None, expected_order: str) -> None:
    model, data = make(kind), make_batch(3, torch.float32)
    known = {name: data[name] for name in given}
    noise = model.sample_noise(3, SIZE, torch.Generator().manual_seed(1))
    if order is None:
        assert model.default_order(tuple(given)) == expected_order
    first, second = expected_order
    expected = dict(known)
    if first not in expected:
        expected[first] = model.marginals.generators[first](noise[first])
    if second not in expected:
        rows = [  # each tuple is its own, whatever else is drawn
            model.conditionals.translate(expected[first][k : k + 1], second, noise=noise[second][k : k + 1])
            for k in range(3)
        ]
        expected[second] = torch.cat(rows)
    sampled = model.sample(noise, known or None, order)
    assert list(sampled) == ["x", "y"]
    torch.testing.assert_close(sampled, expected)
    torch.testing.assert_close(model.sample(noise, known or None, order), sampled, rtol=0, atol=0)


@torch.no_grad()
def test_only_one_domain() -> None:
    model, x = make(), make_batch(3, torch.float32)["x"]
    noise = model.sample_noise(3, SIZE, torch.Generator().manual_seed(1))
    for options, expected in (
        ({}, model.marginals.marginal("y", noise["y"])),
        ({"order": "yx"}, model.marginals.marginal("y", noise["y"])),
        ({"order": "xy"}, model.sample(noise, order="xy")["y"]),
        ({"given": {"x": x}}, model.conditionals.translate(x, "y", noise=noise["y"])),
    ):
        sampled = model.sample(noise, only="y", **options)
        assert list(sampled) == ["y"]
        torch.testing.assert_close(sampled["y"], expected)


@pytest.mark.parametrize(("kind", "differs"), [("pix2pix", True), ("cyclegan", False)])
@torch.no_grad()
def test_several_draws_of_one_condition(kind: str, differs: bool) -> None:
    """pix2pix has dropout for noise; CycleGAN has none."""
    model, x = make(kind), make_batch(1, torch.float32)["x"].expand(4, -1, -1, -1)
    y = model.sample(model.sample_noise(4, SIZE, torch.Generator().manual_seed(1)), {"x": x})["y"]
    distance = (y[1:] - y[:1]).abs().mean().item()
    assert (distance > 1e-3) == differs and (differs or distance < 1e-6)


def test_attributes() -> None:
    model = TwoStep(make_wgan_gp(torch.float32, depth=4), make_pix2pix(torch.float32))
    assert model.domains == model.image_domains == ("x", "y") and model.vectors == {}
    assert (model.size_multiple, model.minimum_size) == (16, 16)
    assert model.sample_noise(2)["y"].shape == (2, 5, 1, 1)
    assert model.sample_noise(2, (16, 32))["x"].shape == (2, 5, 1, 2)
    with torch.no_grad():
        assert model.sample(model.sample_noise(2))["y"].shape == (2, 3, 16, 16)
        x = make_batch(dtype=torch.float32)["x"]
        assert torch.equal(model.translate(x, "y"), model.conditionals.translate(x, "y"))
    larger = TwoStep(make_wgan_gp(torch.float32), make_cyclegan(torch.float32, depth=4))
    assert larger.sample_noise(1)["x"].shape == (1, 5, 2, 2)  # 16x16, as the conditionals need


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"given": {"z": torch.zeros(2, 3, *SIZE)}}, "there is no domain z; the domains are x, y"),
        ({"order": "xz"}, "order: there is no domain z"),
        ({"order": "xx"}, "order: an order names each of the domains x, y once, got 'xx'"),
        ({"order": "x"}, "order: an order names each"),
        ({"order": "yx", "given": {"x": torch.zeros(2, 3, *SIZE)}}, "order: yx must begin with the given domains x"),
        ({"given": {"x": torch.zeros(2, 1, *SIZE)}}, r"expected \[N, 3, H, W\]"),
        ({"given": {"x": torch.zeros(2, 3, 12, 8)}}, "height 12.*multiples of 8"),
        ({"only": "q"}, "there is no domain q"),
        ({"only": "x", "given": {"x": torch.zeros(2, 3, *SIZE)}}, "only: x is given"),
    ],
)
def test_bad_sampling(options: dict[str, Any], words: str) -> None:
    model = make()
    with pytest.raises(UserError, match=words):
        model.sample(model.sample_noise(2, SIZE), **options)


def test_models_that_do_not_fit_together() -> None:
    pix2pix = make_pix2pix(torch.float32)
    with pytest.raises(UserError, match="the same domains, got x, y, z of the marginals and x, y of the conditionals"):
        TwoStep(make_wgan_gp(torch.float32, domains=3), pix2pix)
    with pytest.raises(UserError, match="the same channels, got 1 of the marginals and 3"):
        TwoStep(make_wgan_gp(torch.float32, channels=1), pix2pix)
    with pytest.raises(UserError, match="size: images of height 12 and width 8.*multiples of 8"):
        make().sample_noise(1, (12, 8))


# ---- training


@pytest.mark.parametrize("name", MAKERS)
def test_engines_train_them(name: str) -> None:
    """Eager and with compiled regions, to the same weights; the critics of WGAN-GP stay eager."""
    batches = [make_batch(2, seed=seed) for seed in (1, 2)]
    states, losses = [], []
    for kind, options in (("eager", {}), ("compile", {"backend": "aot_eager"})):
        method = MAKERS[name]()
        losses.append(steps(build(kind, method, **options), batches))
        states.append(method.state_dict())
    torch.testing.assert_close(losses[1], losses[0])
    start = MAKERS[name]().state_dict()
    changed = [key for key, value in states[0].items() if not torch.equal(value, start[key])]
    assert len(changed) >= len(start) - 2  # the last biases of WGAN-GP's critics cancel
    torch.testing.assert_close(states[1], states[0], rtol=1e-6, atol=1e-6)
