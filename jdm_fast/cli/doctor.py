"""``jdm-fast doctor``."""

from __future__ import annotations

import tyro
from rich.console import Console

from jdm_fast._doctor import doctor


def run(arguments: list[str]) -> int:
    """Show versions, GPU and build, run each kernel once against its reference; 0 if all is well, else 1."""
    tyro.cli(_no_options, args=arguments, prog="jdm-fast doctor")
    return doctor(Console())


def _no_options() -> None:
    """Show versions, GPU, DALI and how the extension was built, and run each kernel once against its reference."""
