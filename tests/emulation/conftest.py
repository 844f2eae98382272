"""The emulated GPU, built once a session."""

from __future__ import annotations

import pytest

from tests.emulation.building import EMULATION, KERNELS, build
from tests.emulation.harness import EmulatedGpu


@pytest.fixture(scope="session")
def emulated_gpu() -> EmulatedGpu:
    """The launchers of every kernel."""
    return EmulatedGpu(build([*KERNELS, *EMULATION], ["-O1"], "libemulated.so"))
