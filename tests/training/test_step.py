from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from jdm_fast.methods import JWDM, JWDMConfig
from jdm_fast.training.step import EagerEngine
from tests.training.fake_method import FakeConfig, FakeMethod

BETAS = (0.5, 0.999)
TINY = JWDMConfig(
    width=4, blocks=1, embedding_kernel=1, critic_width=4, critic_layers=2, identity_weight=0.5, init="default"
)


def make_batch(seed: int = 0, count: int = 2, side: int = 16) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(count, 3, side, side, generator=generator) * 2 - 1 for name in ("x", "y")}


def make_fake(seed: int = 0) -> FakeMethod:
    torch.manual_seed(seed)
    return FakeMethod(FakeConfig())


def test_calls_come_in_the_order_of_algorithm_1_on_the_same_fakes() -> None:
    method = make_fake()
    engine = EagerEngine(method, lr=1e-3, betas=BETAS)
    for _ in range(3):
        engine.step(make_batch(), 1e-3)
    assert [name for name, _ in method.calls] == ["generate", "critic_loss", "generator_loss"] * 3
    for k in range(0, 9, 3):
        made, to_critics, to_generators = (fakes for _, fakes in method.calls[k : k + 3])
        assert to_generators is made
        assert to_critics.keys() == made.keys()
        for name, fake in made.items():
            assert not to_critics[name].requires_grad
            assert torch.equal(to_critics[name], fake), "without a pool the critics see the very same fakes"
        assert made["translation_x"].requires_grad


def test_pooled_fakes_and_only_those_come_from_the_pool() -> None:
    method = make_fake()
    engine = EagerEngine(method, lr=1e-3, betas=BETAS, pool_size=2, seed=5)
    for seed in range(12):
        engine.step(make_batch(seed, count=1), 1e-3)
    older = {name: 0 for name in ("translation_x", "translation_y", "latent")}
    for k in range(0, 36, 3):
        (_, made), (_, shown) = method.calls[k], method.calls[k + 1]
        for name in older:
            older[name] += not torch.equal(made[name], shown[name])
    assert older["translation_x"] > 0 and older["translation_y"] > 0 and older["latent"] == 0


def test_each_update_changes_its_own_networks_and_leaves_no_gradients() -> None:
    method = make_fake()
    engine = EagerEngine(method, lr=1e-3, betas=BETAS)
    inside: dict[str, bool] = {}
    generator_loss = method.generator_loss

    def watched(batch: dict[str, Tensor], fakes: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        inside["frozen"] = not any(parameter.requires_grad for parameter in method.critic_parameters())
        inside["updated"] = any(
            not torch.equal(a, b) for a, b in zip(method.critic_parameters(), critics_before, strict=True)
        )
        return generator_loss(batch, fakes)

    method.generator_loss = watched  # type: ignore[method-assign]
    critics_before = [parameter.detach().clone() for parameter in method.critic_parameters()]
    generators_before = [parameter.detach().clone() for parameter in method.generator_parameters()]
    engine.step(make_batch(), 1e-3)
    assert inside == {"frozen": True, "updated": True}
    assert all(parameter.requires_grad for parameter in method.parameters())
    assert all(parameter.grad is None for parameter in method.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(method.generator_parameters(), generators_before, strict=True))


def plain_step(
    method: nn.Module, critics: torch.optim.Adam, generators: torch.optim.Adam, batch: dict[str, Tensor]
) -> None:
    """Algorithm 1 without any of the savings: the fakes are made twice, nothing is frozen, Adam goes tensor by
    tensor."""
    with torch.no_grad():
        fakes = method.generate(batch)
    critics.zero_grad()
    method.critic_loss(batch, fakes)[0].backward()
    critics.step()
    generators.zero_grad()
    method.generator_loss(batch, method.generate(batch))[0].backward()
    generators.step()


def test_the_savings_change_nothing_in_jwdm() -> None:
    """In double precision, against the plain way, several steps with a falling learning rate."""
    torch.manual_seed(0)
    ours = JWDM(TINY).double()
    plain = copy.deepcopy(ours)
    engine = EagerEngine(ours, lr=1e-3, betas=BETAS)
    critics = torch.optim.Adam(plain.critic_parameters(), lr=1e-3, betas=BETAS, foreach=False)
    generators = torch.optim.Adam(plain.generator_parameters(), lr=1e-3, betas=BETAS, foreach=False)
    for k, lr in enumerate((1e-3, 8e-4, 5e-4)):
        batch = {name: images.double() for name, images in make_batch(k).items()}
        for optimizer in (critics, generators):
            optimizer.param_groups[0]["lr"] = lr
        torch.manual_seed(k)  # the prior is drawn once in each
        engine.step(batch, lr)
        torch.manual_seed(k)
        plain_step(plain, critics, generators, batch)
    for (name, a), b in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


def test_losses_and_terms_come_as_detached_scalars() -> None:
    engine = EagerEngine(make_fake(), lr=1e-3, betas=BETAS)
    terms = engine.step(make_batch(), 1e-3)
    assert set(terms) == {"critic_loss", "generator_loss", "critic_x", "critic_y", "adversarial"}
    assert all(term.shape == () and not term.requires_grad for term in terms.values())


def test_average_of_the_generators() -> None:
    method = make_fake()
    engine = EagerEngine(method, lr=1e-2, betas=BETAS, ema_decay=0.75)
    expected = [parameter.detach().clone() for parameter in method.generator_parameters()]
    for _ in range(4):
        engine.step(make_batch(), 1e-2)
        expected = [
            0.75 * mean + 0.25 * now.detach() for mean, now in zip(expected, method.generator_parameters(), strict=True)
        ]
    own = [parameter.detach().clone() for parameter in method.parameters()]
    with engine.averaged():
        for mean, parameter in zip(expected, method.generator_parameters(), strict=True):
            torch.testing.assert_close(parameter.detach(), mean, rtol=1e-5, atol=1e-7)
    assert all(torch.equal(a, b) for a, b in zip(method.parameters(), own, strict=True))
    assert set(engine.state_dict()["ema"]) == {f"generators.{name}" for name, _ in method.generators.named_parameters()}


def test_no_average_unless_asked_for() -> None:
    engine = EagerEngine(make_fake(), lr=1e-3, betas=BETAS)
    assert engine.state_dict()["ema"] is None
    with engine.averaged():
        pass


def test_a_method_must_be_a_module() -> None:
    class NotAModule:
        pooled = ()
        critic_parameters = generator_parameters = lambda self: [nn.Parameter(torch.zeros(1))]  # noqa: E731

    with pytest.raises(TypeError, match="NotAModule"):
        EagerEngine(NotAModule(), lr=1e-3, betas=BETAS).state_dict()  # type: ignore[arg-type]
