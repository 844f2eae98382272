"""What a call costs: every public op on tensors so small that only the way to the kernel and back takes time, against
the aten ops that it replaces.

Three cells an op: ``forward`` under no_grad, ``recorded`` (forward with the gradient recorded), ``forward+backward``.
Ours and aten's calls take turns, so that a disturbance meets both; medians and the best of the turns are in the JSON.
The goal is at most 1.5 times aten's time in each cell. On a GPU the time is the host's, without waiting for kernels.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jdm_fast import ops

ROUNDS, CALLS = 60, 50
FACTOR = 4  # frames from one key latent to the next


class Race(NamedTuple):
    """Two functions of the same leaves; what they return first is compared and differentiated."""

    leaves: list[Tensor]
    ours: Callable[..., Any]
    aten: Callable[..., Any]


def instance_norm(device: torch.device) -> Race:
    leaves = [torch.randn(1, 8, 4, 4, device=device), torch.rand(8, device=device), torch.rand(8, device=device)]
    return Race(
        leaves,
        lambda x, w, b: ops.instance_norm(x, w, b, activation="relu"),
        lambda x, w, b: F.relu(F.instance_norm(x, weight=w, bias=b)),
    )


def softmax_critic_loss(device: torch.device) -> Race:
    """Three sources of two samples. Without accuracies, which the op computes along with the loss."""
    source = torch.arange(3, device=device).repeat_interleave(2)
    targets = [torch.full((2, 4, 4), s, device=device) for s in range(3)]

    def aten(logits: Tensor) -> Tensor:
        losses = [F.cross_entropy(logits[2 * s : 2 * s + 2], targets[s]) for s in range(3)]
        return losses[0] + losses[1] + losses[2]

    return Race(
        [torch.randn(6, 3, 4, 4, device=device)], lambda logits: ops.softmax_critic_loss(logits, source, 3)[0], aten
    )


def interpolate_latents_lerp(device: torch.device) -> Race:
    """Algorithm 2 of the JWDM paper in one broadcast lerp of all frames: fewer calls than frame by frame."""
    weight = (torch.arange(FACTOR, device=device) / FACTOR).view(1, FACTOR, 1, 1, 1)

    def aten(z: Tensor) -> Tensor:
        return torch.cat([torch.lerp(z[:-1, None], z[1:, None], weight).flatten(0, 1), z[-1:]])

    return Race([torch.randn(3, 8, 4, 4, device=device)], lambda z: ops.interpolate_latents(z, FACTOR), aten)


def interpolate_latents_lerp_loop(device: torch.device) -> Race:
    """Algorithm 2 of the JWDM paper as it is written there, a lerp a frame."""

    def aten(z: Tensor) -> Tensor:
        frames = [torch.lerp(z[t], z[t + 1], k / FACTOR) for t in range(2) for k in range(FACTOR)]
        return torch.stack([*frames, z[2]])

    return Race([torch.randn(3, 8, 4, 4, device=device)], lambda z: ops.interpolate_latents(z, FACTOR), aten)


def interpolate_latents_slerp(device: torch.device) -> Race:
    """The angle by the cosine, which is short and less accurate than what the op computes."""
    r = (torch.arange(FACTOR, device=device) / FACTOR).view(FACTOR, 1)

    def aten(z: Tensor) -> Tensor:
        w = torch.acos(F.cosine_similarity(z[:-1].flatten(1), z[1:].flatten(1))).view(-1, 1, 1)
        begin, end = z[:-1].flatten(1)[:, None], z[1:].flatten(1)[:, None]
        frames = (torch.sin((1 - r) * w) * begin + torch.sin(r * w) * end) / torch.sin(w)
        return torch.cat([frames.view(-1, *z.shape[1:]), z[-1:]])

    return Race([torch.randn(3, 8, 4, 4, device=device)], lambda z: ops.interpolate_latents(z, FACTOR, "slerp"), aten)


def interpolate_instance_norm(device: torch.device) -> Race:
    weight = (torch.arange(FACTOR, device=device) / FACTOR).view(1, FACTOR, 1, 1, 1)

    def aten(u: Tensor) -> Tensor:
        frames = torch.cat([torch.lerp(u[:-1, None], u[1:, None], weight).flatten(0, 1), u[-1:]])
        return F.relu(F.instance_norm(frames))

    return Race(
        [torch.randn(3, 8, 4, 4, device=device)],
        lambda u: ops.interpolate_instance_norm(u, FACTOR, activation="relu"),
        aten,
    )


def frames_to_uint8(device: torch.device) -> Race:
    def aten(x: Tensor) -> Tensor:
        return ((x + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    return Race([torch.randn(1, 3, 4, 4, device=device)], ops.frames_to_uint8, aten)


CASES: list[tuple[Callable[[torch.device], Race], list[str]]] = [
    (instance_norm, ["forward", "recorded", "forward+backward"]),
    (softmax_critic_loss, ["forward", "recorded", "forward+backward"]),
    (interpolate_latents_lerp, ["forward", "recorded", "forward+backward"]),
    (interpolate_latents_lerp_loop, ["forward", "recorded", "forward+backward"]),
    (interpolate_latents_slerp, ["forward", "recorded", "forward+backward"]),
    (interpolate_instance_norm, ["forward"]),  # for inference
    (frames_to_uint8, ["forward"]),
]
CELLS = [(make, cell) for make, cells in CASES for cell in cells]


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    return torch.device(request.param)


def contender(function: Callable[..., Any], leaves: list[Tensor], cell: str) -> Callable[[], Any]:
    """One call of the cell. It returns what is compared: the result, or all gradients."""
    if cell != "forward+backward":
        return lambda: function(*leaves)
    ones = torch.ones_like(function(*leaves))
    return lambda: torch.autograd.grad(function(*leaves), leaves, ones)


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Of the host, a call."""
    begin = time.perf_counter()
    for _ in range(CALLS):
        call()
    elapsed = time.perf_counter() - begin
    if device.type == "cuda":
        torch.cuda.synchronize()  # before the other's turn
    return elapsed / CALLS


