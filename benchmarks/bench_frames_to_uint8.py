"""frames_to_uint8, with and without tanh, against the same conversion composed of PyTorch operators.

The shapes are listed in jdm_fast/bench/matrix.py, the contenders in jdm_fast/bench/contenders.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.race import kernel_cells, race
from jdm_fast.bench import Cell


@kernel_cells("frames_to_uint8")
def bench_frames_to_uint8(
    benchmark: Any, request: pytest.FixtureRequest, cell: Cell, contender: str, device: str
) -> None:
    race(benchmark, request, cell, contender, device)
