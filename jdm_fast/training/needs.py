"""What a method asks of the data, and whether a data set has it: found out before training starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jdm_fast.data.dataset import LETTERS, Features, Group, Layout, Pairing, batch_keys
from jdm_fast.errors import UserError
from jdm_fast.methods.sources import named_sources
from jdm_fast.training.config import TrainConfig


@dataclass(frozen=True)
class Needs:
    """What a method asks of the data.

    Attributes:
        domains: letters of the domains. together: sets of them of which the data must have pairs or tuples. vectors:
        domains that are vectors, with their size.
        reasons: of a set of domains, why they are needed together, such as ``source xy:2``. settings: names of the
        method's own settings, for advice.
    """

    domains: tuple[str, ...]
    together: tuple[tuple[str, ...], ...] = ()
    vectors: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    settings: frozenset[str] = frozenset()

    @classmethod
    def of(cls, method: Any) -> Needs:
        """Those of a method: :class:`jdm_fast.methods.Method` has ``domains``; ``together``, ``vectors`` and
        ``sources`` are of methods that have pairs or vectors."""
        reasons: dict[tuple[str, ...], list[str]] = {}
        for source in getattr(method, "sources", ()):
            reasons.setdefault(tuple(source.given), []).append(str(source))
        return cls(
            tuple(method.domains),
            tuple(tuple(group) for group in getattr(method, "together", ())),
            dict(getattr(method, "vectors", {})),
            {given: f"source{'s' * (len(names) > 1)} {' '.join(names)}" for given, names in reasons.items()},
            frozenset(vars(method.config)) if hasattr(method, "config") else frozenset(),
        )

    @property
    def takes_several_keys(self) -> bool:
        """Whether a domain may belong to several groups, and so have several keys in a batch."""
        return len(self.domains) > 2 or bool(self.together)

    def pairing(self, asked: str, groups: Sequence[Group]) -> Pairing:
        """How to arrange groups where the settings say ``asked``. UserError if that tears needed pairs apart."""
        if self.together and asked not in ("auto", "paired"):
            raise UserError(
                f"data.pairing: {asked} tears apart what this method needs together: {self._listed(self.together)}. "
                f"Use data.pairing=paired{self._unpaired_instead()}"
            )
        if asked != "auto":
            return asked  # type: ignore[return-value]  # DataConfig has checked it
        names = [name for group in groups for name in group.domains]
        several = self.takes_several_keys and len(set(names)) < len(names)  # which cannot be shuffled
        return "paired" if self.together or several else "shuffled"

    def choose(self, chosen: Sequence[str] | None, layout: Layout) -> Sequence[str] | None:
        """The layout's domains to use, None for all. UserError if they are not as many as the method has."""
        if chosen is None and len(layout.domains) == len(self.domains):
            return layout.domains
        if chosen is not None and len(chosen) != len(self.domains) and set(chosen) <= set(layout.domains):
            raise self._other_domains(LETTERS[: len(chosen)], layout)
        return chosen

    def without_spare(self, groups: Sequence[Group], warn: Callable[[str], None]) -> tuple[Group, ...]:
        """For methods that are trained on pairs, or take a domain from one group only: without groups whose domains are
        in a larger group too. Those would be second data of a domain, which the larger group has already."""
        if self.takes_several_keys and not self.together:
            return tuple(groups)
        sets = [set(group.domains) for group in groups]
        kept = []
        for group, names in zip(groups, sets, strict=True):
            if not any(names < other for other in sets):
                kept.append(group)
                continue
            warn(f"{len(group)} of {', '.join(names)} alone are left out: larger tuples have these domains too")
        return tuple(kept)

    def offered(self, groups: Sequence[Group]) -> bool:
        """Whether the groups have every domain, and together what is needed together."""
        keys = [key for group in batch_keys(groups) for key in group]
        if not self.takes_several_keys and sorted(keys) != sorted(self.domains):
            return False
        return {name for group in groups for name in group.domains} == set(self.domains) and not self._torn(groups)

    def require_domains(self, groups: Sequence[Group], layout: Layout) -> None:
        """Raise UserError unless the groups, arranged or not, have the method's domains and no others."""
        if {name for group in groups for name in group.domains} != set(self.domains):
            raise self._other_domains([key for group in batch_keys(groups) for key in group], layout)

    def require(self, groups: Sequence[Group], layout: Layout, chosen: Sequence[str] | None = None) -> None:
        """Raise UserError unless the groups are what the method is trained on; ``chosen`` are the layout's names for
        their domains."""
        self.require_domains(groups, layout)
        keys = [key for group in batch_keys(groups) for key in group]
        if not self.takes_several_keys and len(keys) != len(self.domains):
            raise self._other_domains(keys, layout)
        for group in groups:
            for name, domain in group.domains.items():
                self._require_kind(name, domain, layout)
        if torn := self._torn(groups):
            offers = ", ".join(" with ".join(group.domains) for group in groups)
            names = zip(LETTERS, chosen or layout.domains, strict=False)
            named = ", ".join(f"{letter} is {name}" for letter, name in names)
            raise UserError(
                f"{layout.root}: this method needs together {self._listed(torn)}; this {layout.name} data set has "
                f"{offers} (where {named}), each apart from the others. Use data whose items belong together, as "
                f"`jdm-fast data check` shows it{self._chain_instead(groups)}{self._unpaired_instead()}"
            )

    def _torn(self, groups: Sequence[Group]) -> list[tuple[str, ...]]:
        """What is needed together and is not together in any group."""
        return [names for names in self.together if not _together(names, groups)]

    def _listed(self, together: Sequence[tuple[str, ...]]) -> str:
        texts = []
        for names in together:
            reason = self.reasons.get(names)
            texts.append(" and ".join(names) + (f" ({reason})" if reason else ""))
        return "; ".join(texts)

    def _chain_instead(self, groups: Sequence[Group]) -> str:
        """Advice for data that have enough together for the sources of this name."""
        chain = named_sources("chain", "".join(self.domains))
        if "sources" not in self.settings or not all(_together(s.given, groups) for s in chain if s.observed > 1):
            return ""
        return ", or sources for which these are enough: --method.sources chain"

    def _unpaired_instead(self) -> str:
        if "sources" in self.settings:
            return ", or sources that need no pairs: --method.sources unpaired"
        return ", or a method for data without pairs, such as cyclegan"

    def _other_domains(self, given: Sequence[str], layout: Layout) -> UserError:
        count, there = len(self.domains), len(layout.domains)
        ways = [f"choose {count} with --data.domains"] if there >= count else []
        offered = len({key[0] for key in given})
        if "domains" in self.settings and (offered > 1 or not ways):
            ways.append(f"train {offered} with --method.domains {offered}")
        advice = ", or ".join(ways) or f"use data of {count} domains"
        return UserError(
            f"{layout.root}: this method is trained on the domains {', '.join(self.domains)}; this {layout.name} data "
            f"set gives {', '.join(given)} (out of {', '.join(layout.domains)}): {advice}"
        )

    def _require_kind(self, name: str, domain: Any, layout: Layout) -> None:
        size = self.vectors.get(name)
        found = domain.values.shape[-1] if isinstance(domain, Features) else None
        if found == size:
            return
        if found is None:
            raise UserError(
                f"{layout.root}: domain {name} holds pictures, and method.vectors says that it holds vectors of "
                f"{size}: change method.vectors, or choose other domains with --data.domains"
            )
        advice = f"--method.vectors {name}:{found}, or " if "vectors" in self.settings else ""
        expected = "pictures" if size is None else f"vectors of {size}"
        raise UserError(
            f"{layout.root}: domain {name} holds feature vectors of {found}, this method is trained on {expected} "
            f"there: {advice}choose other domains with --data.domains"
        )


