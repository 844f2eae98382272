"""Two-domain video between key frames, in frames a second: frame by frame as a plain reading gives it, and ours.

(a) is Algorithm 2 written out: for every pair of key frames encode both ends, interpolate the latents, decode each of
them with each decoder, copy each float picture to the host and make bytes of it there; layers are PyTorch's own,
``nn.Conv2d``, and ``nn.InstanceNorm2d`` followed by an activation and an addition. (b) is the same with the networks
under torch.compile. ``jdm_fast`` is the frame engine as ``jdm-fast video`` uses it: key frames encoded once, the
first layer of the decoders on key frames alone, frames in batches, bytes made on the device; what is captured is so in
the first round, which is not timed. A frame is a picture of one domain. On a CPU all rows are float32; on a GPU (a) and
(b) have TF32, and ours is also run in TF32, so that the precision takes no credit for the rest.

Rows are timed in turn, one clip of each in each round; on a GPU the clip of (a) and (b), which do frame after frame, is
a shorter one. Before that each is compared with (a). Beside the ratio of wall
times stands that of the process's CPU time, which other work on the machine disturbs less; on a GPU it says how much of
a core each takes. Busy is that CPU time's share of the wall time, on a GPU the share in which a kernel or copy ran.

``make bench BENCHMARKS=benchmarks/bench_video.py``; ``JDM_FAST_BENCH_COMPILE=0`` leaves out (b), which takes a minute.
"""

from __future__ import annotations

import copy
import os
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.train_loops import with_plain_norms
from jdm_fast.methods import JWDM, JWDMConfig
from jdm_fast.networks.output_conv import OutputConv
from jdm_fast.synthesis import FrameEngine, Model
from jdm_fast.synthesis.frame_engine import even_pieces
from jdm_fast.synthesis.pictures import to_float
from jdm_fast.training.precision import choose_precision, numerics

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
COMPILE = os.environ.get("JDM_FAST_BENCH_COMPILE", "1") != "0"
ROUNDS = 3 if DEVICE.type == "cuda" else 5
FACTORS = (2, 8, 16)
SIZES = [(256, 256), (256, 512), (512, 1024)] if DEVICE.type == "cuda" else [(64, 64), (128, 128), (128, 256)]
WIDTH = 64 if DEVICE.type == "cuda" else 16
FRAMES = 384 if DEVICE.type == "cuda" else 32  # of each domain, about, in a round, of a picture of 256x256
FEW = 16 if DEVICE.type == "cuda" else FRAMES  # of (a) and (b), whose time grows with the frames and nothing else

Run = Callable[[np.ndarray, int], dict[str, np.ndarray]]


def with_plain_convolutions(module: nn.Module) -> nn.Module:
    """``module`` with every :class:`OutputConv` made an ``nn.Conv2d`` of the same parameters, in place."""
    for name, child in module.named_children():
        if isinstance(child, OutputConv):
            plain = nn.Conv2d(child.in_channels, child.out_channels, child.kernel_size, padding=child.padding)
            plain.weight, plain.bias = child.weight, child.bias
            setattr(module, name, plain)
        else:
            with_plain_convolutions(child)
    return module


