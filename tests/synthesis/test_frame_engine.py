"""Frames at any times between key frames, in any domains; threads that end; one shape for what is captured."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jdm_fast.errors import UserError
from jdm_fast.ops import reference
from jdm_fast.synthesis import FrameEngine, Model, Piece, frame_engine, frame_functions
from tests.synthesis.test_model import network_input, picture

TIMES = [
    [(0.0, 0.25, 0.5, 0.75), (0.0, 0.5), (0.0,)],  # a rate that changes
    [(0.0, 0.3, 0.9), (), (0.4,), (0.0, 0.0, 1.0, 1.0), (0.0,)],  # 2.5 frames a second, a gap, a cut
    [(0.0,)],  # one key frame
    [(), (), ()],
    [(0.0, 1.0), (0.0, 1.0), ()],
]


def pieces(times: list[tuple[float, ...]], height: int = 16, width: int = 24) -> list[Piece]:
    return [Piece(picture(k, height, width), of_this) for k, of_this in enumerate(times)]


def made(engine: FrameEngine, given: Any) -> dict[str, np.ndarray]:
    parts = list(engine.stream(given))
    if not parts:
        return {}
    return {domain: np.concatenate([part[domain] for part in parts]) for domain in parts[0]}


def frame_by_frame(model: Model, given: list[Piece], domain: str) -> list[np.ndarray]:
    """Algorithm 2 for one frame after the other, in float64."""
    method = model.method.double()
    try:
        with torch.no_grad():
            latents = [method.encoders["x"](network_input(piece.key).double()) for piece in given]
            frames = []
            for k, piece in enumerate(given):
                for t in piece.positions:
                    after = latents[k + 1] if t > 0 else latents[k]
                    image = method.decoders[domain]((1 - t) * latents[k] + t * after)
                    frames.append(reference.frames_to_uint8(image)[0].numpy())
        return frames
    finally:
        method.float()


@pytest.mark.parametrize("batch_size", [1, 3, 64, "auto", None])
@pytest.mark.parametrize("times", TIMES, ids=["rates", "gap and cut", "one", "none", "ends"])
def test_frames_are_those_of_algorithm_2(jwdm: Model, times: list[tuple[float, ...]], batch_size: Any) -> None:
    given = pieces(times)
    frames = made(FrameEngine(jwdm, source="x", batch_size=batch_size), given)
    for domain in jwdm.domains:
        expected = frame_by_frame(jwdm, given, domain)
        assert len(frames.get(domain, ())) == len(expected)
        for got, want in zip(frames.get(domain, ()), expected, strict=True):
            assert np.abs(got.astype(int) - want).max() <= 1


class Shapes:
    """Stands in for compiling and capturing: counts calls by the shapes they were given."""

    def __init__(self) -> None:
        self.seen: dict[str, set[tuple[Any, ...]]] = {"keys": set(), "frames": set()}

    def __call__(self, function: Any, engine: str, device: torch.device) -> Any:
        name = "keys" if getattr(function, "__name__", "") == "keys" else "frames"

        def call(*tensors: Tensor) -> Any:
            self.seen[name].add(tuple(tensor.shape for tensor in tensors))
            return function(*tensors)

        return call


@pytest.mark.parametrize("batch_size", [1, 4, 6])
@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_what_is_compiled_or_captured_sees_one_shape(
    jwdm: Model, monkeypatch: pytest.MonkeyPatch, count: int, batch_size: int
) -> None:
    given = pieces([(0.0, 0.5)] * (count - 1) + [(0.0,)])
    expected = made(FrameEngine(jwdm, batch_size=batch_size, engine="eager"), given)
    shapes = Shapes()
    monkeypatch.setattr(frame_engine, "carried_out", shapes)
    frames = made(FrameEngine(jwdm, batch_size=batch_size, engine="compile"), given)
    assert len(shapes.seen["keys"]) == 1, "also of the first key frame"
    assert len(shapes.seen["frames"]) == 1
    for domain in expected:
        assert np.abs(frames[domain].astype(int) - expected[domain]).max() <= 1


def test_what_is_compiled_serves_later_streams(jwdm: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    carried: list[str] = []

    def carried_out(function: Any, engine: str, device: torch.device) -> Any:
        carried.append(engine)
        return function

    monkeypatch.setattr(frame_engine, "carried_out", carried_out)
    given = pieces([(0.0, 0.5)] * 2 + [(0.0,)])
    engine = FrameEngine(jwdm, batch_size=4, engine="compile")
    for _ in range(3):
        made(engine, given)
    assert len(carried) == 2, "keys and frames, once"
    made(engine, pieces([(0.0, 0.25, 0.5, 0.75), (0.0,)]))
    made(engine, pieces([(0.0, 0.5), (0.0,)], 24, 24))
    assert len(carried) == 6, "other numbers of pairs, other sizes"
    made(engine, given)
    assert len(carried) == 6
    one, other = engine.stream(given), engine.stream(given)
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left["y"], right["y"])
    assert len(carried) == 8, "two streams at a time do not share"
    for height in range(32, 72, 8):
        made(engine, pieces([(0.0, 0.5), (0.0,)], height))
    assert len(engine._ready) == frame_engine._KEPT


def test_no_stream_encodes_a_key_frame_beside_what_is_captured(jwdm: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FrameEngine(jwdm, batch_size=4, engine="compile")
    within: list[bool] = []  # of each call of the encoder
    inside = False
    encode = type(engine._functions).keys

    def keys(functions: Any, images: Tensor) -> Any:
        within.append(inside)
        return encode(functions, images)

    def carried_out(function: Any, engine: str, device: torch.device) -> Any:
        def carry(*tensors: Tensor) -> Any:
            nonlocal inside
            inside = True
            try:
                return function(*tensors)
            finally:
                inside = False

        return carry

    monkeypatch.setattr(type(engine._functions), "keys", keys)
    monkeypatch.setattr(frame_engine, "carried_out", carried_out)
    for count in (1, 2, 6):
        made(engine, pieces([(0.0, 0.5)] * (count - 1) + [(0.0,)]))
    assert len(within) == 1 + 2 + 4 and all(within)


def test_torch_compile_gives_the_same(jwdm: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))  # in seconds
    given = pieces([(0.0, 0.5)] * 2 + [(0.0,)])
    expected, frames = (made(FrameEngine(jwdm, batch_size=4, engine=name), given) for name in ("eager", "compile"))
    for domain in expected:
        assert np.abs(frames[domain].astype(int) - expected[domain]).max() <= 1


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["eager", "graph", "compile"])
@pytest.mark.parametrize("precision, most", [("fp32", 1), ("bf16", 40)])
def test_engines_on_a_gpu(jwdm: Model, engine: str, precision: str, most: int) -> None:
    given = pieces([(0.0, 0.3, 0.6)] * 6 + [(0.0,)])
    expected = made(FrameEngine(jwdm, batch_size=4), given)
    on_gpu = Model(type(jwdm.method)(jwdm.method.config), "cuda")
    on_gpu.method.load_state_dict(jwdm.method.state_dict())
    for batch_size in (4, "auto"):
        frames = made(FrameEngine(on_gpu, engine=engine, precision=precision, batch_size=batch_size), given)
        for domain in expected:
            difference = np.abs(frames[domain].astype(int) - expected[domain])
            assert difference.max() <= most and difference.mean() < 2


def test_domains_and_their_order(negative: Model) -> None:
    given = pieces([(0.0, 0.5), (0.0,)])
    frames = made(FrameEngine(negative, domains=("y",)), given)
    assert list(frames) == ["y"]
    np.testing.assert_array_equal(frames["y"][0], 255 - given[0].key)
    assert list(made(FrameEngine(negative, domains=("y", "x")), given)) == ["y", "x"]


@pytest.mark.parametrize("tile", [16, 64])
def test_tiles_are_the_whole(jwdm: Model, tile: int) -> None:
    given = pieces([(0.0, 0.5), (0.0,)], 48, 40)
    whole, tiled = (made(FrameEngine(jwdm, tile=side), given) for side in (None, tile))
    for domain in whole:
        assert np.abs(whole[domain].astype(int) - tiled[domain]).max() <= 1


@pytest.mark.parametrize("mode", ["lerp", "slerp"])
def test_between_against_plain_numpy(mode: str) -> None:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(4, 3, 2, 5, generator=generator)
    latents[2] = 2 * latents[1]  # no angle between them
    positions = [0.0, 0.3, 1.0, 1.4, 2.5, 3.0]
    found = frame_functions.between(latents, torch.tensor(positions, dtype=torch.float64), mode)
    points = latents.double().numpy()
    for position, got in zip(positions, found.double().numpy(), strict=True):
        left = min(int(position), 2)
        a, b, t = points[left], points[left + 1], position - left
        angle = np.arccos(np.clip((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))
        if mode == "slerp" and np.sin(angle) >= 1e-4:
            want = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
        else:
            want = (1 - t) * a + t * b
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_what_reading_raises_comes_to_the_caller(negative: Model) -> None:
    def broken() -> Iterator[Piece]:
        yield from pieces([(0.0, 0.5)] * 3)
        raise UserError("the film is torn")

    with pytest.raises(UserError, match="torn"):
        list(FrameEngine(negative, batch_size=2).stream(broken()))
    assert not alive()


def test_what_cannot_even_begin_is_raised_too(negative: Model) -> None:
    class Torn:
        def __iter__(self) -> Iterator[Piece]:
            raise UserError("no such film")

    with pytest.raises(UserError, match="no such film"):
        list(FrameEngine(negative).stream(Torn()))
    assert not alive()


@pytest.mark.parametrize(
    "given, message",
    [
        ([Piece(picture(0, 16, 16), (0.0,)), Piece(picture(1, 16, 17), (0.0,))], "uint8 .16, 16, 3. as the first"),
        ([Piece(picture(0, 16, 16).astype(np.float32), (0.0,))], "frames must be uint8"),
        ([Piece(picture(0, 16, 16), (0.0, 0.5))], "last piece must be 0"),
    ],
)
def test_unfit_pieces(negative: Model, given: list[Piece], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(FrameEngine(negative).stream(given))
    assert not alive()


def test_threads_end_when_the_stream_is_closed_early(negative: Model) -> None:
    closed = threading.Event()

    def endless() -> Iterator[Piece]:
        try:
            while True:
                yield Piece(picture(0, 16, 16), (0.0, 0.5))
        finally:
            closed.set()

    stream = FrameEngine(negative, batch_size=2).stream(endless())
    next(stream)
    assert alive()
    stream.close()
    assert closed.wait(5) and not alive()


def alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("jdm_fast-f", "jdm_fast-r"))]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mode": "cubic"}, "mode must be one of lerp, slerp"),
        ({"engine": "warp"}, "engine: expected one of auto, eager, compile, graph, got 'warp'"),
        ({"engine": "graph"}, "graph is of CUDA GPUs"),
        ({"precision": "fp8"}, "precision: expected one of"),
        ({"batch_size": 0}, "batch: expected at least 1"),
        ({"batch_size": "many"}, "batch: expected a number of frames or auto"),
        ({"source": "z"}, "has the domains x, y"),
        ({"domains": ("x", "z")}, "has the domains x, y"),
        ({"tile": 32, "engine": "compile"}, "compile does not go with tiles"),
        ({"tile": 0}, "tile"),
    ],
)
def test_unfit_options(jwdm: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FrameEngine(jwdm, **options)
