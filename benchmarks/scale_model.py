"""How long a training step takes on many GPUs: a model from measured parts, and a check of it on this machine.

    python benchmarks/scale_model.py --preset jwdm --step-ms 80            # the table
    python benchmarks/scale_model.py --preset jwdm-small --check           # gloo on this machine against the model

The model: ``docs/scale.md``. ``--step-ms`` is the time of a step of one process with its share of the batch, as
``benchmarks/bench_train.py`` measures it; the speeds of links are those that NCCL's all-reduce reaches.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from jdm_fast.methods import METHODS
from jdm_fast.presets import PRESETS

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ROUNDS = 15


@dataclass(frozen=True)
class Links:
    """Bytes a second that one GPU sends, inside a node and between nodes, seconds of delay of each hop, and GPUs in a
    node."""

    inside: float
    between: float
    delay_inside: float
    delay_between: float
    gpus_per_node: int


def all_reduce_seconds(size: float, count: int, links: Links) -> float:
    """An all-reduce of ``size`` bytes by rings: reduce-scatter inside each node, all-reduce between the nodes of what
    each GPU then holds, all-gather inside each node."""
    inside = min(count, links.gpus_per_node)
    nodes = -(-count // links.gpus_per_node)
    seconds = 2 * (inside - 1) * (size / inside / links.inside + links.delay_inside)
    return seconds + 2 * (nodes - 1) * (size / inside / nodes / links.between + links.delay_between)


def gradient_bytes(preset: str) -> dict[str, int]:
    """Bytes of float32 gradients of each of the two updates."""
    config = PRESETS[preset][1]()
    spec = next(spec for spec in METHODS.values() if isinstance(config.method, spec.config_class))
    with torch.device("meta"):
        method: Any = spec.method_class(config.method)
    sides = {"critics": method.critic_parameters(), "generators": method.generator_parameters()}
    return {side: 4 * sum(parameter.numel() for parameter in parameters) for side, parameters in sides.items()}


def print_table(sizes: dict[str, int], step: float, links: Links) -> None:
    print(
        f"step {step * 1e3:g} ms; taken for links, not measured: {links.inside / 1e9:g} GB/s inside nodes of "
        f"{links.gpus_per_node}, {links.between / 1e9:g} GB/s between them"
    )
    print(f"{'GPUs':>5} {'nodes':>5} {'all-reduce ms':>14} {'step ms':>9} {'efficiency':>10} {'speed-up':>9}")
    for count in COUNTS:
        reduce = sum(all_reduce_seconds(size, count, links) for size in sizes.values())
        total = step + reduce
        nodes = -(-count // links.gpus_per_node)
        figures = f"{reduce * 1e3:14.2f} {total * 1e3:9.2f} {step / total:10.3f} {count * step / total:9.1f}"
        print(f"{count:5} {nodes:5} {figures}")


# ---- The check: the model's law with this machine's own speed and delay


def _measure(rank: int, count: int, port: int, sizes: list[int], answers: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=count)
    tensors = [torch.rand(max(1, size // 4)) for size in sizes]
    times: list[list[float]] = [[] for _ in tensors]
    for turn in range(ROUNDS + 2):  # the sizes take turns, so that all of them see the same moments of a busy machine
        for tensor, seconds in zip(tensors, times, strict=True):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(tensor)
            if turn >= 2:
                seconds.append(time.perf_counter() - began)
            tensor.fill_(1.0)
    if rank == 0:
        answers.extend([statistics.median(seconds) for seconds in times])
    dist.destroy_process_group()


def measure(count: int, sizes: list[int]) -> list[float]:
    """Median seconds of an all-reduce of each size by ``count`` processes of gloo on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with mp.Manager() as manager:
        answers = manager.list()
        mp.spawn(_measure, args=(count, port, sizes, answers), nprocs=count)
        return list(answers)


def check(sizes: dict[str, int], count: int) -> None:
    """Fit speed and delay to other sizes than those of the gradients, then predict these."""
    fitted = [2**12, 2**16, 2**19, 2**21, 2**23, 2**25]
    seconds = measure(count, [*fitted, *sizes.values()])
    known, measured = seconds[: len(fitted)], seconds[len(fitted) :]
    steps = 2 * (count - 1)
    terms = np.stack([np.full(len(fitted), float(steps)), steps / count * np.array(fitted)], axis=1)
    weights = 1 / np.array(known)  # relative errors count, small sizes as much as large ones
    (delay, per_byte), *_ = np.linalg.lstsq(terms * weights[:, None], np.ones(len(fitted)), rcond=None)
    links = Links(1 / per_byte, 1 / per_byte, delay, delay, gpus_per_node=count)
    print(f"gloo, {count} processes on this machine: {links.inside / 1e9:.2f} GB/s, {delay * 1e3:.3f} ms a hop")
    print(f"{'gradients':>12} {'MB':>8} {'measured ms':>12} {'model ms':>9} {'ratio':>6}")
    for (side, size), got in zip(sizes.items(), measured, strict=True):
        model = all_reduce_seconds(size, count, links)
        print(f"{side:>12} {size / 1e6:8.2f} {got * 1e3:12.2f} {model * 1e3:9.2f} {got / model:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=sorted(PRESETS), default="jwdm")
    parser.add_argument("--step-ms", type=float, help="measured step of one process, without all-reduce")
    parser.add_argument("--inside-gbs", type=float, default=300.0, help="GB/s a GPU inside a node")
    parser.add_argument("--between-gbs", type=float, default=40.0, help="GB/s a GPU between nodes")
    parser.add_argument("--delay-inside-us", type=float, default=3.0, help="delay of a hop inside a node")
    parser.add_argument("--delay-between-us", type=float, default=10.0, help="delay of a hop between nodes")
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--check", action="store_true", help="measure gloo on this machine against the model")
    parser.add_argument("--processes", type=int, default=2, help="of the check")
    options = parser.parse_args()
    sizes = gradient_bytes(options.preset)
    print(f"{options.preset}: gradients of " + ", ".join(f"{side} {n / 1e6:.1f} MB" for side, n in sizes.items()))
    if options.check:
        check(sizes, options.processes)
    if options.step_ms is not None:
        links = Links(
            options.inside_gbs * 1e9,
            options.between_gbs * 1e9,
            options.delay_inside_us * 1e-6,
            options.delay_between_us * 1e-6,
            options.gpus_per_node,
        )
        print_table(sizes, options.step_ms / 1e3, links)
    elif not options.check:
        parser.error("give --step-ms for the table, --check for the measurement, or both")


if __name__ == "__main__":
    main()
