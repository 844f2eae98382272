"""JointGAN: marginals, conditionals and the joint of two or more domains, learned together against one softmax critic.

The generators draw tuples of all domains in several ways, the *sources* (:mod:`jdm_fast.methods.sources`): eq. (10) for
two domains, §3.2 for three. A critic g with one class a source tells them apart, the generators make them alike:

    min_generators max_g  Σ_k E_{p_k} [log g[k]]      (eq. 11; eq. 12 adds cycle consistency without pairs)

The paper couples marginal and conditional generators, f_α(·) = f_φ(0, ·) (eq. 9). Here that goes for any number of
domains: one generator a domain, whose input is every other domain, zeros where unobserved, and noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jdm_fast.errors import UserError
from jdm_fast.methods.divergences import full_precision
from jdm_fast.methods.jointgan_config import JointGANConfig
from jdm_fast.methods.noise import normal
from jdm_fast.methods.protocol import Batch, Terms
from jdm_fast.methods.schedule import plan_calls
from jdm_fast.methods.sources import Source
from jdm_fast.methods.tuples import TupleGenerators
from jdm_fast.networks.initialize import initialize_weights
from jdm_fast.networks.patch_critic import PatchCritic
from jdm_fast.ops import softmax_critic_loss


class JointGAN(TupleGenerators):
    """The networks of JointGAN and its objective; the interface is :class:`jdm_fast.methods.protocol.Method`.

    How tuples are drawn after training: :class:`jdm_fast.methods.tuples.TupleGenerators`.

    Attributes:
        sources: what the critic tells apart; a source's place is its class.
        together: sets of domains that the data must have in pairs (or tuples).
        critic: :class:`PatchCritic` over all domains.
        cycle_weight: of R in eq. (12), as the configuration has it or by default.
    """

    pooled: tuple[str, ...] = ()  # an image pool would tear tuples apart

    def __init__(self, config: JointGANConfig | None = None) -> None:
        c = config or JointGANConfig()
        super().__init__(c)
        self.sources = c.source_list()
        self.together = tuple(dict.fromkeys(source.given for source in self.sources if source.observed > 1))
        self.critic = PatchCritic(
            c.channels * len(self.image_domains),
            len(self.sources),
            c.critic_width,
            c.critic_layers,
            c.critic_max_width,
            c.critic_norm,
            sum(self.vectors.values()),
            c.hidden,
        )
        initialize_weights(self, c.init, c.init_std)
        self.cycle_weight = c.cycle_weight if c.cycle_weight is not None else 0.0 if self.together else 10.0
        self._calls = plan_calls(["".join(self._walk(source)) for source in self.sources])
        self.trained = self._trained_steps()

    def _walk(self, source: Source) -> tuple[str, ...]:
        """The domains that are generated for a source, in their order: its own, and for a cycle its first once more."""
        return (*source.made, *(source.given if self._is_cycled(source) else ()))

    def _is_cycled(self, source: Source) -> bool:
        return self.cycle_weight > 0 and source.observed == 1

    def _step(self, source: Source, place: int) -> tuple[str, tuple[str, ...], str]:
        """Of a walk's step: the domain that is made, those it is made from, and what the result is called."""
        if place < len(source.made):
            domain = source.made[place]
            return domain, tuple(source.order[: source.observed + place]), f"{source.name}_{domain}"
        return source.order[0], source.made, f"cycle_{source.name}_{source.order[0]}"

    def _trained_steps(self) -> frozenset[tuple[str, frozenset[str]]]:
        """Every conditional that training touches: a domain, and the set of those it is made from."""
        steps = [self._step(source, place) for source in self.sources for place in range(len(self._walk(source)))]
        return frozenset((domain, frozenset(given)) for domain, given, _ in steps)

    # ---- What the trainer asks for ----------------------------------------------------------------------------------

    def generator_parameters(self) -> list[nn.Parameter]:
        """Parameters of all generators."""
        return list(self.generators.parameters())

    def critic_parameters(self) -> list[nn.Parameter]:
        """Parameters of the critic."""
        return list(self.critic.parameters())

    def regions(self) -> list[nn.Module]:
        """The generators; and the critic, unless the penalty differentiates through it twice."""
        return [*self.generators.values(), *([] if self.config.gradient_penalty_weight > 0 else [self.critic])]

    def check_size(self, height: int, width: int) -> None:
        """Raise :class:`UserError` if the model cannot be trained on images of ``height`` x ``width``."""
        self._check_sides(height, width)
        least = PatchCritic.minimum_side(self.config.critic_layers)
        if min(height, width) < least:
            raise UserError(
                f"images of height {height} and width {width} are too small for the critic: "
                f"method.critic_layers={self.config.critic_layers} needs sides of at least {least}. Use larger images, "
                "or fewer layers"
            )

    def generate(self, batch: Batch) -> Batch:
        """Everything the sources and cycles need, in the fewest calls of the generators.

        Instance norm works on each sample alone, so what a generator makes from nothing, from data and from what others
        have made goes through it together.

        Args:
            batch: images [N, channels, H, W] in [-1, 1] or vectors [N, size] of every domain that is observed. Where a
                domain belongs to several pairs of the data, under ``y_xy`` and ``y_yz``.

        Returns:
            By name, shaped as the domain's data: ``xy0_x`` is x in a tuple of the source ``xy:0``; ``cycle_xy1_x`` is x
            made again from what ``xy:1`` has made of it.
        """
        known = [self._observed(batch, source.given) for source in self.sources]
        like, size = self._like(batch)
        fakes: Batch = {}
        for call in self._calls:
            steps = [(self.sources[k], known[k], *self._step(self.sources[k], place)) for k, place in call.steps]
            counts = [len(next(iter(values.values()), like)) for _, values, *_ in steps]
            noise = torch.cat([normal(self._noise_shape(call.domain, n, size), like) for n in counts])
            given = [{name: values[name] for name in names} for _, values, _, names, _ in steps]
            made = self._make(call.domain, list(zip(given, counts, strict=True)), noise).split(counts)
            for (_, values, domain, _, name), result in zip(steps, made, strict=True):
                fakes[name] = result
                values.setdefault(domain, result)  # a cycle's end is no part of the tuple
        return fakes

    def critic_loss(self, batch: Batch, fakes: Batch) -> tuple[Tensor, Terms]:
        """-Σ_k E_{p_k} [log g[k]] over all sources: the cross-entropy of each, its mean over patches (eq. 11).

        The critic is called once, on all sources, and so is the kernel behind the loss; with
        ``gradient_penalty_weight`` > 0 the critic once more, for E [‖∇ (g_k - mean_j g_j)‖²] over the tuples of all
        sources, where g_k is the mean of the map of a tuple's own logits before the softmax.

        Args:
            batch: as for :meth:`generate`.
            fakes: what :meth:`generate` returned, detached.

        Returns:
            The loss, and for each source the terms ``critic_xy0``, its cross-entropy, and ``accuracy_xy0``, the share
            of its patches that the critic takes for what they are; and ``gradient_penalty``, without its weight.
        """
        logits, classes = self._judge(self.sources, batch, fakes)
        loss, losses, accuracies = softmax_critic_loss(logits, classes, len(self.sources))
        terms: Terms = {}
        for kind, values in (("critic", losses), ("accuracy", accuracies)):
            terms.update({f"{kind}_{s.name}": v for s, v in zip(self.sources, values.detach().unbind(), strict=True)})
        if self.config.gradient_penalty_weight > 0:
            penalty = self._gradient_penalty(batch, fakes)
            terms["gradient_penalty"] = penalty.detach()
            loss = loss + self.config.gradient_penalty_weight * penalty
        return loss, terms

    def generator_loss(self, batch: Batch, fakes: Batch) -> tuple[Tensor, Terms]:
        """What the generators minimise: their part of eq. (11), and R of eq. (12).

        ``minimax``: Σ_k E_{p_k} [log g[k]] over the sources with something generated; the others do not depend on the
        generators. ``nonsaturating``: -Σ_k E_{p_k} [log g[r]] with r the class of the data or, where no source is all
        data, -Σ_k E_{p_k} [mean_j log g[j]].

        Args:
            batch: as for :meth:`generate`.
            fakes: what :meth:`generate` returned, with its graph.

        Returns:
            The loss, and the terms ``adversarial``, ``cycle_x`` … and ``paired_x`` … without their weights.
        """
        made = [source for source in self.sources if not source.is_real]
        logits, classes = self._judge(made, batch, fakes)
        adversarial = self._adversarial(logits, classes, len(made))
        terms: Terms = {"adversarial": adversarial.detach()}
        total = adversarial
        for kind, weight, pairs in (
            ("cycle", self.cycle_weight, self._cycles(batch, fakes)),
            ("paired", self.config.paired_weight, self._partners(batch, fakes)),
        ):
            distances: dict[str, list[Tensor]] = {}
            for domain, result, truth in pairs:
                distances.setdefault(domain, []).append(F.l1_loss(full_precision(result), full_precision(truth)))
            for domain, values in distances.items():
                distance = torch.stack(values).sum()
                terms[f"{kind}_{domain}"] = distance.detach()
                total = total + weight * distance
        return total, terms

    def _adversarial(self, logits: Tensor, classes: Tensor, made: int) -> Tensor:
        count = len(self.sources)
        if self.config.objective == "minimax":
            return -softmax_critic_loss(logits, classes, count)[0]
        real = next((k for k, source in enumerate(self.sources) if source.is_real), None)
        if real is not None:  # one class: the kernel's mean is over the patches of all sources
            return made * softmax_critic_loss(logits, torch.full_like(classes, real), count)[0]
        return -made * F.log_softmax(full_precision(logits), dim=1).mean()

    def _cycles(self, batch: Batch, fakes: Batch) -> Iterable[tuple[str, Tensor, Tensor]]:
        """Domain, what a cycle has made, and what it began with."""
        for source in self.sources:
            if self._is_cycled(source):
                domain = source.order[0]
                yield domain, fakes[f"cycle_{source.name}_{domain}"], self._observed(batch, source.given)[domain]

    def _partners(self, batch: Batch, fakes: Batch) -> Iterable[tuple[str, Tensor, Tensor]]:
        """Domain, what was made of observed domains, and what the data have beside those."""
        if self.config.paired_weight == 0:
            return
        for source in self.sources:
            for domain in source.made if source.given else ():
                names = {*source.given, domain}
                if any(names <= set(group) for group in self.together):
                    truth = self._observed(batch, (*source.given, domain))[domain]
                    yield domain, fakes[f"{source.name}_{domain}"], truth

    def _gradient_penalty(self, batch: Batch, fakes: Batch) -> Tensor:
        """See :meth:`critic_loss`. In float32 outside autocast: squares of small gradients have no room in 16 bits."""
        images, vectors, classes = self._tuples(self.sources, batch, fakes)
        with torch.autocast(classes.device.type, enabled=False):
            points = [full_precision(part.detach()).requires_grad_() for part in (images, vectors) if part is not None]
            given = iter(points)
            logits = self.critic(*(None if part is None else next(given) for part in (images, vectors)))
            values = logits.flatten(2).mean(2)
            own = values.gather(1, classes[:, None]).sum() - values.mean(1).sum()
            gradients = torch.autograd.grad(own, points, create_graph=True)
            return torch.stack([gradient.square().sum() for gradient in gradients]).sum() / len(classes)

    def _judge(self, sources: Sequence[Source], batch: Batch, fakes: Batch) -> tuple[Tensor, Tensor]:
        """Logits [M, K, h, w] of tuples of the sources from one call of the critic, and their classes [M]."""
        images, vectors, classes = self._tuples(sources, batch, fakes)
        return self.critic(images, vectors), classes

    def _tuples(
        self, sources: Sequence[Source], batch: Batch, fakes: Batch
    ) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Tuples of the sources as the critic takes them, images and vectors, and their classes [M]."""
        tuples = []
        for source in sources:
            values = self._observed(batch, source.given)
            tuples.append({**values, **{name: fakes[f"{source.name}_{name}"] for name in source.made}})
        images = [torch.cat([values[name] for values in tuples]) for name in self.image_domains]
        vectors = [torch.cat([values[name] for values in tuples]) for name in self.vectors]
        device = (images + vectors)[0].device
        places = [self.sources.index(source) for source in sources]
        counts = [len(next(iter(values.values()))) for values in tuples]
        classes = [torch.full((n,), k, dtype=torch.int64, device=device) for k, n in zip(places, counts, strict=True)]
        return (
            torch.cat(images, dim=1) if images else None,
            torch.cat(vectors, dim=1) if vectors else None,
            torch.cat(classes),
        )

    def _observed(self, batch: Mapping[str, Tensor], names: Sequence[str]) -> Batch:
        """Domains of a batch that belong together, by letter. A domain of several pairs has a key for each of them."""
        found: Batch = {}
        for name in names:
            keys = [key for key in batch if key == name or (key[:2] == f"{name}_" and set(names) <= set(key[2:]))]
            if not keys:
                raise ValueError(
                    f"batch: expected {name} together with {', '.join(names)}, got the keys {', '.join(batch)}"
                )
            found[name] = batch[keys[0]]
        return found

    def _like(self, batch: Batch) -> tuple[Tensor, tuple[int, int] | None]:
        """A tensor of the batch to take count, dtype and device from, and the size of its images."""
        images = [value for value in batch.values() if value.dim() == 4]
        sizes = {tuple(value.shape[-2:]) for value in images}
        if len(sizes) > 1:
            raise ValueError(f"batch: images of all domains must have one size, got {sorted(sizes)}")
        if not images:
            return next(iter(batch.values())), None
        self.check_size(*images[0].shape[-2:])
        return images[0], tuple(images[0].shape[-2:])
