from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jdm_fast.training.image_pool import ImagePool, Pools


def numbered(first: int, count: int = 1) -> Tensor:
    """Images [count, 1, 2, 2] whose pixels are all their number."""
    return torch.arange(first, first + count, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()


def numbers(images: Tensor) -> list[int]:
    return [int(image[0, 0, 0]) for image in images]


def test_the_first_images_come_back_as_they_are() -> None:
    pool = ImagePool(50, seed=0)
    for k in range(50):
        assert numbers(pool.query(numbered(k))) == [k]
    assert numbers(pool.state_dict()["images"]) == list(range(50))


def test_off() -> None:
    images = numbered(0, 4)
    pool = ImagePool(0, seed=0)
    assert pool.query(images) is images
    assert pool.state_dict()["images"] is None


def test_half_come_from_the_pool_and_each_stays_about_as_long_as_it_should() -> None:
    size, queries = 50, 4000
    pool = ImagePool(size, seed=1)
    returned = [numbers(pool.query(numbered(k)))[0] for k in range(queries)]
    old = [k - number for k, number in enumerate(returned) if number != k]
    # Swaps are Bernoulli(1/2): the standard deviation of their share is 0.5 / sqrt(3950) = 0.008; four of those.
    assert abs(len(old) / (queries - size) - 0.5) < 0.032
    # An image waits for one of 50 places to be drawn in one of two queries: 100 queries on average, spread as much.
    mean_wait = sum(old) / len(old)
    assert 90 < mean_wait < 110


def test_no_image_is_lost_or_doubled() -> None:
    pool = ImagePool(5, seed=2)
    returned = [number for k in range(0, 120, 3) for number in numbers(pool.query(numbered(k, 3)))]
    kept = numbers(pool.state_dict()["images"])
    # While the pool fills, an image is both kept and returned; from then on each goes one way only.
    assert sorted(returned + kept) == sorted([*range(5), *range(120)])


def test_batches_are_queried_image_by_image() -> None:
    one, many = ImagePool(5, seed=3), ImagePool(5, seed=3)
    singly = [numbers(one.query(numbered(k)))[0] for k in range(60)]
    # The choices of a batch are drawn together, so streams differ; the rule is the same: check it by a plain model.
    kept: list[int] = []
    for k in range(0, 60, 4):
        fakes = numbered(k, 4)
        result = numbers(many.query(fakes))
        assert numbers(fakes) == [k, k + 1, k + 2, k + 3], "the fakes themselves must stay"
        for number, given in zip(range(k, k + 4), result, strict=True):
            if len(kept) < 5:
                assert given == number
                kept.append(number)
            elif given != number:
                kept[kept.index(given)] = number
        assert numbers(many.state_dict()["images"]) == kept
    assert singly != list(range(60))


def test_continues_where_it_was() -> None:
    pool = ImagePool(4, seed=4)
    for k in range(3):
        pool.query(numbered(k))
    half_full = pool.state_dict()
    for k in range(3, 30):
        pool.query(numbered(k))
    full = pool.state_dict()
    for state, first in ((half_full, 3), (full, 30)):
        other, again = ImagePool(4, seed=99), ImagePool(4, seed=98)
        for each in (other, again):
            each.load_state_dict(state, torch.device("cpu"))
        expected = [numbers(other.query(numbered(k, 2))) for k in range(first, first + 40, 2)]
        assert [numbers(again.query(numbered(k, 2))) for k in range(first, first + 40, 2)] == expected
    rest = [numbers(pool.query(numbered(k, 2))) for k in range(30, 70, 2)]
    assert rest == expected


def plain_rule(images: list[int], kept: list[int], size: int, choices: list[tuple[bool, int]]) -> list[int]:
    """CycleGAN's rule as it is told: one image after the other."""
    returned = []
    for image, (swap, place) in zip(images, choices, strict=True):
        if len(kept) < size:
            kept.append(image)
            returned.append(image)
        elif swap:
            returned.append(kept[place])
            kept[place] = image
        else:
            returned.append(image)
    return returned


def test_a_batch_larger_than_the_pool_asks_for_images_of_its_own() -> None:
    """Several images of a batch for one place, and back out of it within the batch."""
    size, count = 3, 8
    pool, draws, kept = ImagePool(size, seed=6), torch.Generator().manual_seed(6), []
    own = 0
    for first in range(0, 40 * count, count):
        swaps = torch.rand(count, generator=draws).lt(0.5).tolist()
        places = torch.randint(size, (count,), generator=draws).tolist()
        images = list(range(first, first + count))
        expected = plain_rule(images, kept, size, list(zip(swaps, places, strict=True)))
        assert numbers(pool.query(numbered(first, count))) == expected
        assert numbers(pool.state_dict()["images"]) == kept
        own += sum(image != back and back >= first for image, back in zip(images, expected, strict=True))
    assert own > 20


def test_fixed_questions_are_answered_from_the_buffer() -> None:
    names, device = ("a", "b"), torch.device("cpu")
    free, fixed = Pools(names, 3, seed=7), Pools(names, 3, seed=7)
    answers: dict[str, list[list[int]]] = {"free": [], "fixed": []}
    for k in range(20):
        for label, pools in (("free", free), ("fixed", fixed)):
            if label == "fixed" and k >= 2:
                if k == 2:
                    pools.fix(device)
                pools.refill()
            pools.begin()
            for name, count in (("a", 2), ("b", 4), ("a", 2)):
                answers[label].append(numbers(pools.query(name, numbered(10 * k + count, count))))
            unpooled = numbered(k)
            assert pools.query("c", unpooled) is unpooled
    assert answers["fixed"] == answers["free"]
    with pytest.raises(ValueError, match="expected 2 of a as in the steps before, got 4 of b"):
        fixed.refill()
        fixed.query("b", numbered(0, 4))
    fixed.load_state_dict(free.state_dict(), device)
    assert numbers(fixed.query("a", numbered(500))) == numbers(free.query("a", numbered(500)))


def test_goes_on_in_another_precision() -> None:
    pool, other = ImagePool(2, seed=8), ImagePool(2, seed=9)
    pool.query(numbered(0, 2).bfloat16())
    other.load_state_dict(pool.state_dict(), torch.device("cpu"))
    for k in range(2, 12):
        shown = other.query(numbered(k))
        assert shown.dtype == torch.float32 and numbers(shown) == numbers(pool.query(numbered(k).bfloat16()))
