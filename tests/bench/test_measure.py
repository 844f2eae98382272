"""Measuring a cell: nobody is timed who is wrong, and what is timed is what the cell says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from jdm_fast import ops
from jdm_fast.bench import clock
from jdm_fast.bench.clock import Times, input_sets, race
from jdm_fast.bench.matrix import Cell, select
from jdm_fast.bench.measure import Result, copy_times, measure_cells

CPU = torch.device("cpu")


def measure(*directions: str, op: str = "instance_norm/relu", contenders: tuple[str, ...] = ("jdm_fast", "eager")):
    cells = select(ops=[op], shapes=["2x3x5x7"], layouts=["nchw"], directions=directions or ("forward", "both"))
    return list(measure_cells(cells, contenders, seconds=0))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_op_agrees_with_float64_and_is_timed(dtype: str) -> None:
    cells = select(shapes=["3x3x9x7"], dtypes=[dtype])
    results = list(measure_cells(cells, ("jdm_fast", "eager", "unfused"), seconds=0))
    assert [result.cell for result in results] == cells
    for result in results:
        assert not result.problems, result.cell.title
        assert {"jdm_fast", "eager"} <= set(result.times) <= {"jdm_fast", "eager", "unfused"}
        assert all(len(times.rounds) == 5 and min(times.rounds) > 0 for times in result.times.values())
        assert result.device == "cpu" and result.rotated > 0
        assert result.ratio("jdm_fast") == 1
        rate = result.bytes / result.times["eager"].median / 1e9
        assert result.gigabytes_per_second("eager") == pytest.approx(rate)
        assert result.of_copy("eager") == pytest.approx(result.copy.median / result.times["eager"].median)


right = ops.instance_norm


def _wrong_value(*arguments: Tensor, **options: object) -> Tensor:
    return right(*arguments, **options) * 1.001


def _wrong_gradient(*arguments: Tensor, **options: object) -> Tensor:
    y = right(*arguments, **options)
    return y + (y - y.detach()) * 1e-3


def _one_nan(*arguments: Tensor, **options: object) -> Tensor:
    y = right(*arguments, **options).clone()
    y.view(-1)[-1] = torch.nan
    return y


def _wrong_shape(*arguments: Tensor, **options: object) -> Tensor:
    return right(*arguments, **options)[:1]


def _raises(*arguments: Tensor, **options: object) -> Tensor:
    raise RuntimeError("out of luck\nand a second line")


@pytest.mark.parametrize(
    "op, problem",
    [
        (_wrong_value, "wrong: result is off by 0.001 of its norm"),
        (_wrong_gradient, "wrong: gradient 0 is off by 0.001 of its norm"),
        (_one_nan, "wrong: result is off by nan"),
        (_wrong_shape, "wrong: result has the shape [1, 3, 5, 7] instead of [2, 3, 5, 7]"),
        (_raises, "failed: out of luck"),
    ],
)
def test_a_wrong_op_is_refused(monkeypatch: pytest.MonkeyPatch, op: Callable[..., Tensor], problem: str) -> None:
    monkeypatch.setattr(ops, "instance_norm", op)
    for result in measure():
        assert result.problems["jdm_fast"].startswith(problem)
        assert "second line" not in result.problems["jdm_fast"]
        assert set(result.times) == {"eager"}
        assert result.ratio("eager") is None


def test_wrong_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ops.frames_to_uint8
    monkeypatch.setattr(ops, "frames_to_uint8", lambda x: right(x) + 1)
    (result,) = measure(op="frames_to_uint8/plain")
    assert result.problems["jdm_fast"].startswith("wrong: result is off by up to")


def test_what_does_not_compile_is_said_and_hinders_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: _raises)
    for result in measure(contenders=("jdm_fast", "compile")):
        assert result.problems == {"compile": "does not compile: out of luck"}
        assert set(result.times) == {"jdm_fast"}


def test_backward_alone_has_no_forward_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def counted(*arguments: Tensor, **options: object) -> Tensor:
        nonlocal calls
        calls += 1
        return right(*arguments, **options)

    monkeypatch.setattr(ops, "instance_norm", counted)
    few, timed = {}, {}
    for direction in ("backward", "both"):
        calls = 0
        (result,) = measure(direction)
        few[direction], timed[direction] = calls, len(result.times["jdm_fast"].rounds)
    # One for each set of inputs and two for the check; the rounds call it many more times.
    assert few["backward"] == 32 + 2
    assert few["both"] > few["backward"] and timed["backward"] == timed["both"] == 5


def test_contenders_alternate_and_each_set_of_inputs_gets_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "ROUND_SECONDS", 0)  # one call a round
    called: list[tuple[str, int]] = []
    calls = {name: (lambda number, name=name: called.append((name, number))) for name in "ab"}
    times, raised = race(calls, 4, CPU, seconds=0)
    assert not raised and set(times) == {"a", "b"}
    rounds = called[-10:]
    assert [name for name, _ in rounds] == ["a", "b"] * 5
    assert [number for name, number in rounds if name == "a"] == [3, 4, 5, 6, 7]


def test_a_contender_that_raises_does_not_stop_the_race() -> None:
    def fails(number: int) -> None:
        raise MemoryError("no room")

    times, raised = race({"good": lambda number: None, "bad": fails}, 2, CPU, seconds=0)
    assert set(times) == {"good"} and str(raised["bad"]) == "no room"


def test_quartiles() -> None:
    times = Times.of((5.0, 1.0, 2.0, 4.0, 3.0), "wall")
    assert times.median == 3 and times.quartiles == (2, 4) and times.count == 5
    assert Times.of((7.0,), "wall").quartiles == (7, 7)


def test_inputs_exceed_the_cache_and_their_number_is_bounded() -> None:
    assert input_sets(1, CPU) == clock.CPU_MAX_SETS
    assert input_sets(clock.CPU_CACHE_BYTES // 4, CPU) == 4
    assert input_sets(clock.CPU_CACHE_BYTES * 4, CPU) == 2


def test_copy_bandwidth() -> None:
    moved, times = copy_times("cpu", moved=1 << 20, seconds=0)
    assert moved == 1 << 20 and times.median > 0


@pytest.mark.gpu
def test_on_a_gpu_small_cells_are_timed_in_graphs() -> None:
    cells = select(shapes=["quick"], dtypes=["float32", "bfloat16"])
    results: list[Result] = list(measure_cells(cells, ("jdm_fast", "eager"), "cuda", seconds=0))
    for result in results:
        assert not result.problems, result.cell.title
        clocks = {name: times.clock for name, times in {**result.times, "copy": result.copy}.items()}
        assert set(clocks.values()) == {"graph"}, (result.cell.title, clocks)
    assert [result.cell for result in results] == cells
    large = Cell("instance_norm", "relu", (16, 64, 512, 512), "float32", "channels_last", "both")
    (result,) = measure_cells([large], ("eager",), "cuda", seconds=0)
    assert result.times["eager"].clock == "events" and result.copy.median > 1e-4
