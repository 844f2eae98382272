"""The relevance score on made-up pairs whose content is known, against plain code, and what it says to bad input."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

from jdm_fast.data.dataset import Arrays, Features, Group, Layout, batch_keys
from jdm_fast.data.loader import Loader
from jdm_fast.errors import UserError
from jdm_fast.metrics.relevance import Relevance, RelevanceModel
from jdm_fast.metrics.relevance_training import (
    RelevanceConfig,
    paired_and_random,
    ranking_loss,
    split_pairs,
    train_relevance,
)

SIZE = 16
HERE = Path("made up")
QUICK = RelevanceConfig(size=SIZE, steps=60, batch_size=32, width=8, embedding=16, learning_rate=3e-3)


def contents(count: int, seed: int = 0) -> np.ndarray:
    """What is to be seen: float64 [N, 4], the brightness of each quarter."""
    return np.random.default_rng(seed).uniform(0, 1, (count, 4))


def pictures(content: np.ndarray, channels: int = 3, negative: bool = False) -> Arrays:
    quarters = content.reshape(-1, 2, 2, 1).repeat(SIZE // 2, 1).repeat(SIZE // 2, 2).repeat(channels, 3)
    noise = np.random.default_rng(len(content)).uniform(-0.1, 0.1, quarters.shape)
    pixels = np.clip(1 - quarters if negative else quarters + noise, 0, 1)
    return Arrays(np.rint(255 * pixels).astype(np.uint8), HERE)


def vectors(content: np.ndarray) -> Features:
    mixing = np.random.default_rng(7).normal(0, 100, (4, 6))
    return Features((content @ mixing).astype(np.float32)[:, None].repeat(2, 1), HERE)


def pairs(count: int, seed: int = 0) -> Group:
    content = contents(count, seed)
    return Group({"x": pictures(content), "y": pictures(content, negative=True)})


def images(count: int, channels: int = 3, size: int = SIZE, seed: int = 0) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads cost more than they bring on networks this small, most of all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> RelevanceModel:
    return train_relevance([pairs(400)], QUICK, names=("photo", "negative"), cache_mb=0)


def test_the_loss_is_that_of_plain_code() -> None:
    generator = torch.Generator().manual_seed(3)
    x, y = (F.normalize(torch.randn(7, 5, dtype=torch.float64), dim=1) for _ in range(2))
    got = ranking_loss(x, y, 3, 10.0, generator)
    shifts = [0, *(1 + torch.randperm(6, generator=torch.Generator().manual_seed(3)))[:3].tolist()]
    terms = []
    for a, b in ((x, y), (y, x)):
        for k in range(7):
            cosines = [float(a[k] @ b[(k + shift) % 7]) for shift in shifts]
            terms.append(-10 * cosines[0] + math.log(sum(math.exp(10 * cosine) for cosine in cosines)))
    assert got.item() == pytest.approx(np.mean(terms), rel=1e-12)
    assert len(set(shifts)) == 4


@pytest.mark.parametrize("mismatches", [1, 4, 6])
def test_the_loss_where_nothing_and_where_all_is_known(mismatches: int) -> None:
    generator = torch.Generator().manual_seed(0)
    same = F.normalize(torch.ones(7, 9), dim=1)
    assert ranking_loss(same, same, mismatches, 10.0, generator).item() == pytest.approx(math.log(mismatches + 1))
    told = torch.eye(7, 9)
    known = math.log(1 + mismatches * math.exp(-10))
    assert ranking_loss(told, told, mismatches, 10.0, generator).item() == pytest.approx(known, rel=1e-3)
    with pytest.raises(UserError, match="batch of 8 or more, got 7"):
        ranking_loss(told, told, 7, 10.0, generator)


def test_true_pairs_score_above_random_ones(model: RelevanceModel) -> None:
    scores = paired_and_random(model, [pairs(100, seed=1)])["xy"]
    assert scores["paired"].mean > 0.6 and abs(scores["random"].mean) < 0.2
    assert scores["paired"].count == scores["random"].count == 100
    assert 0 < scores["paired"].standard_error < scores["random"].standard_error < 0.1
    assert model.notes["training"]["pairs"] == 400 and model.names == {"x": "photo", "y": "negative"}


def test_scores_of_files_are_those_of_tensors(model: RelevanceModel) -> None:
    """And random pairs are never right ones: with two pairs there is one way to have them wrong."""
    group = pairs(2, seed=1)
    x, y = (
        torch.from_numpy(group.domains[name].pixels.transpose(0, 3, 1, 2) / 127.5 - 1).float() for name in ("x", "y")
    )
    scores = paired_and_random(model, [group])["xy"]
    for kind, partners in (("paired", y), ("random", y.flip(0))):
        cosines = model.score(x, partners)
        assert cosines.shape == (2,) and cosines.dtype == torch.float32 and not cosines.requires_grad
        expected = Relevance.of(cosines)
        assert scores[kind].mean == pytest.approx(expected.mean, abs=1e-5)
        assert scores[kind].standard_error == pytest.approx(cosines.double().std().item() / math.sqrt(2), abs=1e-5)
    assert set(paired_and_random(model, [pairs(1)])["xy"]) == {"paired"}
    assert paired_and_random(model, [pairs(100)], most=30)["xy"]["paired"].count == 25, "every fourth"


def test_one_score_does_not_depend_on_the_others(model: RelevanceModel) -> None:
    x, y = images(300, seed=1), images(300, seed=2)
    together = model.score(x, y)
    torch.testing.assert_close(model.score(x[270:272], y[270:272]), together[270:272])
    torch.testing.assert_close(model.score(x.bfloat16(), y.bfloat16()), together, atol=0.05, rtol=0)
    torch.testing.assert_close(model.score(y, x, domains=("y", "x")), together)
    assert model.score(x[:0], y[:0]).shape == (0,)
    assert (together.abs() <= 1 + 1e-6).all()


def test_the_same_seed_gives_the_same_model(model: RelevanceModel) -> None:
    few = RelevanceConfig(**{**QUICK.__dict__, "steps": 3})
    first, second = (train_relevance([pairs(40)], few, cache_mb=0).state_dict() for _ in range(2))
    torch.manual_seed(99)
    third = train_relevance([pairs(40)], few, cache_mb=0).state_dict()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]) and torch.equal(tensor, third[name]), name


def test_grey_pictures_and_vectors() -> None:
    content, held_out = contents(400), contents(80, seed=1)
    group = Group({"x": pictures(content, channels=1), "y": vectors(content)})
    losses = []
    model = train_relevance(
        [group], QUICK, channels=1, cache_mb=0, augment=False, on_step=lambda step, steps, loss: losses.append(loss)
    )
    assert model.shapes == {"x": (1, SIZE, SIZE), "y": (6,)}
    assert len(losses) == 60 and losses[-1] < losses[0] / 2
    scores = paired_and_random(model, [Group({"x": pictures(held_out, 1), "y": vectors(held_out)})])["xy"]
    assert scores["paired"].mean > scores["random"].mean + 0.5
    with pytest.raises(UserError, match="trained on vectors, got pictures"):
        paired_and_random(model, [pairs(3)])


def test_three_domains_of_which_only_pairs_are_known() -> None:
    """x and z are never seen together, and still their towers agree, as both agree with y's."""
    first, second, held_out = contents(400), contents(400, seed=1), contents(80, seed=2)
    groups = [
        Group({"x": pictures(first), "y": pictures(first, negative=True)}),
        Group({"y": pictures(second, negative=True), "z": pictures(second)}),
        Group({"z": pictures(held_out)}),
    ]
    model = train_relevance(groups, QUICK, cache_mb=0)
    assert tuple(model.shapes) == ("x", "y", "z")
    truth = Group(
        {"x": pictures(held_out), "y": pictures(held_out, negative=True), "z": pictures(held_out)},
    )
    scores = paired_and_random(model, [truth])
    assert set(scores) == {"xy", "xz", "yz"}
    for of_pair in scores.values():
        assert of_pair["paired"].mean > of_pair["random"].mean + 0.4


