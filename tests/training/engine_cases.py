"""A small problem that every engine and precision trains on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jdm_fast.methods import JWDM, JWDMConfig
from jdm_fast.training.engines import make_engine
from jdm_fast.training.precision import Precision
from tests.training.fake_method import FakeConfig, FakeMethod

BETAS = (0.5, 0.999)
BF16, FP16 = Precision("bf16", torch.bfloat16), Precision("fp16", torch.float16)
LR = 2.0**-11  # exact in float32: engines that keep it in a tensor use the same number
SMALL: dict[str, Any] = dict(
    width=4, blocks=1, embedding_kernel=1, critic_width=4, critic_layers=2, identity_weight=0.5, init="default"
)


EVERYTHING = dict(clip_norm=0.5, skip_nonfinite=True, deterministic=True, activation_memory="recompute")


def make_fake(seed: int = 0) -> FakeMethod:
    torch.manual_seed(seed)
    return FakeMethod(FakeConfig())


def make_jwdm(**changes: Any) -> JWDM:
    torch.manual_seed(0)
    return JWDM(JWDMConfig(**{**SMALL, **changes}))


def make_batches(steps: int, count: int = 2, side: int = 16) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {name: torch.rand(count, 3, side, side, generator=generator) * 2 - 1 for name in ("x", "y")}
        for _ in range(steps)
    ]


def in_double(batches: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    return [{name: images.double() for name, images in batch.items()} for batch in batches]


def on_gpu(batches: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    return [{name: images.cuda() for name, images in batch.items()} for batch in batches]


def build(engine: str, method: Any, **options: Any) -> Any:
    settings = dict(lr=LR, betas=BETAS, pool_size=3, ema_decay=0.9, seed=3) | options
    return make_engine(engine, method, **settings)[0]


def steps(engine: Any, batches: list[dict[str, Tensor]], seed: int = 5) -> list[dict[str, float]]:
    """The losses of one step for each batch; the learning rate halves with each."""
    torch.manual_seed(seed)
    losses = [engine.step(batch, LR / 2**k) for k, batch in enumerate(batches)]
    return [{name: term.item() for name, term in terms.items()} for terms in losses]


def same_state(one: Any, other: Any) -> bool:
    """Whether two engines' checkpoints have the same bits."""
    a, b = (torch.utils._pytree.tree_flatten(engine.state_dict()) for engine in (one, other))
    equal = [torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in zip(a[0], b[0], strict=True)]
    return a[1] == b[1] and all(equal)
