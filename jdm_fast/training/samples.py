"""Pictures of what the generators make of a few fixed images, to watch a training by."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from jdm_fast.data import save_image
from jdm_fast.data.sheet import contact_sheet
from jdm_fast.ops import frames_to_uint8

_GAP = 4
_LEAST_SIDE = 112  # narrower pictures are enlarged, so that their captions fit
_SEED = 0


def write_samples(path: Path, method: nn.Module, images: dict[str, Tensor]) -> None:
    """Write a PNG grid with one row for each image of a domain and one captioned column for each kind of picture.

    From left to right, domain by domain: the input, its reconstruction, its translation, its cycle, and after those
    whatever else ``method.generate`` makes of images in their size, of JointGAN the tuples source by source. Vectors
    are passed over. Noise is the same in every grid, so that whatever changes from one to the next is the networks'
    doing. Neither the method nor PyTorch's random streams are changed.

    Args:
        path: the file.
        method: follows ``jdm_fast.methods.Method``, the networks on the device of ``images``.
        images: a batch for ``method.generate``: [N, C, H, W] in [-1, 1] or vectors [N, D] for each domain, at least one
            of images. Of a kind that is made in another number than N, no more than N are shown.
    """
    training = method.training
    method.eval()
    try:
        with torch.no_grad(), _OwnRandomStream(next(iter(images.values())).device):
            made = method.generate(images)
    finally:
        method.train(training)
    columns = _columns({name: value for name, value in images.items() if value.dim() == 4}, made)
    captions, pictures = [caption for caption, _ in columns], [_pixels(column) for _, column in columns]
    scale = max(1, -(-_LEAST_SIDE // pictures[0].shape[2]))
    blank = np.full_like(pictures[0][0], 255)
    rows = [[column[row] if row < len(column) else blank for column in pictures] for row in range(len(pictures[0]))]
    save_image(path, contact_sheet(rows, titles=captions, scale=scale, gap=_GAP))


class SampleWriter:
    """Sample grids drawn and written by a thread from a snapshot of the generators, while training goes on.

    Training ends with the same bits whether there are grids or not. What a grid costs: one copy of the generators'
    weights on the device, held all the time; the copying of them when a grid is due; and a share of the device (on a
    CPU: of the cores) while the thread draws. Only one grid is drawn at a time: :meth:`write` waits for the one before,
    so no grid is lost and there is never a second snapshot. Use as a context manager; leaving it waits for the last.

    Args:
        method: follows ``jdm_fast.methods.Method``, as made: an engine may compile it afterwards.
        images: as for :func:`write_samples`, on the method's device.
        then: called in the thread with step and file once the file is there.
    """

    def __init__(
        self,
        method: nn.Module,
        images: dict[str, Tensor],
        *,
        then: Callable[[int, Path], None] = lambda step, path: None,
    ) -> None:
        self._images, self._then = images, then
        # The critics take no part in `generate`: the copy has those of the original, in name only.
        shared: dict[int, Any] = {id(parameter): parameter for parameter in method.critic_parameters()}  # type: ignore[operator]  # a method, whose protocol has it
        self._copy = copy.deepcopy(method, shared).eval()
        pairs = zip(_tensors(method), _tensors(self._copy), strict=True)
        self._from, self._to = zip(*((old, new) for old, new in pairs if old is not new), strict=True)
        self._device = next(iter(images.values())).device
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sample grids")
        self._pending: Future[tuple[int, Path]] | None = None
        self._finished: list[tuple[int, Path]] = []

    def __enter__(self) -> SampleWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._thread.shutdown(wait=True)
        if kind is None:  # else there is an error already, which says more
            self._wait()

    def write(self, step: int, path: Path) -> None:
        """Snapshot the generators as they are now and have their grid written to ``path``.

        Raises:
            UserError: the grid before could not be written.
        """
        self._wait()
        with torch.no_grad():
            torch._foreach_copy_(self._to, self._from)
        copied = None
        if self._stream is not None:
            copied = torch.cuda.Event()
            copied.record()
        self._pending = self._thread.submit(self._draw, step, path, copied)

    def finished(self) -> list[tuple[int, Path]]:
        """Step and file of each grid that was finished since this was last asked; it does not wait.

        Raises:
            UserError: a grid could not be written.
        """
        if self._pending is not None and self._pending.done():
            self._wait()
        finished, self._finished = self._finished, []
        return finished

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self._finished.append(pending.result())

    def _draw(self, step: int, path: Path, copied: torch.cuda.Event | None) -> tuple[int, Path]:
        with ExitStack() as stack:
            if self._stream is not None and copied is not None:
                stack.enter_context(torch.cuda.stream(self._stream))
                self._stream.wait_event(copied)
            write_samples(path, self._copy, self._images)
        self._then(step, path)
        return step, path


class _OwnRandomStream(TorchDispatchMode):
    """Context in which this thread draws from a stream of its own.

    PyTorch's own streams belong to all threads: drawing from them, or putting them back afterwards, would change the
    numbers that the training loop draws at the same time.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._generators = {device.type: torch.Generator(device).manual_seed(_SEED)}
        self._generators.setdefault("cpu", torch.Generator().manual_seed(_SEED))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded in func.tags:
            if not any(argument.name == "generator" for argument in func._schema.arguments):
                name = func._overloadname
                with_generator = "generator" if name == "default" else f"{name}_generator"
                if with_generator not in func.overloadpacket.overloads():
                    raise RuntimeError(f"{func}: draws from PyTorch's own random stream, since it takes no generator")
                func = getattr(func.overloadpacket, with_generator)
            tensors = [value for value in args if isinstance(value, Tensor)]
            device = tensors[0].device if tensors else torch.device(kwargs.get("device") or "cpu")
            kwargs["generator"] = self._generators[device.type]
        return func(*args, **kwargs)


