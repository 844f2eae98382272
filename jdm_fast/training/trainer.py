"""The training loop: it knows a method by its protocol (:class:`jdm_fast.methods.Method`) and nothing else of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from jdm_fast import methods
from jdm_fast._plain import from_plain, to_plain
from jdm_fast.errors import UserError
from jdm_fast.metrics.held_out import as_numbers, score_held_out
from jdm_fast.runs import RunFolder, load_networks, read_config, write_config
from jdm_fast.training.checkpoint import newest_checkpoint, restore, save_checkpoint
from jdm_fast.training.config import TrainConfig, differing_fields
from jdm_fast.training.data import open_data
from jdm_fast.training.interrupt import Interrupted, StopRequest
from jdm_fast.training.log import LossWindow, MetricsLog, NonFiniteLoss
from jdm_fast.training.progress import ProgressDisplay, say
from jdm_fast.training.samples import write_samples
from jdm_fast.training.schedule import Schedule
from jdm_fast.training.step import EagerEngine


@dataclass(frozen=True)
class Event:
    """Something that a callback of :func:`train` may want to know.

    Attributes:
        kind: what happened. step, total_steps: steps done, and of the whole training. path: the file that was written
        (for ``sample`` and ``checkpoint``) or the run's folder. metrics: for ``log`` and ``score``, the line as in
        ``metrics.jsonl``.
    """

    kind: Literal["start", "log", "sample", "score", "checkpoint", "end"]
    step: int
    total_steps: int
    path: Path
    metrics: dict[str, Any] = field(default_factory=dict)


def train(
    config: TrainConfig[Any], *, console: Console | None = None, callback: Callable[[Event], None] | None = None
) -> Path:
    """Train a method, or continue its training, and return the run's folder.

    If ``config.out`` holds this run, training continues from the newest checkpoint; on a CPU it ends with the same
    bits as one that was never interrupted. SIGINT and SIGTERM save a checkpoint after the step in progress. PyTorch's
    global random stream is left as it was.

    Args:
        config: everything there is to say.
        console: where progress goes; unless given, standard output.
        callback: told of each :class:`Event`, in the training thread.

    Raises:
        Interrupted: a signal asked to stop; the state is saved.
        NonFiniteLoss: a loss became infinite or not a number; the checkpoint before it is kept.
        UserError: bad input, a folder that cannot be written, or a run in ``out`` that was started differently.
    """
    device = _choose_device(config.device)
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
        return _Training(config, device, console or Console(), callback or (lambda event: None)).run()


class _Training:
    """One call of :func:`train`: what it was given, and what it made of it before anything is written."""

    def __init__(
        self, config: TrainConfig[Any], device: torch.device, console: Console, callback: Callable[[Event], None]
    ) -> None:
        self.config, self.device, self.console, self.callback = config, device, console, callback
        self.method_name, method_class = _method_of(config)
        self.folder = RunFolder(config.out)
        torch.manual_seed(config.seed)
        self.method = method_class(config.method)
        _require_translate(config, self.method, self.method_name)
        self.data = open_data(
            config, self.method.domains, device=device, warn=lambda text: say(self.console, text, "yellow")
        )
        self.loader = self.data.loader
        self.method.check_size(*self.loader.size)
        self.schedule = Schedule(
            config.lr_policy, config.lr, config.n_epochs, config.n_epochs_decay, self.loader.steps_per_epoch
        )
        self.method.to(device).train()
        self.engine = EagerEngine(
            self.method,
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            pool_size=config.pool_size,
            ema_decay=config.ema_decay,
            seed=config.seed,
        )
        self.window = LossWindow()

    def run(self) -> Path:
        self.folder.create()
        with self.folder.locked():
            self.folder.sweep()
            start = self._continue_or_begin()
            total = self.schedule.total_steps
            self._tell("start", start, self.folder.path)
            if start < total:
                self.log = MetricsLog(self.folder.metrics, start)
                try:
                    self._steps(start, total)
                finally:
                    self.log.close()
            self._tell("end", total, self.folder.path)
        return self.folder.path

    def _continue_or_begin(self) -> int:
        """Take up the run in the folder, or write the configuration of a new one; the number of steps done."""
        start = 0
        if self.folder.config.exists():
            self._compare(read_config(self.folder))
            document = newest_checkpoint(self.folder, self.method_name, lambda text: say(self.console, text, "yellow"))
            if document is not None:
                load_networks(self.method, document["networks"], self.folder.checkpoint(document["step"]))
                start = restore(document, self.engine, self.window)
        write_config(self.folder, self.method_name, to_plain(self.config), self.loader.describe())
        total, counts = self.schedule.total_steps, self.loader.counts
        images = " and ".join(f"{count} of {name}" for name, count in counts.items())
        begin = f"continuing {self.folder.path} after step {start}" if start else f"training into {self.folder.path}"
        if start >= total:
            begin = f"{self.folder.path} is complete"
        say(self.console, f"{self.method_name}: {begin}, {total} steps on {self.device}; images: {images}")
        return start

    def _compare(self, document: dict[str, Any]) -> None:
        """Raise UserError if the run in the folder is not one that this configuration continues."""
        where = str(self.folder.config)
        if document["method"] != self.method_name:
            raise UserError(
                f"{where}: a run of the method {document['method']}, not of {self.method_name}: choose another folder"
            )
        method = from_plain(type(self.config.method), document["config"].get("method"), where)
        differing = differing_fields(self.config, from_plain(TrainConfig, document["config"], where, method=method))
        images, before = self.loader.describe(), document.get("images", {})
        differing += [
            f"images of {name}: {images[name]} ({before.get(name)})"
            for name in images
            if images[name] != before.get(name)
        ]
        if differing:
            raise UserError(
                f"{self.folder.path}: holds a run that was started with other settings; in brackets what they were: "
                f"{'; '.join(differing)}. Use those to continue it, or choose another folder"
            )

    def _steps(self, start: int, total: int) -> None:
        with (
            StopRequest().listening() as stop,
            ProgressDisplay(self.console, start, total) as progress,
            self.loader.batches(start, total) as batches,
        ):
            clock = _Clock(self.config.batch_size * len(self.loader.keys))
            for done in range(start + 1, total + 1):
                with clock.waiting():
                    batch = next(batches)
                lr = self.schedule.learning_rate(done - 1)
                self.window.add(done, self.engine.step(batch, lr))
                clock.steps += 1
                progress.advance(done)
                # Up to here nothing waits for the device; whatever follows happens every so many steps only.
                if self._due(self.config.log_every, done, done == total):
                    self._log(done, lr, clock, progress)
                asked = stop.number  # read once: a signal may come at any time, and only a saved state answers it
                with clock.stopped():
                    if self._due(self.config.sample_every, done, done == total and bool(self.data.shown)):
                        self._write_samples(done)
                    if self._due(self.config.eval_every, done, done == total and bool(self.data.truth)):
                        self._score(done, progress)
                    if self._due(self.config.save_every_steps, done, done == total or asked is not None):
                        self._save(done)
                if asked is not None and done < total:
                    raise Interrupted(self.folder.path, done, total, asked)

    @staticmethod
    def _due(every: int, done: int, at_last: bool) -> bool:
        return at_last or (every > 0 and done % every == 0)

    def _log(self, done: int, lr: float, clock: _Clock, progress: ProgressDisplay) -> None:
        losses = self._finite(self.window.means)
        self.window.clear()
        record = {"step": done, "epoch": self.schedule.epoch(done - 1) + 1, "lr": lr, **losses, **clock.lap()}
        self.log.write(record)
        progress.show(done, record)
        self._tell("log", done, self.folder.path, record)

    def _write_samples(self, done: int) -> None:
        with self.engine.averaged():
            write_samples(self.folder.sample(done), self.method, self.data.shown)
        self._tell("sample", done, self.folder.sample(done))

    def _score(self, done: int, progress: ProgressDisplay) -> None:
        """Log how near translations of held-out pictures come to the truth."""
        self.method.eval()
        try:
            with self.engine.averaged():
                scores = score_held_out(
                    self.method.translate, self.data.truth, self.method.domains, palettes=self.data.palettes
                )
        finally:
            self.method.train()
        record = {"step": done, **as_numbers(scores)}
        self.log.write(record)
        progress.show_scores(done, scores)
        self._tell("score", done, self.folder.path, record)

    def _save(self, done: int) -> None:
        self.log.flush_to_disk()
        path = self._finite(
            lambda: save_checkpoint(
                self.folder, self.method_name, done, self.engine, self.window, self.config.keep_last
            )
        )
        self._tell("checkpoint", done, path)

    def _finite(self, ask: Callable[[], Any]) -> Any:
        """The window's answer, or its error with what to do about it."""
        try:
            return ask()
        except NonFiniteLoss as error:
            steps = self.folder.steps()
            kept = f"the checkpoint of step {steps[-1]} is kept" if steps else "there is no checkpoint yet"
            raise NonFiniteLoss(
                f"{self.folder.path}: {error}; training has stopped, {kept}. Try a lower lr (now {self.config.lr}); "
                "see in metrics.jsonl which loss grew first"
            ) from error

    def _tell(self, kind: Any, step: int, path: Path, metrics: dict[str, Any] | None = None) -> None:
        self.callback(Event(kind, step, self.schedule.total_steps, path, metrics or {}))


