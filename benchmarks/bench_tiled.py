"""Encoding and decoding 1024x2048 in tiles against the whole picture at once: time, and the memory it takes on top."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.race import EAGER, OURS
from jdm_fast.methods import JWDM, JWDMConfig
from jdm_fast.synthesis.tiled import decode_tiled, encode_tiled

SIZE = (1024, 2048)
WIDTH = 16
TILE = 256


def contenders(half: str, device: torch.device) -> tuple[dict[str, Callable[[Tensor], Tensor]], Tensor]:
    """Tiled and whole, and an input of the size that is measured."""
    torch.manual_seed(0)
    method = JWDM(JWDMConfig(width=WIDTH, critic_width=4, critic_layers=2, init="default")).to(device).eval()
    if half == "encode":
        given = torch.rand(1, 3, *SIZE, device=device) * 2 - 1
        return {
            OURS: lambda images: encode_tiled(method, images, "x", TILE),
            EAGER: lambda images: method.encode(images, "x"),
        }, given
    given = torch.rand(1, method.config.latent_channels or 4 * WIDTH, SIZE[0] // 4 - 7, SIZE[1] // 4 - 7, device=device)
    return {
        OURS: lambda latents: decode_tiled(method, latents, "y", TILE),
        EAGER: lambda latents: method.decode(latents, "y"),
    }, given


@torch.no_grad()
def peak_on_cpu(half: str, implementation: str) -> int:
    """Bytes of resident memory that one call takes on top of what was there; of a process of its own, see the end."""
    calls, given = contenders(half, torch.device("cpu"))
    calls[implementation](given[..., :64, :64].contiguous())  # what is made once
    before, peak, done = _resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], _resident() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    made = calls[implementation](given)
    peak[0] = max(peak[0], _resident() - before)
    done.set()
    thread.join()
    assert made.isfinite().all()
    return peak[0]


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak(half: str, implementation: str, device: torch.device) -> int:
    """Bytes that one call takes on top of its input."""
    if device.type == "cuda":
        calls, given = contenders(half, device)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        with torch.no_grad():
            calls[implementation](given)
        return torch.cuda.max_memory_allocated() - before
    # Freed blocks go back to the system at once, or they would be counted.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**18)}
    command = [sys.executable, "-m", "benchmarks.bench_tiled", half, implementation]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("implementation", [OURS, EAGER])
@pytest.mark.parametrize("half", ["encode", "decode"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def bench_tiled(benchmark: Any, implementation: str, half: str, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    if device == "cpu" and sys.platform != "linux":
        pytest.skip("resident memory is read from Linux's /proc")
    where = torch.device(device)
    benchmark.group = f"{half} {SIZE[0]}x{SIZE[1]} width {WIDTH} tile {TILE} on {device}"
    taken = peak(half, implementation, where)
    benchmark.extra_info.update(implementation=implementation, peak_bytes=taken, threads=torch.get_num_threads())
    calls, given = contenders(half, where)

    def call() -> float:
        begin = time.perf_counter()
        with torch.no_grad():
            calls[implementation](given)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    with torch.no_grad():
        torch.testing.assert_close(calls[OURS](given), calls[EAGER](given), rtol=1e-3, atol=1e-3)
    seconds = benchmark.pedantic(call, rounds=3)
    print(f"\n{benchmark.group}: {implementation} {taken / 2**20:.0f} MiB, last round {seconds:.1f} s")


if __name__ == "__main__":
    print(json.dumps(peak_on_cpu(*sys.argv[1:])))
