"""A run: the folder in which a training keeps everything, and all that is needed to use its model.

::

    config.json                the method's name and every setting
    checkpoints/step-<N>.pt    the state after step N, tensors and plain values only; the newest few and the best
    checkpoints/best.json      which of them is the best, and by what
    metrics.jsonl              one JSON object a line: step, epoch, learning rate, losses, images/s
    samples/step-<N>.png       grids of images: input, reconstruction, translation, cycle

Every file appears under its name only when it is whole. Loading a run never executes code from its files.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import nn

import jdm_fast
from jdm_fast import methods
from jdm_fast._checkpoint_file import DamagedCheckpoint, load_document, save_document
from jdm_fast._files import make_folder, write_atomically
from jdm_fast._plain import from_plain
from jdm_fast._run_folder import RunFolder
from jdm_fast.errors import UserError

__all__ = [
    "FORMAT", "BestCheckpoint", "DamagedCheckpoint", "Run", "RunFolder", "export_generators", "load_generators",
    "load_networks", "load_run", "newest_checkpoint", "read_best", "read_checkpoint", "read_config", "write_best",
    "write_checkpoint", "write_config",
]  # fmt: skip

FORMAT = 2
"""Version of the layout above, in config.json and in each checkpoint; raised when an older reader could not cope."""


def write_config(folder: RunFolder, method: str, config: dict[str, Any], images: dict[str, Any]) -> None:
    """Write ``config.json``: ``config`` as plain values, ``images`` what the data set says of itself."""
    document = {
        "format": FORMAT,
        "jdm_fast": jdm_fast.__version__,
        "method": method,
        "config": config,
        "images": images,
    }
    write_atomically(folder.config, lambda file: file.write(json.dumps(document, indent=2).encode() + b"\n"))


def read_config(folder: RunFolder) -> dict[str, Any]:
    """The document in ``config.json``.

    Raises:
        UserError: the folder or the file is missing, damaged or of a newer version, or its method is not known.
    """
    if not folder.path.is_dir():
        raise UserError(f"{folder.path}: there is no such folder; expected a run, the folder that training wrote")
    if not folder.config.is_file():
        raise UserError(
            f"{folder.path}: not a run, there is no config.json in it; expected the folder that training wrote"
        )
    try:
        document = json.loads(folder.config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder.config}: cannot be read as JSON: {error}") from error
    if not isinstance(document, dict) or not {"format", "method", "config"} <= document.keys():
        raise UserError(f"{folder.config}: not a run's configuration; expected the fields format, method and config")
    _check_format(document, folder.config)
    _check_method(document, folder.config)
    return document


def write_checkpoint(
    folder: RunFolder, method: str, step: int, state: dict[str, Any], *, stop: threading.Event | None = None
) -> Path:
    """Write the checkpoint of ``step``; ``state`` may hold tensors, numbers, strings, None, lists, tuples and dicts
    of them. ``stop`` calls the writing off from another thread, which raises WriteStopped."""
    document = {"format": FORMAT, "jdm_fast": jdm_fast.__version__, "method": method, "step": step, **state}
    path = folder.checkpoint(step)
    save_document(path, document, stop)
    return path


def read_checkpoint(path: Path, method: str) -> dict[str, Any]:
    """The document of a checkpoint, its tensors on the CPU.

    Args:
        path: the file.
        method: name of the method it must be of.

    Raises:
        DamagedCheckpoint: the file is cut short, has been changed on the disk, or is not a checkpoint.
        UserError: it is of another method or of a newer version.
    """
    document = load_document(path)
    if not {"format", "method", "step", "networks"} <= document.keys():
        raise DamagedCheckpoint(
            f"{path}: not a checkpoint of jdm_fast; expected format, method, step and networks in it"
        )
    _check_format(document, path)
    if document["method"] != method:
        raise UserError(
            f"{path}: a checkpoint of the method {document['method']!r} in a run of {method!r}; "
            "put back the run's own checkpoint, or choose the folder the file came from"
        )
    return document


def newest_checkpoint(folder: RunFolder, method: str, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, or None if there is none at all.

    Args:
        folder, method: the run, and the method its checkpoints must be of.
        warn: told of each damaged checkpoint that is passed over.

    Raises:
        UserError: all of them are damaged, or the newest whole one is of another method or version.
    """
    steps = folder.steps()
    for step in reversed(steps):
        try:
            return read_checkpoint(folder.checkpoint(step), method)
        except DamagedCheckpoint as error:
            warn(f"{error}; looking for the one before it")
    if steps:
        raise UserError(
            f"{folder.checkpoints}: none of the checkpoints (steps {', '.join(map(str, steps))}) can be read; "
            "restore one from a copy, or choose another folder to begin anew"
        )
    return None


