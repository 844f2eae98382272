"""Which items each step shows, and how they are cropped and mirrored: a pure function of the seed and the step.

Each group of domains has an endless row of positions. Pass ``p`` of a group of ``n`` items are its positions
``[p*n, (p+1)*n)``, and shows each item once in an order of its own. The longest group sets the length of an epoch; the
others begin a new pass, newly shuffled, when one ends.

The global batch of step ``s`` is the positions ``[s*G, (s+1)*G)`` of every group, ``G = world_size * batch_size``; the
process of rank ``r`` makes ``[s*G + r*batch_size, s*G + (r+1)*batch_size)`` of them. So the row of global batches does
not depend on the number of processes, and in a pass every item is seen exactly once over all of them. The last batch of
an epoch is filled with the beginning of the next pass: nothing is dropped, and nothing repeated within a pass.

All of this needs no state: the position to save in a checkpoint is the step number alone. This is why DALI is fed by
``external_source`` and not by its own readers, whose state would have to be saved too and depends on how they are cut
into shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jdm_fast.errors import UserError


@dataclass(frozen=True)
class Draw:
    """What one process shows of a group in one step; each array has ``batch_size`` entries.

    Attributes:
        items: int64, numbers of items. down, right: in [0, 1), where the crop is among all its places.
        mirror: bool. choice: in [0, 1), which of several feature vectors is taken.
    """

    items: np.ndarray
    down: np.ndarray
    right: np.ndarray
    mirror: np.ndarray
    choice: np.ndarray


class Sampler:
    """Draws the items of groups that are shuffled independently of each other.

    Args:
        counts: number of items of each group.
        batch_size: items of a group that one process takes in a step.
        seed: of orders and augmentation; from 0.
        flip: whether half of the items are mirrored.
        rank, world_size: which of how many processes this is.

    Attributes:
        steps_per_epoch: steps in which the longest group is shown once (rounded up).

    Raises:
        UserError: a number is out of its range.
    """

    def __init__(
        self,
        counts: Sequence[int],
        *,
        batch_size: int = 1,
        seed: int = 0,
        flip: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size: expected at least 1, got {batch_size}")
        if seed < 0:
            raise UserError(f"seed: expected 0 or more, got {seed}")
        if not 0 <= rank < world_size:
            raise UserError(f"rank: expected 0 to {world_size - 1} for a world_size of {world_size}, got {rank}")
        self._counts, self._batch_size, self._seed, self._flip = tuple(counts), batch_size, seed, flip
        self._rank, self._world_size = rank, world_size
        self._orders: dict[int, tuple[int, np.ndarray]] = {}
        self.steps_per_epoch = -(-max(self._counts) // (batch_size * world_size))

    def draw(self, group: int, step: int) -> Draw:
        """What this process shows of a group in a step (from 0)."""
        first = (step * self._world_size + self._rank) * self._batch_size
        positions = np.arange(first, first + self._batch_size, dtype=np.int64)
        keys = _hash(self._seed, group, 1, positions)
        down, right, mirror, choice = _uniform(keys, 4)
        items = np.array([self._item(group, int(position)) for position in positions], dtype=np.int64)
        return Draw(items, down, right, (mirror < 0.5) & self._flip, choice)

    def _item(self, group: int, position: int) -> int:
        turn, place = divmod(position, self._counts[group])
        known = self._orders.get(group)
        if known is None or known[0] != turn:
            known = self._orders[group] = (turn, self._order(group, turn))
        return int(known[1][place])

    def _order(self, group: int, turn: int) -> np.ndarray:
        """The order of a group's items in its pass number ``turn``: they are sorted by a random key."""
        keys = _mix(_hash(self._seed, group, 0, turn) + np.arange(self._counts[group], dtype=np.uint64))
        return np.argsort(keys, kind="stable")


# Randomness by counter: a hash of (seed, group, purpose, counter) needs no state, and unlike NumPy's generators its
# values are the same in every version of every library. The mixing function is SplitMix64's (Steele, Lea, Flood 2014).


def _mix(value: np.ndarray) -> np.ndarray:
    """SplitMix64's output function of uint64 values: neighbours become unrelated."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        value = value * np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


def _hash(*counters: int | np.ndarray) -> np.ndarray:
    """uint64 [1] from a tuple of counters, by mixing them in one after the other; [N] if the last is int64 [N]."""
    state = np.zeros(1, dtype=np.uint64)
    for counter in counters:
        state = _mix(state + np.asarray(counter).astype(np.uint64) + np.uint64(1))
    return state


def _uniform(keys: np.ndarray, count: int) -> np.ndarray:
    """``count`` numbers in [0, 1) that belong to each of the keys [N]: float64 [count, N]."""
    values = _mix(keys + np.arange(1, count + 1, dtype=np.uint64)[:, None])
    return (values >> np.uint64(11)).astype(np.float64) * 2.0**-53
