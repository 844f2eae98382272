"""The emulated GPU, built once a session."""

from __future__ import annotations

import pytest

from tests.emulation.harness import EMULATION, KERNELS, EmulatedGpu, build


@pytest.fixture(scope="session")
def emulated_gpu() -> EmulatedGpu:
    """The launchers of every kernel."""
    return EmulatedGpu(build([*KERNELS, *EMULATION], ["-O1"], "libemulated.so"))