def _tensors(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, always in the same order."""
    return [*module.parameters(), *module.buffers()]


def _columns(images: dict[str, Tensor], made: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Captions and pictures from left to right. The protocol names fakes ``kind_domain`` after the domain they are
    in, so the translation of an image of x is found under y. A domain of several pairs has a key for each, ``y_xy``."""
    shape = next(iter(images.values())).shape[1:]
    left = {name: fake for name, fake in made.items() if fake.dim() == 4 and fake.shape[1:] == shape}
    domains = tuple(dict.fromkeys(key.partition("_")[0] for key in images))
    columns = []
    for key, given in images.items():
        domain, _, pair = key.partition("_")
        columns.append((f"input {domain}{f' of {pair}' if pair else ''}", given))
        others = [other for other in domains if other != domain]
        for name in [f"reconstruction_{domain}", *(f"translation_{other}" for other in others), f"cycle_{domain}"]:
            if name in left:
                columns.append((name.replace("_", " "), left.pop(name)))
    return columns + [(_caption(name), left[name]) for name in _by_source(list(left))]


# A domain in a tuple of a source: "xy1_y", with "cycle_" in front if it is the end of a cycle.
_OF_SOURCE = re.compile(r"(?P<cycle>cycle_)?(?P<order>[a-z]{2,})(?P<observed>\d+)_(?P<domain>[a-z])")


def _by_source(names: list[str]) -> list[str]:
    """Names of one source beside each other, in the order of its domains; others keep their places at the front."""

    def place(name: str) -> tuple[str, int, bool, int]:
        match = _OF_SOURCE.fullmatch(name)
        if match is None:
            return "", 0, False, 0
        return match["order"], int(match["observed"]), bool(match["cycle"]), match["order"].find(match["domain"])

    return sorted(names, key=place)


def _caption(name: str) -> str:
    """``xy1_y`` is ``xy:1 p(y|x)``, as the source is called in ``method.sources``; else words for underscores."""
    match = _OF_SOURCE.fullmatch(name)
    if match is None or match["domain"] not in match["order"]:
        return name.replace("_", " ")
    source, domain = f"{match['order']}:{match['observed']}", match["domain"]
    if match["cycle"]:
        return f"{source} cycle {domain}"
    given = match["order"][: match["order"].index(domain)]
    return f"{source} p({domain}{f'|{given}' if given else ''})"


def _pixels(images: Tensor) -> np.ndarray:
    """uint8 [N, H, W, 3] of [N, C, H, W] in [-1, 1]; grey ones get three channels."""
    images = images.detach().float()
    if images.shape[1] != 3:
        images = images[:, :1].expand(-1, 3, -1, -1)
    return frames_to_uint8(images.contiguous()).cpu().numpy()
