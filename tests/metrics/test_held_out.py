"""Scores of held-out batches in every direction, with translations that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from jdm_fast.metrics import EARTH_MASK, as_numbers, l1, mean_colours, score, score_held_out

SIZE = (12, 14)


def arrays(seed: int, count: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE, channels), np.uint8)


def tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.transpose(0, 3, 1, 2).astype(np.float32)) / 127.5 - 1


def batches(pictures: dict[str, np.ndarray], size: int = 2) -> list[dict[str, Tensor]]:
    count = len(next(iter(pictures.values())))
    return [{domain: tensor(array[k : k + size]) for domain, array in pictures.items()} for k in range(0, count, size)]


def negative(images: Tensor, to: str, source: str) -> Tensor:
    assert not torch.is_grad_enabled() and to != source
    return -images


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 3])
def test_both_directions_and_the_mean_colour(channels: int, dtype: torch.dtype) -> None:
    held_out = {"x": arrays(0, 5, channels), "y": arrays(1, 5, channels)}
    scores = score_held_out(lambda *images: negative(*images).to(dtype), batches(held_out))
    assert set(scores) == {"x_to_y", "y_to_x", "x_to_y/mean_colour", "y_to_x/mean_colour"}
    near = 1e-12 if dtype == torch.float32 else 2e-3
    for source, to in (("x", "y"), ("y", "x")):
        assert scores[f"{source}_to_{to}"].l1 == pytest.approx(l1(255 - held_out[source], held_out[to]), abs=near)
        colour = np.rint(held_out[to].mean((0, 1, 2))).astype(np.uint8)
        expected = score(np.broadcast_to(colour, held_out[to].shape), held_out[to])
        got = scores[f"{source}_to_{to}/mean_colour"]
        assert (got.l1, got.psnr) == pytest.approx((expected.l1, expected.psnr))
        assert got.ssim == pytest.approx(expected.ssim, abs=1e-6)


def test_three_domains_of_which_only_pairs_are_known() -> None:
    x, y, other_y, z = (arrays(seed, 2) for seed in range(4))
    pairs = batches({"x": x, "y": y}) + batches({"y": other_y, "z": z})
    scores = score_held_out(negative, pairs, ("x", "y", "z"))
    assert {name for name in scores if "/" not in name} == {"x_to_y", "y_to_x", "y_to_z", "z_to_y"}
    assert scores["y_to_z"].l1 == pytest.approx(l1(255 - other_y, z))
    assert scores["y_to_x"].l1 == pytest.approx(l1(255 - y, x))
    assert set(score_held_out(negative, pairs, ("x", "y"))) == {name for name in scores if "z" not in name}


def test_colours_that_are_known_already_save_the_first_pass() -> None:
    held_out = batches({"x": arrays(0, 4), "y": arrays(1, 4)})
    colours = mean_colours(held_out)
    assert colours["x"] == tuple(np.rint(arrays(0, 4).mean((0, 1, 2))).astype(int))
    assert score_held_out(negative, iter(held_out), colours=colours) == score_held_out(negative, held_out)
    with pytest.raises(ValueError, match="once only"):
        score_held_out(negative, iter(held_out))


def test_classes_of_a_domain() -> None:
    mask = np.uint8(EARTH_MASK.colours)[np.random.default_rng(0).integers(0, 2, (3, *SIZE))]
    held_out = batches({"x": 255 - mask, "y": mask})
    scores = score_held_out(negative, held_out, palettes={"y": EARTH_MASK})
    assert scores["x_to_y"].miou == 1 and scores["x_to_y/mean_colour"].miou < 0.5
    assert scores["y_to_x"].miou is None


def test_numbers_for_a_log() -> None:
    numbers = as_numbers(score_held_out(negative, batches({"x": arrays(0, 2), "y": arrays(1, 2)})))
    kinds = {"l1", "psnr", "ssim"}
    names = {"x_to_y", "y_to_x", "x_to_y/mean_colour", "y_to_x/mean_colour"}
    assert set(numbers) == {f"truth/{name}/{kind}" for name in names for kind in kinds}
    assert all(type(value) is float for value in numbers.values())


def test_what_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="nothing to score"):
        score_held_out(negative, batches({"x": arrays(0, 2), "features": arrays(1, 2)}))
    with pytest.raises(ValueError, match="nothing to score"):
        score_held_out(negative, [])
    with pytest.raises(ValueError, match="shape of the truth"):
        score_held_out(lambda images, to, source: images[..., :-1], batches({"x": arrays(0, 2), "y": arrays(1, 2)}))
    with pytest.raises(ValueError, match="shape of the truth"):
        score_held_out(negative, [{"x": tensor(arrays(0, 2)), "y": tensor(arrays(1, 3))}])
