"""What the experiments have in common: results as small JSON files, and jobs side by side on the cores there are."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import jdm_fast
from jdm_fast._files import make_folder, write_atomically
from jdm_fast.bench.machine import revision
from jdm_fast.ops import frames_to_uint8

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results"
PICTURES = ROOT / "docs" / "pictures"


def write_result(name: str, settings: dict[str, Any], rows: Sequence[dict[str, Any]], **more: Any) -> Path:
    """Write ``experiments/results/<name>.json``: where and how it was measured, and what."""
    document = {
        "experiment": name,
        "command": " ".join(["python", *sys.argv]),
        "revision": revision(),
        "jdm_fast": jdm_fast.__version__,
        "torch": torch.__version__,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"),
        "settings": settings,
        **more,
        "rows": list(rows),
    }
    make_folder(RESULTS)
    path = RESULTS / f"{name}.json"
    write_atomically(path, lambda file: file.write(json.dumps(document, indent=1).encode() + b"\n"))
    return path


def run_jobs(script: str, jobs: Sequence[Sequence[str]], at_once: int) -> None:
    """Run this interpreter on ``script`` with each job's arguments, ``at_once`` of them side by side, one thread each.

    Raises:
        RuntimeError: a job has failed; its output has been printed.
    """

    def run(arguments: Sequence[str]) -> tuple[Sequence[str], int, str, float]:
        began = time.monotonic()
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, script, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False,
        )  # fmt: skip
        seconds = time.monotonic() - began
        print(f"{' '.join(arguments)}: {'done' if done.returncode == 0 else 'FAILED'} in {seconds:.0f} s", flush=True)
        return arguments, done.returncode, done.stdout, seconds

    with ThreadPoolExecutor(at_once) as pool:
        for arguments, status, output, _ in pool.map(run, jobs):
            if status:
                print(output)
                raise RuntimeError(f"{' '.join(arguments)} ended with status {status}")


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation, the latter 0 for one value."""
    mean = sum(values) / len(values)
    spread = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5 if len(values) > 1 else 0.0
    return mean, spread


def summarise_ways(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Mean and spread over the seeds of every score of every way to draw; each row holds the scores by way."""
    return {
        way: {name: [round(v, 4) for v in mean_and_spread([row[way][name] for row in rows])] for name in values}
        for way, values in rows[0].items()
        if isinstance(values, dict)
    }


def as_images(pictures: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] to float [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def as_pictures(images: Tensor) -> np.ndarray:
    """Float [N, 3, H, W] in [-1, 1] to uint8 [N, H, W, 3]."""
    return frames_to_uint8(images.contiguous()).numpy()


def between(pictures: np.ndarray) -> float:
    """Mean absolute difference between neighbours in a list of pictures, in units of [-1, 1]: how varied they are."""
    images = as_images(pictures)
    return float((images[1:] - images[:-1]).abs().mean())
