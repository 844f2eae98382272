from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from jdm_fast.training.log import LossWindow, MetricsLog, NonFiniteLoss
from jdm_fast.training.nonfinite import MOST_IN_A_ROW


def terms(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_means_are_over_the_window() -> None:
    window = LossWindow()
    assert window.means() == {}
    for step, value in enumerate((1.0, 2.0, 6.0), start=1):
        window.add(step, terms(a=value, b=-value))
    assert window.means() == {"a": 3.0, "b": -3.0}
    window.clear()
    window.add(4, terms(a=5.0, b=0.5))
    assert window.means() == {"a": 5.0, "b": 0.5}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_the_first_broken_term_is_named_with_its_step(value: float) -> None:
    window = LossWindow()
    for step in range(11, 20):
        window.add(step, terms(a=1.0, b=value if step >= 14 else 2.0, c=value if step >= 15 else 3.0))
    for ask in (window.means, window.check, window.state_dict):
        with pytest.raises(NonFiniteLoss, match=f"^step 14: the loss b became {value}"):
            ask()


def test_a_continued_window_knows_its_steps() -> None:
    first, second = LossWindow(), LossWindow()
    for step in (5, 6):
        first.add(step, terms(a=step))
    second.load_state_dict(first.state_dict())
    second.add(7, terms(a=9.0))
    assert second.means() == {"a": 20 / 3}
    second.add(8, terms(a=float("nan")))
    with pytest.raises(NonFiniteLoss, match="step 8"):
        second.check()


def test_skipped_steps_are_told_and_left_out_of_the_means() -> None:
    window = LossWindow(skip=True)
    nan = float("nan")
    rows = [(1.0, 2.0, 0, 0), (nan, 4.0, 1, 0), (3.0, float("inf"), 0, 1), (5.0, 6.0, 1, 1), (nan, 8.0, 0, 0)]
    for step, (a, b, critic, generator) in enumerate(rows, start=11):
        window.add(step, terms(a=a, b=b, critic_skipped=float(critic), generator_skipped=float(generator)))
    assert window.means() == {"a": 3.0, "b": 5.0, "critic_skipped": 2.0, "generator_skipped": 2.0}
    assert window.skipped() == [
        "step 12: the loss a became nan; the update of the critics was skipped",
        "step 13: the loss b became inf; the update of the generators was skipped",
        "step 14: gradients were infinite or not numbers; the update of the critics and of the generators was skipped",
        "step 15: the loss a became nan; the gradients were finite",
    ]
    window.check()
    window.clear()
    assert window.skipped() == [] and window.means() == {}
    window.add(16, terms(a=nan, b=nan, critic_skipped=1.0, generator_skipped=1.0))
    assert window.means() == {"critic_skipped": 1.0, "generator_skipped": 1.0}, "a mean of nothing is no number"


def test_skipping_without_end_stops() -> None:
    """Also when the row runs through several lines of the log and a checkpoint."""
    window = LossWindow(skip=True)

    def add(step: int, value: float) -> None:
        window.add(step, terms(a=value, critic_skipped=float(value != 1), generator_skipped=0.0))

    for step in range(1, MOST_IN_A_ROW):
        add(step, float("nan"))
        if step % 7 == 0:
            window.means()
            window.clear()
    window.check()
    continued = LossWindow(skip=True)
    continued.load_state_dict(window.state_dict())
    window = continued
    add(MOST_IN_A_ROW, float("nan"))
    for ask in (window.means, window.check, window.state_dict):
        with pytest.raises(NonFiniteLoss, match=f"{MOST_IN_A_ROW} steps in a row .*step {MOST_IN_A_ROW}: the loss a"):
            ask()
    add(MOST_IN_A_ROW + 1, 1.0)
    window.check()
    window.clear()
    add(MOST_IN_A_ROW + 2, float("nan"))
    window.check()


def records(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def write(path: Path, start: int, steps: range) -> None:
    log = MetricsLog(path, start)
    for step in steps:
        log.write({"step": step, "loss": 0.5})
    log.flush_to_disk()
    log.close()


@pytest.mark.parametrize("rubbish", ["", '{"step": 6, "lo', "\n\n", "null\n"], ids=repr)
def test_lines_after_the_checkpoint_are_dropped(tmp_path: Path, rubbish: str) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 0, range(1, 6))
    with path.open("a") as file:
        file.write(rubbish)
    write(path, 3, range(4, 8))
    assert records(path) == [1, 2, 3, 4, 5, 6, 7]


def test_a_log_that_needs_no_change_is_only_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 0, range(1, 4))
    inode = path.stat().st_ino
    write(path, 3, range(4, 6))
    assert records(path) == [1, 2, 3, 4, 5] and path.stat().st_ino == inode


def test_only_json(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    with pytest.raises(ValueError):
        log.write({"step": 1, "loss": float("nan")})
    log.close()