class FrameByFrame:
    """(a), and with ``compiled`` (b)."""

    def __init__(self, method: Any, compiled: bool) -> None:
        method = with_plain_convolutions(with_plain_norms(copy.deepcopy(method)))
        networks = {"encoder": method.encoders["x"], **{f"decoder_{d}": method.decoders[d] for d in method.domains}}
        wrap = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        self._networks = {name: wrap(network) for name, network in networks.items()}
        self._domains = method.domains

    @torch.inference_mode()
    def __call__(self, keys: np.ndarray, factor: int) -> dict[str, np.ndarray]:
        made: dict[str, list[np.ndarray]] = {domain: [] for domain in self._domains}
        for pair in range(len(keys) - 1):
            begin, end = (self._networks["encoder"](to_float(keys[k : k + 1]).to(DEVICE)) for k in (pair, pair + 1))
            for step in range(factor):
                self._decode((1 - step / factor) * begin + step / factor * end, made)
        self._decode(end, made)
        return {domain: np.concatenate(frames) for domain, frames in made.items()}

    def _decode(self, latent: Tensor, made: dict[str, list[np.ndarray]]) -> None:
        for domain in self._domains:
            picture = self._networks[f"decoder_{domain}"](latent).cpu()
            made[domain].append(((picture + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy())


def stream(model: Model, **options: Any) -> Run:
    """Ours."""
    engine = FrameEngine(model, **options)

    def run(keys: np.ndarray, factor: int) -> dict[str, np.ndarray]:
        parts = list(engine.stream(even_pieces(keys, factor)))
        return {domain: np.concatenate([part[domain] for part in parts]) for domain in parts[0]}

    return run


def contenders(model: Model) -> dict[str, Run]:
    """The rows."""
    rows: dict[str, Run] = {"(a) frame by frame": FrameByFrame(model.method, compiled=False)}
    if COMPILE:
        rows["(b) the same, torch.compile"] = FrameByFrame(model.method, compiled=True)
    if DEVICE.type == "cpu":
        return rows | {"jdm_fast": stream(model)}
    return rows | {
        "jdm_fast in TF32": stream(model, engine="graph", precision="tf32"),
        "jdm_fast": stream(model),
    }


@dataclass(frozen=True)
class Row:
    """What was measured. Frames are pictures of one domain."""

    name: str
    frames_per_second: float
    ratio: float
    ratio_of_best: float
    ratio_of_cpu: float
    peak_bytes: int
    busy: float


def measure(rows: dict[str, Run], keys: np.ndarray, factor: int) -> list[Row]:
    """All rows, timed in turn after a round that compiles, captures and is compared."""
    few = keys[: min(len(keys), FEW // factor + 1)]
    clips = {name: few if name.startswith("(") else keys for name in rows}
    frames = {name: 2 * ((len(clip) - 1) * factor + 1) for name, clip in clips.items()}
    peaks = {}
    expected: dict[str, np.ndarray] = {}
    for name, run in rows.items():
        made = run(few, factor)
        compare(name, made, expected)
        expected = expected or made
        peaks[name] = peak_of(partial(run, clips[name], factor))
    times: dict[str, list[float]] = {name: [] for name in rows}  # seconds a frame
    worked: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(ROUNDS):
        for name, run in rows.items():
            begin, before = time.perf_counter(), time.process_time()
            run(clips[name], factor)
            times[name].append((time.perf_counter() - begin) / frames[name])
            worked[name].append((time.process_time() - before) / frames[name])
    first = next(iter(times))
    on_gpu = DEVICE.type == "cuda"
    shares = {name: gpu_share(run, clips[name], factor) for name, run in rows.items()} if on_gpu else {}
    return [
        Row(
            name=name,
            frames_per_second=1 / statistics.median(own),
            ratio=statistics.median(times[first]) / statistics.median(own),
            ratio_of_best=min(times[first]) / min(own),
            ratio_of_cpu=statistics.median(worked[first]) / statistics.median(worked[name]),
            peak_bytes=peaks[name],
            busy=shares.get(name, statistics.median(worked[name]) / statistics.median(own)),
        )
        for name, own in times.items()
    ]


def compare(name: str, made: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Float32 rounds a byte here and there the other way, TF32 and half precision a little more."""
    for domain, frames in expected.items():
        difference = np.abs(made[domain].astype(np.int16) - frames).astype(np.float64)
        # Networks that are not trained magnify what rounding does; of bf16 only the mean says something then.
        mean, most = (0.01, 1) if DEVICE.type == "cpu" else (3.0, 255) if name == "jdm_fast" else (1.0, 64)
        assert difference.mean() <= mean and difference.max() <= most, (
            f"{name}: frames of {domain} differ from (a) by {difference.mean():.3f} on average, {difference.max():.0f}"
        )


def peak_of(call: Callable[[], Any]) -> int:
    """Most bytes that the call takes on the device; on a CPU the peak of the process so far."""
    if DEVICE.type == "cpu":
        call()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def gpu_share(run: Run, keys: np.ndarray, factor: int) -> float:
    """Share of a run's time in which the GPU did something."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run(keys, factor)
        torch.cuda.synchronize()
        wall = time.perf_counter() - begin
    spans = sorted(
        (event.start_ns(), event.start_ns() + event.duration_ns())
        for event in profile.profiler.kineto_results.events()
        if event.device_type() == torch.autograd.DeviceType.CUDA
    )
    total = end = 0
    for start, stop in spans:
        total += max(0, stop - max(start, end))
        end = max(end, stop)
    return total / 1e9 / wall


def table(rows: list[Row], title: str) -> Table:
    """As it is printed."""
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    shown.add_column("video", no_wrap=True)
    for column in ("frames/s", "ratio", "of best", "of CPU time", "peak MB", "busy"):
        shown.add_column(column, justify="right")
    for row in rows:
        shown.add_row(
            row.name,
            f"{row.frames_per_second:.1f}",
            f"{row.ratio:.2f}x",
            f"{row.ratio_of_best:.2f}x",
            f"{row.ratio_of_cpu:.2f}x",
            f"{row.peak_bytes / 2**20:.0f}",
            f"{row.busy:.0%}",
        )
    return shown


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "{}x{}".format(*size))
def test_video(benchmark: Any, size: tuple[int, int], factor: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The time that pytest-benchmark has is that of one more run of ours."""
    torch.manual_seed(0)
    model = Model(JWDM(JWDMConfig(width=WIDTH, critic_width=4)), DEVICE)
    frames = FRAMES * 256 * 256 // max(256 * 256, size[0] * size[1]) if DEVICE.type == "cuda" else FRAMES
    generator = np.random.default_rng(0)
    keys = generator.integers(0, 256, (frames // factor + 1, *size, 3), dtype=np.uint8)
    benchmark.group = f"video, {size[0]}x{size[1]}, width {WIDTH}, factor {factor}, {DEVICE.type}"
    benchmark.extra_info["implementation"] = "jdm_fast"
    with numerics(choose_precision("tf32", DEVICE), DEVICE):
        rows = contenders(model)
        measured = measure(rows, keys, factor)
        benchmark.pedantic(rows["jdm_fast"], args=(keys, factor), rounds=1)
    benchmark.extra_info["rows"] = [vars(row) for row in measured]
    with capsys.disabled():
        print()
        Console(width=120).print(table(measured, benchmark.group))
