"""One training step, operation by operation: Algorithm 1 of the JWDM paper for any method, with no work done twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from jdm_fast.methods import Method
from jdm_fast.training.distributed import Reducer
from jdm_fast.training.engines.average import Average
from jdm_fast.training.engines.update import Update
from jdm_fast.training.image_pool import Pools
from jdm_fast.training.nonfinite import SKIPPED
from jdm_fast.training.precision import FP32, Precision, numerics
from jdm_fast.training.recompute import Recompute

Batch = dict[str, Tensor]
ActivationMemory = Literal["full", "recompute"]


class Engine(Protocol):
    """What the training loop asks of whatever carries out the steps: how it does so is its own affair."""

    def step(self, batch: Batch, lr: float) -> dict[str, Tensor]:
        """One update of critics and generators; the losses and their parts as scalars on the device, without waiting
        for it."""

    def steps_to_capture(self) -> int:
        """Steps from here to one that captures, that one included, for which no other thread may use the device; 0 if
        none will."""

    def averaged(self) -> Any:
        """Context in which the method has the averaged generators, if an average is kept."""

    def counters(self) -> dict[str, float]:
        """Further numbers for the log, by name. Waits for the device."""

    def state_dict(self) -> dict[str, Any]:
        """Networks, average, optimisers, scalers and pools: tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave, also on another device or by another engine."""


@dataclass
class Work:
    """One step on its way."""

    batches: list[Batch]
    fakes: Batch | None = None  # of the only micro-batch, for both updates
    terms: dict[str, Tensor] = field(default_factory=dict)  # by micro-batches: sums
    skipped: Tensor | None = None  # whether one of the further updates of the critics was left out


class EagerEngine:
    """The step, operation by operation.

    - The generators run once a step: they do not change between the two updates, so both use the same fakes.
    - The critics are frozen in the generator update, which then computes no gradients of their weights.
    - All critics share one fused Adam and all generators another: one pass over each set of parameters.

    With ``accumulate`` = k, a batch is k times as large and is split into k micro-batches along its first dimension;
    gradients and losses are means over them. The critics must be updated before the generators' loss is computed,
    and keeping the fakes' graphs of all micro-batches would take the memory that accumulation is to save: so then the
    generators do run twice, first without a graph. A method that draws noise in ``generate`` draws it anew.

    With ``critic_steps`` = n, the critics are updated n - 1 times more before all this, on the same batch and on fakes
    that are made for each of those updates, without a graph; each asks the image pools.

    Args:
        method: the networks and their objective, on its device.
        lr, betas: of both optimisers; the learning rate is set anew in each step.
        pool_size: of the image pool of each kind in ``method.pooled``.
        ema_decay: of the average of the generators; 0 keeps none.
        seed: of the image pools.
        precision: from :func:`~jdm_fast.training.precision.choose_precision`.
        clip_norm: largest norm of the gradients of each update; 0 is off.
        accumulate: micro-batches of a step.
        critic_steps: updates of the critics in a step. Their losses and terms are means over them.
        reducer: averages gradients over processes, once for each update; None where there is one process.
        skip_nonfinite: leave out an update whose gradients are not finite; the losses then have the terms
            ``nonfinite.SKIPPED``.
        deterministic: the same bits in every run, or an error.
        activation_memory: ``recompute`` does not keep the generators' normalised activations, see ``recompute.py``.
        channels_last: memory format of networks and batches.
    """

    lr_on_device = False

    def __init__(
        self,
        method: Method,
        *,
        lr: float,
        betas: tuple[float, float],
        pool_size: int = 0,
        ema_decay: float = 0.0,
        seed: int = 0,
        precision: Precision = FP32,
        clip_norm: float = 0.0,
        accumulate: int = 1,
        critic_steps: int = 1,
        reducer: Reducer | None = None,
        skip_nonfinite: bool = False,
        deterministic: bool = False,
        activation_memory: ActivationMemory = "full",
        channels_last: bool = False,
    ) -> None:
        self._method = method
        module = _module(method)
        generators, critics = list(method.generator_parameters()), list(method.critic_parameters())
        self._device = generators[0].device
        if channels_last:
            module.to(memory_format=torch.channels_last)  # before the optimisers, whose state has the same format
        make = partial(
            Update,
            lr=lr,
            betas=betas,
            lr_on_device=self.lr_on_device,
            scaled=precision.needs_scaling,
            clip_norm=clip_norm,
            skip_nonfinite=skip_nonfinite,
        )
        self._critics, self._generators = make(critics), make(generators)
        self._pools = Pools(method.pooled, pool_size, seed)
        self._average = Average(module, generators, ema_decay)
        self._precision = precision
        self._accumulate = accumulate
        self._critic_steps = critic_steps
        self._reducer = reducer
        self._skip_nonfinite = skip_nonfinite
        self._deterministic = deterministic
        self._recompute = Recompute(module) if activation_memory == "recompute" else None
        self._format = torch.channels_last if channels_last else None

    # ---- The step ---------------------------------------------------------------------------------------------------

    def step(self, batch: Batch, lr: float) -> dict[str, Tensor]:
        """Critics first, then generators, on the same fakes; see :class:`Engine`.

        Raises:
            ValueError: the batch cannot be split into ``accumulate`` equal parts.
        """
        if self._format is not None:
            batch = {
                name: value.contiguous(memory_format=self._format) if value.dim() == 4 else value
                for name, value in batch.items()
            }
        self._critics.set_lr(lr)
        self._generators.set_lr(lr)
        with numerics(self._precision, self._device, self._deterministic):
            return self._run(batch)

    def _run(self, batch: Batch) -> dict[str, Tensor]:
        work = Work(self._split(batch))
        for stage, update in self._stages(work):
            stage()
            if update is not None and self._reducer is not None:
                self._reducer.reduce(update.parameters)
        return work.terms

    def _split(self, batch: Batch) -> list[Batch]:
        parts = self._accumulate
        if parts == 1:
            return [batch]
        for name, value in batch.items():
            if len(value) % parts:
                raise ValueError(f"batch: {len(value)} of {name} cannot be split into accumulate={parts} equal parts")
        pieces = {name: value.chunk(parts) for name, value in batch.items()}
        return [{name: piece[k] for name, piece in pieces.items()} for k in range(parts)]

    def _stages(self, work: Work) -> list[tuple[Callable[[], None], Update | None]]:
        """The step in pieces: one for each update of the critics, one for the generators', and the end. After all but
        the last the gradients of an update are there, to be averaged over processes. They run in this order and may run
        again."""
        further = self._critic_steps - 1
        return [
            (partial(self._begin, work), self._critics),
            *[(partial(self._again, work, k == further), self._critics) for k in range(1, further + 1)],
            (partial(self._go_on, work), self._generators),
            (partial(self._finish, work), None),
        ]

    def _begin(self, work: Work) -> None:
        """The critics' gradients, of their first update."""
        work.terms, work.skipped = {}, None
        self._pools.begin()
        self._judge(work, last=self._critic_steps == 1)

    def _again(self, work: Work, last: bool) -> None:
        """The critics' update, and the gradients of their next one."""
        self._critics.apply()
        if self._skip_nonfinite:
            flag = self._critics.skipped.clone()
            work.skipped = flag if work.skipped is None else torch.maximum(work.skipped, flag)
        self._judge(work, last)

    def _judge(self, work: Work, last: bool) -> None:
        """The critics' gradients on new fakes. Those of the last update are the generators' too, if they can be."""
        once = last and self._accumulate == 1
        for batch in work.batches:
            with nullcontext() if once else torch.no_grad():
                fakes = self._generate(batch)
            work.fakes = fakes if once else None
            shown = {name: self._pools.query(name, fake.detach()) for name, fake in fakes.items()}
            self._backward(work, "critic", self._critics, partial(self._method.critic_loss, batch, shown))

    def _go_on(self, work: Work) -> None:
        """The critics' last update, and the generators' gradients."""
        self._critics.apply()
        if self._critic_steps > 1:
            work.terms = {name: term / self._critic_steps for name, term in work.terms.items()}
        with _frozen(self._critics.parameters):
            for batch in work.batches:
                fakes = self._generate(batch) if work.fakes is None else work.fakes
                self._backward(work, "generator", self._generators, partial(self._method.generator_loss, batch, fakes))
        work.fakes = None

    def _finish(self, work: Work) -> None:
        """The generators' update and average, and the losses."""
        self._generators.apply()
        self._average.update()
        parts = len(work.batches)
        losses = ("critic_loss", "generator_loss")
        work.terms = {name: work.terms[name] for name in losses} | work.terms
        if parts > 1:
            work.terms = {name: term / parts for name, term in work.terms.items()}
        if self._skip_nonfinite:
            of_critics = self._critics.skipped
            if work.skipped is not None:
                of_critics = torch.maximum(of_critics, work.skipped)
            flags = (of_critics, self._generators.skipped)
            work.terms |= {name: flag.clone() for name, flag in zip(SKIPPED, flags, strict=True)}

    def _generate(self, batch: Batch) -> Batch:
        saving: AbstractContextManager[None] = nullcontext()
        if self._recompute is not None and torch.is_grad_enabled():
            saving = self._recompute.saving()
        with saving, self._precision.autocast(self._device):
            return self._method.generate(batch)

    def _backward(
        self, work: Work, side: str, update: Update, ask: Callable[[], tuple[Tensor, dict[str, Tensor]]]
    ) -> None:
        """Gradients of a loss; it and its terms are added to those of the micro-batches before."""
        with self._precision.autocast(self._device):
            loss, terms = ask()
        parts = len(work.batches)
        update.backward(loss if parts == 1 else loss / parts)
        for name, term in {f"{side}_loss": loss.detach(), **terms}.items():
            work.terms[name] = work.terms[name] + term if name in work.terms else term

    # ---- Between steps ----------------------------------------------------------------------------------------------

    def steps_to_capture(self) -> int:
        """See :class:`Engine`."""
        return 0

    def averaged(self) -> AbstractContextManager[None]:
        """See :class:`Engine`."""
        return self._average.applied()

    def counters(self) -> dict[str, float]:
        """``critic_…`` and ``generator_…`` of :meth:`Update.counters`; empty unless in fp16 or with clipping."""
        sides = {"critic": self._critics, "generator": self._generators}
        return {f"{side}_{name}": value for side, update in sides.items() for name, value in update.counters().items()}

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Engine`."""
        sides = {"critic": self._critics, "generator": self._generators}
        return {
            "networks": _module(self._method).state_dict(),
            "ema": self._average.state_dict(),
            **{f"{side}_optimizer": update.state_dict() for side, update in sides.items()},
            "scalers": {side: update.scaler_state_dict() for side, update in sides.items()},
            "pools": self._pools.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`Engine`. The networks must fit: :func:`jdm_fast.runs.load_networks` says so in words."""
        _module(self._method).load_state_dict(state["networks"])
        self._average.load_state_dict(state["ema"])
        scalers = state.get("scalers", {})  # checkpoints before there was fp16 have none
        self._critics.load_state_dict(state["critic_optimizer"], scalers.get("critic"))
        self._generators.load_state_dict(state["generator_optimizer"], scalers.get("generator"))
        self._pools.load_state_dict(state["pools"], self._device)


def _module(method: Method) -> nn.Module:
    """A method is a module besides following the protocol, which Python's types cannot say of both at once."""
    if not isinstance(method, nn.Module):
        raise TypeError(
            f"method: expected an nn.Module that follows jdm_fast.methods.Method, got {type(method).__name__}"
        )
    return method


@contextmanager
def _frozen(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Context without gradients of ``parameters``; gradients still flow through what they are used in."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
