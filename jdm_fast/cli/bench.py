"""``jdm-fast bench WHAT``: measurements. Each is a module ``bench_<what>``, imported only when it is called."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from jdm_fast.errors import UserError

WHAT = {
    "kernels": "every op against PyTorch's own operators: time, GB/s, share of the copy bandwidth, ratio",
    "data": "pictures/s of a data set, and whether training waits for them",
}


def run(arguments: Sequence[str]) -> int:
    """Dispatch to the measurement that ``arguments`` begin with, one of :data:`WHAT`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: jdm-fast bench WHAT ... [OPTIONS]    (jdm-fast bench WHAT --help for its options)\n")
        print("\n".join(f"  {name:8} {text}" for name, text in WHAT.items()))
        return 0 if arguments else 2
    if arguments[0] not in WHAT:
        raise UserError(f"no benchmark is called {arguments[0]!r}; there are: {', '.join(WHAT)}")
    return importlib.import_module(f"jdm_fast.cli.bench_{arguments[0]}").run(list(arguments[1:]))
