"""softmax_critic_loss against the same loss composed of PyTorch operators.

The shapes are listed in jdm_fast/bench/matrix.py, the contenders in jdm_fast/bench/contenders.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.race import kernel_cells, race
from jdm_fast.bench import Cell


@kernel_cells("softmax_critic_loss")
def bench_softmax_critic_loss(
    benchmark: Any, request: pytest.FixtureRequest, cell: Cell, contender: str, device: str
) -> None:
    race(benchmark, request, cell, contender, device)
