"""The training loop: it knows a method by its protocol (:class:`jdm_fast.methods.Method`) and nothing else of it."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from jdm_fast import methods
from jdm_fast._plain import from_plain, to_plain
from jdm_fast.errors import UserError
from jdm_fast.metrics.held_out import as_numbers, score_held_out
from jdm_fast.runs import RunFolder, load_networks, newest_checkpoint, read_config, write_config
from jdm_fast.training.checkpoint import CheckpointWriter, changed_versions, restore
from jdm_fast.training.clock import Clock
from jdm_fast.training.config import TrainConfig, differing_fields, shared_settings
from jdm_fast.training.data import open_data, stream_batches
from jdm_fast.training.distributed import Processes
from jdm_fast.training.engines import make_engine
from jdm_fast.training.interrupt import Interrupted, StopRequest
from jdm_fast.training.log import LossWindow, MetricsLog, NonFiniteLoss
from jdm_fast.training.needs import Needs, directions, require_settings
from jdm_fast.training.out_of_memory import memory_advice
from jdm_fast.training.precision import choose_precision
from jdm_fast.training.profile import DATA, StepProfile, StepProfiler
from jdm_fast.training.progress import ProgressDisplay, say
from jdm_fast.training.ranks import gather_ranks, part_of_pool, state_of_ranks
from jdm_fast.training.rng import own_random_streams
from jdm_fast.training.samples import SampleWriter
from jdm_fast.training.schedule import Schedule
from jdm_fast.training.watch import Watchers, device_memory

_SEEDS_APART = 999_999_937  # of the image pools of two processes


@dataclass(frozen=True)
class Event:
    """Something that a callback of :func:`train` may want to know.

    Attributes:
        kind: what happened. step, total_steps: steps done, and of the whole training. path: the file that was written
        (for ``sample`` and ``checkpoint``) or the run's folder; a checkpoint is written in the background and is
        there once it is whole, at the latest at ``end``. metrics: for ``log`` and ``score``, the line as in
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
    bits as one that was never interrupted. SIGINT and SIGTERM save a checkpoint after the step in progress; a second
    one ends the process at once. The global random streams of PyTorch, NumPy and Python are left as they were. Under
    torchrun all processes call this; rank 0 alone writes, prints and calls back, and the others need not see the run's
    folder.

    Args:
        config: everything there is to say.
        console: where progress goes; unless given, standard output.
        callback: told of each :class:`Event`, in the training thread.

    Raises:
        Interrupted: a signal asked to stop; the state is saved.
        NonFiniteLoss: a loss became infinite or not a number; the checkpoint before it is kept.
        RankFailed: another process of the training has failed.
        UserError: bad input, a folder that cannot be written, or a run in ``out`` that was started differently.
    """
    with Processes.start(_choose_device(config.device)) as processes:
        if not processes.is_main:  # rank 0 speaks for all
            console, callback = Console(file=io.StringIO()), None
        with own_random_streams(config.seed, processes.device), memory_advice(config):
            return _Training(config, processes, console or Console(), callback or (lambda event: None)).run()


class _Training:
    """One call of :func:`train`: what it was given, and what it made of it before anything is written."""

    def __init__(
        self, config: TrainConfig[Any], processes: Processes, console: Console, callback: Callable[[Event], None]
    ) -> None:
        self.config, self.processes, self.console, self.callback = config, processes, console, callback
        self.method_name, method_class = _method_of(config)
        processes.require_same("settings", shared_settings(config))
        self.folder = RunFolder(config.out)
        self.watchers = Watchers(
            tensorboard=config.tensorboard and processes.is_main, wandb=config.wandb if processes.is_main else None
        )
        self.method = method_class(config.method)
        require_settings(config, self.method, self.method_name)
        self.data = open_data(config, Needs.of(self.method), processes=processes, warn=self._warn)
        self.loader = self.data.loader
        processes.require_same("training pictures", self.loader.describe())
        if self.loader.size is not None:  # else there are vectors alone
            self.method.check_size(*self.loader.size)
        self.schedule = Schedule(
            config.lr_policy,
            config.lr,
            config.n_epochs,
            config.n_epochs_decay,
            self.loader.steps_per_epoch,
            config.lr_decay_iters,
        )
        self.method.to(processes.device).train()
        # Before the engine, which may compile the method: the grids' copy of it is to stay as it is.
        self.samples = None
        if self.data.shown:
            self.samples = SampleWriter(self.method, self.data.shown, then=self.watchers.picture)
        self.precision = choose_precision(config.precision, processes.device)
        skip = config.on_nonfinite == "skip"
        self.engine, self.engine_why = make_engine(
            config.engine,
            self.method,
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            pool_size=part_of_pool(config.pool_size, processes.rank, processes.world_size),
            ema_decay=config.ema_decay,
            seed=config.seed + _SEEDS_APART * processes.rank,
            precision=self.precision,
            clip_norm=config.clip_norm,
            accumulate=config.accumulate,
            critic_steps=config.critic_steps,
            reducer=processes.reducer,
            device=processes.device,
            deterministic=config.deterministic,
            skip_nonfinite=skip,
            activation_memory=config.activation_memory,
        )
        self.window = LossWindow(skip, average=processes.mean)
        self.log: MetricsLog | None = None  # of rank 0, while steps are taken
        self.writer: CheckpointWriter | None = None  # the same

    def run(self) -> Path:
        with ExitStack() as stack:
            if self.processes.is_main:  # the others neither write nor read in the run's folder
                self.folder.create()
                stack.enter_context(self.folder.locked())
                self.folder.sweep()
            start = self._continue_or_begin()
            total = self.schedule.total_steps
            self._tell("start", start, self.folder.path)
            if start < total:
                if self.processes.is_main:
                    self.log = MetricsLog(self.folder.metrics, start)
                    stack.callback(self.log.close)
                self._steps(start, total)
            self._tell("end", total, self.folder.path)
        return self.folder.path

    def _continue_or_begin(self) -> int:
        """Take up the run in the folder, or write the configuration of a new one; the number of steps done."""
        start = 0
        document = self.processes.broadcast_object(self._newest() if self.processes.is_main else None)
        if document is not None:
            load_networks(self.method, document["networks"], self.folder.checkpoint(document["step"]))
            start = restore(document, self.engine, self.window, self.config.pool_size, self.processes)
            if changed := changed_versions(document):
                self._warn(f"{'; '.join(changed)}: training continues, but not to the bit")
        else:
            self.processes.same_weights(self.method)
        if self.processes.is_main:
            write_config(self.folder, self.method_name, to_plain(self.config), self.loader.describe())
        total, counts = self.schedule.total_steps, self.loader.counts
        images = " and ".join(f"{count} of {name}" for name, count in counts.items())
        begin = f"continuing {self.folder.path} after step {start}" if start else f"training into {self.folder.path}"
        if start >= total:
            begin = f"{self.folder.path} is complete"
        where = str(self.processes.device)
        if self.processes.world_size > 1:
            where = f"{self.processes.world_size} processes, {self.processes.device.type}"
        say(self.console, f"{self.method_name}: {begin}, {total} steps on {where}; images: {images}")
        if start < total:
            say(self.console, f"engine {self.engine_why}; precision {self.precision.name}: {self.precision.why}")
        return start

    def _newest(self) -> dict[str, Any] | None:
        """The newest checkpoint of the run in the folder, or None if nothing has been saved."""
        if not self.folder.config.exists():
            return None
        self._compare(read_config(self.folder))
        return newest_checkpoint(self.folder, self.method_name, self._warn)

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
        with ExitStack() as stack:
            stop = stack.enter_context(StopRequest().listening())
            if self.processes.is_main:
                self.writer = stack.enter_context(self._checkpoints(start))
            progress = stack.enter_context(ProgressDisplay(self.console, start, total))
            stack.enter_context(self.watchers.watching(self.folder.path, start, to_plain(self.config)))
            if self.samples is not None:
                stack.enter_context(self.samples)
            alone = self.engine.steps_to_capture()
            batches = stack.enter_context(closing(stream_batches(self.loader, start, total, alone)))
            profiler = None
            if self.config.profile and self.processes.is_main:
                profiler = StepProfiler(self.folder.path / "profile", self.processes.device, self._show_profile)
                stack.callback(profiler.close)
                if total - start < StepProfiler.FIRST:
                    self._warn(f"profile: nothing to profile, {total - start} steps are left and the first 10 warm up")
            clock = Clock(self.config.batch_size * self.config.accumulate * len(self.loader.keys))
            for done in range(start + 1, total + 1):
                with profiler.step() if profiler is not None else nullcontext():
                    with clock.waiting(), torch.profiler.record_function(DATA):
                        batch = next(batches)
                    lr = self.schedule.learning_rate(done - 1)
                    self.window.add(done, self.engine.step(batch, lr))
                clock.steps += 1
                progress.advance(done)
                if self.writer is not None:
                    self._finite(self.writer.check)
                # Up to here nothing waits for the device; whatever follows happens every so many steps only.
                if self._due(self.config.log_every, done, done == total):
                    self._log(done, lr, clock, progress)
                # Asked once: a signal may come at any time, and only a saved state answers it. One process that has had
                # it stops all at the same step.
                asked = self.processes.agree(stop.number or 0) or None
                with clock.stopped():
                    if self._due(self.config.sample_every, done, done == total) and self.samples is not None:
                        self._write_samples(done)
                    self._tell_of_samples()
                    value, better = None, False
                    if self.config.eval_every and self._due(self.config.eval_every, done, done == total):
                        value = self._score(done, progress)
                        better = self.processes.any(value is not None and self._is_best(value))
                    if self._due(self.config.save_every_steps, done, done == total or asked is not None or better):
                        self._save(done, value)
                if asked is not None and done < total:
                    if self.writer is not None:
                        self._finite(self.writer.wait)
                    raise Interrupted(self.folder.path, done, total, asked)
            if self.writer is not None:
                self._finite(self.writer.wait)
        self._tell_of_samples()  # of the last one, for which leaving the context has waited

    def _checkpoints(self, start: int) -> CheckpointWriter:
        assert self.log is not None
        return CheckpointWriter(
            self.folder,
            self.method_name,
            keep_last=self.config.keep_last,
            keep_best=self._best_metric if self.data.truth else None,
            config=to_plain(self.config),
            start=start,
            before_write=self.log.flush_to_disk,
            warn=self._warn,
        )

    @property
    def _best_metric(self) -> str:
        """The score by which the best checkpoint is kept: of translations from the first domain to the second, or the
        first direction that is learned."""
        source, to = directions(self.method)[0]
        return f"truth/{source}_to_{to}/l1"

    def _is_best(self, value: float) -> bool:
        return self.writer is not None and self.writer.is_better(value)

    @staticmethod
    def _due(every: int, done: int, at_last: bool) -> bool:
        return at_last or (every > 0 and done % every == 0)

    def _log(self, done: int, lr: float, clock: Clock, progress: ProgressDisplay) -> None:
        losses = self._finite(self.window.means)
        for line in self.window.skipped():
            progress.message(line, "yellow")
        self.window.clear()
        record = {
            "step": done,
            "epoch": self.schedule.epoch(done - 1) + 1,
            "lr": lr,
            **losses,
            **self.engine.counters(),
            **clock.lap(),
            **device_memory(self.processes.device),
        }
        if self.log is not None:
            self.log.write(record)
        self.watchers.scalars(record)
        progress.show(done, record)
        self._tell("log", done, self.folder.path, record)

    def _write_samples(self, done: int) -> None:
        assert self.samples is not None
        with self.engine.averaged():
            self.samples.write(done, self.folder.sample(done))

    def _tell_of_samples(self) -> None:
        for step, path in self.samples.finished() if self.samples is not None else ():
            self._tell("sample", step, path)

    def _show_profile(self, profile: StepProfile) -> None:
        self.console.print(profile.table())
        say(self.console, f"the trace is in {profile.trace}: open it in ui.perfetto.dev or chrome://tracing")

    def _score(self, done: int, progress: ProgressDisplay) -> float | None:
        """Log how near translations of held-out pictures come to the truth; the score that the best is chosen by."""
        if self.log is None:
            return None
        self.method.eval()
        try:
            with self.engine.averaged():
                scores = score_held_out(
                    self.method.translate,
                    self.data.truth,
                    self.method.domains,
                    palettes=self.data.palettes,
                    directions=directions(self.method),
                )
        finally:
            self.method.train()
        record = {"step": done, **as_numbers(scores)}
        self.log.write(record)
        self.watchers.scalars(record)
        progress.show_scores(done, scores)
        self._tell("score", done, self.folder.path, record)
        return record.get(self._best_metric)

    def _save(self, done: int, value: float | None) -> None:
        self._finite(self.window.check)
        # Rank 0's pools are in the engine's state, which the writer asks for.
        ranks = gather_ranks({} if self.writer is not None else self.engine.state_dict()["pools"], self.processes)
        if self.writer is None:
            return
        rng, others = state_of_ranks(ranks)
        state = {"window": self.window.state_dict(), **others}
        path = self._finite(lambda: self.writer.save(done, self.engine, state, rng=rng, value=value))
        self._tell("checkpoint", done, path)

    def _finite(self, ask: Callable[[], Any]) -> Any:
        """The window's answer, or its error with what to do about it."""
        try:
            return ask()
        except NonFiniteLoss as error:
            steps = self.folder.steps() if self.writer is None else self.writer.kept()
            kept = f"the checkpoint of step {steps[-1]} is kept" if steps else "there is no checkpoint yet"
            raise NonFiniteLoss(
                f"{self.folder.path}: {error}; training has stopped, {kept}. Try a lower lr (now {self.config.lr}); "
                "see in metrics.jsonl which loss grew first"
            ) from error

    def _warn(self, text: str) -> None:
        say(self.console, text, "yellow")

    def _tell(self, kind: Any, step: int, path: Path, metrics: dict[str, Any] | None = None) -> None:
        self.callback(Event(kind, step, self.schedule.total_steps, path, metrics or {}))


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
