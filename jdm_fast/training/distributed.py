"""Training with several processes, as ``torchrun`` starts them: gloo on CPUs, NCCL on GPUs.

Each process holds all networks and works on its share of the global batch; the gradients are averaged before each
update, so all processes take the same steps, and those that one process would take with the whole batch.

PyTorch's ``DistributedDataParallel`` is not used. It wraps the ``forward`` of a module and reduces in hooks of its
backward pass. Here a step calls a method's ``generate``, ``critic_loss`` and ``generator_loss``; a network is called
several times in a pass, the critics are frozen in one of the two updates, and one forward pass serves both. Under DDP
that needs a wrapper for each network and ``no_sync`` around every pass but the last. Instead :class:`FlatReducer`
averages all gradients of an update in one operation when its backward passes are over. What that gives up is overlap:
the operation does not begin before the pass has ended. ``docs/scale.md`` says what that costs.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from jdm_fast.errors import UserError, first_line
from jdm_fast.methods.noise import share_of_batch
from jdm_fast.training.interrupt import Interrupted
from jdm_fast.training.lifeline import Lifeline

_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_generations = itertools.count()  # of groups in this process: their keys in the store must differ


class RankFailed(UserError):
    """Another process of the training has failed; the message names it."""


class _ConnectionLost(Exception):
    """An operation with the other processes has failed. It never leaves the context of :class:`Processes`."""


class Reducer(Protocol):
    """What an engine asks for when it trains with other processes."""

    def reduce(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average the gradients of ``parameters`` over all processes. Called once for each update, at the end of its
        backward passes."""


