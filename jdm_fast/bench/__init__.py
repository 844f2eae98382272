"""The ops of :mod:`jdm_fast.ops` measured against PyTorch's own: op x shape x dtype x layout x contender x direction.

``jdm-fast bench kernels`` and the files ``benchmarks/bench_<op>.py`` are two faces of it. :mod:`~jdm_fast.bench.matrix`
lists the cells, :mod:`~jdm_fast.bench.contenders` what is raced in each, :mod:`~jdm_fast.bench.check` compares a
contender with float64 before it is timed, :mod:`~jdm_fast.bench.clock` times, :mod:`~jdm_fast.bench.measure` puts these
together, :mod:`~jdm_fast.bench.report` prints, writes and reads results.
"""

from __future__ import annotations

from jdm_fast.bench.matrix import Cell, select
from jdm_fast.bench.measure import Result, measure_cells
from jdm_fast.bench.report import read_results, write_results

__all__ = ["Cell", "Result", "measure_cells", "read_results", "select", "write_results"]
