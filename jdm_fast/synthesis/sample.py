"""Tuples of all domains from a method that draws them: what is given is checked, and each tuple has noise of its own.

Noise is drawn on the CPU from a generator for each tuple, by seed, number of the tuple and number of the draw. So a
tuple does not depend on how many others there are or go through the networks with it, nor on the device, to rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jdm_fast.errors import UserError
from jdm_fast.methods.sources import require_order
from jdm_fast.ops import frames_to_uint8
from jdm_fast.synthesis.conditions import Size, TupleForm
from jdm_fast.synthesis.pictures import batch_for

MODES = ("corners", "fixed")


class TupleSampler:
    """A method's ``sample`` behind checks, conversions and batches.

    Args:
        method: JointGAN, or the two-step baseline, in evaluation mode.
        device: where it is.
        name: for messages.
        size: height and width of the pictures it was trained on, where known.

    Attributes:
        form: what the tuples look like.

    Raises:
        UserError: the method draws no tuples.
    """

    def __init__(self, method: nn.Module, device: torch.device, name: str, size: Size | None = None) -> None:
        if not all(hasattr(method, part) for part in ("sample", "sample_noise", "default_order")):
            raise UserError(
                f"{name}: a model of {type(method).__name__} draws no tuples; expected a run of jointgan, or one of "
                "pix2pix or cyclegan together with one of wgan-gp (--marginals)"
            )
        self.method: Any = method
        self.device = device
        self.form = TupleForm(method, name, size)
        self._can_stop = "only" in inspect.signature(self.method.sample).parameters

    # ---- Drawing ----------------------------------------------------------------------------------------------------

    def noise(self, tuples: Sequence[tuple[int, int]], size: Size, seed: int) -> dict[str, Tensor]:
        """Noise of each domain for tuples named by their number and the number of their draw."""
        if seed < 0:
            raise UserError(f"seed: expected 0 or more, got {seed}")
        bases: dict[int, int] = {}
        parts = []
        for number, draw in tuples:
            if draw not in bases:
                bases[draw] = int(np.random.SeedSequence((seed, draw)).generate_state(1)[0])
            # PyTorch's CPU generator looks at 32 bits of its seed: counting up, no two tuples of a draw share them.
            generator = torch.Generator().manual_seed((bases[draw] + number) % 2**32)
            parts.append(self.method.sample_noise(1, size, generator))
        return {domain: torch.cat([part[domain] for part in parts]) for domain in parts[0]}

    @torch.inference_mode()
    def draw(
        self, noise: dict[str, Tensor], given: Mapping[str, Tensor], order: str | None = None, only: str | None = None
    ) -> dict[str, np.ndarray]:
        """One batch: by name, what is drawn for each domain that is not given.

        Args:
            noise: from :meth:`noise`. given: from :meth:`conditions`, one item for each of ``noise``.
            order, only: as for :meth:`jdm_fast.synthesis.Model.sample`.

        Returns:
            Images uint8 [N, H, W, 3], vectors float32 [N, D].
        """
        values = {domain: value.to(self.device) for domain, value in given.items()}
        if only is None:
            made = self.method.sample(noise, values, order)
        elif self._can_stop:
            made = self.method.sample(noise, values, order, only)
        else:  # a method of two domains, of which the other one is then drawn in vain
            rest = [domain for domain in self.form.domains if domain not in (*values, only)]
            made = {only: self.method.sample(noise, values, order or "".join([*values, only, *rest]))[only]}
        return {domain: self.to_arrays(value, domain) for domain, value in made.items() if domain not in values}

    def to_arrays(self, values: Tensor, domain: str) -> np.ndarray:
        """Images [N, channels, H, W] as uint8 [N, H, W, 3], vectors [N, D] as float32."""
        if not torch.isfinite(values).all():
            raise UserError(
                f"{self.form.name}: the networks have made values of {domain} that are infinite or not a number, so "
                "its training went wrong there; choose another checkpoint (--step)"
            )
        if domain in self.form.vectors:
            return values.float().cpu().numpy()
        pixels = frames_to_uint8(values).cpu().numpy()
        return pixels if pixels.shape[-1] == 3 else pixels[..., :1].repeat(3, axis=-1)

    def check(self, given: Sequence[str], order: str | None, draws: int | None, only: str | None) -> None:
        """Raise UserError for what cannot be asked for, whatever the method has learned."""
        for domain in given:
            self.form.require_known(domain)
        if only is not None and self.form.require_known(only) in given:
            raise UserError(f"only: {only} is given, so there is nothing to draw")
        if len(set(given)) == len(self.form.domains):
            raise UserError(f"given: all of {', '.join(self.form.domains)} are given, so there is nothing to draw")
        if draws is not None and not given:
            raise UserError("draws: several draws are made of what is given, and nothing is; n says how many tuples")
        if draws is not None and draws < 1:
            raise UserError(f"draws: expected at least 1, got {draws}")
        if order is not None:
            require_order(order, "".join(self.form.domains), "order")

    def pieces(
        self,
        tuples: Sequence[tuple[int, int]],
        given: Mapping[str, Tensor],
        *,
        order: str | None,
        only: str | None,
        size: Size,
        seed: int,
        batch_size: int | None = None,
        first: int = 0,
    ) -> Iterator[tuple[Sequence[tuple[int, int]], dict[str, np.ndarray]]]:
        """Tuples in batches: which, and what :meth:`draw` makes of them. Item 0 of ``given`` is of tuple ``first``."""
        step = _batch(batch_size, size)
        for start in range(0, len(tuples), step):
            some = tuples[start : start + step]
            items = [number - first for number, _ in some]
            values = {domain: value[items] for domain, value in given.items()}
            yield some, self.draw(self.noise(some, size, seed), values, order, only)

    # ---- The two uses -----------------------------------------------------------------------------------------------

    def sample(
        self,
        n: int | None,
        given: Mapping[str, Any],
        order: str | None,
        draws: int | None,
        only: str | None,
        size: int | Size | None,
        seed: int,
        batch_size: int | None,
        resize: bool,
    ) -> dict[str, np.ndarray]:
        """See :meth:`jdm_fast.synthesis.Model.sample`."""
        self.check(tuple(given), order, draws, only)
        values = self.form.conditions(given, size, resize)
        count = require_count(n, len(next(iter(values.values()))) if values else None)
        tuples = [(number, draw) for number in range(count) for draw in range(draws or 1)]
        where = self.form.image_size(values, size)
        parts: dict[str, list[np.ndarray]] = {}
        for _, made in self.pieces(
            tuples, values, order=order, only=only, size=where, seed=seed, batch_size=batch_size
        ):
            for domain, array in made.items():
                parts.setdefault(domain, []).append(array)
        drawn = {domain: np.concatenate(arrays) for domain, arrays in parts.items()}
        if draws is not None:
            drawn = {domain: array.reshape(count, draws, *array.shape[1:]) for domain, array in drawn.items()}
        if only is None:
            drawn |= {domain: self.to_arrays(value, domain) for domain, value in values.items()}
        return {domain: drawn[domain] for domain in self.form.domains if domain in drawn}

    def interpolate(
        self,
        steps: int,
        mode: str,
        given: Mapping[str, Any],
        order: str | None,
        rows: int,
        seed: int,
        size: int | Size | None,
        batch_size: int | None,
        resize: bool,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, np.ndarray]:
        """See :meth:`jdm_fast.synthesis.Model.interpolate`; ``on_progress`` gets the tuples done and in all."""
        self.check(tuple(given), order, None, None)
        if mode not in MODES:
            raise UserError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
        if steps < 2:
            raise UserError(f"steps: expected at least 2, the two ends, got {steps}")
        if rows < 1:
            raise UserError(f"rows: expected at least 1, got {rows}")
        values = self.form.conditions(given, size, resize)
        order = order or self.method.default_order(tuple(values))
        made = order[len(values) :]
        count = len(next(iter(values.values()))) if values else 1 if mode == "corners" else rows
        kept = tuple(values) or (made[0] if mode == "fixed" else "")
        across = made[0] if values and mode == "fixed" else made[1:2]  # whose noise changes from column to column
        if not across:
            raise UserError(
                f"mode: corners interpolates the noise of two domains, but with {', '.join(values)} given only {made} "
                "is drawn; use mode fixed (--interpolate fixed)"
            )
        if mode == "corners" and count != 1:
            raise UserError(f"given: corners is one grid of one condition, got {count}; give one, or use mode fixed")
        down = steps if mode == "corners" else count
        row, column = (
            index.reshape(-1) for index in torch.meshgrid(torch.arange(down), torch.arange(steps), indexing="ij")
        )
        ratios = {across: column / (steps - 1)}
        if mode == "corners":
            ratios[made[0]], row = row / (steps - 1), torch.zeros_like(row)
        where = self.form.image_size(values, size)
        begin, end = (self.noise([(number, draw) for number in range(count)], where, seed) for draw in (0, 1))
        parts: dict[str, list[np.ndarray]] = {}
        for part in torch.arange(len(row)).split(_batch(batch_size, where)):
            noise = {
                domain: _between(begin[domain], end[domain], row[part], ratios[domain][part])
                if domain in ratios
                else begin[domain][row[part].to(self.device)]
                for domain in begin
            }
            drawn = self.draw(noise, {domain: value[row[part]] for domain, value in values.items()}, order)
            for domain, array in drawn.items():
                parts.setdefault(domain, []).append(array)
            if on_progress:
                on_progress(int(part[-1]) + 1, len(row))
        out = {domain: np.concatenate(arrays) for domain, arrays in parts.items()}
        out = {domain: array.reshape(down, steps, *array.shape[1:]) for domain, array in out.items()}
        out |= {domain: out[domain][:, 0] for domain in kept if domain in out}
        out |= {domain: self.to_arrays(value, domain) for domain, value in values.items()}
        return {domain: out[domain] for domain in self.form.domains}


def require_mapping(given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """``given``, or nothing where it is None. TypeError for images without their domain."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(
            f'given: expected what is observed by domain, such as {{"x": images}}, got {type(given).__name__}'
        )
    return given


def require_count(n: int | None, given: int | None) -> int:
    """The number of tuples: that of what is given, else ``n``, else 16."""
    if n is not None and n < 1:
        raise UserError(f"n: expected at least 1, got {n}")
    if given is None:
        return 16 if n is None else n
    if n not in (None, given):
        raise UserError(f"n: {given} are given, each of which gets its tuple; got {n} (draws says how many of each)")
    return given


def _batch(batch_size: int | None, size: Size) -> int:
    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch_size: expected at least 1, got {batch_size}")
    return batch_size or batch_for(*size)


def _between(begin: Tensor, end: Tensor, row: Tensor, ratio: Tensor) -> Tensor:
    """Linear interpolation of noise [R, …], for each of M (row, ratio) one: [M, …]."""
    row, ratio = row.to(begin.device), ratio.to(begin)
    return torch.lerp(begin[row], end[row], ratio.reshape(-1, *[1] * (begin.dim() - 1)))
