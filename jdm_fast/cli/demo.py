"""``jdm-fast demo``."""

from __future__ import annotations

import tyro
from rich.console import Console

from jdm_fast.demo import Demo, run_demo


def run(arguments: list[str]) -> int:
    """Run the demo; the options are the fields of :class:`jdm_fast.demo.Demo`."""
    run_demo(tyro.cli(Demo, args=arguments, prog="jdm-fast demo"), Console())
    return 0
