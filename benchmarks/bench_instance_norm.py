"""instance_norm with ReLU, and with a residual behind it, against PyTorch's own operators: NCHW and channels_last.

The shapes are listed in jdm_fast/bench/matrix.py, the contenders in jdm_fast/bench/contenders.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.race import kernel_cells, race
from jdm_fast.bench import Cell


@kernel_cells("instance_norm")
def bench_instance_norm(
    benchmark: Any, request: pytest.FixtureRequest, cell: Cell, contender: str, device: str
) -> None:
    race(benchmark, request, cell, contender, device)
