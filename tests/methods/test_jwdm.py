"""JWDM's objective against the paper's equations, written out one term and one network call at a time."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jdm_fast.errors import UserError
from jdm_fast.methods import JWDM, METHODS, JWDMConfig, Method
from jdm_fast.methods.divergences import DIVERGENCES, gradient_penalty

SMALL = {
    "width": 4,
    "blocks": 1,
    "embedding_kernel": 2,
    "critic_width": 4,
    "critic_layers": 2,
    "init": "default",
    "lambda_x": 0.1,
    "lambda_y": 0.2,
    "lambda_z": 0.3,
    "cycle_fake_weight": 0.3,
    "reconstruction_weight": 0.9,
    "cycle_weight": 1.1,
}
SIZE = (16, 24)


def make(dtype: torch.dtype = torch.float64, **options) -> JWDM:
    torch.manual_seed(0)
    return JWDM(JWDMConfig(**{**SMALL, **options})).to(dtype)


def make_batch(n: int = 2, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.rand(n, 3, *SIZE, generator=generator, dtype=torch.float64).to(dtype) * 2 - 1 for name in "xy"}


def detach(fakes: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in fakes.items()}


def letters(model: JWDM):
    """E1, E2, G1, G2, Dx, Dy, Dz as functions of one sample [C, H, W] that go through the network alone."""
    networks = [*model.encoders.values(), *model.decoders.values(), *model.critics.values()]
    return [lambda sample, network=network: network(sample[None])[0] for network in networks]


def samples(batch: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(batch["x"], batch["y"], strict=True))


def average(values: list[Tensor]) -> Tensor:
    return sum(values) / len(values)


def l1(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean()


# ---- the generators' forward pass


@pytest.mark.parametrize("identity_weight", [0.0, 0.5])
def test_generate_equals_one_sample_at_a_time(identity_weight: float) -> None:
    model, batch = make(identity_weight=identity_weight), make_batch()
    E1, E2, G1, G2, *_ = letters(model)
    with torch.no_grad():
        fakes = model.generate(batch)
        expected = [
            {
                "latent_x": E1(x),
                "latent_y": E2(y),
                "reconstruction_x": G1(E1(x)),
                "reconstruction_y": G2(E2(y)),
                "translation_x": G1(E2(y)),
                "translation_y": G2(E1(x)),
                "cycle_x": G1(E2(G2(E1(x)))),
                "cycle_y": G2(E1(G1(E2(y)))),
                **({"identity_x": G1(E2(x)), "identity_y": G2(E1(y))} if identity_weight else {}),
            }
            for x, y in samples(batch)
        ]
    assert set(fakes) == set(expected[0])
    for name, value in fakes.items():
        torch.testing.assert_close(value, torch.stack([row[name] for row in expected]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("identity_weight", [0.0, 0.5])
def test_work_is_done_once(identity_weight: float) -> None:
    model, batch = make(torch.float32, identity_weight=identity_weight), make_batch(dtype=torch.float32)
    calls: Counter[str] = Counter()
    for name, network in [
        *((f"E{k}", v) for k, v in model.encoders.items()),
        *((f"G{k}", v) for k, v in model.decoders.items()),
        *((f"D{k}", v) for k, v in model.critics.items()),
    ]:
        network.register_forward_hook(lambda *_, name=name: calls.update([name]))
    fakes = model.generate(batch)
    assert calls == {"Ex": 2, "Ey": 2, "Gx": 2, "Gy": 2}
    calls.clear()
    model.critic_loss(batch, detach(fakes))
    assert calls == {"Dx": 1, "Dy": 1, "Dlatent": 1}
    calls.clear()
    model.generator_loss(batch, fakes)
    assert calls == {"Dx": 1, "Dy": 1, "Dlatent": 1}


# ---- the critics' loss: eqs. (8), (19), (20)


def test_critic_loss_is_the_paper_s() -> None:
    model, batch = make(), make_batch()
    E1, E2, G1, G2, Dx, Dy, Dz = letters(model)

    def log_d(logits: Tensor) -> Tensor:
        return torch.log(torch.sigmoid(logits)).mean()

    def log_one_minus_d(logits: Tensor) -> Tensor:
        return torch.log(1 - torch.sigmoid(logits)).mean()

    fakes = detach(model.generate(batch))
    torch.manual_seed(2)
    prior = model.sample_prior(fakes["latent_x"])
    pairs = samples(batch)
    lam = 0.3
    d_x = (
        average([log_d(Dx(x)) for x, _ in pairs])
        + lam * average([log_one_minus_d(Dx(G1(E2(G2(E1(x)))))) for x, _ in pairs])
        + (1 - lam) * average([log_one_minus_d(Dx(G1(E2(y)))) for _, y in pairs])
    )
    d_y = (
        average([log_d(Dy(y)) for _, y in pairs])
        + lam * average([log_one_minus_d(Dy(G2(E1(G1(E2(y)))))) for _, y in pairs])
        + (1 - lam) * average([log_one_minus_d(Dy(G2(E1(x)))) for x, _ in pairs])
    )
    d_z1 = average([log_d(Dz(z)) for z in prior]) + average([log_one_minus_d(Dz(E1(x))) for x, _ in pairs])
    d_z2 = average([log_d(Dz(z)) for z in prior]) + average([log_one_minus_d(Dz(E2(y))) for _, y in pairs])
    torch.manual_seed(2)
    loss, terms = model.critic_loss(batch, fakes)
    torch.testing.assert_close(loss, -(0.1 * d_x + 0.2 * d_y + 0.3 * (d_z1 + d_z2)))
    assert set(terms) == {"critic_x", "critic_y", "critic_latent"}
    torch.testing.assert_close(terms["critic_x"], -d_x.detach())
    torch.testing.assert_close(terms["critic_latent"], -(d_z1 + d_z2).detach())
    assert not any(term.requires_grad for term in terms.values())


# ---- the generators' loss: eqs. (6), (7)


@pytest.mark.parametrize("identity_weight", [0.0, 0.5])
def test_generator_loss_is_the_paper_s(identity_weight: float) -> None:
    model, batch = make(identity_weight=identity_weight), make_batch()
    E1, E2, G1, G2, Dx, Dy, Dz = letters(model)
    pairs = samples(batch)

    def fool(logits: Tensor) -> Tensor:  # non-saturating: maximise log D(fake)
        return -torch.log(torch.sigmoid(logits)).mean()

    reconstruction_x = average([l1(x, G1(E1(x))) for x, _ in pairs])
    reconstruction_y = average([l1(y, G2(E2(y))) for _, y in pairs])
    cycle_x = average([l1(x, G1(E2(G2(E1(x))))) for x, _ in pairs])
    cycle_y = average([l1(y, G2(E1(G1(E2(y))))) for _, y in pairs])
    identity_x = average([l1(x, G1(E2(x))) for x, _ in pairs])
    identity_y = average([l1(y, G2(E1(y))) for _, y in pairs])
    lam = 0.3
    a_x = lam * average([fool(Dx(G1(E2(G2(E1(x)))))) for x, _ in pairs])
    a_x = a_x + (1 - lam) * average([fool(Dx(G1(E2(y)))) for _, y in pairs])
    a_y = lam * average([fool(Dy(G2(E1(G1(E2(y)))))) for _, y in pairs])
    a_y = a_y + (1 - lam) * average([fool(Dy(G2(E1(x)))) for x, _ in pairs])
    a_z = average([fool(Dz(E1(x))) + fool(Dz(E2(y))) for x, y in pairs])
    expected = (
        0.9 * (reconstruction_x + reconstruction_y)
        + 1.1 * (cycle_x + cycle_y)
        + identity_weight * (identity_x + identity_y)
        + 0.1 * a_x
        + 0.2 * a_y
        + 0.3 * a_z
    )
    loss, terms = model.generator_loss(batch, model.generate(batch))
    torch.testing.assert_close(loss, expected)
    values = {
        "reconstruction_x": reconstruction_x,
        "reconstruction_y": reconstruction_y,
        "cycle_x": cycle_x,
        "cycle_y": cycle_y,
        "adversarial_x": a_x,
        "adversarial_y": a_y,
        "adversarial_latent": a_z,
    }
    if identity_weight:
        values |= {"identity_x": identity_x, "identity_y": identity_y}
    assert set(terms) == set(values)
    for name, value in values.items():
        torch.testing.assert_close(terms[name], value.detach())

    # The gradient of the batched, shared forward is that of the equations.
    parameters = model.generator_parameters()
    gradients = torch.autograd.grad(loss, parameters)
    for got, plain in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(got, plain, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize(("share", "kind"), [(0.0, "translation"), (1.0, "cycle")])
def test_shares_of_zero_leave_a_fake_out(share: float, kind: str) -> None:
    model, batch = make(cycle_fake_weight=share), make_batch()
    assert model.pooled == (f"{kind}_x", f"{kind}_y")
    fakes = detach(model.generate(batch))
    _, terms = model.critic_loss(batch, fakes)
    real, fake = model.critics["x"](batch["x"]), model.critics["x"](fakes[f"{kind}_x"])
    torch.testing.assert_close(terms["critic_x"], (F.softplus(-real).mean() + F.softplus(fake).mean()).detach())


def test_critic_loss_uses_the_fakes_it_is_given() -> None:
    """An image pool hands over older fakes."""
    model, batch = make(), make_batch()
    assert model.pooled == ("cycle_x", "translation_x", "cycle_y", "translation_y")
    fakes = detach(model.generate(batch))
    losses = []
    for name in (None, *model.pooled):
        torch.manual_seed(0)
        changed = fakes if name is None else {**fakes, name: -fakes[name]}
        losses.append(model.critic_loss(batch, changed)[0].item())
    assert all(abs(loss - losses[0]) > 1e-9 for loss in losses[1:])


# ---- other divergences


@pytest.mark.parametrize("name", DIVERGENCES)
def test_every_divergence_is_wired_as_in_eq_6(name: str) -> None:
    model, batch = make(divergence=name, gradient_penalty_weight=7.0), make_batch()
    divergence = DIVERGENCES[name]
    fakes = detach(model.generate(batch))
    Dx, Dy, Dz = model.critics.values()
    parts = [
        (0.1, Dx, batch["x"], [[(0.3, fakes["cycle_x"]), (0.7, fakes["translation_x"])]]),
        (0.2, Dy, batch["y"], [[(0.3, fakes["cycle_y"]), (0.7, fakes["translation_y"])]]),
        (0.3, Dz, None, [[(1.0, fakes["latent_x"])], [(1.0, fakes["latent_y"])]]),
    ]
    torch.manual_seed(3)
    critic_loss = torch.zeros((), dtype=torch.float64)
    for weight, critic, real, mixtures in parts:
        real = model.sample_prior(fakes["latent_x"]) if real is None else real
        for mixture in mixtures:
            logits = [(share, critic(fake)) for share, fake in mixture]
            critic_loss = critic_loss + weight * divergence.critic_loss(critic(real), logits)
        if divergence.penalised:
            for mixture in mixtures:
                critic_loss = critic_loss + weight * 7.0 * gradient_penalty(critic, real, mixture)
    torch.manual_seed(3)
    loss, terms = model.critic_loss(batch, fakes)
    torch.testing.assert_close(loss, critic_loss)
    assert ("gradient_penalty_latent" in terms) == divergence.penalised
    for got, expected in zip(
        torch.autograd.grad(loss, model.critic_parameters(), allow_unused=True),
        torch.autograd.grad(critic_loss, model.critic_parameters(), allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)

    torch.manual_seed(4)
    adversarial = {}
    for domain, (_, critic, real, mixtures) in zip(("x", "y", "latent"), parts, strict=True):
        if divergence.generator_needs_real:
            real = model.sample_prior(fakes["latent_x"]) if real is None else real
            real = critic(real)
        adversarial[domain] = sum(
            divergence.generator_loss([(share, critic(fake)) for share, fake in mixture], real) for mixture in mixtures
        )
    torch.manual_seed(4)
    _, terms = model.generator_loss(batch, fakes)
    for domain, value in adversarial.items():
        torch.testing.assert_close(terms[f"adversarial_{domain}"], value.detach())


def test_the_prior_matches_the_latent() -> None:
    torch.manual_seed(0)
    like = torch.empty(4, 16, 32, 32)
    rectified, normal = make().sample_prior(like), make(latent_activation="none").sample_prior(like)
    assert rectified.shape == like.shape and rectified.min() == 0
    assert (rectified == 0).float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert normal.mean().item() == pytest.approx(0, abs=0.02) and normal.std().item() == pytest.approx(1, abs=0.02)


# ---- gradients


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("residual_convs", [1, 2])
def test_each_update_reaches_its_own_parameters(name: str, residual_convs: int) -> None:
    model = make(torch.float32, divergence=name, residual_convs=residual_convs)
    batch = make_batch(1, torch.float32)
    fakes = model.generate(batch)
    model.critic_loss(batch, detach(fakes))[0].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.critic_parameters())
    assert all(p.grad is None for p in model.generator_parameters())
    model.zero_grad(set_to_none=True)
    for p in model.critic_parameters():
        p.requires_grad_(False)
    model.generator_loss(batch, fakes)[0].backward()
    assert all(p.grad is None for p in model.critic_parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.generator_parameters())
    reached = sum(bool(p.grad.any()) for p in model.generator_parameters())
    assert reached == len(model.generator_parameters())


def test_the_two_parameter_lists_are_all_parameters() -> None:
    model = make()
    generators, critics = map(set, (model.generator_parameters(), model.critic_parameters()))
    assert not generators & critics
    assert generators | critics == set(model.parameters())


@pytest.mark.parametrize("name", DIVERGENCES)
def test_autocast_keeps_losses_in_float32(name: str) -> None:
    model, batch = make(torch.float32, divergence=name), make_batch(dtype=torch.float32)
    losses = []
    for enabled in (False, True):
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            fakes = model.generate(batch)
            critic_loss, critic_terms = model.critic_loss(batch, detach(fakes))
            generator_loss, generator_terms = model.generator_loss(batch, fakes)
        assert (fakes["translation_x"].dtype == torch.bfloat16) == enabled
        terms = {**critic_terms, **generator_terms}
        assert {value.dtype for value in (critic_loss, generator_loss, *terms.values())} == {torch.float32}
        losses.append(torch.stack([critic_loss, generator_loss]).detach())
        (critic_loss + generator_loss).backward()
    torch.testing.assert_close(losses[1], losses[0], rtol=0.03, atol=0.02)


def test_a_bfloat16_model_has_float32_losses() -> None:
    """Without autocast, whose own rules would widen some of the losses."""
    model, batch = make(torch.bfloat16), make_batch(dtype=torch.bfloat16)
    fakes = model.generate(batch)
    assert {value.dtype for value in fakes.values()} == {torch.bfloat16}
    for loss, terms in (model.critic_loss(batch, detach(fakes)), model.generator_loss(batch, fakes)):
        assert {value.dtype for value in (loss, *terms.values())} == {torch.float32}


# ---- after training


def test_translate_is_encode_then_decode() -> None:
    model, batch = make(), make_batch()
    fakes = detach(model.generate(batch))
    with torch.no_grad():
        torch.testing.assert_close(model.encode(batch["x"], "x"), fakes["latent_x"])
        torch.testing.assert_close(model.translate(batch["x"], to="y"), fakes["translation_y"])
        torch.testing.assert_close(model.translate(batch["y"], "x"), fakes["translation_x"])
        torch.testing.assert_close(model.translate(batch["x"], to="x", source="x"), fakes["reconstruction_x"])
        torch.testing.assert_close(model.decode(fakes["latent_y"], "y"), fakes["reconstruction_y"])
    for call in (lambda: model.translate(batch["x"], to="z"), lambda: model.decode(fakes["latent_x"], "latent")):
        with pytest.raises(ValueError, match="one of x, y"):
            call()


@pytest.mark.parametrize(
    ("height", "width", "words"),
    [
        (256, 512, None),
        (64, 64, None),
        (60, 256, ("height 60", "at least 64", "critic_layers=6 needs 64")),
        (256, 258, ("width 258", "multiples of 4")),
        (32, 32, ("embedding_kernel=8 needs 36",)),
    ],
)
def test_check_size(height: int, width: int, words: tuple[str, ...] | None) -> None:
    with torch.device("meta"):
        model = JWDM()
    if words is None:
        return model.check_size(height, width)
    with pytest.raises(UserError) as error:
        model.check_size(height, width)
    assert all(word in str(error.value) for word in words), error.value


def test_sizes_that_only_translation_takes() -> None:
    with torch.device("meta"):
        model = JWDM()
        images = torch.empty(1, 3, 36, 40)
        assert (model.minimum_size, model.size_multiple) == (36, 4)
        assert model.translate(images, to="y").shape == images.shape
        with pytest.raises(UserError, match="at least 36"):
            model.encode(torch.empty(1, 3, 32, 40), "x")
        with pytest.raises(UserError, match="critic_layers=6 needs 64"):
            model.generate({"x": images, "y": images})
        with pytest.raises(ValueError, match="same shape"):
            model.generate({"x": images, "y": images[:, :, :, :36]})


# ---- configuration


def test_defaults_are_the_paper_s() -> None:
    with torch.device("meta"):
        model = JWDM()
        latent = model.encode(torch.empty(1, 3, 256, 256), "x")
    assert latent.shape == (1, 256, 57, 57)
    c = model.config
    assert (c.lambda_x, c.lambda_y, c.lambda_z, c.reconstruction_weight, c.cycle_weight) == (0.1, 0.1, 0.1, 1.0, 1.0)
    assert (c.divergence, c.init, c.init_std, c.identity_weight) == ("gan", "normal", 0.02, 0.0)
    assert sum(p.numel() for p in model.parameters()) == 136_648_518  # both tables


def test_config_survives_json() -> None:
    config = JWDMConfig(**SMALL, latent_channels=7, divergence="mmd")
    assert JWDMConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("channels", 0, "an integer of at least 1"),
        ("width", 2.5, "an integer of at least 1"),
        ("width", True, "an integer of at least 1"),
        ("blocks", -1, "an integer of at least 0"),
        ("residual_convs", 3, "1 or 2"),
        ("latent_channels", 0, "or None"),
        ("embedding_kernel", 0, "an integer of at least 1"),
        ("latent_activation", "tanh", "one of relu, none"),
        ("latent_critic", "none", "one of patch, pixel"),
        ("critic_layers", 0, "an integer of at least 1"),
        ("divergence", "wgan", "one of gan, lsgan, hinge, wgan-gp, mmd"),
        ("init", "xavier", "one of normal, default"),
        ("lambda_z", -0.1, "a finite number of at least 0"),
        ("lambda_x", float("nan"), "a finite number of at least 0"),
        ("cycle_weight", "1", "a finite number of at least 0"),
        ("cycle_fake_weight", 1.5, "a number between 0 and 1"),
    ],
)
def test_bad_configurations(field: str, value: object, expected: str) -> None:
    with pytest.raises(UserError) as error:
        JWDMConfig(**{field: value})
    message = str(error.value)
    assert f"method.{field}" in message and expected in message and repr(value) in message


def test_registry() -> None:
    spec = METHODS["jwdm"]
    with torch.device("meta"):
        model = spec.method_class(spec.config_class())
    assert isinstance(model, Method) and isinstance(model, JWDM)
    assert model.domains == ("x", "y")


def test_a_whole_step_compiles_in_one_graph() -> None:
    model, batch = make(torch.float32, identity_weight=0.5), make_batch(1, torch.float32)

    def losses(batch: dict[str, Tensor]) -> list[Tensor]:
        fakes = model.generate(batch)
        return [model.critic_loss(batch, detach(fakes))[0], model.generator_loss(batch, fakes)[0]]

    compiled = torch.compile(losses, fullgraph=True, backend="aot_eager")
    torch.manual_seed(6)
    expected = losses(batch)
    torch.manual_seed(6)
    torch.testing.assert_close(compiled(batch), expected, rtol=1e-4, atol=1e-4)