def test_a_loader_is_taken_as_it_is() -> None:
    groups = [pairs(40)]
    loader = Loader(groups, load_size=12, crop_size=12, batch_size=8, cache_mb=0)
    model = train_relevance(loader, RelevanceConfig(steps=2, width=4, embedding=8))
    assert model.shapes == {"x": (3, 12, 12), "y": (3, 12, 12)} and batch_keys(groups) == (("x", "y"),)
    with pytest.raises(UserError, match="batch of 21 or more, got 8"):
        train_relevance(loader, RelevanceConfig(steps=1, mismatches=20))


def test_turns_of_each_other_are_not_mirrored_or_cropped() -> None:
    pixels = pictures(contents(20)).pixels
    group = Group({"x": Arrays(pixels, HERE), "y": Arrays(pixels, HERE, quarter_turns=1)})
    model = train_relevance([group], RelevanceConfig(size=SIZE, steps=1, width=4), cache_mb=0)
    assert model.shapes["x"] == (3, SIZE, SIZE)


def test_save_and_load(model: RelevanceModel, tmp_path: Path) -> None:
    path = model.save(tmp_path / "new" / "model.safetensors")
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]
    loaded = RelevanceModel.load(path)
    x, y = images(5, seed=1), images(5, seed=2)
    assert torch.equal(loaded.score(x, y), model.score(x, y))
    assert (loaded.shapes, loaded.names, loaded.notes) == (model.shapes, model.names, model.notes)


