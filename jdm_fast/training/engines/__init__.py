"""What carries out the steps of a training: eager, compiled, or as a CUDA graph."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch

from jdm_fast.errors import UserError
from jdm_fast.methods import Method
from jdm_fast.training.distributed import Reducer
from jdm_fast.training.engines.compiled import CompiledEngine
from jdm_fast.training.engines.eager import ActivationMemory, EagerEngine, Engine
from jdm_fast.training.engines.graph import GraphEngine
from jdm_fast.training.precision import FP32, Precision

EngineName = Literal["auto", "eager", "compile", "graph"]

__all__ = ["CompiledEngine", "EagerEngine", "Engine", "EngineName", "GraphEngine", "make_engine"]

_ENGINES = {"eager": EagerEngine, "compile": CompiledEngine, "graph": GraphEngine}


def make_engine(
    name: str,
    method: Method,
    *,
    lr: float,
    betas: tuple[float, float],
    pool_size: int = 0,
    ema_decay: float = 0.0,
    seed: int = 0,
    precision: Precision = FP32,
    clip_norm: float = 0.0,
    accumulate: int = 1,
    critic_steps: int = 1,
    reducer: Reducer | None = None,
    device: torch.device | None = None,
    deterministic: bool = False,
    skip_nonfinite: bool = False,
    activation_memory: ActivationMemory = "full",
    **options: Any,
) -> tuple[Engine, str]:
    """The engine ``name``, and why it is this one.

    ``auto``: on a GPU ``graph``, as a step of small batches is bound by the launching of its thousands of kernels; on a
    CPU ``eager``, where launching costs nothing and compiled networks are no faster.

    Args:
        name: auto, eager, compile or graph.
        method: the networks and their objective, on ``device``; they get the memory format channels_last on a GPU,
            except in fp32, whose convolutions have no tensor cores to feed.
        lr, betas, pool_size, ema_decay, seed, precision, clip_norm, accumulate, critic_steps, deterministic,
            skip_nonfinite, activation_memory: see :class:`EagerEngine`.
        reducer: averages gradients over processes; None where there is one process.
        device: where the method is; unless given, it is asked.
        options: of the engine's own, such as ``backend`` of ``compile``.

    Raises:
        UserError: there is no such engine, or not on this device or with this ``activation_memory``.
    """
    if name not in get_args(EngineName):
        raise UserError(f"engine: expected one of {', '.join(get_args(EngineName))}, got {name!r}")
    if accumulate < 1:
        raise UserError(f"accumulate: expected an integer of at least 1, got {accumulate}")
    if critic_steps < 1:
        raise UserError(f"critic_steps: expected an integer of at least 1, got {critic_steps}")
    if clip_norm < 0:
        raise UserError(f"clip_norm: expected a number of at least 0, got {clip_norm}")
    device = device or next(iter(method.generator_parameters())).device
    chosen, why = _choose(name, device)
    engine = _ENGINES[chosen](
        method,
        lr=lr,
        betas=betas,
        pool_size=pool_size,
        ema_decay=ema_decay,
        seed=seed,
        precision=precision,
        clip_norm=clip_norm,
        accumulate=accumulate,
        critic_steps=critic_steps,
        reducer=reducer,
        skip_nonfinite=skip_nonfinite,
        deterministic=deterministic,
        activation_memory=activation_memory,
        channels_last=device.type == "cuda" and precision.name != "fp32",
        **options,
    )
    return engine, f"{chosen}: {why}{_left_out(chosen, method)}"


def _choose(name: str, device: torch.device) -> tuple[str, str]:
    if name != "auto":
        return name, "as asked for"
    if device.type == "cuda":
        return "graph", "on a GPU one launch of the whole step saves thousands of small ones"
    return "eager", "on a CPU compiled networks are no faster"


def _left_out(chosen: str, method: Method) -> str:
    """What ``compile`` does not compile, in words."""
    if chosen != "compile":
        return ""
    compiled = {id(parameter) for region in method.regions() for parameter in region.parameters()}
    if all(id(parameter) in compiled for parameter in method.critic_parameters()):
        return ""
    return "; the generators alone are compiled, as a gradient penalty differentiates the critics twice"
