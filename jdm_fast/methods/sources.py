"""The distributions that JointGAN's critic tells apart (§3.1, eq. 10, and §3.2 of the paper).

A source is an order of the domains and how many of the first are observed: ``xy:0`` is p(x) p(y|x), ``xy:1`` is q(x)
p(y|x), ``xy:2`` is q(x, y), where q is the data's and p a generator's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jdm_fast.errors import UserError

NAMED = ("paired", "unpaired", "chain")
"""Lists of sources that have a name, see :func:`named_sources`."""
MAX_SOURCES = 64  # classes of the kernel softmax_critic_loss


@dataclass(frozen=True)
class Source:
    """One distribution of tuples of all domains.

    Attributes:
        order: the domains' letters in the order in which they are drawn. observed: how many of the first come from the
        data; the others are generated, each given those before it.
    """

    order: str
    observed: int

    @property
    def name(self) -> str:
        """``xy0``: in names of fakes and of the log's terms."""
        return f"{self.order}{self.observed}"

    @property
    def given(self) -> tuple[str, ...]:
        """The domains that are observed."""
        return tuple(self.order[: self.observed])

    @property
    def made(self) -> tuple[str, ...]:
        """The domains that are generated, in their order."""
        return tuple(self.order[self.observed :])

    @property
    def is_real(self) -> bool:
        """Whether all of it is data."""
        return self.observed == len(self.order)

    @property
    def formula(self) -> str:
        """``q(x) p(y|x)``."""
        parts = [f"q({', '.join(self.given)})"] if self.observed else []
        for place in range(self.observed, len(self.order)):
            before = ", ".join(self.order[:place])
            parts.append(f"p({self.order[place]}{f'|{before}' if before else ''})")
        return " ".join(parts)

    def __str__(self) -> str:
        return f"{self.order}:{self.observed}"


def named_sources(name: str, domains: str) -> tuple[Source, ...]:
    """A list of sources of the domains ``domains``.

    - ``paired``: of two domains p1 … p5 of eq. (10), in this order, the 5-way critic of eq. (11). Of m domains those of
      ``chain`` and the data, 2m + 1 ways.
    - ``unpaired``: of two domains p1 … p4, the 4-way critic of eq. (12). Of m domains every one begins an order, with
      none and one observed, 2m ways.
    - ``chain``: the domains forwards and backwards with 0 to m - 1 observed, 2m ways: of three domains the six sources
      of §3.2, for which pairs (x, y) and (y, z) are enough.
    """
    m, forwards, backwards = len(domains), domains, domains[::-1]
    if name == "unpaired":
        orders = [domains[start:] + domains[:start] for start in range(m)]
        return tuple(Source(order, observed) for observed in (1, 0) for order in orders)
    if name == "paired" and m == 2:
        return (*named_sources("unpaired", domains), Source(domains, 2))
    chain = tuple(Source(order, observed) for order in (forwards, backwards) for observed in range(m))
    return (*chain, Source(domains, m)) if name == "paired" else chain


def parse_sources(entries: Sequence[str], domains: str) -> tuple[Source, ...]:
    """The sources of a configuration: one name of :data:`NAMED`, or a list of ``ORDER:OBSERVED``.

    Raises:
        UserError: an entry is neither; an order is no permutation of ``domains``; a source is listed twice; there are
            fewer than two or more than 64; some domain is never generated, or never observed.
    """
    if len(entries) == 1 and entries[0] in NAMED:
        return named_sources(entries[0], domains)
    sources = tuple(_parse(entry, domains) for entry in entries)
    if not 2 <= len(sources) <= MAX_SOURCES:
        raise _error(f"a critic tells 2 to {MAX_SOURCES} sources apart, got {len(sources)}", entries)
    twice = sorted({str(source) for source in sources if sources.count(source) > 1})
    if twice:
        raise _error(f"{', '.join(twice)} is listed more than once", entries)
    for kind, found in (
        ("generated, so its generator would never be trained", {name for source in sources for name in source.made}),
        ("observed, so nothing would say what it looks like", {name for source in sources for name in source.given}),
    ):
        missing = [name for name in domains if name not in found]
        if missing:
            raise _error(f"domain {', '.join(missing)} is never {kind}", entries)
    return sources


def _parse(entry: str, domains: str) -> Source:
    order, colon, observed = entry.partition(":")
    if not colon or not observed.isdecimal():
        raise UserError(
            f"method.sources: expected one of {', '.join(NAMED)}, or a list of ORDER:OBSERVED such as {domains}:1, got "
            f"{entry!r}"
        )
    require_order(order, domains, f"method.sources: {entry}")
    if int(observed) > len(domains):
        raise UserError(f"method.sources: {entry}: there are {len(domains)} domains, {observed} cannot be observed")
    return Source(order, int(observed))


def require_order(order: str, domains: str, where: str) -> None:
    """Raise UserError, its message beginning with ``where``, unless ``order`` names every domain once."""
    unknown = [name for name in dict.fromkeys(order) if name not in domains]
    if unknown:
        raise UserError(f"{where}: there is no domain {', '.join(unknown)}; the domains are {', '.join(domains)}")
    if sorted(order) != sorted(domains):
        raise UserError(f"{where}: an order names each of the domains {', '.join(domains)} once, got {order!r}")


def _error(what: str, entries: Sequence[str]) -> UserError:
    return UserError(f"method.sources: {what}; got {' '.join(entries) or 'nothing'}")
