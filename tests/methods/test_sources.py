"""The paper's lists of sources, the checks of a user's own, and the fewest calls in which they are drawn."""

from __future__ import annotations

import itertools

import pytest

from jdm_fast.errors import UserError
from jdm_fast.methods import JointGAN, JointGANConfig
from jdm_fast.methods.schedule import plan_calls
from jdm_fast.methods.sources import named_sources, parse_sources

TABLE = [  # the paper's eq. (10), eq. (12) and §3.2 (whose last column misprints q(z) p(y|z) as q(x) p(z|y))
    ("paired", "xy", ["q(x) p(y|x)", "q(y) p(x|y)", "p(x) p(y|x)", "p(y) p(x|y)", "q(x, y)"]),
    ("unpaired", "xy", ["q(x) p(y|x)", "q(y) p(x|y)", "p(x) p(y|x)", "p(y) p(x|y)"]),
    (
        "chain",
        "xyz",
        [
            "p(x) p(y|x) p(z|x, y)",
            "q(x) p(y|x) p(z|x, y)",
            "q(x, y) p(z|x, y)",
            "p(z) p(y|z) p(x|z, y)",
            "q(z) p(y|z) p(x|z, y)",
            "q(z, y) p(x|z, y)",
        ],
    ),
]


@pytest.mark.parametrize(("name", "domains", "formulas"), TABLE)
def test_named_sources_are_the_paper_s(name: str, domains: str, formulas: list[str]) -> None:
    assert [source.formula for source in named_sources(name, domains)] == formulas


@pytest.mark.parametrize(("name", "ways"), [("paired", lambda m: 2 * m + 1), ("unpaired", lambda m: 2 * m)])
@pytest.mark.parametrize("domains", ["xy", "xyz", "xyzu"])
def test_named_sources_train_and_show_every_domain(name: str, ways, domains: str) -> None:
    sources = named_sources(name, domains)
    assert len(sources) == len(set(sources)) == ways(len(domains))
    assert parse_sources([str(source) for source in sources], domains) == sources


@pytest.mark.parametrize(
    ("entries", "domains", "message"),
    [
        (["xy:0"], "xy", "2 to 64 sources"),
        (["xy:1", "xy:2"], "xy", "domain x is never generated"),
        (["xy:0", "xy:1"], "xy", "domain y is never observed"),
        (["xy:0", "yx:1", "xy:0"], "xy", "xy:0 is listed more than once"),
        (["xz:0", "yx:1"], "xy", "no domain z; the domains are x, y"),
        (["x:0", "yx:1"], "xy", "names each of the domains x, y once, got 'x'"),
        (["xyz:1", "zyx:2", "xxy:0"], "xyz", "once, got 'xxy'"),
        (["xy:3", "yx:1"], "xy", "there are 2 domains, 3 cannot be observed"),
        (["pairs"], "xy", "expected one of paired, unpaired, chain"),
        (["xy:one", "yx:1"], "xy", "ORDER:OBSERVED"),
        ([], "xy", "got nothing"),
    ],
)
def test_a_list_that_cannot_be_trained_is_refused(entries: list[str], domains: str, message: str) -> None:
    with pytest.raises(UserError, match="method.sources") as caught:
        parse_sources(entries, domains)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("walks", "row"),
    [
        (["y", "x", "xy", "yx", ""], "xyx"),  # the 5-way critic: p1 … p5
        (["yx", "xy", "xy", "yx"], "xyx"),  # the 4-way critic and its cycles
        (["xyz", "yz", "z", "zyx", "yx", "x"], "xyzyx"),  # the six of §3.2
        (["x"], "x"),
        ([], ""),
    ],
)
def test_calls_are_as_few_as_the_chain_allows(walks: list[str], row: str) -> None:
    calls = plan_calls(walks)
    assert len(calls) == len(row) and "".join(call.domain for call in calls) in {row, row[::-1], "yxy"}
    done = sorted(step for call in calls for step in call.steps)
    assert done == [(k, place) for k, walk in enumerate(walks) for place in range(len(walk))]
    for k, walk in enumerate(walks):  # in their order, each by the generator of its domain
        assert "".join(call.domain for call in calls for walk_, _ in call.steps if walk_ == k) == walk


def test_shortest_rows_of_all_orders() -> None:
    """Lengths of shortest common supersequences of all permutations, known from the literature: 7 for 3, 12 for 4."""
    for count, length in ((2, 3), (3, 7), (4, 12)):
        walks = ["".join(order) for order in itertools.permutations("xyzu"[:count])]
        assert len(plan_calls(walks)) == length


def test_data_must_have_what_is_observed_together() -> None:
    small = {"width": 4, "depth": 3, "critic_width": 4, "critic_layers": 1}
    for sources, domains, together in (
        (("paired",), 2, (("x", "y"),)),
        (("unpaired",), 2, ()),
        (("chain",), 3, (("x", "y"), ("z", "y"))),
        (("chain",), 4, (("x", "y"), ("x", "y", "z"), ("u", "z"), ("u", "z", "y"))),
    ):
        model = JointGAN(JointGANConfig(sources=sources, domains=domains, **small))
        assert model.together == together
