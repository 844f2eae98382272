"""What a training will need, found without doing any of it: ``jdm-fast train … --dry-run``."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from jdm_fast.data.geometry import as_size
from jdm_fast.errors import UserError
from jdm_fast.methods import METHODS
from jdm_fast.training.config import TrainConfig
from jdm_fast.training.engines import make_engine
from jdm_fast.training.flop_count import FlopCount
from jdm_fast.training.live_memory import LiveMemory, tensor_bytes
from jdm_fast.training.needs import require_settings
from jdm_fast.training.precision import Precision, choose_precision
from jdm_fast.training.progress import say

_SPARE = {"cpu": 0.25, "cuda": 0.1}
"""Share of the memory that is left for what operators and allocators take beside the tensors. On a CPU a step of
jwdm-small at batch size 32 took 1.26 times the bytes of its tensors; on a GPU it is not measured yet."""
_ROUNDS = 6


@dataclass(frozen=True)
class Need:
    """What a step at one batch size takes.

    Attributes:
        batch_size: images of each domain. flops: floating point operations of matrix products and convolutions, a
        multiplication and an addition being two. kept: bytes that live from step to step, by what they are for.
        passing: bytes on top of those at the worst moment of a step.
    """

    batch_size: int
    flops: int
    kept: dict[str, int]
    passing: int

    @property
    def peak(self) -> int:
        """Bytes at the worst moment of a step."""
        return sum(self.kept.values()) + self.passing


@dataclass(frozen=True)
class DryRun:
    """The answer of :func:`dry_run`.

    Attributes:
        networks: name, side (critic, generator or neither) and number of parameters of each network.
        need: at the configuration's batch size. size: height and width of the images, None if there are vectors alone.
        memory: bytes that the device has, or None if that cannot be known. fitting: the largest batch size whose peak
        fits, with some of them to spare, 0 if none does, None if the memory is not known.
    """

    networks: tuple[tuple[str, str, int], ...]
    need: Need
    size: tuple[int, int] | None
    memory: int | None
    fitting: int | None


def dry_run(config: TrainConfig[Any], console: Console) -> DryRun:
    """Print parameters by network, operations and memory of a step, and the batch size that fits; read and write
    nothing.

    The method: real steps of the eager engine run on fake tensors, which have shapes but no memory, while every
    tensor is followed from the operator that makes it until it is freed. So activations kept for the backward pass,
    gradients and moments are counted one by one, not estimated; what operators and PyTorch's allocator take for
    themselves is not seen. On a CPU the figure is that of a real step, to the byte (tested). Other batch sizes are
    tried in the same way.

    Args:
        config: the training's; its data are not looked at.
        console: where to print.

    Raises:
        UserError: the networks cannot be trained on images of this size, the size is not known from ``config``, or a
            setting does not go with the method.
    """
    device = torch.device("cuda" if torch.cuda.is_available() and config.device != "cpu" else "cpu")
    precision = choose_precision(config.precision, device)
    memory = device_memory_bytes(device)
    rehearsal = _Rehearsal(config, precision)
    need = rehearsal.need(config.batch_size)
    fitting = None if memory is None else _largest(rehearsal, need, int(memory * (1 - _SPARE[device.type])))
    answer = DryRun(rehearsal.networks(), need, rehearsal.size, memory, fitting)
    _print(answer, config, device, precision, console)
    return answer


class _Rehearsal:
    """Steps on fake tensors. Networks and engine are made once, so that each batch size costs one step.

    Fake tensors are made to be on a CPU, wherever the training would be: what is counted does not depend on it.

    Attributes:
        size: height and width of the images, None if there are vectors alone.
    """

    def __init__(self, config: TrainConfig[Any], precision: Precision) -> None:
        self._config = config
        if precision.needs_scaling:  # the scaling of fp16 asks for values; bf16 takes the same memory
            precision = replace(precision, dtype=torch.bfloat16)
        self._precision = precision
        self._fake, self._live = FakeTensorMode(), LiveMemory()
        name, spec = next((name, s) for name, s in METHODS.items() if s.config_class is type(config.method))
        with self._fake, self._live:
            self._method: Any = spec.method_class(config.method).train()
            require_settings(config, self._method, name)
            self._vectors: dict[str, int] = getattr(self._method, "vectors", {})
            self.size = None
            if len(self._vectors) < len(self._method.domains):
                self.size = _image_size(config)
                self._method.check_size(*self.size)
            self._engine, _ = make_engine(
                "eager",
                self._method,
                lr=config.lr,
                betas=(config.beta1, config.beta2),
                ema_decay=config.ema_decay,
                precision=precision,
                clip_norm=config.clip_norm,
                accumulate=config.accumulate,
                critic_steps=config.critic_steps,
                activation_memory=config.activation_memory,
                skip_nonfinite=config.on_nonfinite == "skip",
            )
        self._step(config.accumulate)  # makes the moments of Adam

    def need(self, batch_size: int) -> Need:
        """What a step takes that is not the first."""
        flops, passing, pictures, before = self._step(batch_size * self._config.accumulate)
        weights = tensor_bytes([*self._method.parameters(), *self._method.buffers()])
        generators = tensor_bytes(self._method.generator_parameters())
        average = generators if self._config.ema_decay > 0 else 0
        kept = {
            "weights": weights,
            "moments of Adam": before - weights - average - pictures,
            "average of the generators": average,
            "image pools": self._pools(),
            "copy of the generators for sample grids": generators if self._config.sample_every else 0,
            "a batch": pictures,
        }
        return Need(batch_size, flops, kept, passing)

    def networks(self) -> tuple[tuple[str, str, int], ...]:
        """Name, side and parameters of each network, named by the first two parts of its parameters' names."""
        sides = {id(parameter): "critic" for parameter in self._method.critic_parameters()}
        sides |= {id(parameter): "generator" for parameter in self._method.generator_parameters()}
        counts: dict[tuple[str, str], int] = defaultdict(int)
        for name, parameter in self._method.named_parameters():
            parts = name.split(".")
            network = ".".join(parts[: min(2, len(parts) - 1)]) or name
            counts[network, sides.get(id(parameter), "")] += parameter.numel()
        return tuple((network, side, count) for (network, side), count in counts.items())

    def _step(self, images: int) -> tuple[int, int, int, int]:
        """FLOPs and most further bytes of a step of so many items of each domain, those items' bytes, and all bytes
        before it."""
        counter = FlopCount()
        with self._fake, self._live:
            batch = self._batch(images)
            before = self._live.peak = self._live.bytes
            with counter:
                self._engine.step(batch, self._config.lr)
        return counter.total, self._live.peak - before, tensor_bytes(batch.values()), before

    def _pools(self) -> int:
        """Bytes of full image pools; the rehearsed engine has none, as what a pool does depends on chance."""
        with self._fake, torch.no_grad(), self._precision.autocast(torch.device("cpu")):
            fakes = self._method.generate(self._batch(1))
        pooled = [fakes[name] for name in self._method.pooled]
        return self._config.pool_size * sum(fake.numel() * fake.element_size() for fake in pooled)

    def _batch(self, images: int) -> dict[str, Tensor]:
        picture = (getattr(self._config.method, "channels", 3), *(self.size or ()))
        shapes = {name: (self._vectors[name],) if name in self._vectors else picture for name in self._method.domains}
        return {name: torch.zeros(images, *shape) for name, shape in shapes.items()}


