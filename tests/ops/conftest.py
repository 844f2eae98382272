"""What the tests of every op share: devices, dtypes with their rounding, and how accurate is accurate enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

#: Error that any correct implementation may make, relative to the largest exact value (or 1): a few roundings.
FLOOR = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """Largest absolute difference, relative to the largest exact value if above 1. ``exact`` is float64."""
    if actual.shape != exact.shape:
        pytest.fail(f"shape {list(actual.shape)}, expected {list(exact.shape)}")
    if exact.numel() == 0:
        return 0.0
    difference = (actual.double() - exact).abs().max().item()
    return difference / max(1.0, exact.abs().max().item()) if difference == difference else float("inf")


def assert_accurate(name: str, actual: Tensor, exact: Tensor, baseline: Tensor, floor: float | None = None) -> None:
    """``actual`` is at most twice as far from the float64 result as PyTorch's own ``baseline``, plus the floor."""
    error = relative_error(actual, exact)
    floor = FLOOR[actual.dtype] if floor is None else floor
    allowed = 2 * relative_error(baseline, exact) + floor
    assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device the ops have a kernel for."""
    return torch.device(request.param)


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Each dtype the ops take."""
    return request.param


@pytest.fixture(name="assert_accurate")
def _assert_accurate() -> Callable[..., None]:
    return assert_accurate


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The tensors here are small: on busy cores waiting for a second thread takes far longer than the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def threads(one_thread: None) -> Callable[[int], None]:
    """``torch.set_num_threads``, undone after the test."""
    return torch.set_num_threads
