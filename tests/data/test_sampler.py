from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jdm_fast.data.sampler import Sampler
from jdm_fast.errors import UserError


def shown(sampler: Sampler, group: int, steps: range) -> list[int]:
    return [int(item) for step in steps for item in sampler.draw(group, step).items]


def test_known_orders_stay_what_they_are() -> None:
    """Runs are continued by versions of the package to come: the order must not change between them."""
    sampler = Sampler([7, 5], seed=1)
    assert shown(sampler, 0, range(14)) == [3, 5, 6, 1, 0, 2, 4, 1, 4, 2, 0, 6, 3, 5]
    assert shown(sampler, 1, range(10)) == [4, 1, 0, 2, 3, 0, 1, 2, 3, 4]
    draw = sampler.draw(1, 9)
    assert (draw.down[0], draw.right[0], draw.choice[0]) == (
        0.8810477103815395,
        0.13875517615660893,
        0.11950491569435284,
    )
    assert draw.mirror.tolist() == [True] and draw.items.dtype == np.int64


def test_a_draw_is_a_function_of_seed_and_step_alone() -> None:
    first = Sampler([7, 5], seed=3, batch_size=3)
    expected = {(group, step): first.draw(group, step) for group in (0, 1) for step in range(12)}
    again = Sampler([7, 5], seed=3, batch_size=3)
    np.random.seed(0)
    for (group, step), draw in reversed(expected.items()):
        other = again.draw(group, step)
        assert all(np.array_equal(getattr(other, name), value) for name, value in vars(draw).items())
    assert shown(Sampler([7], seed=4), 0, range(7)) != shown(Sampler([7], seed=3), 0, range(7))


def test_each_pass_shows_every_item_once_in_its_own_order() -> None:
    sampler = Sampler([7, 5], seed=0)
    for group, count in enumerate([7, 5]):
        passes = [shown(sampler, group, range(k * count, (k + 1) * count)) for k in range(6)]
        assert all(sorted(items) == list(range(count)) for items in passes)
        assert len({tuple(items) for items in passes}) == 6, "passes must not repeat each other (5! = 120 orders)"


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 8])
def test_the_longest_group_sets_the_epoch_and_the_others_cycle(batch_size: int) -> None:
    sampler, single = Sampler([7, 5], batch_size=batch_size), Sampler([7, 5])
    assert sampler.steps_per_epoch == -(-7 // batch_size)
    assert set(shown(sampler, 0, range(sampler.steps_per_epoch))) == set(range(7))
    for group in (0, 1):  # a batch is the next items of the same endless row, whatever its size
        assert shown(sampler, group, range(6)) == shown(single, group, range(6 * batch_size))


@pytest.mark.parametrize("world_size, batch_size", [(2, 1), (2, 3), (3, 2), (4, 1)])
def test_processes_share_the_row_that_one_would_show(world_size: int, batch_size: int) -> None:
    counts = [13, 4]
    whole = Sampler(counts, seed=5, batch_size=world_size * batch_size)
    parts = [
        Sampler(counts, seed=5, batch_size=batch_size, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    assert {part.steps_per_epoch for part in parts} == {whole.steps_per_epoch}
    for step in range(30):
        for group in (0, 1):
            together, pieces = whole.draw(group, step), [part.draw(group, step) for part in parts]
            for name, value in vars(together).items():
                assert np.array_equal(np.concatenate([getattr(piece, name) for piece in pieces]), value)
    everything = [item for step in range(26) for part in parts for item in part.draw(0, step).items.tolist()]
    for k in range(len(everything) // 13):
        assert sorted(everything[k * 13 : (k + 1) * 13]) == list(range(13)), "each once in a pass, over all processes"


def test_groups_are_shuffled_independently() -> None:
    """Of two groups with the same items one must meet any of the other equally often, itself no more than chance."""
    count, steps = 8, 4000
    sampler = Sampler([count, count], seed=2)
    met = np.zeros((count, count))
    for step in range(steps):
        met[sampler.draw(0, step).items, sampler.draw(1, step).items] += 1
    expected = steps / count**2
    assert np.abs(met - expected).max() < 5 * expected**0.5
    mirrors = [[bool(sampler.draw(group, step).mirror[0]) for step in range(1000)] for group in (0, 1)]
    assert abs(np.mean(np.equal(*mirrors)) - 0.5) < 0.07  # four standard deviations


def test_augmentation_is_uniform_and_flips_only_if_asked_to() -> None:
    draw = Sampler([3], seed=1, batch_size=4000).draw(0, 0)
    for values in (draw.down, draw.right, draw.choice):
        assert values.min() >= 0 and values.max() < 1
        assert np.abs(np.histogram(values, 10, (0, 1))[0] - 400).max() < 5 * 19  # five standard deviations
    assert abs(draw.mirror.mean() - 0.5) < 0.04
    assert abs(np.corrcoef([draw.down, draw.right, draw.choice, draw.mirror]) - np.eye(4)).max() < 0.07
    still = Sampler([3], seed=1, batch_size=4000, flip=False).draw(0, 0)
    assert not still.mirror.any() and np.array_equal(still.down, draw.down)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"seed": -1}, "seed: expected 0 or more, got -1"),
        ({"rank": 2, "world_size": 2}, "rank: expected 0 to 1 for a world_size of 2, got 2"),
    ],
    ids=str,
)
def test_impossible_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sampler([3], **settings)
