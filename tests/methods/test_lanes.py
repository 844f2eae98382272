from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from jdm_fast.methods import JWDM, JWDMConfig, lanes
from jdm_fast.methods.lanes import Lanes, side_by_side

SMALL: dict[str, Any] = dict(width=4, blocks=1, embedding_kernel=1, critic_width=4, critic_layers=2, init="default")


def test_without_lanes_branches_run_in_their_order() -> None:
    ran: list[str] = []
    results = side_by_side({"b": (lambda a, b: ran.append("b") or a + b, (1, 2)), "a": (lambda: ran.append("a"), ())})
    assert results == {"b": 3, "a": None} and ran == ["b", "a"]


class FakeStreams:
    """torch.cuda's streams, as far as lanes use them, writing down what they are told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[str] = []
        self.count = 0
        self.current = self.make()
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: self.make())
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.current)
        monkeypatch.setattr(torch.cuda, "stream", self.inside)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda t, s: self.told.append(f"{s} uses {int(t)}"))

    def make(self) -> Any:
        streams, name = self, f"s{self.count}"
        self.count += 1

        class Stream:
            def wait_stream(self, other: Any) -> None:
                streams.told.append(f"{name} waits for {other}")

            def __str__(self) -> str:
                return name

        return Stream()

    @contextmanager
    def inside(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before


def test_lanes_begin_together_and_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = FakeStreams(monkeypatch)

    def work(number: torch.Tensor, more: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        streams.told.append(f"{streams.current} works on {int(number)}")
        return {"result": number + 10}

    each = Lanes(torch.device("cuda"))
    one, two, three = torch.tensor(1), torch.tensor(2), torch.tensor(3)
    with each.active():
        results = side_by_side({"x": (work, (one, [])), "y": (work, (two, [three]))})
    assert streams.told == [
        "s1 waits for s0", "s0 works on 1", "s1 uses 2", "s1 uses 3", "s1 works on 2", "s0 waits for s1", "s0 uses 12"
    ]  # fmt: skip
    assert {lane: int(result["result"]) for lane, result in results.items()} == {"x": 11, "y": 12}
    del streams.told[:]
    with each.active():
        side_by_side({"y": (work, (one, [])), "x": (work, (two, [])), "z": (work, (three, []))})
    assert [line for line in streams.told if "works" in line] == ["s1 works on 1", "s0 works on 2", "s2 works on 3"]
    assert getattr(lanes._here, "active", None) is None


@pytest.mark.parametrize("changes", [{}, {"identity_weight": 0.5}, {"divergence": "wgan-gp"}, {"divergence": "mmd"}])
def test_each_network_of_jwdm_keeps_to_its_lane(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    """Else autocast's copies of its weights would be used by two streams that do not wait for each other."""

    class Watched(Lanes):
        lane: str | None = None

        def run(self, branches: Any) -> dict[str, Any]:
            results = {}
            for lane, (function, arguments) in branches.items():
                self.lane = lane
                results[lane] = function(*arguments)
            self.lane = None
            return results

    method, watched = JWDM(JWDMConfig(**SMALL, **changes)), Watched(torch.device("cuda"))
    seen: dict[str, set[str | None]] = {}
    networks = {f"{kind}.{name}": network for kind in ("encoders", "decoders", "critics")
                for name, network in getattr(method, kind).items()}  # fmt: skip
    for name, network in networks.items():
        network.register_forward_hook(lambda *_, name=name: seen.setdefault(name, set()).add(watched.lane))
    batch = {name: torch.rand(1, 3, 16, 16) * 2 - 1 for name in ("x", "y")}
    with watched.active():
        fakes = method.generate(batch)
        method.critic_loss(batch, {name: fake.detach() for name, fake in fakes.items()})
        method.generator_loss(batch, fakes)
    assert seen == {name: {name.split(".")[1]} for name in networks}
