"""A method that is not JWDM: the trainer must get along with anything that follows the protocol."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jdm_fast.errors import UserError


@dataclass(frozen=True)
class FakeConfig:
    width: int = 2
    broken_at: int = 0
    """The generators' loss is infinite from this step on; 0 never."""


class FakeMethod(nn.Module):
    """One convolution each way and one critic a domain. It draws random numbers in both updates, as a prior does, and
    notes every call."""

    domains = ("x", "y")
    pooled = ("translation_x", "translation_y")

    def __init__(self, config: FakeConfig) -> None:
        super().__init__()
        self.config = config
        self.generators = nn.ModuleDict({name: nn.Conv2d(3, 3, 3, padding=1) for name in self.domains})
        self.critics = nn.ModuleDict({name: nn.Conv2d(3, config.width, 3) for name in self.domains})
        self.calls: list[tuple[str, dict[str, Tensor]]] = []
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def check_size(self, height: int, width: int) -> None:
        if min(height, width) < 4:
            raise UserError(f"images of {height}x{width} are too small for the fake method")

    def generator_parameters(self) -> list[nn.Parameter]:
        return list(self.generators.parameters())

    def critic_parameters(self) -> list[nn.Parameter]:
        return list(self.critics.parameters())

    def regions(self) -> list[nn.Module]:
        return [*self.generators.values(), *self.critics.values()]

    def generate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        fakes = {
            "latent": batch["x"].mean((2, 3)),
            "translation_y": torch.tanh(self.generators["y"](batch["x"])),
            "translation_x": torch.tanh(self.generators["x"](batch["y"])),
        }
        self.calls.append(("generate", fakes))
        return fakes

    def critic_loss(self, batch: dict[str, Tensor], fakes: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls.append(("critic_loss", fakes))
        self.steps += 1
        scores = {
            name: self._score(name, fakes) - self.critics[name](batch[name]).sigmoid().mean() for name in self.domains
        }
        noise = torch.randn(()) * 0.01
        loss = sum(scores.values()) * (1 + noise)
        return loss, {f"critic_{name}": score.detach() for name, score in scores.items()}

    def generator_loss(self, batch: dict[str, Tensor], fakes: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls.append(("generator_loss", fakes))
        loss = -sum(self._score(name, fakes) for name in self.domains) * (1 + torch.randn(()) * 0.01)
        if self.config.broken_at and self.steps >= self.config.broken_at:
            loss = loss / 0
        return loss, {"adversarial": loss.detach()}

    def _score(self, name: str, fakes: dict[str, Tensor]) -> Tensor:
        return self.critics[name](fakes[f"translation_{name}"]).sigmoid().mean()
