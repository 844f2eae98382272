"""Generators of tuples, one for each domain, and how tuples of all domains are drawn from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from jdm_fast.errors import UserError
from jdm_fast.methods.jointgan_config import JointGANConfig
from jdm_fast.methods.protocol import Batch
from jdm_fast.methods.sources import require_order
from jdm_fast.networks.generators import ImageFromVectors, VectorGenerator
from jdm_fast.networks.unet import UNet


class TupleGenerators(nn.Module):
    """One generator for each domain; its input is every other domain, zeros where unobserved, and noise (eq. 9).

    Args:
        config: of the networks and domains.

    Attributes:
        config: as given. domains: the letters. vectors: sizes of the domains that are vectors. image_domains: the
        others.
        generators: by domain, :class:`UNet`, :class:`ImageFromVectors` or :class:`VectorGenerator`.
        trained: every conditional that training touches: a domain, and the set of those it is made from.
        size_multiple, minimum_size: sides of images are multiples of the one and at least the other.
    """

    trained: frozenset[tuple[str, frozenset[str]]] = frozenset()

    def __init__(self, config: JointGANConfig) -> None:
        super().__init__()
        self.config = config
        self.domains = tuple(config.letters)
        self.vectors = config.vector_sizes()
        self.image_domains = tuple(name for name in self.domains if name not in self.vectors)
        self.generators = nn.ModuleDict({name: self._generator(name) for name in self.domains})
        self.size_multiple = self.minimum_size = 2**config.depth

    def _generator(self, name: str) -> nn.Module:
        c = self.config
        images = c.channels * sum(other != name for other in self.image_domains)
        vector = sum(size for other, size in self.vectors.items() if other != name)
        if name in self.vectors:
            shape = (c.noise, c.width, c.depth, c.max_width, c.hidden)
            return VectorGenerator(images, vector, self.vectors[name], *shape)
        if not images:
            return ImageFromVectors(c.channels, c.width, c.depth, c.max_width, c.noise, vector)
        return UNet(images, c.channels, c.width, c.depth, c.max_width, c.noise, vector, c.noise_at)

    # ---- Networks ---------------------------------------------------------------------------------------------------

    def _make(self, domain: str, given: Sequence[tuple[Batch, int]], noise: Tensor) -> Tensor:
        """One call of a domain's generator for several sets of given domains, zeros in place of the others (eq. 9).

        Args:
            domain: whose. given: for each set the tensors by domain, and how many samples. noise: of all samples.
        """
        others = [name for name in self.domains if name != domain]
        images, vectors = [], []
        for name in others:
            if name in self.vectors:
                shape: tuple[int, ...] = (self.vectors[name],)
            else:
                shape = (self.config.channels, *self._image_size(domain, noise, given))
            parts = [values[name] if name in values else noise.new_zeros(count, *shape) for values, count in given]
            (vectors if name in self.vectors else images).append(torch.cat(parts))
        vector = torch.cat(vectors, dim=1) if vectors else None
        generator = self.generators[domain]
        if domain in self.vectors:
            return generator(torch.cat(images, dim=1) if images else None, noise, vector)
        return generator(torch.cat(images, dim=1), noise, vector) if images else generator(noise, vector)

    def _image_size(self, domain: str, noise: Tensor, given: Sequence[tuple[Batch, int]]) -> tuple[int, int]:
        """Height and width of the images around: the noise of an image's generator says it, else one that is given."""
        if domain not in self.vectors:
            return noise.shape[2] * self.size_multiple, noise.shape[3] * self.size_multiple
        found = (v.shape[-2:] for values, _ in given for n, v in values.items() if n not in self.vectors)
        height, width = next(found, (self.minimum_size, self.minimum_size))
        return height, width

    def _noise_shape(self, domain: str, count: int, size: tuple[int, int] | None) -> tuple[int, ...]:
        if domain in self.vectors:
            return count, self.config.noise
        height, width = size or (self.minimum_size, self.minimum_size)
        return count, self.config.noise, height // self.size_multiple, width // self.size_multiple

    def _check_sides(self, height: int, width: int) -> None:
        multiple = self.size_multiple
        if height % multiple or width % multiple or min(height, width) < multiple:
            raise UserError(
                f"images of height {height} and width {width} do not fit the networks: method.depth="
                f"{self.config.depth} needs sides that are multiples of {multiple}. Use images or crops of that size, "
                "or another depth"
            )

    # ---- After training ---------------------------------------------------------------------------------------------

    def sample_noise(
        self, count: int, size: tuple[int, int] | None = None, generator: torch.Generator | None = None
    ) -> Batch:
        """N(0, I) for each domain, on the method's device; drawn on that of ``generator``, or on the CPU.

        Args:
            count: number of tuples N. size: height and width of the images; by default the smallest, 2^depth.
            generator: to draw from.

        Returns:
            By domain: [N, noise, h, w] for images, [N, noise] for vectors.
        """
        if size is not None:
            self._check_sides(*size)
        device = next(self.parameters()).device
        where = generator.device if generator is not None else torch.device("cpu")
        shapes = {name: self._noise_shape(name, count, size) for name in self.domains}
        return {
            name: torch.randn(shape, generator=generator, device=where).to(device) for name, shape in shapes.items()
        }

    def default_order(self, given: Sequence[str] = ()) -> str:
        """An order of all domains that begins with the given ones and whose every step was trained.

        Raises:
            UserError: there is none, or a given domain is not known.
        """
        self._require_known(given)
        preferred = [source.order for source in self.sources if set(source.order[: len(given)]) == set(given)]
        for order in [*preferred, *self._trained_orders("".join(given))]:
            if self._untrained(order, len(given)) is None:
                return order
        raise UserError(
            f"{', '.join(given)} alone cannot be given: no source trains what follows from it. {self._trained_words()}"
        )

    def _trained_orders(self, begun: str) -> Iterable[str]:
        """Orders that go on from ``begun`` by steps that were trained."""
        if len(begun) == len(self.domains):
            yield begun
        for name in self.domains:
            if name not in begun and (name, frozenset(begun)) in self.trained:
                yield from self._trained_orders(begun + name)

    def sample(
        self, noise: Batch, given: Batch | None = None, order: str | None = None, only: str | None = None
    ) -> Batch:
        """Tuples of all domains: the given ones as they are, the others drawn one after the other.

        Args:
            noise: from :meth:`sample_noise`; that of given domains is not used.
            given: observed domains, images [N, channels, H, W] in [-1, 1] or vectors [N, size], N as in ``noise``.
            order: the domains' letters; the given ones come first. By default :meth:`default_order`.
            only: stop at this domain and return it alone. Without an order it is reached by the fewest draws that
                training has seen.

        Returns:
            By domain, shaped as ``given``.

        Raises:
            UserError: unknown domains, an order that does not begin with the given ones or names a domain twice or not
                at all, ``only`` is given, or a conditional that no source trains.
        """
        values = dict(given or {})
        self._require_known((*values, *([only] if only is not None else [])))
        if only in values:
            raise UserError(f"only: {only} is given, so there is nothing to draw")
        if order is None and only is not None:
            order = self._route("".join(name for name in self.domains if name in values), only)
        elif order is None:
            order = self.default_order(tuple(name for name in self.domains if name in values))
        else:
            require_order(order, "".join(self.domains), "order")
        count = len(values)
        if set(order[:count]) != set(values):
            raise UserError(
                f"order: {order} must begin with the given domains {', '.join(values)}, as the others are drawn from "
                "what stands before them"
            )
        if only is not None:
            order = order[: order.index(only) + 1]
        untrained = self._untrained(order, count)
        if untrained is not None:
            raise UserError(f"order: {order} needs {untrained}, which was not trained. {self._trained_words()}")
        counts = {name: len(value) for name, value in {**noise, **values}.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"given and noise must be of equally many samples, got {counts}")
        for place in range(count, len(order)):
            domain = order[place]
            known = {name: values[name] for name in order[:place]}
            values[domain] = self._make(domain, [(known, len(noise[domain]))], noise[domain])
        return {name: values[name] for name in (self.domains if only is None else (only,))}

    def _route(self, given: str, to: str) -> str:
        """The shortest order that begins with ``given`` and ends with ``to``, its every step trained."""
        begun = [given]
        while begun:
            for order in begun:
                if (to, frozenset(order)) in self.trained:
                    return order + to
            begun = [o + name for o in begun for name in self.domains if (name, frozenset(o)) in self.trained]
        from_ = ", ".join(given) or "nothing"
        raise UserError(f"{to} cannot be drawn from {from_}: no source trains that. {self._trained_words()}")

    def translate(self, images: Tensor, to: str, source: str | None = None) -> Tensor:
        """Draws of p(to | source) with one noise for all images, always the same: what an image becomes depends on
        nothing else.

        Args:
            images: [N, channels, H, W] in [-1, 1] of ``source`` (of two domains by default the other one).
        """
        if source is None:
            if len(self.domains) > 2:
                raise UserError(f"source: there are the domains {', '.join(self.domains)}; say which these images are")
            source = next(name for name in self.domains if name != to)
        self._require_known((to, source))
        if (to, frozenset(source)) not in self.trained:
            raise UserError(f"{self._formula(to, source)} was not trained. {self._trained_words()}")
        size = tuple(images.shape[-2:]) if images.dim() == 4 else None
        noise = self.sample_noise(1, size, torch.Generator().manual_seed(0))[to]  # type: ignore[arg-type]
        return self._make(to, [({source: images}, len(images))], noise.expand(len(images), *noise.shape[1:]))

    def _untrained(self, order: str, given: int) -> str | None:
        """The first conditional of an order that no source trains, as a formula."""
        for place in range(given, len(order)):
            if (order[place], frozenset(order[:place])) not in self.trained:
                return self._formula(order[place], order[:place])
        return None

    @staticmethod
    def _formula(domain: str, given: Iterable[str]) -> str:
        before = ", ".join(given)
        return f"p({domain}|{before})" if before else f"p({domain})"

    def _trained_words(self) -> str:
        steps = sorted(self.trained, key=lambda step: (len(step[1]), step[0], sorted(step[1])))
        trained = ", ".join(self._formula(domain, [name for name in self.domains if name in g]) for domain, g in steps)
        return f"Trained were {trained}: method.sources of another training decides that"

    def _require_known(self, names: Iterable[str]) -> None:
        unknown = [name for name in names if name not in self.domains]
        if unknown:
            raise UserError(f"there is no domain {', '.join(unknown)}; the domains are {', '.join(self.domains)}")