@dataclass(frozen=True)
class BestCheckpoint:
    """The best checkpoint of a run so far: its step, and the metric and value that say so."""

    step: int
    metric: str
    value: float


def write_best(folder: RunFolder, best: BestCheckpoint) -> None:
    """Note which checkpoint is the best; it must be on the disk already."""
    text = json.dumps(dataclasses.asdict(best)).encode() + b"\n"
    write_atomically(folder.best, lambda file: file.write(text))


def read_best(folder: RunFolder) -> BestCheckpoint | None:
    """Which checkpoint is the best, or None if none has been chosen or its file is gone.

    Raises:
        UserError: the note cannot be read.
    """
    if not folder.best.exists():
        return None
    try:
        best = from_plain(BestCheckpoint, json.loads(folder.best.read_text(encoding="utf-8")), str(folder.best))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder.best}: cannot be read: {error}. Delete it to choose the best anew") from error
    return best if folder.checkpoint(best.step).exists() else None


@dataclass(frozen=True)
class Run:
    """A trained model and where it came from.

    Attributes:
        path: the run's folder, or the file of its generators. method_name: key of ``jdm_fast.methods.METHODS``.
        config: every setting, as plain values; ``method.config`` is the method's own, typed. method: the model in eval
        mode, with the averaged generators if the run kept them. step: of the checkpoint.
    """

    path: Path
    method_name: str
    config: dict[str, Any]
    method: nn.Module
    step: int


def load_run(
    path: str | Path,
    *,
    step: int | Literal["best"] | None = None,
    device: torch.device | str = "cpu",
    warn: Callable[[str], None] | None = None,
) -> Run:
    """The model of a run.

    Args:
        path: the folder that training wrote, or a file that :func:`export_generators` wrote.
        step: which checkpoint: of that step, or the ``best`` one; unless said, the newest that is whole.
        device: where to put the model.
        warn: told of each damaged checkpoint that is passed over; by default it is a Python warning.

    Raises:
        UserError: it is not a run, has no checkpoint (of that step), none can be read, or one is of another method.
        DamagedCheckpoint: the checkpoint of the step that was asked for is damaged.
    """
    path = Path(path)
    if path.is_file():
        if step is not None:
            raise UserError(f"{path}: a file of generators has one step only; choose a step of the run's folder")
        return load_generators(path, device=device)
    folder = RunFolder(path)
    document = read_config(folder)
    method_name = document["method"]
    if step is None:
        checkpoint = newest_checkpoint(folder, method_name, warn or _warn)
        if checkpoint is None:
            raise UserError(
                f"{folder.path}: the run has no checkpoint yet; train it, or let it run until it has saved one"
            )
    else:
        checkpoint = _checkpoint_of(folder, method_name, step)
    where = folder.checkpoint(checkpoint["step"])
    method = _new_method(method_name, document["config"], folder.config)
    load_networks(method, {**checkpoint["networks"], **(checkpoint.get("ema") or {})}, where)
    return Run(folder.path, method_name, document["config"], method.to(device).eval(), checkpoint["step"])


def _checkpoint_of(folder: RunFolder, method: str, step: int | Literal["best"]) -> dict[str, Any]:
    """The checkpoint that was asked for, and no other."""
    steps = folder.steps()
    if step == "best":
        best = read_best(folder)
        if best is None:
            raise UserError(
                f"{folder.path}: no checkpoint was chosen as the best, as translations were not scored; "
                f"choose one of the steps {', '.join(map(str, steps))}"
            )
        step = best.step
    if step not in steps:
        raise UserError(f"{folder.path}: there is no checkpoint of step {step}, only of {', '.join(map(str, steps))}")
    try:
        return read_checkpoint(folder.checkpoint(step), method)
    except DamagedCheckpoint as error:
        others = [other for other in steps if other != step]
        advice = f"the checkpoint of step {others[-1]} may be whole: ask for it instead" if others else "train again"
        raise DamagedCheckpoint(f"{error}; {advice}") from error