class Processes:
    """The processes of a training; this class is the case of one alone, for which nothing needs to be done.

    Use as a context manager: :meth:`start` gives the one that the environment asks for.

    Attributes:
        rank: the number of this process. local_rank: among those on this machine. world_size: how many there are.
        device: where this one computes. reducer: for the engine; None for one process alone.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank, self.local_rank, self.world_size, self.device = 0, 0, 1, device
        self.reducer: Reducer | None = None

    @staticmethod
    def start(device: torch.device | str, timeout: timedelta = timedelta(minutes=30)) -> Processes:
        """Join the other processes if ``torchrun`` has started several, else be one alone.

        Args:
            device: ``cpu`` or ``cuda``; with several processes each takes the GPU of its local rank.
            timeout: how long one may wait for another, as while rank 0 writes or scores. A process that ends is found
                out at once, whatever this is.

        Raises:
            UserError: the environment is incomplete, there are fewer GPUs than processes, or they cannot be joined.
        """
        device = torch.device(device)
        if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
            return Processes(device)
        return _Group(device, timeout)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints, logs and saves."""
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """This process's part of a global batch.

        Raises:
            UserError: it cannot be divided evenly.
        """
        if batch_size % self.world_size:
            raise UserError(
                f"batch_size: the batch of {batch_size} is shared by {self.world_size} processes, so it must be a "
                f"multiple of {self.world_size}: choose another batch_size or number of processes"
            )
        return batch_size // self.world_size

    # ---- Operations that all processes must call, in the same order ----------------------------------------------

    def barrier(self) -> None:
        """Wait until all processes are here."""

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's ``value``: anything that can be pickled."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """The ``value`` of each rank on rank 0, where it can be pickled; an empty list on the others."""
        return [value]

    def agree(self, number: int) -> int:
        """The greatest ``number`` of all processes, the same for all: such as a signal that only one has had.

        Cheap enough for every step. On a GPU the answer is that of the call two before, so that no process waits for
        one that is a little behind; the first two answers are 0.
        """
        return number

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set on any process, at once."""
        return flag

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes of ``values`` on the host, float32 or float64."""
        return values

    def require_same(self, what: str, value: Any) -> None:
        """Check that ``value`` prints the same on all processes.

        Raises:
            UserError: it does not, with the message on all of them. ``what`` it is, in the plural.
        """

    def same_weights(self, module: nn.Module) -> None:
        """Give all processes rank 0's parameters and buffers."""

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class _Group(Processes):
    """Several processes, joined by two groups: one for gradients, and one of gloo for what the hosts say to each other,
    so that neither waits for the other and saying something never waits for a GPU."""

    def __init__(self, device: torch.device, timeout: timedelta) -> None:
        missing = [name for name in _VARIABLES if name not in os.environ]
        if missing:
            raise UserError(
                f"several processes: {', '.join(missing)} missing in the environment; start them with "
                "`torchrun --nproc-per-node N -m jdm_fast train ...`"
            )
        if dist.is_initialized():
            raise UserError("several processes: this program has a torch.distributed group of its own; end it first")
        self.rank, self.local_rank, self.world_size = (int(os.environ[name]) for name in _VARIABLES[:3])
        self.device = _own_gpu(device, self.local_rank) if device.type == "cuda" else device
        self._lag = 2 if device.type == "cuda" else 0
        self._asked: deque[tuple[Tensor, dist.Work]] = deque()
        self._parting = ExitStack()
        try:
            store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
            store = dist.PrefixStore(f"jdm_fast/{next(_generations)}", store)
            self._lifeline = Lifeline(dist.PrefixStore("lifeline", store.clone()), self.rank, self.world_size)
            self._lifeline.start()
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=dist.PrefixStore("group", store),
                rank=self.rank,
                world_size=self.world_size,
                timeout=timeout,
                device_id=self.device if device.type == "cuda" else None,
            )
            self._hosts = dist.new_group(backend="gloo", timeout=timeout)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"rank {self.rank}: the {self.world_size} processes cannot be joined at "
                f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}: {first_line(error)}"
            ) from error
        self.reducer = FlatReducer(self)

    def barrier(self) -> None:
        self.any(False)  # gloo's own barrier with a group of NCCL around wants a GPU

    def broadcast_object(self, value: Any) -> Any:
        values = [value if self.is_main else None]
        with _connected():
            dist.broadcast_object_list(values, src=0, group=self._hosts)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.world_size if self.is_main else []
        with _connected():
            dist.gather_object(value, values if self.is_main else None, dst=0, group=self._hosts)
        return values

    def agree(self, number: int) -> int:
        with _connected():
            self._asked.append(self._greatest(number))
            return self._answer() if len(self._asked) > self._lag else 0

    def any(self, flag: bool) -> bool:
        with _connected():
            answer, work = self._greatest(int(flag))
            work.wait()
        return bool(answer.item())

    def mean(self, values: Tensor) -> Tensor:
        values = values.clone()
        with _connected():
            dist.all_reduce(values, group=self._hosts)
        return values / self.world_size

    def average(self, values: Tensor) -> None:
        """Average a flat tensor on the device over all processes, in place. On a GPU this does not wait."""
        with _connected():
            if self.device.type == "cuda":
                dist.all_reduce(values, op=dist.ReduceOp.AVG)
            else:  # gloo has no averages
                dist.all_reduce(values)
                values /= self.world_size

    def require_same(self, what: str, value: Any) -> None:
        texts: list[Any] = [None] * self.world_size
        with _connected():
            dist.all_gather_object(texts, repr(value), group=self._hosts)
        for rank, text in enumerate(texts):
            if text != texts[0]:
                raise UserError(
                    f"rank {rank} has other {what} than rank 0: {_difference(text, texts[0])}. Start all processes "
                    "with the same command and the same data"
                )

    def same_weights(self, module: nn.Module) -> None:
        with _connected(), torch.no_grad():
            for tensor in itertools.chain(module.parameters(), module.buffers()):
                dist.broadcast(tensor.data, src=0)

    def __enter__(self) -> Processes:
        self._parting.enter_context(share_of_batch(self.rank, self.world_size))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._parting:
            if error is None or isinstance(error, Interrupted):  # interrupted is what all have agreed on
                try:
                    self._part()
                except _ConnectionLost as lost:
                    self._fail(lost)
            else:
                self._fail(error)

    def _part(self) -> None:
        """Leave when all are done."""
        with _connected():
            while self._asked:
                self._answer()
        self.barrier()
        self._lifeline.stop()
        dist.destroy_process_group()

    def _fail(self, error: BaseException) -> None:
        """End because of ``error``, and see to it that the others do."""
        with _deaf():  # torchrun ends all processes when one has failed; a moment is needed to find out which
            # Beside lost connections an error of the GPU can be the fault of another process: of NCCL.
            suspicious = isinstance(error, (_ConnectionLost, RuntimeError))
            failure = self._lifeline.diagnose() if suspicious else None
            if failure is None and not isinstance(error, _ConnectionLost):
                self._lifeline.report(f"stopped: {first_line(error)}")
            if self.device.type == "cpu":
                self._lifeline.stop()
                dist.destroy_process_group()  # others that wait for this process are told so by gloo
            # NCCL cannot leave a group in which others hang. The lifeline goes on, and ends what does not end itself.
        if failure is not None:
            raise RankFailed(
                f"{failure}; rank {self.rank} ends too. What has been saved is kept: run the same command again to "
                "continue"
            ) from error
        if isinstance(error, _ConnectionLost):
            raise RankFailed(
                f"rank {self.rank} has lost the connection to the other processes, which are alive: {error}"
            ) from error

    def _greatest(self, number: int) -> tuple[Tensor, dist.Work]:
        answer = torch.tensor([number])
        return answer, dist.all_reduce(answer, op=dist.ReduceOp.MAX, group=self._hosts, async_op=True)

    def _answer(self) -> int:
        answer, work = self._asked.popleft()
        work.wait()
        return int(answer.item())