def test_files_that_are_no_model(model: RelevanceModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ends in .safetensors"):
        model.save(tmp_path / "model.pt")
    path = model.save(tmp_path / "model.safetensors")
    whole = path.read_bytes()
    tensors = safetensors.torch.load(whole)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    fewer = {name: tensor for name, tensor in tensors.items() if "centre" not in name}
    settings = json.loads(metadata["settings"])
    wrong = {
        "cut short": whole[:-100],
        "text": b"hello",
        "nothing": b"",
        "others' tensors": safetensors.torch.save(tensors),
        "too few": safetensors.torch.save(fewer, metadata),
        "of another width": safetensors.torch.save(
            tensors, {**metadata, "settings": json.dumps({**settings, "width": 4})}
        ),
        "unknown settings": safetensors.torch.save(
            tensors, {**metadata, "settings": json.dumps({**settings, "depth": 4})}
        ),
    }
    for what, content in wrong.items():
        path.write_bytes(content)
        with pytest.raises(UserError, match="model.safetensors: damaged, or no relevance model"):
            print(what, RelevanceModel.load(path))
    path.write_bytes(safetensors.torch.save(tensors, {**metadata, "relevance_format": "2"}))
    with pytest.raises(UserError, match="newer: update"):
        RelevanceModel.load(path)
    with pytest.raises(UserError, match="there is no such file"):
        RelevanceModel.load(tmp_path / "gone.safetensors")
    with pytest.raises(UserError, match="is a folder"):
        RelevanceModel.load(tmp_path)


@pytest.mark.parametrize(
    "x, y, domains, message",
    [
        (images(2), images(3), "xy", "as many items of both domains, got 2 and 3"),
        (images(2), images(2), "xz", "no domain 'z' in this relevance model, only x .photo., y .negative."),
        (images(2, size=32), images(2), "xy", r"photo.*\[N, 3, 16, 16\].*got torch.float32 \[2, 3, 32, 32\]"),
        (images(2), images(2, channels=1), "xy", r"negative.*got torch.float32 \[2, 1, 16, 16\]"),
        (images(2), torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8), "xy", "floating dtype, got torch.uint8"),
        (images(2), images(2) * 127, "xy", r"in \[-1, 1\]"),
        (images(2) * math.nan, images(2), "xy", "finite"),
    ],
)
def test_what_cannot_be_scored(model: RelevanceModel, x: Tensor, y: Tensor, domains: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model.score(x, y, domains=tuple(domains))


def test_what_cannot_be_learned_from() -> None:
    alone = Group({"x": pictures(contents(20))})
    for groups in ([alone], [alone, Group({"y": pictures(contents(20))})], []):
        with pytest.raises(UserError, match="relevance is learned from pairs"):
            train_relevance(groups, QUICK)
    with pytest.raises(UserError, match="at least 5 pairs, got 4"):
        train_relevance([pairs(4)], QUICK)
    with pytest.raises(UserError, match="pairs are scored"):
        paired_and_random(RelevanceModel({"x": (3, 8, 8), "y": (3, 8, 8)}), [alone])
    with pytest.raises(UserError, match="no domain z in this relevance model"):
        paired_and_random(
            RelevanceModel({"x": (3, 16, 16), "y": (3, 16, 16)}),
            [Group({**pairs(3).domains, "z": vectors(contents(3))})],
        )


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("size", 7, "size: expected at least 8"),
        ("steps", 0, "steps: expected at least 1"),
        ("mismatches", 0, "mismatches: expected at least 1"),
        ("batch_size", 4, "batch_size: expected at least 5, an item and its mismatches, got 4"),
        ("gamma", 0.0, "gamma: expected a number above 0"),
        ("learning_rate", math.nan, "learning_rate: expected a number above 0"),
    ],
)
def test_settings_out_of_range(field: str, value: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        RelevanceConfig(**{field: value})


@pytest.mark.parametrize("shapes", [{"x": (3, 16, 16)}, {"x": (3, 16, 7), "y": (5,)}, {"x": (16, 16), "y": (5,)}])
def test_shapes_that_no_tower_takes(shapes: dict) -> None:
    with pytest.raises(UserError, match="relevance is between two domains|expected pictures"):
        RelevanceModel(shapes)


def test_what_is_held_out() -> None:
    train = pairs(50)
    layout = Layout("aligned", HERE, ("a", "b"), {"train": (renamed(train),)})
    (kept,), (held,) = split_pairs(layout)
    assert (len(kept), len(held)) == (45, 5)
    np.testing.assert_array_equal(held.domains["y"].pixels, train.domains["y"].pixels[45:])
    with_test = Layout("aligned", HERE, ("a", "b"), {"train": (renamed(train),), "test": (renamed(pairs(7)),)})
    assert [len(groups[0]) for groups in split_pairs(with_test, ("b", "a"))] == [50, 7]
    unpaired = {"train": tuple(Group({name: domain}) for name, domain in renamed(train).domains.items())}
    for what, domains, message in [
        (
            Layout("cyclegan", HERE, ("a", "b"), unpaired),
            None,
            "the domains a, b of this cyclegan data set are unpaired",
        ),
        (layout, ("a",), "between two domains, got a only"),
        (Layout("aligned", HERE, ("a", "b"), {"train": (renamed(pairs(2)),)}), None, "too few pairs to hold some out"),
    ]:
        with pytest.raises(UserError, match=message):
            split_pairs(what, domains)


def renamed(group: Group) -> Group:
    return Group({"a": group.domains["x"], "b": group.domains["y"]})


def test_the_mean_of_no_pair_is_not_made_up() -> None:
    with pytest.raises(UserError, match="no pair"):
        Relevance.of(torch.empty(0))
    assert Relevance.of(torch.tensor([0.5])) == Relevance(0.5, None, 1)
