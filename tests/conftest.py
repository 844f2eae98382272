"""What every test starts from: the same seeds, the same number of threads, and a reason where a GPU is missing."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from jdm_fast import _extension

SEED = 20190715


def _why_no_gpu() -> str | None:
    if not torch.cuda.is_available():
        return "no NVIDIA GPU is visible to PyTorch"
    if not _extension.has_cuda():
        return f"the extension has no CUDA kernels: {_extension.reason or 'it was built without CUDA'}"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked ``gpu`` where there is no GPU, and says why. Nothing else in the suite may skip."""
    reason = _why_no_gpu()
    for item in items:
        if reason is not None and item.get_closest_marker("gpu") is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Every test gets the same random numbers, alone or in the suite, and leaves PyTorch's settings as they were."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