class _Clock:
    """Images/s, and the share of time spent waiting for data, since the last lap."""

    def __init__(self, images_per_step: int) -> None:
        self._images_per_step = images_per_step
        self._began = time.perf_counter()
        self._waited = 0.0
        self.steps = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Context of waiting for data."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Context of work that is no part of a step."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def lap(self) -> dict[str, float]:
        now = time.perf_counter()
        seconds = max(now - self._began, 1e-9)
        figures = {
            "images_per_second": self.steps * self._images_per_step / seconds,
            "data_wait": self._waited / seconds,
        }
        self._began, self._waited, self.steps = now, 0.0, 0
        return {name: round(value, 4) for name, value in figures.items()}


def _choose_device(choice: str) -> torch.device:
    available = torch.cuda.is_available()
    if choice == "cuda" and not available:
        raise UserError(
            "device: cuda was asked for, but PyTorch finds no GPU; `jdm-fast doctor` says more. Use device=cpu or auto"
        )
    return torch.device("cuda" if available and choice != "cpu" else "cpu")


def _method_of(config: TrainConfig[Any]) -> tuple[str, type[torch.nn.Module]]:
    """Name and class of the method whose configuration ``config.method`` is."""
    for name, spec in methods.METHODS.items():
        if type(config.method) is spec.config_class:
            return name, spec.method_class
    expected = ", ".join(spec.config_class.__name__ for spec in methods.METHODS.values())
    raise UserError(f"method: expected the configuration of a method ({expected}), got {type(config.method).__name__}")


def _require_translate(config: TrainConfig[Any], method: torch.nn.Module, name: str) -> None:
    if config.eval_every and not hasattr(method, "translate"):
        raise UserError(f"eval_every: translations are scored, and the method {name} makes none; use eval_every=0")