def export_generators(run_path: str | Path, out: str | Path, *, step: int | Literal["best"] | None = None) -> Path:
    """Write a run's generators, averaged if the run kept an average, to one safetensors file.

    All that is needed to use them is in the file, which any program that knows safetensors can read: the networks
    without the critics under the names they have in the method, and as metadata the method's name, the run's
    configuration and the step. The file is read back and compared before this returns.

    Args:
        run_path: the folder that training wrote.
        out: the file, ``*.safetensors``; a file already there is replaced whole or not at all.
        step: which checkpoint, as for :func:`load_run`.

    Returns:
        ``out`` as a path. :func:`load_run` and ``jdm_fast.load`` take it in place of a run's folder.

    Raises:
        UserError: it is not a run, or ``out`` has another ending or cannot be written.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: the generators are written as safetensors; choose a name that ends in .safetensors")
    run = load_run(run_path, step=step)
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in _of_generators(run.method).items()}
    metadata = {
        "format": "pt",  # what other programs look for: names and layouts are PyTorch's
        "jdm_fast_format": str(FORMAT),
        "jdm_fast": jdm_fast.__version__,
        "method": run.method_name,
        "step": str(run.step),
        "config": json.dumps(run.config),
    }
    content = safetensors.torch.save(tensors, metadata)
    make_folder(out.parent)
    write_atomically(out, lambda file: file.write(content))
    written = _of_generators(load_generators(out).method)
    if any(not torch.equal(tensor, written[name]) for name, tensor in tensors.items()):
        raise UserError(f"{out}: the disk gave back something else than was written; check the disk")
    return out


def load_generators(path: str | Path, *, device: torch.device | str = "cpu") -> Run:
    """The model in a file of :func:`export_generators`, whose critics, not being in the file, are untrained.

    Raises:
        UserError: the file is missing, damaged, something else, of a newer version or of a method not known here.
    """
    path = Path(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
        document = {"format": int(metadata["jdm_fast_format"]), "config": json.loads(metadata["config"])}
        document.update(method=metadata["method"], jdm_fast=metadata["jdm_fast"])
        step = int(metadata["step"])
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{path}: cannot be read as generators: {error!r}; expected a file that export_generators wrote"
        ) from error
    _check_format(document, path)
    _check_method(document, path)
    method = _new_method(document["method"], document["config"], path)
    expected = _of_generators(method)
    differing = sorted(expected.keys() ^ tensors.keys())
    if differing:
        raise UserError(
            f"{path}: its tensors do not fit the generators that it describes: {', '.join(differing[:3])} missing or "
            "too many. Export the run again"
        )
    load_networks(method, {**method.state_dict(), **tensors}, path)
    return Run(path, document["method"], document["config"], method.to(device).eval(), step)


def _of_generators(method: nn.Module) -> dict[str, torch.Tensor]:
    """The entries of the method's state that are not the critics': their parameters, and buffers of modules that have
    no parameters but critics'."""
    of_critics = {id(parameter) for parameter in method.critic_parameters()}

    def is_critics(name: str) -> bool:
        while name:  # the module itself, then those around it, until one has parameters
            name = name.rpartition(".")[0]
            parameters = list(method.get_submodule(name).parameters())
            if parameters:
                return all(id(parameter) in of_critics for parameter in parameters)
        return False

    parameters = dict(method.named_parameters(remove_duplicate=False))
    return {
        name: tensor
        for name, tensor in method.state_dict().items()
        if not (id(parameters[name]) in of_critics if name in parameters else is_critics(name))
    }


def _new_method(name: str, config: Any, where: Path) -> nn.Module:
    """A method as ``config``, a run's settings, has it; its initial weights are about to be replaced."""
    spec = methods.METHODS[name]
    values = config.get("method") if isinstance(config, dict) else config
    method_config = from_plain(spec.config_class, values, str(where))
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn: leave the caller's stream alone
        return spec.method_class(method_config)


def load_networks(method: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Load ``state`` into ``method``. Raises UserError naming the first tensors of ``path`` that do not fit."""
    try:
        method.load_state_dict(state)
    except RuntimeError as error:
        detail = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise UserError(f"{path}: its tensors do not fit the networks that config.json describes: {detail}") from error


def _check_format(document: dict[str, Any], path: Path) -> None:
    if not isinstance(document["format"], int) or document["format"] > FORMAT:
        writer = document.get("jdm_fast", "of unknown version")
        raise UserError(
            f"{path}: written in format {document['format']} by jdm_fast {writer}; this is jdm_fast "
            f"{jdm_fast.__version__}, which reads formats up to {FORMAT}: upgrade it"
        )


def _check_method(document: dict[str, Any], path: Path) -> None:
    if document["method"] not in methods.METHODS:
        raise UserError(
            f"{path}: the method {document['method']!r} is not known here; expected one of "
            f"{', '.join(methods.METHODS)}. A newer version of jdm_fast may have it"
        )


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)