@pytest.mark.parametrize(("make", "cell"), CELLS, ids=[f"{make.__name__}-{cell}" for make, cell in CELLS])
def bench_overhead(benchmark: Any, make: Callable[[torch.device], Race], cell: str, device: torch.device) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # nothing here is worth a second thread
    try:
        race = make(device)
        leaves = [leaf.requires_grad_(cell != "forward") for leaf in race.leaves]
        with torch.set_grad_enabled(cell != "forward"):
            ours, aten = (contender(function, leaves, cell) for function in (race.ours, race.aten))
            torch.testing.assert_close(ours(), aten(), rtol=1e-4, atol=1e-4)
            times: dict[str, list[float]] = {"ours": [], "aten": []}
            for round_index in range(ROUNDS + 5):
                for name, call in (("ours", ours), ("aten", aten)):
                    elapsed = seconds(call, device)
                    if round_index >= 5:  # after the warm-up
                        times[name].append(elapsed)
            benchmark.pedantic(ours, rounds=5, iterations=CALLS)
    finally:
        torch.set_num_threads(threads)
    medians = {name: statistics.median(values) for name, values in times.items()}
    best = {name: min(values) for name, values in times.items()}
    benchmark.group = f"overhead {make.__name__} {cell} on {device.type}"
    benchmark.extra_info.update(
        implementation="jdm_fast",
        aten_us=medians["aten"] * 1e6,
        ours_us=medians["ours"] * 1e6,
        overhead=medians["ours"] / medians["aten"],
        overhead_of_best=best["ours"] / best["aten"],
    )
    print(
        f"\n{benchmark.group}: aten {medians['aten'] * 1e6:.1f} us, jdm_fast {medians['ours'] * 1e6:.1f} us, "
        f"{medians['ours'] / medians['aten']:.2f}x aten's time; best {best['aten'] * 1e6:.1f}, "
        f"{best['ours'] * 1e6:.1f}, {best['ours'] / best['aten']:.2f}x"
    )
