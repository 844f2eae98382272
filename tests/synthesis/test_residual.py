"""What decoding loses of the key frames, given back: against the formula, and through the model's video."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from jdm_fast.errors import UserError
from jdm_fast.synthesis import Model
from jdm_fast.synthesis.frame_engine import FrameEngine, Piece
from jdm_fast.synthesis.residual import add_residual, key_residual


def images(seed: int, count: int, size: tuple[int, int] = (5, 6), scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 3, *size, generator=generator) * 2 - 1) * scale


def frames(seed: int, count: int, size: tuple[int, int] = (16, 20)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)


@pytest.mark.parametrize(
    "positions", [[0.0], [2.0], [0.0, 0.25, 0.5, 1.0, 1.75, 2.0], torch.tensor([0.1, 0.1, 1.9]), []]
)
def test_against_the_formula_frame_by_frame(positions: list[float] | torch.Tensor) -> None:
    decoded, residuals = images(1, len(positions), (8, 8), 0.5), images(2, 3, scale=0.8)
    got = add_residual(decoded, residuals, positions)
    assert got.shape == (len(positions), 3, 5, 6) and got.dtype == torch.float32
    for frame, before, position in zip(got, decoded, positions, strict=True):
        k = min(int(position), 1)
        t = float(position) - k
        expected = before[:, :5, :6].double() + (1 - t) * residuals[k].double() + t * residuals[k + 1].double()
        torch.testing.assert_close(frame.double(), expected.clamp(-1, 1), atol=1e-6, rtol=0)


def test_key_frames_come_back_and_padding_is_cropped() -> None:
    keys, decoded = images(1, 3), images(2, 3, (8, 8))
    residuals = key_residual(keys, decoded)
    torch.testing.assert_close(residuals, keys - decoded[..., :5, :6])
    torch.testing.assert_close(add_residual(decoded, residuals, [0, 1, 2]), keys, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "use, message",
    [
        (lambda: key_residual(images(1, 3), images(2, 2)), "must hold the key frames"),
        (lambda: key_residual(images(1, 3), images(2, 3, (4, 6))), "must hold the key frames"),
        (lambda: add_residual(images(1, 2), images(2, 3), [0.0]), "one for each of 2 frames"),
        (lambda: add_residual(images(1, 1), images(2, 3), [2.1]), r"in \[0, 2\], got 2.1"),
        (lambda: add_residual(images(1, 1), images(2, 3), [-0.1]), r"got -0.1"),
        (lambda: add_residual(images(1, 1), images(2, 3), [float("nan")]), "must lie between"),
    ],
)
def test_bad_input(use: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        use()


@pytest.mark.parametrize("batch_size", [None, 1, 3, 8])
@pytest.mark.parametrize("factor, source, mode", [(4, "x", "lerp"), (3, "y", "slerp"), (1, "x", "lerp")])
def test_video_of_a_real_model(jwdm: Model, factor: int, source: str, mode: str, batch_size: int | None) -> None:
    """17x19 is padded; the frames of the other domain are not touched; key frames are those given, exactly."""
    keys = frames(3, 4, (17, 19))
    plain = jwdm.video(keys, factor, source, mode, batch_size)
    made = jwdm.video(keys, factor, source, mode, batch_size, residual=True)
    other = "y" if source == "x" else "x"
    np.testing.assert_array_equal(made[other], plain[other])
    assert np.abs(plain[source][::factor].astype(int) - keys).mean() > 20  # there is something to give back
    np.testing.assert_array_equal(made[source][::factor], keys)
    lost = keys.astype(np.float64) - plain[source][::factor]
    for number in range(len(made[source])):
        k, t = divmod(number / factor, 1)
        begin, end = lost[int(k)], lost[min(int(k) + 1, 3)]
        expected = (plain[source][number] + (1 - t) * begin + t * end).clip(0, 255)
        assert np.abs(made[source][number] - expected).max() <= 1.6  # three roundings to 8 bits


def test_where_nothing_is_lost_nothing_changes(negative: Model) -> None:
    keys = frames(1, 3)
    plain, made = (negative.video(keys, 4, "x", residual=residual) for residual in (False, True))
    for domain in plain:
        np.testing.assert_array_equal(made[domain], plain[domain])


@pytest.mark.parametrize(
    "engine, tile", [("eager", None), ("eager", 16), pytest.param("graph", None, marks=pytest.mark.gpu)]
)
def test_frames_at_any_times_and_one_domain_alone(jwdm: Model, engine: str, tile: int | None) -> None:
    model = Model(copy.deepcopy(jwdm.method), "cuda" if engine == "graph" else "cpu")
    keys = frames(5, 3, (33, 20))
    times = [(0.0, 0.3, 0.3, 0.9), (), (0.0,)]
    pieces = [Piece(key, positions) for key, positions in zip(keys, times, strict=True)]

    def made(residual: bool) -> np.ndarray:
        stream = FrameEngine(
            model, source="x", domains=("x",), tile=tile, residual=residual, engine=engine, precision="fp32"
        )
        return np.concatenate([part["x"] for part in stream.stream(pieces)])

    plain, got = made(False), made(True)
    lost = [keys[0].astype(float) - plain[0], None, keys[2].astype(float) - plain[-1]]
    lost[1] = keys[1].astype(float) - model.video(keys[1:2], 1, precision="fp32")["x"][0]
    for number, position in enumerate((0, 0.3, 0.3, 0.9)):
        expected = (plain[number] + (1 - position) * lost[0] + position * lost[1]).clip(0, 255)
        assert np.abs(got[number] - expected).max() <= 1.6
    np.testing.assert_array_equal(got[[0, -1]], keys[[0, 2]])


def test_a_domain_whose_key_frames_are_not_known(jwdm: Model) -> None:
    with pytest.raises(UserError, match="residual: .* domain, x, and only y is made"):
        FrameEngine(jwdm, source="x", domains=("y",), residual=True)