def _together(names: Sequence[str], groups: Sequence[Group]) -> bool:
    return any(set(names) <= set(group.domains) for group in groups)


def require_settings(config: TrainConfig[Any], method: Any, name: str) -> None:
    """Raise UserError if the settings ask for what the method ``name`` does not have."""
    if config.pool_size and not method.pooled:
        raise UserError(
            f"pool_size: expected 0, as the method {name} has no pool of older images, got {config.pool_size}"
        )
    if not config.eval_every:
        return
    if not hasattr(method, "translate"):
        raise UserError(f"eval_every: translations are scored, and the method {name} makes none; use eval_every=0")
    if vectors := getattr(method, "vectors", {}):
        raise UserError(
            f"eval_every: translations of pictures are scored, and domain {', '.join(vectors)} holds vectors; use "
            "eval_every=0"
        )
    if not directions(method):
        raise UserError(
            "eval_every: translations from one domain are scored, and method.sources trains none; use eval_every=0"
        )


def directions(method: Any) -> tuple[tuple[str, str], ...]:
    """(from, to) of the translations from one domain to one other that a method has learned, the first pair first."""
    pairs = [(source, to) for source in method.domains for to in method.domains if source != to]
    trained = getattr(method, "trained", None)
    if trained is None:
        return tuple(pairs)
    return tuple((source, to) for source, to in pairs if (to, frozenset(source)) in trained)
