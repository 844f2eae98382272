"""The whole step as a CUDA graph: launched by the host in one go."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from jdm_fast import _captures
from jdm_fast.errors import UserError
from jdm_fast.methods import Method
from jdm_fast.methods.lanes import Lanes
from jdm_fast.training.distributed import Reducer
from jdm_fast.training.engines.eager import Batch, EagerEngine, Work
from jdm_fast.training.engines.update import Update

WARM_UP_STEPS = 3
"""Steps before the capture. They are steps of the training like all others: libraries choose their algorithms in them,
and optimisers, scalers and pools make their state."""

Replay = Callable[[], None]


class Recorder(Protocol):
    """What turns work on the device into something to repeat."""

    def warm_up(self, run: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """``run()``, under the conditions of a capture but for real."""

    def capture(self, run: Callable[[], None]) -> Replay:
        """What ``run()`` would do on the device, to be done whenever the result is called. Nothing is done yet."""


class CudaRecorder:
    """CUDA graphs, captured on a stream of their own; later ones share the memory of the first.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._memory: Any = None

    def warm_up(self, run: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """See :class:`Recorder`: on the stream of the captures."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = run()
        current.wait_stream(self._stream)
        for value in result.values():
            value.record_stream(current)
        return result

    def capture(self, run: Callable[[], None]) -> Replay:
        """See :class:`Recorder`. PyTorch registers the device's random numbers with each graph, so that every replay
        goes on where the one before ended."""
        graph = torch.cuda.CUDAGraph()
        # thread_local: the threads that write checkpoints and samples may go on using CUDA meanwhile.
        context = torch.cuda.graph(graph, pool=self._memory, stream=self._stream, capture_error_mode="thread_local")
        with _captures.alone, context:
            run()
        self._memory = graph.pool()
        return graph.replay


class GraphEngine(EagerEngine):
    """The eager step, captured after ``WARM_UP_STEPS`` steps and replayed from then on.

    Inputs are copied into fixed tensors, losses come from one. The learning rate and the image pools' decisions are
    numbers on the device, sent before each replay without waiting. With several processes there is one graph for
    each stretch between the averaging of gradients. The branches of the domains run side by side
    (``jdm_fast.methods.lanes``).

    Args:
        method, options: as :class:`EagerEngine`, on a GPU.
        recorder: captures; :class:`CudaRecorder` unless given.

    Raises:
        UserError: the device is no GPU, and no recorder was given.
    """

    lr_on_device = True

    def __init__(self, method: Method, *, recorder: Recorder | None = None, **options: Any) -> None:
        device = next(iter(method.generator_parameters())).device
        if recorder is None and device.type != "cuda":
            raise UserError("engine: graph is of CUDA GPUs; use engine=eager or compile on a CPU")
        super().__init__(method, **options)
        self._recorder = recorder or CudaRecorder(device)
        self._lanes = Lanes(device) if device.type == "cuda" else None
        self._forget()

    def _forget(self) -> None:
        """Back to before the warm-up."""
        self._warm = 0
        self._names: list[str] = []
        self._inputs: Batch = {}
        self._losses = torch.empty(0)
        self._replays: list[tuple[Replay, Update | None, list[Tensor | None]]] = []

    def steps_to_capture(self) -> int:
        """See :class:`~jdm_fast.training.engines.eager.Engine`."""
        return 0 if self._replays else WARM_UP_STEPS - self._warm + 1

    def _run(self, batch: Batch) -> dict[str, Tensor]:
        if self._warm < WARM_UP_STEPS:
            with self._side_by_side():
                losses = self._recorder.warm_up(partial(super()._run, batch))
            self._names = list(losses)
            self._warm += 1
            return losses
        if not self._replays:
            self._record(batch)
        self._fill(batch)
        for replay, update, gradients in self._replays:
            replay()
            if update is not None and self._reducer is not None:
                _reduce(self._reducer, update, gradients)
        return dict(zip(self._names, self._losses.clone().unbind(), strict=True))

    def _record(self, batch: Batch) -> None:
        self._inputs = {name: torch.empty_like(value, device=self._device) for name, value in batch.items()}
        self._losses = torch.zeros(len(self._names), device=self._device)
        self._pools.fix(self._device)
        stages = self._stages(Work(self._split(self._inputs)))
        if self._reducer is None:
            stages = [(partial(_all, [stage for stage, _ in stages]), None)]
        try:
            with self._side_by_side():
                for stage, update in stages:
                    replay = self._recorder.capture(stage)
                    gradients = [] if update is None else [parameter.grad for parameter in update.parameters]
                    self._replays.append((replay, update, gradients))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._forget()
            raise UserError(
                f"engine: the step could not be captured into a CUDA graph: {error}. Use engine=compile or eager"
            ) from error

    def _fill(self, batch: Batch) -> None:
        """Everything that is new in this step."""
        if {name: value.shape for name, value in batch.items()} != {n: v.shape for n, v in self._inputs.items()}:
            raise ValueError(
                f"batch: a captured step takes {_shapes(self._inputs)} as in the steps before, got {_shapes(batch)}"
            )
        for name, value in batch.items():
            self._inputs[name].copy_(value, non_blocking=True)
        self._pools.refill()

    def _finish(self, work: Work) -> None:
        super()._finish(work)
        if self._inputs:  # not in the warm-up, whose losses are read where they are
            self._losses.copy_(torch.stack([term.float() for term in work.terms.values()]))

    def _side_by_side(self) -> Any:
        return nullcontext() if self._lanes is None else self._lanes.active()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`~jdm_fast.training.engines.eager.Engine`. The step is captured anew: what it used is gone."""
        self._forget()
        super().load_state_dict(state)


def _all(stages: list[Callable[[], None]]) -> None:
    for stage in stages:
        stage()


def _reduce(reducer: Reducer, update: Update, gradients: list[Tensor | None]) -> None:
    """Average gradients where the captured step has them. The next graph reads them at their old place, wherever the
    reducer has left its result."""
    for parameter, gradient in zip(update.parameters, gradients, strict=True):
        parameter.grad = gradient
    reducer.reduce(update.parameters)
    moved = [
        (gradient, parameter.grad)
        for parameter, gradient in zip(update.parameters, gradients, strict=True)
        if gradient is not None and parameter.grad is not gradient
    ]
    if moved:
        torch._foreach_copy_([old for old, _ in moved], [new for _, new in moved])


def _shapes(batch: Batch) -> str:
    return ", ".join(f"{name} {list(value.shape)}" for name, value in batch.items())
