"""JointGAN's objective against the paper's equations, written out plainly; its calls, orders and errors."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jdm_fast.errors import UserError
from jdm_fast.methods import METHODS, JointGAN, JointGANConfig, Method, jointgan
from jdm_fast.methods.noise import share_of_batch

SMALL: dict[str, Any] = {
    "width": 4, "depth": 3, "max_width": 8, "critic_width": 4, "critic_layers": 1, "noise": 5, "hidden": 8,
    "init": "default",
}  # fmt: skip
SIZE = (8, 16)
CASES: dict[str, dict[str, Any]] = {
    "paired": {},
    "unpaired": {"sources": ("unpaired",), "cycle_weight": 1.5},
    "chain": {"sources": ("chain",), "domains": 3},
    "own": {"sources": ("xy:0", "yx:2", "yx:1")},
    "grey": {"channels": 1},
    "features": {"vectors": ("y:7",)},
    "features first": {"vectors": ("x:7",), "sources": ("unpaired",)},
    "vectors alone": {"vectors": ("x:2", "y:1")},
    "three with features": {"sources": ("chain",), "domains": 3, "vectors": ("z:4",)},
    "two features": {"sources": ("chain",), "domains": 3, "vectors": ("x:4", "z:3")},
}
cases = pytest.mark.parametrize("case", CASES)


def make(dtype: torch.dtype = torch.float64, **options: Any) -> JointGAN:
    torch.manual_seed(0)
    return JointGAN(JointGANConfig(**{**SMALL, **options})).to(dtype)


def make_batch(model: JointGAN, n: int = 2) -> dict[str, Tensor]:
    """A batch with the keys that a loader gives: y of pairs (x, y) and (y, z) comes twice."""
    generator = torch.Generator().manual_seed(1)
    keys = ["x", "y_xy", "y_yz", "z"] if "xyz" == "".join(model.domains) else list(model.domains)
    dtype = next(model.parameters()).dtype
    batch = {}
    for key in keys:
        size = model.vectors.get(key[0])
        shape = (n, model.config.channels, *SIZE) if size is None else (n, size)
        batch[key] = (torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1).to(dtype)
    return batch


def detach(fakes: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in fakes.items()}


def observed(batch: dict[str, Tensor], given: str) -> dict[str, Tensor]:
    """By hand: y beside z is the y of the pairs (y, z), any other y that of (x, y)."""
    pick = {"y": "y_yz" if "z" in given and "x" not in given else "y_xy"}
    return {name: batch[name if name in batch else pick[name]] for name in given}


def tuples_by_hand(model: JointGAN, batch: dict[str, Tensor], noises: dict[tuple[str, int], Tensor]) -> list[dict]:
    """Every source drawn alone, sample by sample, with the noise that was used for it."""
    result = []
    for source in model.sources:
        rows = []
        for k in range(2):
            values = {name: value[k : k + 1] for name, value in observed(batch, "".join(source.given)).items()}
            for place in range(source.observed, len(source.order)):
                name = source.order[place]
                values[name] = generator_by_hand(model, name, values, noises[source.name, place][k : k + 1])
            if model.cycle_weight and source.observed == 1:
                rest = {name: values[name] for name in source.order[1:]}
                noise = noises[source.name, len(source.order)][k : k + 1]
                values["cycle"] = generator_by_hand(model, source.order[0], rest, noise)
            rows.append(values)
        result.append({name: torch.cat([row[name] for row in rows]) for name in rows[0]})
    return result


def generator_by_hand(model: JointGAN, name: str, values: dict[str, Tensor], noise: Tensor) -> Tensor:
    """Eq. (9) generalised: all other domains side by side, zeros for those not in ``values``."""
    images, vectors = [], []
    for other in model.domains:
        if other == name:
            continue
        if other in model.vectors:
            vectors.append(values.get(other, noise.new_zeros(1, model.vectors[other])))
        else:
            images.append(values.get(other, noise.new_zeros(1, model.config.channels, *SIZE)))
    vector = torch.cat(vectors, 1) if vectors else None
    network = model.generators[name]
    if name in model.vectors:
        return network(torch.cat(images, 1) if images else None, noise, vector)
    return network(torch.cat(images, 1), noise, vector) if images else network(noise, vector)


def stacked(model: JointGAN, values: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
    images = [values[name] for name in model.image_domains]
    vectors = [values[name] for name in model.vectors]
    return (torch.cat(images, 1) if images else None), (torch.cat(vectors, 1) if vectors else None)


def generate_noting_noise(
    model: JointGAN, batch: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Tensor], dict[tuple[str, int], Tensor]]:
    drawn: list[Tensor] = []
    draw = jointgan.normal

    def noting(shape: Any, like: Tensor) -> Tensor:
        drawn.append(draw(shape, like))
        return drawn[-1]

    monkeypatch.setattr(jointgan, "normal", noting)
    fakes = model.generate(batch)
    noises: dict[tuple[str, int], Tensor] = {}
    for call in model._calls:
        for k, place in call.steps:
            source = model.sources[k]
            noises[source.name, source.observed + place] = drawn.pop(0)
    assert not drawn
    return fakes, noises


# ---- eqs. (7)-(10), §3.2: what is drawn


@cases
def test_generate_equals_every_source_drawn_alone(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(**CASES[case])
    batch = make_batch(model)
    with torch.no_grad():
        fakes, noises = generate_noting_noise(model, batch, monkeypatch)
        by_hand = tuples_by_hand(model, batch, noises)
    expected = {}
    for source, values in zip(model.sources, by_hand, strict=True):
        expected |= {f"{source.name}_{name}": values[name] for name in source.made}
        if "cycle" in values:
            expected[f"cycle_{source.name}_{source.order[0]}"] = values["cycle"]
    assert set(fakes) == set(expected)
    for name, value in fakes.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("case", "calls"),
    [
        ("paired", {"x": 2, "y": 1}),  # without batching: x 3 times, y 3 times
        ("unpaired", {"x": 2, "y": 1}),  # 4 and 4, with the cycles
        ("chain", {"x": 2, "y": 2, "z": 1}),  # 4, 4 and 4
        ("own", {"x": 1, "y": 1}),
    ],
)
def test_generators_are_called_as_rarely_as_possible(case: str, calls: dict[str, int]) -> None:
    model = make(torch.float32, **CASES[case])
    batch = make_batch(model)
    counted: Counter[str] = Counter()
    for name, network in [*model.generators.items(), ("critic", model.critic)]:
        network.register_forward_hook(lambda *_, name=name: counted.update([name]))
    fakes = model.generate(batch)
    assert counted == calls
    model.critic_loss(batch, detach(fakes))
    model.generator_loss(batch, fakes)
    assert counted["critic"] == 2


@cases
def test_marginal_and_conditional_share_one_network(case: str) -> None:
    """Eq. (9): one parameter set a domain, however many sources there are."""
    model = make(**CASES[case])
    more = make(**{**CASES[case], "sources": tuple(map(str, _all_sources(model.domains)))})
    count = lambda module: sum(parameter.numel() for parameter in module.generators.parameters())  # noqa: E731  # twice
    assert count(model) == count(more)
    assert set(model.generators) == set(model.domains)


# ---- eqs. (11), (12) and the six ways: the losses


def losses_by_hand(model: JointGAN, batch: dict[str, Tensor], fakes: dict[str, Tensor]) -> list[Tensor]:
    """log g[.] of each source's patches, [patches, K]."""
    rows = []
    for source in model.sources:
        values = observed(batch, "".join(source.given))
        values |= {name: fakes[f"{source.name}_{name}"] for name in source.made}
        logits = model.critic(*stacked(model, values))
        rows.append(torch.log_softmax(logits, 1).movedim(1, -1).flatten(0, -2))
    return rows