class FlatReducer:
    """Averages all gradients of an update as one flat tensor.

    Gradients are copied into it, it is averaged in one operation, and the parameters' gradients become views of it. So
    it takes the memory of the gradients once more, and its place never changes: it can be captured in a CUDA graph.
    Parameters that have no gradient are left out, which must be the same ones on all processes.
    """

    def __init__(self, group: _Group) -> None:
        self._group = group
        self._layouts: dict[tuple[int, ...], list[tuple[Tensor, list[nn.Parameter], list[Tensor]]]] = {}

    def reduce(self, parameters: Sequence[nn.Parameter]) -> None:
        """See :class:`Reducer`."""
        parameters = [parameter for parameter in parameters if parameter.grad is not None]
        key = tuple(map(id, parameters))
        if key not in self._layouts:
            shapes = [(tuple(parameter.shape), parameter.grad.dtype) for parameter in parameters]
            self._group.require_same("gradients", shapes)
            self._layouts[key] = _flat_tensors(parameters)
        for flat, members, views in self._layouts[key]:
            torch._foreach_copy_(views, [parameter.grad for parameter in members])
            self._group.average(flat)
            for parameter, view in zip(members, views, strict=True):
                parameter.grad = view


def _flat_tensors(parameters: list[nn.Parameter]) -> list[tuple[Tensor, list[nn.Parameter], list[Tensor]]]:
    """For each dtype of gradients: a flat tensor, the parameters, and for each of them its view of the flat tensor."""
    by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        by_dtype.setdefault(parameter.grad.dtype, []).append(parameter)
    tensors = []
    for dtype, members in by_dtype.items():
        flat = torch.empty(sum(parameter.numel() for parameter in members), dtype=dtype, device=members[0].device)
        parts = flat.split([parameter.numel() for parameter in members])
        # Strides as the parameter's, which fused optimisers ask for: channels_last weights have such gradients.
        views = [
            part.as_strided(parameter.size(), parameter.stride())
            for part, parameter in zip(parts, members, strict=True)
        ]
        tensors.append((flat, members, views))
    return tensors


def _own_gpu(device: torch.device, local_rank: int) -> torch.device:
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise UserError(
            f"several processes: there is no GPU for local rank {local_rank}, this machine has {count}: use "
            f"--nproc-per-node {count} or less, or --device cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


@contextmanager
def _connected() -> Iterator[None]:
    """Context of an operation with the other processes."""
    try:
        yield
    except RuntimeError as error:
        raise _ConnectionLost(first_line(error)) from error


@contextmanager
def _deaf() -> Iterator[None]:
    """Context in which SIGTERM does nothing, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _difference(text: str, other: str) -> str:
    """Where two texts begin to differ, a little of both."""
    start = max(0, len(os.path.commonprefix([text, other])) - 20)
    return f"...{text[start : start + 80]}... and ...{other[start : start + 80]}..."
