"""A copy of a training's state, taken without stopping the training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_PLAIN = (bool, int, float, str, bytes, type(None))


class Snapshot:
    """What ``state`` is now, whatever happens to its tensors afterwards.

    Tensors in the host's memory are copied at once. Those on a GPU are copied in its own order of work, on the current
    stream: after the steps that were asked for so far and before the next one. Nobody waits for that here; the copies
    go to page-locked memory.

    Args:
        state: tensors, numbers, strings, None, and lists, tuples and dicts of them, as deep as need be. Anything else
            could not be loaded again without executing code from the file.
        instead_of: an older snapshot that nobody needs any more; its memory is used again, as fresh memory costs more
            than the copying.

    Raises:
        TypeError: there is something else in ``state``; the message says where.
    """

    def __init__(self, state: dict[str, Any], instead_of: Snapshot | None = None) -> None:
        self._old = instead_of._copies if instead_of is not None else {}
        self._copies: dict[str, Tensor] = {}
        self._devices: set[torch.device] = set()
        self._state = self._copied(state, "state")
        self._old = {}
        self._events = []
        for device in sorted(self._devices, key=str):
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(device))
            self._events.append(event)

    def get(self) -> dict[str, Any]:
        """The copy, its tensors on the CPU. Waits until it is complete; may be called in another thread."""
        for event in self._events:
            event.synchronize()
        return self._state

    def _copied(self, value: Any, where: str) -> Any:
        if isinstance(value, Tensor):
            copy = self._copies[where] = self._copied_tensor(value.detach(), self._old.get(where))
            return copy
        if type(value) in _PLAIN:  # not of a subclass: numpy.float64 is a float, and loading one executes code
            return value
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, (str, int)):
                    raise TypeError(f"{where}: a checkpoint's names are strings or numbers, got {key!r}")
            return {key: self._copied(item, f"{where}[{key!r}]") for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            items = [self._copied(item, f"{where}[{index}]") for index, item in enumerate(value)]
            return items if isinstance(value, list) else tuple(items)
        raise TypeError(
            f"{where}: a checkpoint can hold tensors, numbers, strings, None, lists, tuples and dicts, "
            f"got a {type(value).__name__}"
        )

    def _copied_tensor(self, tensor: Tensor, memory: Tensor | None) -> Tensor:
        on_gpu = tensor.device.type == "cuda"
        if on_gpu:
            self._devices.add(tensor.device)
        if memory is None or (memory.shape, memory.dtype, memory.stride(), memory.is_pinned()) != (
            tensor.shape, tensor.dtype, tensor.stride(), on_gpu,
        ):  # fmt: skip
            memory = torch.empty_like(tensor, device="cpu", pin_memory=on_gpu)
        return memory.copy_(tensor, non_blocking=on_gpu)
