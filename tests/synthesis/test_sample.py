"""Tuples from a trained model: shapes, seeds, what is given, straight lines of noise, and what is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from jdm_fast.errors import UserError
from jdm_fast.methods import WGANGP, CycleGAN, CycleGANConfig, JointGAN, JointGANConfig, TwoStep, WGANGPConfig
from jdm_fast.synthesis import Model
from jdm_fast.synthesis.padding import pad_reflect

SMALL: dict[str, Any] = {
    "width": 4, "depth": 3, "max_width": 8, "critic_width": 4, "critic_layers": 1, "noise": 5, "hidden": 8,
    "init": "default",
}  # fmt: skip
SIZE = (8, 16)


def joint(**options: Any) -> Model:
    torch.manual_seed(0)
    return Model(JointGAN(JointGANConfig(**{**SMALL, **options})), "cpu", "run", SIZE)


class Sums(nn.Module):
    """Each domain is its noise plus half of all before it: every answer can be worked out by hand."""

    domains = image_domains = ("x", "y", "z")
    size_multiple, minimum_size = 4, 8

    def __init__(self) -> None:
        super().__init__()
        self.vectors: dict[str, int] = {}
        self.config = JointGANConfig()
        self.drawn: list[int] = []

    def sample_noise(self, count: int, size: tuple[int, int], generator: torch.Generator) -> dict[str, Tensor]:
        return {d: 0.1 * torch.randn(count, 3, 1, 1, generator=generator).expand(-1, -1, *size) for d in self.domains}

    def default_order(self, given: tuple[str, ...] = ()) -> str:
        return "".join([*given, *(name for name in self.domains if name not in given)])

    def sample(
        self, noise: dict[str, Tensor], given: dict[str, Tensor] | None = None, order: str | None = None
    ) -> dict[str, Tensor]:
        assert not torch.is_grad_enabled() and not self.training
        values = dict(given or {})
        self.drawn.append(len(noise["x"]))
        for name in order or self.default_order(tuple(values)):
            if name not in values:
                values[name] = noise[name] + sum(0.5 * value for value in values.values())
        return {name: values[name] for name in self.domains}


@pytest.fixture
def sums() -> Model:
    return Model(Sums(), "cpu", "sums", (8, 8))


def pictures(count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)


def floats(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float64) / 127.5 - 1


def assert_close(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """Equal to rounding: a level of a picture."""
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_allclose(values.astype(float), other[name].astype(float), atol=1 if values.ndim > 3 else 1e-5)


# ---- shapes ---------------------------------------------------------------------------------------------------------

THREE: dict[str, Any] = {"domains": 3, "sources": ("paired",)}
PICTURE = (*SIZE, 3)


@pytest.mark.parametrize(
    "options, request_, expected",
    [
        ({}, {"n": 3}, {"x": (3, *PICTURE), "y": (3, *PICTURE)}),
        ({}, {}, {"x": (16, *PICTURE), "y": (16, *PICTURE)}),
        ({}, {"n": 2, "size": 24}, {"x": (2, 24, 24, 3), "y": (2, 24, 24, 3)}),
        ({}, {"n": 2, "size": (8, 24), "order": "yx"}, {"x": (2, 8, 24, 3), "y": (2, 8, 24, 3)}),
        ({}, {"n": 2, "only": "y"}, {"y": (2, *PICTURE)}),
        ({}, {"given": {"x": pictures(3)}}, {"x": (3, *PICTURE), "y": (3, *PICTURE)}),
        ({}, {"given": {"y": pictures(2)}, "draws": 4}, {"x": (2, 4, *PICTURE), "y": (2, *PICTURE)}),
        ({}, {"given": {"y": pictures(2)}, "draws": 1, "only": "x"}, {"x": (2, 1, *PICTURE)}),
        ({"channels": 1}, {"given": {"x": pictures(2)}}, {"x": (2, *PICTURE), "y": (2, *PICTURE)}),
        ({"vectors": ("y:7",)}, {"n": 2}, {"x": (2, *PICTURE), "y": (2, 7)}),
        (
            {"vectors": ("y:7",)},
            {"given": {"y": np.zeros((2, 7), np.float32)}, "draws": 3},
            {"x": (2, 3, *PICTURE), "y": (2, 7)},
        ),
        ({"vectors": ("x:2", "y:1")}, {"n": 2, "order": "yx"}, {"x": (2, 2), "y": (2, 1)}),
        (THREE, {"n": 2, "order": "zyx"}, {d: (2, *PICTURE) for d in "xyz"}),
        (
            THREE,
            {"given": {"x": pictures(2), "y": pictures(2)}, "draws": 2},
            {"x": (2, *PICTURE), "y": (2, *PICTURE), "z": (2, 2, *PICTURE)},
        ),
    ],
)
def test_shapes(options: dict[str, Any], request_: dict[str, Any], expected: dict[str, tuple[int, ...]]) -> None:
    made = joint(**options).sample(**request_)
    assert list(made) == sorted(expected) and {name: array.shape for name, array in made.items()} == expected
    for name, array in made.items():
        vector = any(entry.startswith(name) for entry in options.get("vectors", ()))
        assert array.dtype == (np.float32 if vector else np.uint8)
        if options.get("channels") == 1:
            assert (array == array[..., :1]).all()


# ---- seeds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"vectors": ("y:7",)}, THREE])
def test_a_tuple_does_not_depend_on_those_beside_it(options: dict[str, Any]) -> None:
    model = joint(**options)
    nine = model.sample(9, seed=5)
    assert_close(nine, model.sample(9, seed=5, batch_size=1))
    assert_close(nine, model.sample(9, seed=5, batch_size=4))
    assert_close({name: array[:4] for name, array in nine.items()}, model.sample(4, seed=5))
    other = model.sample(9, seed=6)
    for name, array in nine.items():
        assert len(np.unique(array.reshape(9, -1), axis=0)) == 9, "each tuple has noise of its own"
        assert not np.array_equal(array, other[name])


def test_draws_of_one_condition_differ_and_begin_alike() -> None:
    model, given = joint(), {"x": pictures(3)}
    draws = model.sample(given=given, draws=4, seed=1)
    assert_close(draws, model.sample(given=given, draws=4, seed=1, batch_size=5))
    np.testing.assert_array_equal(draws["x"], given["x"])
    for one in draws["y"]:
        assert len(np.unique(one.reshape(4, -1), axis=0)) == 4
    assert_close({"y": draws["y"][:, 0]}, {"y": model.sample(given=given, seed=1)["y"]})
    last = model.sample(given={"x": given["x"][:2]}, draws=2, seed=1)["y"]
    assert_close({"y": draws["y"][:2, :2]}, {"y": last})


def test_pytorchs_own_stream_is_left_alone() -> None:
    model = joint()
    before = torch.get_rng_state()
    model.sample(3)
    model.interpolate(steps=2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("batch_size, calls", [(1, [1] * 6), (4, [4, 2]), (None, [6])])
def test_batches(sums: Model, batch_size: int | None, calls: list[int]) -> None:
    sums.sample(given={"x": pictures(2, (8, 8))}, draws=3, batch_size=batch_size)
    assert sums.method.drawn == calls


@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_each_condition_gets_its_own_draws(sums: Model, batch_size: int | None) -> None:
    x = pictures(3, (8, 8)) // 2 + 64
    made = sums.sample(given={"x": x}, draws=2, seed=4, batch_size=batch_size)
    assert made["y"].shape == (3, 2, 8, 8, 3)
    for k in range(3):
        for draw in range(2):
            noise = sums.sampler.noise([(k, draw)], (8, 8), 4)["y"].permute(0, 2, 3, 1).numpy()
            np.testing.assert_allclose(floats(made["y"][k, draw]), noise[0] + floats(x[k]) / 2, atol=0.01)


# ---- what is given --------------------------------------------------------------------------------------------------


def test_kinds_of_images_agree() -> None:
    model, images = joint(), pictures(3)
    expected = model.sample(given={"x": images})
    tensor = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
    for kind in (tensor, tensor.double(), [Image.fromarray(image) for image in images]):
        assert_close(model.sample(given={"x": kind}), expected)
    for kind in (images[0], Image.fromarray(images[0])):
        assert_close(model.sample(given={"x": kind}), {name: array[:1] for name, array in expected.items()})


def test_pictures_are_resized_when_asked() -> None:
    model = joint()
    images = [Image.fromarray(picture) for picture in (pictures(1, (9, 31))[0], pictures(1, (40, 16))[0])]
    made = model.sample(given={"x": images}, resize=True)
    assert made["x"].shape == made["y"].shape == (2, *PICTURE)
    assert np.abs(made["x"][0].astype(int) - np.asarray(images[0].resize((16, 8), Image.Resampling.BICUBIC))).max() <= 2
    assert model.sample(given={"x": images}, resize=True, size=16)["x"].shape == (2, 16, 16, 3)


def test_the_marginal_is_reached_by_the_fewest_draws() -> None:
    calls: Counter[str] = Counter()

    def counted(model: Model) -> Model:
        for name, generator in model.method.generators.items():
            generator.register_forward_hook(lambda *_, name=name: calls.update([name]))
        return model

    for sources, domains, request_, expected in (
        (("paired",), 2, {"only": "y"}, "y"),
        (("chain",), 3, {"only": "y"}, "xy"),
        (("chain",), 3, {"only": "y", "order": "zyx"}, "zy"),
        (("chain",), 3, {"only": "y", "given": {"x": pictures(1)}}, "y"),
        (("chain",), 3, {"only": "z", "given": {"x": pictures(1)}}, "yz"),
        (("xyz:0", "xyz:3"), 3, {"only": "z"}, "xyz"),
        (("xyz:0", "zyx:3", "zyx:0"), 3, {"only": "z"}, "z"),
    ):
        model = counted(joint(sources=sources, domains=domains))
        calls.clear()
        assert list(model.sample(1, **request_) if "given" not in request_ else model.sample(**request_)) == [
            request_["only"]
        ]
        assert calls == Counter(expected), (sources, request_)
    model = joint()
    assert_close({"x": model.sample(2)["x"]}, model.sample(2, only="x"))


def test_two_step_baseline_has_the_same_face() -> None:
    torch.manual_seed(0)
    small: dict[str, Any] = {"width": 4, "max_width": 8, "critic_width": 4, "critic_layers": 1}
    marginals = WGANGP(WGANGPConfig(**small, depth=4))
    model = Model(TwoStep(marginals, CycleGAN(CycleGANConfig(**small, depth=3))), "cpu")
    side = model.method.minimum_size
    assert {name: array.shape for name, array in model.sample(1).items()} == {d: (1, side, side, 3) for d in "xy"}
    assert list(model.sample(1, only="y")) == ["y"]
    given = pictures(1, (side, side))
    np.testing.assert_array_equal(model.sample(given={"y": given})["y"], given)


# ---- straight lines of noise ----------------------------------------------------------------------------------------


def test_corners_against_sums_by_hand(sums: Model) -> None:
    made = {name: floats(array)[:, :, 0, 0] for name, array in sums.interpolate(steps=5, seed=3).items()}
    t = np.linspace(0, 1, 5)[:, None]
    x = (1 - t) * made["x"][0, 0] + t * made["x"][4, 0]
    np.testing.assert_allclose(made["x"], np.repeat(x[:, None], 5, axis=1), atol=0.01)
    of_y = made["y"] - 0.5 * made["x"]  # y's own noise
    line = (1 - t) * of_y[0, 0] + t * of_y[0, 4]
    np.testing.assert_allclose(of_y, np.repeat(line[None], 5, axis=0), atol=0.02)
    of_z = made["z"] - 0.5 * (made["x"] + made["y"])
    assert np.ptp(of_z, axis=(0, 1)).max() < 0.03, "the noise of further domains stays"
    assert np.ptp(made["x"][:, 0], axis=0).max() > 0.03 and np.ptp(of_y[0], axis=0).max() > 0.03


def test_lines_go_from_the_first_draw_to_the_second(sums: Model) -> None:
    noise = {name: value[:, :, 0, 0].numpy() for name, value in sums.sampler.noise([(0, 0), (0, 1)], (8, 8), 3).items()}
    made = {name: floats(array)[:, :, 0, 0] for name, array in sums.interpolate(steps=4, seed=3).items()}
    of = {"x": made["x"], "y": made["y"] - made["x"] / 2, "z": made["z"] - (made["x"] + made["y"]) / 2}
    for (row, column), ends in {(0, 0): (0, 0), (3, 0): (1, 0), (0, 3): (0, 1), (3, 3): (1, 1)}.items():
        for name, end in zip("xyz", (*ends, 0), strict=True):
            np.testing.assert_allclose(of[name][row, column], noise[name][end], atol=0.02)
    kept = {name: floats(array) for name, array in sums.interpolate(4, "fixed", rows=2, seed=3).items()}
    np.testing.assert_allclose(kept["x"][0, 0, 0], noise["x"][0], atol=0.02)
    for column, end in ((0, 0), (3, 1)):
        of_y = (kept["y"][0, column] - kept["x"][0] / 2)[0, 0]
        np.testing.assert_allclose(of_y, noise["y"][end], atol=0.02)


def test_the_order_says_whose_noise_moves(sums: Model) -> None:
    made = sums.interpolate(steps=3, order="zyx")
    assert (made["z"] == made["z"][:, :1]).all() and not (made["z"] == made["z"][:1]).all()


@pytest.mark.parametrize("given", [(), ("x",), ("y", "x")])
def test_fixed_keeps_the_first_and_moves_the_next(sums: Model, given: tuple[str, ...]) -> None:
    images = {name: pictures(2, (8, 8), seed) for seed, name in enumerate(given)}
    made = sums.interpolate(steps=4, mode="fixed", given=images, rows=2)
    kept = given or ("x",)
    for name, array in made.items():
        assert array.shape == ((2, 8, 8, 3) if name in kept else (2, 4, 8, 8, 3))
    for name in given:
        np.testing.assert_array_equal(made[name], images[name])
    moved = floats(made["y" if len(kept) == 1 else "z"])[:, :, 0, 0]
    t = np.linspace(0, 1, 4)[:, None]
    for row in moved:
        np.testing.assert_allclose(row, (1 - t) * row[0] + t * row[3], atol=0.01)
    assert not np.allclose(moved[0], moved[1], atol=0.01)


def test_interpolation_begins_at_the_sample_and_batches_do_not_matter() -> None:
    model = joint()
    made = model.interpolate(steps=3, seed=2)
    assert_close({name: array[0, 0][None] for name, array in made.items()}, model.sample(1, seed=2))
    assert_close(made, model.interpolate(steps=3, seed=2, batch_size=2))
    vectors = joint(vectors=("y:7",)).interpolate(steps=2)
    assert vectors["x"].shape == (2, 2, *PICTURE) and vectors["y"].shape == (2, 2, 7)


# ---- what is refused ------------------------------------------------------------------------------------------------

NAN = torch.full((1, 3, *SIZE), torch.nan)


@pytest.mark.parametrize(
    "options, request_, message",
    [
        ({}, {"n": 0}, "n: expected at least 1, got 0"),
        ({}, {"n": 3, "given": {"x": pictures(2)}}, "2 are given.*got 3"),
        ({}, {"draws": 2}, "draws.*nothing is"),
        ({}, {"draws": 0, "given": {"x": pictures(1)}}, "draws: expected at least 1, got 0"),
        ({}, {"batch_size": 0}, "batch_size: expected at least 1"),
        ({}, {"seed": -1}, "seed: expected 0 or more"),
        ({}, {"only": "z"}, "domains x, y; got 'z'"),
        ({}, {"given": {"z": pictures(1)}}, "domains x, y; got 'z'"),
        ({}, {"given": {"x": pictures(1)}, "only": "x"}, "x is given"),
        ({}, {"given": {"x": pictures(1), "y": pictures(1)}}, "all of x, y are given"),
        ({}, {"order": "xz"}, "no domain z"),
        ({}, {"order": "xx"}, "each of the domains x, y once"),
        ({}, {"order": "yx", "given": {"x": pictures(1)}}, "begin with the given domains x"),
        ({"domains": 3, "sources": ("chain",)}, {"order": "yxz"}, r"p\(y\).*not trained"),
        ({"domains": 3, "sources": ("chain",)}, {"given": {"y": pictures(1)}, "only": "q"}, "got 'q'"),
        ({}, {"size": 12}, "height 12 and width 12: expected 8x16 as in training, or other multiples of 8"),
        ({}, {"size": (8, 0)}, "width 0"),
        ({}, {"given": {"x": pictures(1, (9, 16))}}, "height 9 and width 16: expected 8x16.*--resize"),
        ({}, {"given": {"x": pictures(1)}, "size": 8}, "but size is 8x8"),
        (
            {},
            {"given": {"x": [Image.new("RGB", (8, 8)), Image.new("RGB", (16, 8))]}},
            "expected images of one size, got 8x8, 8x16",
        ),
        (THREE, {"given": {"x": pictures(1), "y": pictures(1, (8, 8))}}, "one size, got 8x16 of x, 8x8 of y"),
        (THREE, {"given": {"x": pictures(1), "y": pictures(2)}}, "got 1 of x, 2 of y"),
        ({}, {"given": {"x": pictures(0)}}, "one at least, got 0 of x"),
        ({}, {"given": {"x": []}}, "one at least, got 0 of x"),
    ],
)
def test_peoples_mistakes(options: dict[str, Any], request_: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        joint(**options).sample(**request_)


@pytest.mark.parametrize(
    "options, given, error, message",
    [
        ({}, {"x": torch.full((1, 3, *SIZE), 1.01)}, ValueError, r"in \[-1, 1\], got values from 1.01"),
        ({}, {"x": NAN}, ValueError, "got values from nan"),
        ({}, {"x": torch.zeros(1, 4, *SIZE)}, ValueError, r"float \[N, 3, H, W\], got torch.float32 \[1, 4, 8, 16\]"),
        ({}, {"x": torch.zeros(1, 3, *SIZE, dtype=torch.uint8)}, ValueError, "must be float"),
        ({}, {"x": np.zeros((1, *SIZE, 1), np.uint8)}, ValueError, r"uint8 \[N, H, W, 3\]"),
        ({}, {"x": np.zeros((1, *SIZE, 3))}, ValueError, "float64"),
        ({}, {"x": "photos"}, TypeError, "PIL"),
        ({}, torch.zeros(1, 3, *SIZE), TypeError, 'given: expected .* such as {"x": images}, got Tensor'),
        ({"vectors": ("y:7",)}, {"y": np.zeros((2, 6))}, ValueError, r"float \[N, 7\], got torch.float64 \[2, 6\]"),
        ({"vectors": ("y:7",)}, {"y": torch.full((2, 7), torch.inf)}, ValueError, "infinite"),
    ],
)
def test_programmers_mistakes(options: dict[str, Any], given: Any, error: type[Exception], message: str) -> None:
    for ask in (joint(**options).sample, joint(**options).interpolate):
        with pytest.raises(error, match=message):
            ask(given=given)
    slack = torch.full((1, 3, *SIZE), 1 + 5e-4)
    assert joint().sample(given={"x": slack})["x"].min() == 255


@pytest.mark.parametrize(
    "request_, message",
    [
        ({"steps": 1}, "steps: expected at least 2"),
        ({"mode": "ends"}, "one of corners, fixed, got 'ends'"),
        ({"mode": "fixed", "rows": 0}, "rows: expected at least 1"),
        ({"given": {"x": pictures(1)}}, "use mode fixed"),
        ({"order": "xq"}, "no domain q"),
    ],
)
def test_unfit_interpolations(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        joint().interpolate(**request_)


def test_corners_of_many_conditions() -> None:
    with pytest.raises(UserError, match="one condition, got 2"):
        joint(**THREE).interpolate(given={"x": pictures(2)})
    made = joint(**THREE).interpolate(steps=2, given={"x": pictures(1)})
    assert made["x"].shape == (1, *PICTURE) and made["y"].shape == made["z"].shape == (2, 2, *PICTURE)


def test_networks_gone_wrong_are_named() -> None:
    model = joint()
    with torch.no_grad():
        next(model.method.generators["y"].parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match="run: the networks have made values of y.*--step"):
        model.sample(1)


def test_uses_that_a_method_has_not(negative: Model, jwdm: Model) -> None:
    for model in (negative, jwdm):
        for use in (model.sample, model.interpolate):
            with pytest.raises(UserError, match="draws no tuples; expected a run of jointgan"):
                use()
    model = joint()
    frames = pictures(2)
    for use in (
        lambda: model.video(frames),
        lambda: model.encode(torch.zeros(1, 3, *SIZE), "x"),
        lambda: model.decode(torch.zeros(1, 3, *SIZE), "x"),
    ):
        with pytest.raises(UserError, match="run: a model of JointGAN has no latents.*sample draws"):
            use()
    assert model.translate(frames).shape == frames.shape
    with pytest.raises(UserError, match="y is a domain of vectors"):
        joint(vectors=("y:7",)).translate(frames)


def test_translation_pads_as_ever() -> None:
    model = joint()
    tensor = torch.rand(2, 3, 7, 13) * 2 - 1
    with torch.no_grad():
        expected = model.method.translate(pad_reflect(tensor, 8, 16), "y", "x")[..., :7, :13]
    torch.testing.assert_close(model.translate(tensor), expected)
