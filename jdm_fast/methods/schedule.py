"""Which samples go through a generator together: the fewest calls in which all sources can be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_MOST_STATES = 2_000
"""States that the search keeps at each length. All 24 orders of four domains stay below it; beyond, those
that have got furthest are kept, and the plan is good but may not be the shortest."""


@dataclass(frozen=True)
class Call:
    """One call of a generator.

    Attributes:
        domain: whose generator. steps: (walk, place in it) of every sample batch that goes through it.
    """

    domain: str
    steps: tuple[tuple[int, int], ...]


def plan_calls(walks: Sequence[str]) -> tuple[Call, ...]:
    """The shortest row of calls that carries out all walks.

    A walk names the domains that a source generates, one after the other, each from those before it. A call of a
    domain's generator can do the next step of every walk that stands before this domain. So a row of calls does all
    walks if each walk is a subsequence of it, and the shortest row is a shortest common supersequence: for x then y and
    y then x it is x, y, x, three calls.
    """
    distinct = tuple(dict.fromkeys(walk for walk in walks if walk))
    row = _shortest_supersequence(distinct)
    places = [0] * len(walks)
    calls = []
    for domain in row:
        ready = [k for k, walk in enumerate(walks) if places[k] < len(walk) and walk[places[k]] == domain]
        calls.append(Call(domain, tuple((k, places[k]) for k in ready)))
        for k in ready:
            places[k] += 1
    return tuple(calls)


def _shortest_supersequence(walks: Sequence[str]) -> str:
    """By breadth: after each call, how far every walk has come. Doing all steps that a call can do is never worse."""
    end = tuple(len(walk) for walk in walks)
    reached: dict[tuple[int, ...], str] = {(0,) * len(walks): ""}
    seen = set(reached)
    while end not in reached:
        further: dict[tuple[int, ...], str] = {}
        for state, row in reached.items():
            waiting = {walk[place] for walk, place in zip(walks, state, strict=True) if place < len(walk)}
            for domain in sorted(waiting):
                following = tuple(
                    place + (place < len(walk) and walk[place] == domain)
                    for walk, place in zip(walks, state, strict=True)
                )
                if following not in seen:
                    seen.add(following)
                    further[following] = row + domain
        if len(further) > _MOST_STATES:
            further = dict(sorted(further.items(), key=lambda item: -sum(item[0]))[:_MOST_STATES])
        reached = further
    return reached[end]
