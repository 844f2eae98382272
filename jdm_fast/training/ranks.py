"""What a checkpoint keeps of each process of a training beside what all have in common.

Networks, averages, optimisers and loss scales are the same in all processes, so rank 0 saves its own. Random number
generators and image pools are each process's own. ``pool_size`` counts the images of all pools of a kind together, so
that a checkpoint is no larger for many processes, and an image is kept for as many steps on average.
"""

from __future__ import annotations

from typing import Any

import torch

from jdm_fast.training.distributed import Processes
from jdm_fast.training.rng import rng_state


def part_of_pool(pool_size: int, rank: int, world_size: int) -> int:
    """How many of ``pool_size`` images the pool of process ``rank`` keeps."""
    return pool_size * (rank + 1) // world_size - pool_size * rank // world_size


def gather_ranks(pools: dict[str, Any], processes: Processes) -> list[dict[str, Any]]:
    """For the checkpoint, on rank 0: what is each process's own. All processes must call it.

    Args:
        pools: states of this process's image pools, by name; rank 0's are not needed.
    """
    on_host = {
        name: {key: value.cpu() if isinstance(value, torch.Tensor) else value for key, value in state.items()}
        for name, state in pools.items()
    }
    return processes.gather({"rng": rng_state(processes.device), "pools": on_host})


def own_state(ranks: list[dict[str, Any]], pool_size: int, processes: Processes) -> dict[str, Any]:
    """This process's ``rng`` and ``pools`` out of what :func:`all_ranks` gives.

    With another number of processes than saved it, the kept images are dealt out anew. The random numbers are those of
    rank 0: all processes draw the same ones (:mod:`jdm_fast.methods.noise`), so there it makes no difference. A process
    that was not there before makes the choices of the last one for its pool.
    """
    if len(ranks) == processes.world_size:
        return ranks[processes.rank]
    ends = [pool_size * rank // processes.world_size for rank in range(processes.world_size + 1)]
    mine = slice(*ends[processes.rank : processes.rank + 2])
    source = ranks[min(processes.rank, len(ranks) - 1)]
    pools = {}
    for name, state in source["pools"].items():
        kept = [rank["pools"][name]["images"] for rank in ranks if rank["pools"][name]["images"] is not None]
        images = torch.cat(kept)[mine] if kept else torch.empty(0)
        pools[name] = {**state, "images": images.clone() if len(images) else None}
    return {"rng": ranks[0]["rng"], "pools": pools}


def state_of_ranks(ranks: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What :func:`gather_ranks` gave, as a checkpoint keeps it: the random streams by rank, and the pools of all but
    rank 0, which are the engine's own."""
    others = [rank["pools"] for rank in ranks[1:]]
    return [rank["rng"] for rank in ranks], {"pools_of_others": others} if others else {}


def all_ranks(document: dict[str, Any]) -> list[dict[str, Any]]:
    """What is each process's own, in the checkpoint ``document``, rank 0's pools with it."""
    pools = [document["pools"], *document.get("pools_of_others", [])]
    return [{"rng": rng, "pools": own} for rng, own in zip(document["rng"], pools, strict=True)]
