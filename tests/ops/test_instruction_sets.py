"""The CPU kernels of the interpolation, the pixel bytes and the critic loss at every instruction set this machine runs.

A process chooses its instruction set once, so each has one of its own. instance_norm has the same test beside its
others.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from jdm_fast import _extension

SCRIPT = """
import sys, torch
from jdm_fast import _extension, ops
assert _extension.available, _extension.reason
assert _extension.build_config()["cpu_capability"] == sys.argv[1]
torch.set_num_threads(1)
saved = {"bytes": [], "frames": [], "loss": []}
layouts = (torch.contiguous_format, torch.channels_last)
for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
    for layout in layouts:
        def normal(*shape):
            x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
            return x.to(dtype).contiguous(memory_format=layout)
        for channels in (1, 2, 3, 4):
            x = normal(2, channels, 31, 19)
            saved["bytes"] += [ops.frames_to_uint8(x), ops.frames_to_uint8(x, tanh=True)]
        for shape in ((3, 5, 7, 3), (2, 16, 8, 9)):
            for mode in ("lerp", "slerp"):
                z = normal(*shape).requires_grad_()
                y = ops.interpolate_latents(z, 5, mode)
                if len(shape) == 4 and mode == "lerp":
                    saved["frames"].append(ops.interpolate_instance_norm(z.detach(), 3, activation="leaky_relu"))
                saved["frames"] += [y.detach(), *torch.autograd.grad(y, z, torch.cos(3 * y.detach()))]
        for classes, side in ((2, 9), (5, 30), (64, 5)):
            logits = normal(6, classes, side, side + 1).requires_grad_()
            source = torch.tensor([0, 1, 1, 0, 0, 1])
            loss, source_loss, accuracy = ops.softmax_critic_loss(logits, source, 2)
            saved["loss"] += [loss.detach(), source_loss.detach(), accuracy, *torch.autograd.grad(loss, logits)]
torch.save(saved, sys.argv[2])
"""


def test_every_instruction_set_gives_the_same(tmp_path: Path) -> None:
    levels = _extension.build_config()["cpu_capabilities"]
    assert levels, f"the compiled extension is needed here: {_extension.reason}"
    processes = {}
    for level in levels:
        environment = os.environ | {"JDM_FAST_CPU_CAPABILITY": level, "OMP_NUM_THREADS": "1"}
        processes[level] = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, level, str(tmp_path / level)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    for level, process in processes.items():
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, f"{level}: {output}"
    results = {level: torch.load(tmp_path / level) for level in levels}

    # Sums are taken in another order and with other contractions: last bits differ, and with them the side of a tie.
    allowed = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
    for level in levels[1:]:
        for kind, tensors in results["default"].items():
            for expected, actual in zip(tensors, results[level][kind], strict=True):
                if kind == "bytes":
                    difference = (expected.int() - actual.int()).abs()
                    assert difference.max() <= 1
                    assert difference.double().mean() < 1e-3
                else:
                    difference = (expected.double() - actual.double()).abs().max()
                    scale = expected.double().abs().max().clamp(min=1e-30)
                    assert difference <= allowed[expected.dtype] * scale, f"{level}, {kind}, {list(expected.shape)}"