def _largest(rehearsal: _Rehearsal, need: Need, limit: int) -> int:
    """The largest batch size whose peak is within ``limit``, or after many rounds one that is near it.

    The peak is a maximum of straight lines in the batch size. So a line through two sizes is never above the truth
    beyond them, and never below between them.
    """
    tried = {need.batch_size: need.peak, 2 * need.batch_size: rehearsal.need(2 * need.batch_size).peak}
    for _ in range(_ROUNDS):
        low = max((size for size, peak in tried.items() if peak <= limit), default=None)
        high = min((size for size, peak in tried.items() if peak > limit), default=None)
        if low is not None and high is not None:
            ends = (low, high)
        else:
            ends = tuple(sorted(tried)[:2] if low is None else sorted(tried)[-2:])
        first, second = ends
        slope = (tried[second] - tried[first]) / (second - first)
        guess = int(first + (limit - tried[first]) // slope)
        if guess < 1:
            return 0
        if guess in tried:
            break
        tried[guess] = rehearsal.need(guess).peak
    return max((size for size, peak in tried.items() if peak <= limit), default=0)


def device_memory_bytes(device: torch.device) -> int | None:
    """Bytes of memory that a training can have: all of a GPU's, or what is free of the machine's and of the limit that
    its container sets; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limits = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        limits += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        group = Path("/sys/fs/cgroup")
        most = (group / "memory.max").read_text(encoding="ascii").strip()
        if most != "max":
            limits.append(int(most) - int((group / "memory.current").read_text(encoding="ascii")))
    except OSError:
        pass  # not Linux, or no limit: what is known so far counts
    return min(limits, default=None)


def _image_size(config: TrainConfig[Any]) -> tuple[int, int]:
    if config.preprocess == "none":
        raise UserError(
            "dry_run: with preprocess=none the size of the images is known only from the data; give it with "
            "preprocess=crop and crop_size"
        )
    return as_size(config.load_size if config.preprocess == "resize" else config.crop_size)


def _print(
    answer: DryRun, config: TrainConfig[Any], device: torch.device, precision: Precision, console: Console
) -> None:
    networks = Table(box=SIMPLE_HEAD, title="parameters", title_justify="left")
    networks.add_column("network")
    networks.add_column("of the")
    networks.add_column("parameters", justify="right")
    for name, side, count in answer.networks:
        networks.add_row(name, side, f"{count:,}")
    networks.add_row("together", "", f"{sum(count for *_, count in answer.networks):,}", style="bold")
    console.print(networks)

    need = answer.need
    memory = Table(
        box=SIMPLE_HEAD, title=f"memory at batch size {need.batch_size}, {precision.name}", title_justify="left"
    )
    memory.add_column("for")
    memory.add_column("bytes", justify="right")
    for name, size in need.kept.items():
        if size:
            memory.add_row(name, _amount(size))
    memory.add_row("activations and gradients, at most", _amount(need.passing))
    memory.add_row("peak", _amount(need.peak), style="bold")
    console.print(memory)

    items = need.batch_size * config.accumulate
    what = "vectors" if answer.size is None else "images"
    size = "" if answer.size is None else f", {answer.size[0]}x{answer.size[1]}"
    say(
        console,
        f"a step of {items} {what} of each domain{size}: {_operations(need.flops)} "
        "(convolutions and matrix products, forward and backward)",
    )
    if answer.memory is None or answer.fitting is None:
        say(console, "how much memory there is cannot be found out on this system")
        return
    room = f"{_amount(answer.memory)} of memory {'on the GPU' if device.type == 'cuda' else 'that are free'}"
    spare = f"{_SPARE[device.type]:.0%} of it left for what PyTorch and the libraries take beside the tensors"
    if answer.fitting >= need.batch_size:
        say(console, f"fits: batch_size up to {answer.fitting} in {room}, {spare}", "green")
    elif answer.fitting:
        say(console, f"does not fit: batch_size at most {answer.fitting} in {room}, {spare}", "red")
    else:
        say(console, f"does not fit: not even batch_size 1 in {room}, {spare}", "red")


def _amount(size: int) -> str:
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.1f} MB"


def _operations(count: int) -> str:
    return f"{count / 1e12:.2f} TFLOP" if count >= 1e12 else f"{count / 1e9:.2f} GFLOP"
