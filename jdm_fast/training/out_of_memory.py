"""What to do when memory runs out, instead of a traceback."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from jdm_fast.errors import UserError
from jdm_fast.training.config import TrainConfig

# Not all that run out of memory raise OutOfMemoryError: PyTorch's allocator on a CPU, cuDNN, cuBLAS, DALI, a captured
# graph's pool.
_SIGNS = re.compile(
    r"can't allocate memory|out of memory|(CUDNN|CUBLAS)_STATUS_ALLOC_FAILED|cudaErrorMemoryAllocation",
    re.IGNORECASE,
)


@contextmanager
def memory_advice(config: TrainConfig[Any]) -> Iterator[None]:
    """Context in which running out of memory becomes a UserError that says what to change. Other errors pass."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise advice(error, config) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is of a memory that has run out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and _SIGNS.search(str(error)) is not None


def advice(error: BaseException, config: TrainConfig[Any]) -> UserError:
    """What was asked for in vain, and what to change in ``config``: first what leaves the result as it is."""
    ways = []
    if config.activation_memory == "full" and config.engine != "compile":
        ways.append("activation_memory=recompute (the same result, a little slower)")
    if config.batch_size > 1:
        half, rest = divmod(config.batch_size, 2)
        if rest == 0:
            ways.append(f"batch_size={half} with accumulate={2 * config.accumulate} (the same step in more parts)")
        else:
            ways.append(f"a smaller batch_size than {config.batch_size}")
    if config.precision in ("fp32", "tf32"):
        ways.append(f"precision=bf16 instead of {config.precision}, on a GPU that has it")
    if config.preprocess in ("resize_and_crop", "crop"):
        ways.append(f"a smaller crop_size than {_side(config.crop_size)}")
    elif config.preprocess == "resize":
        ways.append(f"a smaller load_size than {_side(config.load_size)}")
    ways.append("narrower networks (method.width)")
    asked = re.search(r"(?:tried to allocate|you tried to allocate) ([\d.]+ ?\w+)", str(error), re.IGNORECASE)
    place = "the GPU" if isinstance(error, torch.OutOfMemoryError) or "CU" in str(error) else "memory"
    what = f"{place} has run out" if place == "memory" else f"{place}'s memory has run out"
    when = f" when {asked[1]} more were asked for" if asked else ""
    return UserError(
        f"{what}{when}. Try, the first that suits: {'; '.join(ways)}. The same command with --dry-run says what fits"
    )


def _side(size: int | tuple[int, int]) -> str:
    return "x".join(map(str, size)) if isinstance(size, tuple) else str(size)
