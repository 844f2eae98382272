"""Data sets as groups of domains: choosing, arranging and naming them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jdm_fast.data.dataset import (
    Arrays,
    Features,
    Group,
    ImageFiles,
    Layout,
    VideoFrames,
    arrange,
    batch_keys,
)
from jdm_fast.errors import UserError


def files(folder: str, *names: str) -> ImageFiles:
    root = Path("root") / folder
    return ImageFiles(tuple(root / name for name in names), root)


def numbered(folder: str, count: int) -> ImageFiles:
    return files(folder, *(f"{index:02d}.png" for index in range(count)))


def layout(*groups: dict[str, ImageFiles]) -> Layout:
    names = tuple(dict.fromkeys(name for group in groups for name in group))
    return Layout("made-up", Path("root"), names, {"train": tuple(Group(group) for group in groups)})


PAIRS = (
    {"facade": numbered("f", 4), "labels": numbered("l", 4)},
    {"labels": numbered("m", 6), "city": numbered("c", 6)},
)


@pytest.mark.parametrize(
    "domain",
    [
        numbered("a", 5),
        Arrays(np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2, 1), Path("images.gz"), quarter_turns=1),
        VideoFrames(tuple((Path("clip.mp4"), frame) for frame in range(5)), Path(".")),
        Features(np.arange(5 * 6, dtype=np.float32).reshape(5, 2, 3), Path("features.npy")),
    ],
    ids=lambda domain: type(domain).__name__,
)
def test_taking_items(domain: ImageFiles | Arrays | VideoFrames | Features) -> None:
    taken = domain.take([3, 1])
    assert len(domain) == 5 and len(taken) == 2
    content = {ImageFiles: "paths", Arrays: "pixels", VideoFrames: "frames", Features: "values"}[type(domain)]
    for index, source in enumerate([3, 1]):
        assert np.array_equal(getattr(taken, content)[index], getattr(domain, content)[source])


def test_a_group_needs_items_for_each_other() -> None:
    with pytest.raises(UserError, match=r"3 of a, 2 of b"):
        Group({"a": numbered("a", 3), "b": numbered("b", 2)})
    with pytest.raises(UserError, match=r"at least one item, got 0 of a"):
        Group({"a": numbered("a", 0)})


def test_domains_get_letters_in_the_order_chosen() -> None:
    data = layout(*PAIRS)
    assert [list(group.domains) for group in data.groups("train")] == [["x", "y"], ["y", "z"]]
    turned = data.groups("train", ("city", "labels"))
    assert [list(group.domains) for group in turned] == [["y"], ["x", "y"]]
    assert turned[1].domains["x"] == PAIRS[1]["city"] and turned[1].domains["y"] == PAIRS[1]["labels"]
    assert [list(group.domains) for group in data.groups("train", ("facade", "city"))] == [["x"], ["y"]]


@pytest.mark.parametrize(
    ("split", "domains", "message"),
    [
        ("test", None, r"no test split in this made-up data set, only train"),
        ("train", ("a", "rain"), r"out of a, b, c, d, got a, rain"),
        ("train", ("a", "a"), r"expected different domains"),
        ("train", None, r"choose with --data.domains, such as --data.domains a b"),
    ],
)
def test_wrong_choices(split: str, domains: tuple[str, ...] | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        layout(*({name: numbered(name, 2)} for name in "abcd")).groups(split, domains)


def test_keys_tell_a_domain_of_two_groups_apart() -> None:
    assert batch_keys(layout(*PAIRS).groups("train")) == (("x", "y_xy"), ("y_yz", "z"))
    assert batch_keys(layout({"a": numbered("a", 2)}, {"b": numbered("b", 3)}).groups("train")) == (("x",), ("y",))


class TestArranging:
    pair = (Group({"x": numbered("a", 5), "y": numbered("b", 5)}),)

    def test_paired_is_left_alone(self) -> None:
        assert arrange(self.pair, "paired") == self.pair

    def test_shuffled_uses_every_picture_apart(self) -> None:
        x, y = arrange(self.pair, "shuffled")
        assert x.domains == {"x": self.pair[0].domains["x"]} and y.domains == {"y": self.pair[0].domains["y"]}

    def test_disjoint_leaves_no_counterpart_in_the_data(self) -> None:
        x, y = arrange(self.pair, "disjoint")
        of_x, of_y = ([path.name for path in group.domains[name].paths] for group, name in ((x, "x"), (y, "y")))
        assert of_x == ["00.png", "01.png"] and of_y == ["02.png", "03.png"]

    def test_disjoint_keeps_what_is_unpaired_already(self) -> None:
        alone = (Group({"x": numbered("a", 1)}), Group({"y": numbered("b", 3)}))
        assert arrange(alone, "disjoint") == alone

    def test_too_little_for_disjoint_parts(self) -> None:
        with pytest.raises(UserError, match=r"disjoint parts of 1 item"):
            arrange((Group({"x": numbered("a", 1), "y": numbered("b", 1)}),), "disjoint")

    @pytest.mark.parametrize("pairing", ["shuffled", "disjoint"])
    def test_a_domain_of_two_pairs_cannot_be_drawn_alone(self, pairing: str) -> None:
        with pytest.raises(UserError, match=r"domain y belongs to several pairs"):
            arrange(layout(*PAIRS).groups("train"), pairing)