@cases
def test_critic_loss_is_equation_11(case: str) -> None:
    model = make(**CASES[case])
    batch = make_batch(model)
    fakes = detach(model.generate(batch))
    loss, terms = model.critic_loss(batch, fakes)
    rows = losses_by_hand(model, batch, fakes)
    expected = -sum(row[:, k].mean() for k, row in enumerate(rows))
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    for k, (source, row) in enumerate(zip(model.sources, rows, strict=True)):
        torch.testing.assert_close(terms[f"critic_{source.name}"], -row[:, k].mean(), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(
            terms[f"accuracy_{source.name}"], (row.argmax(1) == k).double().mean(), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("objective", ["minimax", "nonsaturating"])
@cases
def test_generator_loss_is_the_paper_s(case: str, objective: str) -> None:
    model = make(**CASES[case], objective=objective)
    batch = make_batch(model)
    fakes = model.generate(batch)
    loss, terms = model.generator_loss(batch, fakes)
    rows = losses_by_hand(model, batch, fakes)
    real = [k for k, source in enumerate(model.sources) if source.is_real]
    made = [k for k in range(len(rows)) if k not in real]
    if objective == "minimax":
        expected = sum(rows[k][:, k].mean() for k in made)
    elif real:
        expected = -sum(rows[k][:, real[0]].mean() for k in made)
    else:
        expected = -sum(rows[k].mean() for k in made)
    torch.testing.assert_close(terms["adversarial"], expected.detach(), rtol=1e-10, atol=1e-10)
    cycles = [source for source in model.sources if model.cycle_weight and source.observed == 1]
    for source in cycles:  # R of eq. (12)
        name = source.order[0]
        distance = (fakes[f"cycle_{source.name}_{name}"] - batch[name]).abs().mean()
        torch.testing.assert_close(terms[f"cycle_{name}"], distance.detach(), rtol=1e-10, atol=1e-10)
        expected = expected + model.cycle_weight * distance
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    assert len(terms) == 1 + len(cycles)


def test_paired_term_compares_with_the_partner() -> None:
    model = make(paired_weight=3.0)
    batch = make_batch(model)
    fakes = model.generate(batch)
    loss, terms = model.generator_loss(batch, fakes)
    for name, fake in (("x", "yx1_x"), ("y", "xy1_y")):
        torch.testing.assert_close(terms[f"paired_{name}"], (fakes[fake] - batch[name]).abs().mean().detach())
    expected = terms["adversarial"] + 3 * (terms["paired_x"] + terms["paired_y"])
    torch.testing.assert_close(loss.detach(), expected)
    chain = make(domains=3, sources=("chain",), paired_weight=1.0)
    batch = make_batch(chain)
    _, terms = chain.generator_loss(batch, chain.generate(batch))
    assert {name for name in terms if name.startswith("paired")} == {"paired_y"}  # of x and z no full pair is observed


@cases
def test_gradient_penalty_is_that_of_each_tuple(case: str) -> None:
    """Tuple by tuple: the squared gradient of the mean of the map of its own logits, less the mean of all."""
    model = make(gradient_penalty_weight=0.7, **CASES[case])
    batch = make_batch(model)
    fakes = detach(model.generate(batch))
    loss, terms = model.critic_loss(batch, fakes)
    squares = []
    for k, source in enumerate(model.sources):
        made = {name: fakes[f"{source.name}_{name}"] for name in source.made}
        for n in range(2):
            values = {**observed(batch, "".join(source.given)), **made}
            inputs = [values[name][n : n + 1].clone().requires_grad_() for name in model.domains]
            by_name = dict(zip(model.domains, inputs, strict=True))
            images = [by_name[name] for name in model.image_domains]
            vectors = [by_name[name] for name in model.vectors]
            logits = model.critic(
                torch.cat(images, dim=1) if images else None, torch.cat(vectors, dim=1) if vectors else None
            ).flatten(2)
            gradients = torch.autograd.grad((logits[:, k] - logits.mean(1)).mean(), inputs)
            squares.append(sum(gradient.square().sum() for gradient in gradients))
    expected = torch.stack(squares).mean()
    torch.testing.assert_close(terms["gradient_penalty"], expected)
    plain, _ = make(**CASES[case]).critic_loss(batch, fakes)
    torch.testing.assert_close(loss, plain + 0.7 * expected)
    assert model.critic not in model.regions()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.critic.parameters())


@cases
def test_where_all_sources_are_alike_the_loss_is_sum_of_log_k(case: str) -> None:
    """Proposition 1: then the best critic says 1/K everywhere, and one that learns on fresh draws ends up there."""
    model = make(torch.float32, **CASES[case])
    k = len(model.sources)
    generator = torch.Generator().manual_seed(2)

    def draw() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """A batch and fakes, all from one distribution."""
        batch, fakes = make_batch(model, 4), model.generate(make_batch(model, 4))
        same = lambda value: torch.rand(value.shape, generator=generator) * 2 - 1  # noqa: E731  # used twice
        return ({n: same(v) for n, v in batch.items()}, {n: same(v) for n, v in fakes.items()})

    optimizer = torch.optim.Adam(model.critic_parameters(), 5e-3)
    losses = []
    for _ in range(60):
        loss, _ = model.critic_loss(*draw())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert abs(sum(losses[-10:]) / 10 - k * math.log(k)) < 0.05 * k * math.log(k)
    with torch.no_grad():
        for parameter in model.critic.output.parameters():
            parameter.zero_()
        loss, _ = model.critic_loss(*draw())
    assert loss.item() == pytest.approx(k * math.log(k), rel=1e-6)


@pytest.mark.parametrize("objective", ["minimax", "nonsaturating"])
@cases
def test_every_generator_learns_in_every_objective(case: str, objective: str) -> None:
    model = make(**CASES[case], objective=objective)
    batch = make_batch(model)
    critic = model.critic_parameters()
    for parameter in critic:
        parameter.requires_grad_(False)
    loss, _ = model.generator_loss(batch, model.generate(batch))
    loss.backward()
    without = [n for n, p in model.generators.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without
    assert all(parameter.grad is None for parameter in critic)


def test_noise_does_not_depend_on_the_number_of_processes() -> None:
    model = make(**CASES["unpaired"])
    batch = make_batch(model, 4)
    torch.manual_seed(3)
    whole = model.generate(batch)
    for rank in range(2):
        torch.manual_seed(3)
        with share_of_batch(rank, 2):
            part = model.generate({name: value[2 * rank : 2 * rank + 2] for name, value in batch.items()})
        for name, value in part.items():
            torch.testing.assert_close(value, whole[name][2 * rank : 2 * rank + 2], rtol=1e-9, atol=1e-9)


# ---- after training: orders, sampling


def _all_sources(domains: tuple[str, ...]) -> list[str]:
    orders = ["".join(order) for order in itertools.permutations(domains)]
    return [f"{order}:{observed}" for observed in (0, 1) for order in orders]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_sampling_shapes_of_every_order_and_prefix(count: int) -> None:
    domains = "xyzu"[:count]
    vectors = ("z:3",) if count > 2 else ()
    model = make(torch.float32, domains=count, sources=tuple(_all_sources(tuple(domains))), vectors=vectors)
    truth = {name: torch.rand(3, 3) if f"{name}:3" in vectors else torch.rand(3, 3, *SIZE) for name in domains}
    noise = model.sample_noise(3, SIZE, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for order in map("".join, itertools.permutations(domains)):
            for observed_count in range(count + 1):
                given = {name: truth[name] for name in order[:observed_count]}
                made = model.sample(noise, given, order)
                assert {name: value.shape for name, value in made.items()} == {n: v.shape for n, v in truth.items()}
                assert all(made[name] is truth[name] for name in given)
                assert all(torch.isfinite(value).all() for value in made.values())


def test_sample_is_the_chain_rule_by_hand() -> None:
    model = make(domains=3, sources=("chain",))
    noise = {name: value.double() for name, value in model.sample_noise(2, SIZE).items()}
    made = model.sample(noise, order="zyx")
    for k in range(2):
        values: dict[str, Tensor] = {}
        for name in "zyx":
            values[name] = generator_by_hand(model, name, values, noise[name][k : k + 1])
            torch.testing.assert_close(made[name][k : k + 1], values[name], rtol=1e-9, atol=1e-9)


def test_translate_repeats_itself_and_leaves_the_random_stream_alone() -> None:
    model = make(torch.float32)
    images = torch.rand(2, 3, *SIZE)
    state = torch.get_rng_state()
    first, second = model.translate(images, "y"), model.translate(images, "y", "x")
    assert torch.equal(first, second) and first.shape == images.shape
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(model.translate(images[1:], "y"), first[1:], rtol=1e-5, atol=1e-6)


def test_sample_wants_as_much_noise_as_is_given() -> None:
    model = make(torch.float32)
    with pytest.raises(ValueError, match="equally many"):
        model.sample(model.sample_noise(3, SIZE), {"x": torch.rand(2, 3, *SIZE)})


def test_noise_has_one_position_for_each_of_the_bottleneck_s() -> None:
    model = make(torch.float32, vectors=("y:7",))
    noise = model.sample_noise(4, SIZE)
    assert noise["x"].shape == (4, 5, 1, 2) and noise["y"].shape == (4, 5)
    assert model.sample_noise(4)["x"].shape == (4, 5, 1, 1)


@pytest.mark.parametrize(
    ("options", "given", "order", "message"),
    [
        ({}, "", "xz", "order: there is no domain z; the domains are x, y"),
        ({}, "", "xx", "names each of the domains x, y once"),
        ({}, "", "x", "names each of the domains x, y once"),
        ({}, "y", "xy", "xy must begin with the given domains y"),
        ({}, "z", None, "there is no domain z"),
        (CASES["chain"], "", "yxz", "needs p(y), which was not trained. Trained were p(x), p(z), p(y|x), p(y|z)"),
        (CASES["chain"], "y", None, "y alone cannot be given"),
        ({"sources": ("xy:0", "yx:2", "yx:1")}, "", "yx", "needs p(y)"),
    ],
)
def test_orders_that_cannot_be_drawn_are_refused(options: dict, given: str, order: str | None, message: str) -> None:
    model = make(torch.float32, **options)
    with pytest.raises(UserError) as caught:
        model.sample(model.sample_noise(2, SIZE), {name: torch.rand(2, 3, *SIZE) for name in given}, order)
    assert message in str(caught.value)


def test_default_order_begins_with_what_is_given() -> None:
    model = make(torch.float32, domains=3, sources=("chain",))
    assert [model.default_order(given) for given in ("", "x", "z", "xy", "yz", "xyz")] == [
        "xyz", "xyz", "zyx", "xyz", "zyx", "xyz",
    ]  # fmt: skip


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domains": 1}, "method.domains: expected 2 to 6, got 1"),
        ({"domains": 7}, "method.domains: expected 2 to 6, got 7"),
        ({"depth": 1}, "method.depth"),
        ({"width": 0}, "method.width"),
        ({"noise": 0}, "method.noise"),
        ({"objective": "wasserstein"}, "method.objective: expected one of minimax, nonsaturating"),
        ({"noise_at": "top"}, "method.noise_at"),
        ({"critic_norm": "batch"}, "method.critic_norm"),
        ({"cycle_weight": -1.0}, "method.cycle_weight"),
        ({"gradient_penalty_weight": -1.0}, "method.gradient_penalty_weight"),
        ({"cycle_weight": math.nan}, "method.cycle_weight"),
        ({"vectors": ("z:3",)}, "method.vectors: expected DOMAIN:SIZE of x, y"),
        ({"vectors": ("y",)}, "method.vectors"),
        ({"vectors": ("y:0",)}, "method.vectors"),
        ({"vectors": ("y:3", "y:4")}, "method.vectors"),
        ({"sources": ("unpaired",), "paired_weight": 1.0}, "method.paired_weight: expected 0"),
        ({"sources": ("xy:0", "xy:1")}, "never observed"),
    ],
)
def test_bad_configurations_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        JointGANConfig(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("size", "message"),
    [((12, 16), "multiples of 8"), ((8, 0), "multiples of 8"), ((8, 8), "critic_layers=2 needs sides of at least 12")],
)
def test_sizes_that_do_not_fit_are_named(size: tuple[int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(critic_layers=2).check_size(*size)


def test_batches_that_do_not_fit_are_named() -> None:
    model = make(torch.float32)
    with pytest.raises(ValueError, match="images of all domains must have one size"):
        model.generate({"x": torch.zeros(2, 3, 8, 16), "y": torch.zeros(2, 3, 8, 8)})
    with pytest.raises(ValueError, match="expected y together with y, got the keys x"):
        model.generate({"x": torch.zeros(2, 3, 8, 16)})


def test_it_follows_the_protocol_and_its_settings_survive_json() -> None:
    model = make()
    assert isinstance(model, Method) and model.pooled == ()
    assert METHODS["jointgan"].method_class is JointGAN
    values = json.loads(json.dumps(dataclasses.asdict(model.config)))
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    assert JointGANConfig(**values) == model.config
    ours = [*model.generator_parameters(), *model.critic_parameters()]
    assert sorted(map(id, ours)) == sorted(map(id, model.parameters()))


def test_gradients_pass_through_the_kernels_in_half_precision() -> None:
    model = make(torch.float32)
    batch = make_batch(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = model.generator_loss(batch, model.generate(batch))
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.generator_parameters())
    assert F.l1_loss(loss, model.generator_loss(batch, model.generate(batch))[0]) < 1.0
