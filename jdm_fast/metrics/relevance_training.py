"""Training of the relevance model on the pairs of a data set, and its scores of pairs that lie in files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from jdm_fast.data.dataset import Domain, Features, Group, Layout, batch_keys
from jdm_fast.data.geometry import require_turns_kept
from jdm_fast.data.loader import Loader
from jdm_fast.errors import UserError
from jdm_fast.metrics.relevance import MINIMUM_SIDE, Relevance, RelevanceModel

Progress: TypeAlias = Callable[[int, int, float], object]
_READ_AT_ONCE = 1024  # pictures in memory while files are scored


class PairLoader(Protocol):
    """What :func:`train_relevance` needs of a :class:`jdm_fast.data.loader.Loader`."""

    groups: tuple[Group, ...]

    def batches(self, start: int, stop: int) -> AbstractContextManager[Iterator[dict[str, Tensor]]]: ...


@dataclass(frozen=True)
class RelevanceConfig:
    """How a relevance model is made and trained.

    Attributes:
        size: height and width that pictures are resized to; at least 8. mismatches: wrong partners that the right one
        is told from in each term of the loss (DSSM: 4). gamma: smoothing of the softmax, by which cosines are
        multiplied. width, embedding: as in :class:`jdm_fast.metrics.relevance.RelevanceModel`. learning_rate: of
        AdamW, falling to 0 along a cosine.

    Raises:
        UserError: a number is out of its range.
    """

    size: int = 64
    steps: int = 1000
    batch_size: int = 64
    mismatches: int = 4
    gamma: float = 10.0
    width: int = 16
    embedding: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"size": MINIMUM_SIDE, "steps": 1, "mismatches": 1, "width": 1, "embedding": 1, "seed": 0}
        least["batch_size"] = self.mismatches + 1
        for name, low in least.items():
            if getattr(self, name) < low:
                why = ", an item and its mismatches" if name == "batch_size" else ""
                raise UserError(f"{name}: expected at least {low}{why}, got {getattr(self, name)}")
        for name in ("gamma", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name}: expected a number above 0, got {getattr(self, name)}")


def ranking_loss(x: Tensor, y: Tensor, mismatches: int, gamma: float, generator: torch.Generator) -> Tensor:
    """DSSM's loss in both directions: -log softmax(gamma * cosine) of the match among it and ``mismatches`` others.

    Args:
        x, y: embeddings [N, E] of length 1, row k of both of one pair; N at least ``mismatches + 1``.
        mismatches: K; for each item that many different wrong partners are drawn out of the batch.
        gamma: see above. generator: draws the mismatches, on the CPU.

    Returns:
        The mean over items and directions, a scalar; log(K + 1) where nothing has been learned.

    Raises:
        UserError: there are not so many others.
    """
    count = len(x)
    if count <= mismatches:
        raise UserError(f"batch_size: {mismatches} mismatches need a batch of {mismatches + 1} or more, got {count}")
    # The batch is in random order, so partners some random places further on are a random choice of them.
    places = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(count - 1, generator=generator)])
    partners = ((torch.arange(count)[:, None] + places[: mismatches + 1]) % count).to(x.device)  # [N, K+1], match first
    cosines = gamma * (x @ y.T)
    match = torch.zeros(count, dtype=torch.int64, device=x.device)
    forth = F.cross_entropy(cosines.gather(1, partners), match)
    back = F.cross_entropy(cosines.T.gather(1, partners), match)
    return (forth + back) / 2


def train_relevance(
    data: Sequence[Group] | PairLoader,
    config: RelevanceConfig | None = None,
    *,
    names: Sequence[str] | None = None,
    channels: int = 3,
    augment: bool = True,
    device: str | torch.device = "cpu",
    threads: int | None = None,
    cache_mb: int = 4096,
    on_step: Progress | None = None,
) -> RelevanceModel:
    """A relevance model trained on pairs: a tower for each domain, and a term of the loss for each two domains that a
    group holds together.

    Args:
        data: groups as :meth:`jdm_fast.data.dataset.Layout.groups` gives them (those of a single domain teach nothing
            and are left out); or a loader of such groups, whose batches are taken as they are.
        config: size, steps and so on; of a loader's batches, size and batch size are those of the loader.
        names: what the data set calls the domains x, y, z ...
        channels: 3 or 1, of pictures from groups.
        augment: mirror pictures and crop them out of slightly larger ones, pairs alike; not done to domains that are
            turns of each other, which it would spoil.
        device, threads, cache_mb: as in :class:`jdm_fast.data.loader.Loader`.
        on_step: called after each step with its number, the number of steps, and the loss.

    Raises:
        UserError: no two domains belong together, there are fewer than ``mismatches + 1`` pairs, or pictures cannot be
            read.
    """
    config = config or RelevanceConfig()
    loader = _loader(data, config, channels, augment, device, threads, cache_mb) if _are_groups(data) else data
    groups, keys = tuple(loader.groups), batch_keys(loader.groups)
    _require_pairs(groups, config.mismatches + 1)
    letters = [dict(zip(group.domains, some, strict=True)) for group, some in zip(groups, keys, strict=True)]
    generator = torch.Generator().manual_seed(config.seed)
    model: RelevanceModel | None = None
    with loader.batches(0, config.steps) as batches:
        for step, batch in enumerate(batches):
            if model is None:
                model = _new_model(batch, letters, config, names).to(device).train()
                optimizer = torch.optim.AdamW(
                    model.parameters(), config.learning_rate, weight_decay=config.weight_decay
                )
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * (1 + math.cos(math.pi * step / config.steps)) / 2
            losses = []
            for of_group in letters:
                embedded = {letter: model.embed(batch[key], letter) for letter, key in of_group.items()}
                for first, second in combinations(embedded.values(), 2):
                    losses.append(ranking_loss(first, second, config.mismatches, config.gamma, generator))
            loss = torch.stack(losses).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if on_step is not None:
                on_step(step + 1, config.steps, loss.item())
    assert model is not None
    model.notes["training"] = {**asdict(config), "pairs": sum(len(group) for group in groups)}
    return model.eval()


def _are_groups(data: Sequence[Group] | PairLoader) -> bool:
    return not hasattr(data, "batches")


def _loader(
    data: Sequence[Group],
    config: RelevanceConfig,
    channels: int,
    augment: bool,
    device: str | torch.device,
    threads: int | None,
    cache_mb: int,
) -> Loader:
    groups = tuple(group for group in data if len(group.domains) > 1)
    _require_pairs(groups, config.mismatches + 1)
    if augment:
        try:
            require_turns_kept(groups, flip=True, crop=True)
        except UserError:
            augment = False
    return Loader(
        groups,
        load_size=config.size * 9 // 8 if augment else config.size,  # CycleGAN's 286 to 256
        crop_size=config.size,
        flip=augment,
        seed=config.seed,
        # No batch longer than a pass, so that no item comes twice in it and is its own mismatch; one that ends a pass
        # and begins the next may still hold a few twice.
        batch_size=min(config.batch_size, *(len(group) for group in groups)),
        channels=channels,
        cache_mb=cache_mb,
        threads=threads,
        device=device,
    )


def _require_pairs(groups: Sequence[Group], least: int) -> None:
    if not any(len(group.domains) > 1 for group in groups):
        raise UserError(
            "relevance is learned from pairs, and here no item of one domain belongs to one of another: expected two "
            "domains paired by name, such as layout aligned, side-by-side or tuples"
        )
    few = min(len(group) for group in groups)
    if few < least:
        raise UserError(
            f"relevance is learned by telling a match from {least - 1} mismatches: expected at least {least} pairs, "
            f"got {few}"
        )


def _new_model(
    batch: dict[str, Tensor], letters: Sequence[dict[str, str]], config: RelevanceConfig, names: Sequence[str] | None
) -> RelevanceModel:
    shapes = {letter: tuple(batch[key].shape[1:]) for of_group in letters for letter, key in of_group.items()}
    shapes = dict(sorted(shapes.items(), key=lambda item: "xyzuvw".index(item[0])))
    with torch.random.fork_rng(devices=[]):  # the same model whatever was drawn before, and nothing drawn for others
        torch.manual_seed(config.seed)
        return RelevanceModel(
            shapes, names=None if names is None else list(names), width=config.width, embedding=config.embedding
        )


def split_pairs(layout: Layout, domains: Sequence[str] | None = None) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
    """The pairs of a data set to train on, and those held out: its ``test`` split, else ``val``, else the last tenth.

    The last by name, as neighbouring frames of a film are not to end up on both sides.

    Raises:
        UserError: no two of the domains belong together.
    """
    train = _with_pairs(layout, "train", domains)
    for split in ("test", "val"):
        if split in layout.splits and any(len(group.domains) > 1 for group in layout.groups(split, domains)):
            return train, _with_pairs(layout, split, domains)
    counts = [max(2, len(group) // 10) for group in train]
    if any(len(group) <= out for group, out in zip(train, counts, strict=True)):
        raise UserError(f"{layout.root}: too few pairs to hold some out, and there is no test split: add pairs")
    kept = tuple(group.take(range(len(group) - out)) for group, out in zip(train, counts, strict=True))
    held = tuple(group.take(range(len(group) - out, len(group))) for group, out in zip(train, counts, strict=True))
    return kept, held


def _with_pairs(layout: Layout, split: str, domains: Sequence[str] | None) -> tuple[Group, ...]:
    chosen = domains or layout.domains
    if len(chosen) < 2:
        raise UserError(f"{layout.root}: relevance is between two domains, got {', '.join(chosen)} only")
    groups = tuple(group for group in layout.groups(split, domains) if len(group.domains) > 1)
    if not groups:
        raise UserError(
            f"{layout.root}: the domains {', '.join(chosen)} of this {layout.name} data set are unpaired: expected "
            "items that belong together by name, as in layout aligned, side-by-side or tuples"
        )
    return groups


def paired_and_random(
    model: RelevanceModel,
    groups: Sequence[Group],
    *,
    most: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> dict[str, dict[str, Relevance]]:
    """Scores of the pairs in files, ``paired`` and, beside them, of the same items paired at ``random``, never rightly.

    Args:
        model: pictures are resized to its sizes, whole, and become grey or RGB as it needs.
        groups: of the domains that the model knows by their letters; those of one domain are left out.
        most: pairs of each group that are scored, evenly spaced; all unless given.
        seed: of the random pairs. threads: of decoding.
        on_progress: called with the number of items embedded, and of those to embed.

    Returns:
        For each two domains that some group holds together, such as ``xy``: both scores; no ``random`` of one pair.

    Raises:
        UserError: no two domains belong together, a domain is not known or is of another kind, or files are damaged.
    """
    groups = [group for group in groups if len(group.domains) > 1]
    if not groups:
        raise UserError("pairs are scored, and here no item of one domain belongs to one of another")
    if most is not None:
        groups = [group.take(range(0, len(group), -(-len(group) // most))) for group in groups]
    total, done = sum(len(group) * len(group.domains) for group in groups), 0
    cosines: dict[str, dict[str, list[Tensor]]] = {}
    for group in groups:
        embedded = {}
        for letter, domain in group.domains.items():
            parts = []
            for part in _embeddings(model, letter, domain, threads):
                parts.append(part)
                done += len(part)
                if on_progress is not None:
                    on_progress(done, total)
            embedded[letter] = torch.cat(parts)
        order = torch.randperm(len(group), generator=torch.Generator().manual_seed(seed))
        for (first, x), (second, y) in combinations(embedded.items(), 2):
            of_pair = cosines.setdefault(first + second, {"paired": [], "random": []})
            of_pair["paired"].append((x * y).sum(1))
            if len(group) > 1:
                of_pair["random"].append((x[order] * y[order.roll(1)]).sum(1))
    return {
        pair: {kind: Relevance.of(torch.cat(parts)) for kind, parts in kinds.items() if parts}
        for pair, kinds in cosines.items()
    }


@torch.no_grad()
def _embeddings(model: RelevanceModel, letter: str, domain: Domain, threads: int | None) -> Iterator[Tensor]:
    """Embeddings of all items of a domain, in order, some at a time."""
    if letter not in model.shapes:
        raise UserError(f"no domain {letter} in this relevance model, only {model.described()}")
    shape = model.shapes[letter]
    if isinstance(domain, Features) != (len(shape) == 1):
        raise UserError(
            f"domain {letter} ({model.names[letter]}): this relevance model was trained on "
            f"{'vectors' if len(shape) == 1 else 'pictures'}, got {'vectors' if len(shape) == 3 else 'pictures'}"
        )
    options = {} if len(shape) == 1 else {"load_size": shape[1:], "channels": shape[0]}
    for first in range(0, len(domain), _READ_AT_ONCE):
        some = Group({letter: domain.take(range(first, min(first + _READ_AT_ONCE, len(domain))))})
        loader = Loader([some], preprocess="resize", flip=False, cache_mb=0, threads=threads, **options)
        yield from (model.embed(part, letter).cpu() for part in loader.fixed(len(some))[letter].split(256))
