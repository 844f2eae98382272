"""What a number depends on: machine, versions, build, threads, revision. It goes into every file of results."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from jdm_fast import __version__, _doctor, _extension

_ROOT = Path(__file__).resolve().parents[2]


def machine() -> dict[str, Any]:
    """Versions, the extension's build, the processor, threads and GPUs."""
    return {
        "version": __version__,
        "extension": _extension.build_config(),
        "cpu": _doctor.cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def revision() -> str:
    """The git revision of this package, or what JDM_FAST_REVISION says where the files travelled without it."""
    if (_ROOT / ".git").exists():  # not that of a repository which an installed package happens to lie in
        command = ["git", "describe", "--always", "--dirty"]
        try:
            done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
        except OSError:  # no git
            done = None
        if done is not None and done.stdout.strip():
            return done.stdout.strip()
    return os.environ.get("JDM_FAST_REVISION", "unknown")
