"""From what the sampler has drawn to tensors: which pictures come from the cache, which are decoded, and by what."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from jdm_fast.data.cache import DecodedPictures
from jdm_fast.data.geometry import place
from jdm_fast.data.items import Pictures, as_pnm
from jdm_fast.data.pipeline import DecodingError, Form, Picture, Pipeline
from jdm_fast.data.sampler import Draw
from jdm_fast.errors import UserError

Batch = dict[str, Tensor]
Draws = Sequence[Draw]
"""What is drawn of each group in one step."""

CHUNK = 16
"""Pictures that go through DALI together: enough to keep its threads busy when batches are of one."""
_DEPTH = 2  # chunks in DALI at a time: while it works on one, the next is read


class Assembler:
    """Makes batches of draws.

    Args:
        form: of pictures in batches.
        groups: the keys of each group.
        pictures: by key.
        features: float32 [N, K, D] by key.

    Attributes:
        cached: decoded pictures by key, as far as there are some.
    """

    def __init__(
        self,
        form: Form,
        groups: Sequence[Sequence[str]],
        pictures: Mapping[str, Pictures],
        features: Mapping[str, np.ndarray],
    ) -> None:
        self._form, self._groups, self._pictures, self._features = form, groups, pictures, features
        self.cached: Mapping[str, DecodedPictures | None] = {}

    def batches(self, draws_of: Callable[[int], Draws], start: int, stop: int, ahead: int) -> Iterator[Batch]:
        """The batches of the steps from ``start`` to before ``stop``, in order.

        Several steps, but no more than ``ahead``, go through DALI together. Close the iterator to end its threads.

        Raises:
            UserError: a picture of the step in question cannot be had. It names the file.
        """
        pictures = sum(len(draw.items) * self._pictures_of(g) for g, draw in enumerate(draws_of(start)))
        at_once = max(1, min(ahead, CHUNK // max(1, pictures)))
        step = start
        while step < stop:
            try:
                for batch in self._chunks(draws_of, range(step, stop), at_once, pictures):
                    yield batch
                    step += 1
            except (UserError, DecodingError):
                # Some picture of the chunks under way is bad. Steps before its own are not to suffer from that.
                after = min(step + _DEPTH * at_once, stop)
                while step < after:
                    yield self.batch(draws_of(step))
                    step += 1

    def batch(self, draws: Draws) -> Batch:
        """The batch of one step. Raises as :meth:`batches`."""
        engines = _Engines(self._form, sum(len(draw.items) * self._pictures_of(g) for g, draw in enumerate(draws)))
        try:
            return self._finish(engines, *self._begin(engines, [draws]))[0]
        except DecodingError as error:
            self._blame([(key, int(item)) for key, draw in self._drawn(draws) for item in draw.items], error)
        finally:
            engines.close()

    def decode(self, key: str, count: int) -> Iterator[np.ndarray]:
        """The first ``count`` pictures of a domain, resized but not cropped: uint8 [H, W, C]. Raises as above."""
        pictures, first = self._pictures[key], 0
        pipeline = Pipeline(self._form, decode=True, augment=False, capacity=CHUNK, depth=_DEPTH)
        waiting: deque[range] = deque()

        def finish() -> list[np.ndarray]:
            items = waiting.popleft()
            try:
                return pipeline.collect_pixels()
            except DecodingError as error:
                self._blame([(key, item) for item in items], error)

        try:
            encoded = pictures.encoded_in_order(count)
            for first in range(0, count, CHUNK):
                items = range(first, min(first + CHUNK, count))
                pipeline.submit([self._picture(key, item, next(encoded)) for item in items])
                waiting.append(items)
                if len(waiting) == _DEPTH:
                    yield from finish()
            while waiting:
                yield from finish()
        finally:
            pipeline.close()

    def is_ready(self, key: str) -> bool:
        """Whether pictures lie in memory in the form that batches need, so that a cache would only cost room."""
        pixels = self._pictures[key].decoded(0)
        return pixels is not None and self._form.load is None and pixels.shape[2] == self._form.channels

    def _chunks(self, draws_of: Callable[[int], Draws], steps: range, at_once: int, pictures: int) -> Iterator[Batch]:
        """As :meth:`batches`, but an error comes up at any step near its own, and DALI's do not name a file."""
        engines = _Engines(self._form, at_once * pictures)
        waiting: deque[tuple[list[Draws], Pipeline | None]] = deque()
        try:
            for first in range(steps.start, steps.stop, at_once):
                several = [draws_of(step) for step in range(first, min(first + at_once, steps.stop))]
                waiting.append(self._begin(engines, several))
                if len(waiting) == _DEPTH:
                    yield from self._finish(engines, *waiting.popleft())
            while waiting:
                yield from self._finish(engines, *waiting.popleft())
        finally:
            engines.close()

    def _begin(self, engines: _Engines, several: list[Draws]) -> tuple[list[Draws], bool | None]:
        """Put the pictures of several steps into a pipeline; returns what to give to :meth:`_finish`."""
        chosen = [
            (key, int(draw.items[k]), float(draw.down[k]), float(draw.right[k]), bool(draw.mirror[k]))
            for draws in several
            for key, draw in self._drawn(draws)
            for k in range(len(draw.items))
        ]
        if not chosen:
            return several, None
        ready = [self._ready(key, item) for key, item, *_ in chosen]
        decode = any(pixels is None for pixels in ready)
        pictures = []
        for pixels, (key, item, down, right, mirror) in zip(ready, chosen, strict=True):
            if pixels is None:
                picture = self._picture(key, item, self._pictures[key].encoded(item))
            else:  # among others to be decoded it is a PPM: resizing that to the size it has changes nothing
                data = as_pnm(pixels) if decode else pixels
                picture = Picture(data, 0, pixels.shape[1], self._pictures[key].labels)
            height, width = self._form.load or self._pictures[key].sizes[item].tolist()
            crop = self._form.crop or (height, width)
            pictures.append(
                replace(picture, down=place(down, height, crop[0]), right=place(right, width, crop[1]), mirror=mirror)
            )
        engines.get(decode).submit(pictures)
        return several, decode

    def _finish(self, engines: _Engines, several: list[Draws], decode: bool | None) -> list[Batch]:
        counts = [len(draw.items) for draws in several for _, draw in self._drawn(draws)]
        tensors = iter(engines.get(decode).collect(counts) if decode is not None else ())
        batches = []
        for draws in several:
            batch = {}
            for keys, draw in zip(self._groups, draws, strict=True):
                for key in keys:
                    batch[key] = self._vectors(key, draw) if key in self._features else next(tensors)
            batches.append(batch)
        return batches

    def _vectors(self, key: str, draw: Draw) -> Tensor:
        values = self._features[key]
        chosen = np.minimum((draw.choice * values.shape[1]).astype(np.int64), values.shape[1] - 1)
        vectors = torch.from_numpy(values[draw.items, chosen])
        if self._form.device.type == "cuda":
            vectors = vectors.to(self._form.device)
        return vectors

    def _drawn(self, draws: Draws) -> Iterator[tuple[str, Draw]]:
        """The keys of pictures, with what is drawn of them."""
        for keys, draw in zip(self._groups, draws, strict=True):
            yield from ((key, draw) for key in keys if key in self._pictures)

    def _pictures_of(self, group: int) -> int:
        return sum(key in self._pictures for key in self._groups[group])

    def _ready(self, key: str, item: int) -> np.ndarray | None:
        """A picture that need not be decoded or resized any more, uint8 [H, W, C]; None if it must be."""
        cached = self.cached.get(key)
        if cached is not None and item < len(cached):
            return cached[item]
        return self._pictures[key].decoded(item) if self.is_ready(key) else None

    def _picture(self, key: str, item: int, encoded: np.ndarray) -> Picture:
        pictures = self._pictures[key]
        return Picture(encoded, int(pictures.columns[item]), int(pictures.sizes[item, 1]), pictures.labels)

    def _blame(self, items: Sequence[tuple[str, int]], error: DecodingError) -> None:
        """Raise a UserError that names the picture with which DALI failed."""
        suspects = [(key, item) for key, item in items if self._ready(key, item) is None]
        for key, item in suspects:
            self._pictures[key].check(item)
        for key, item in suspects:
            pipeline = Pipeline(self._form, decode=True, augment=False, capacity=1)
            try:
                pipeline.submit([self._picture(key, item, self._pictures[key].encoded(item))])
                pipeline.collect_pixels()
            except DecodingError as reason:
                raise UserError(
                    f"{self._pictures[key].name(item)}: DALI cannot decode this image, though Pillow can ({reason}): "
                    "convert it to another format"
                ) from error
            finally:
                pipeline.close()
        names = ", ".join(self._pictures[key].name(item) for key, item in items)
        raise UserError(f"{names}: DALI failed with these pictures together: {error}") from error


class _Engines:
    """The two pipelines, for pictures that are to be decoded and for others, each made when first needed."""

    def __init__(self, form: Form, capacity: int) -> None:
        self._form, self._capacity = form, capacity
        self._pipelines: dict[bool, Pipeline] = {}

    def get(self, decode: bool) -> Pipeline:
        if decode not in self._pipelines:
            self._pipelines[decode] = Pipeline(self._form, decode=decode, capacity=self._capacity, depth=_DEPTH)
        return self._pipelines[decode]

    def close(self) -> None:
        for pipeline in self._pipelines.values():
            pipeline.close()
        self._pipelines.clear()
