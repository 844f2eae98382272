"""What limits the frames in between: the auto-encoder, the path through the latents, the norms, the motion.

    python experiments/video_limits.py RUN CLIP [CLIP ...] --out limits.json [--picture sheet.png]

A CLIP is a video or a folder of frames of the domain --source, or FRAMES,FRAMES_OF_THE_OTHER with the truth of both
domains. Every factor-th frame is a key frame, the others are what the frames in between should be.
docs/video_quality.md says what comes out.

Errors are L1 in [-1, 1] over the frames in between of all clips, flicker is of whole clips; SSIM where a row is a way
to make video. Nothing here is rounded to 8 bits but for SSIM.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from jdm_fast._files import write_atomically
from jdm_fast.data import save_image
from jdm_fast.data.sheet import contact_sheet
from jdm_fast.data.video_files import open_frames
from jdm_fast.metrics import ssim
from jdm_fast.metrics.temporal import flicker
from jdm_fast.networks.layers import InstanceNorm
from jdm_fast.ops import frames_to_uint8, interpolate_latents
from jdm_fast.synthesis import Model, load
from jdm_fast.synthesis.pictures import to_float

SHOWN = ("true frames", "synthesised", "residual", "colours", "cross-fade of the true key frames")


class Clip:
    """Frames up to the last key frame, and where each lies between two key frames."""

    def __init__(self, model: Model, frames: Tensor, factor: int, source: str) -> None:
        keys = (len(frames) - 1) // factor
        self.model, self.factor, self.source = model, factor, source
        self.frames = frames[: keys * factor + 1]
        number = torch.arange(len(self.frames))
        self.is_key = number % factor == 0
        self._begin = number // factor
        self._end = (self._begin + 1).clamp(max=keys)
        self._ratio = ((number % factor) / factor)[:, None, None, None]
        self.latents = torch.cat([model.encode(part, source) for part in self.frames.split(16)])
        self.path = interpolate_latents(self.latents[self.is_key], factor)

    def fade(self, of_keys: Tensor) -> Tensor:
        """One value for each key frame, cross-faded: one for each frame."""
        return (1 - self._ratio) * of_keys[self._begin] + self._ratio * of_keys[self._end]

    def decode(self, latents: Tensor, domain: str) -> Tensor:
        """Pictures of the size of the frames."""
        height, width = self.frames.shape[-2:]
        parts = [self.model.decode(part, domain)[..., :height, :width] for part in latents.split(16)]
        return torch.cat(parts)

    def decode_with_faded_norms(self, domain: str) -> Tensor:
        """The path, each norm with statistics interpolated between those of the key frames instead of recomputed."""
        statistics: list[tuple[Tensor, Tensor]] = []

        def record(norm: InstanceNorm, x: Tensor, residual: Tensor | None = None) -> Tensor:
            statistics.append((x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)))
            return plain(norm, x, residual)

        def faded(norm: InstanceNorm, x: Tensor, residual: Tensor | None = None) -> Tensor:
            mean, variance = (self.fade(of_keys) for of_keys in next(recorded))
            y = (x - mean) / torch.sqrt(variance + norm.eps) * norm.weight[:, None, None] + norm.bias[:, None, None]
            y = y.relu() if norm.activation == "relu" else y
            return y if residual is None else y + residual

        plain = InstanceNorm.forward
        height, width = self.frames.shape[-2:]
        with _norms(record):
            self.model.decode(self.latents[self.is_key], domain)
        recorded = iter(statistics)
        with _norms(faded):
            return self.model.decode(self.path, domain)[..., :height, :width]


@contextmanager
def _norms(forward: Callable[..., Tensor]) -> Iterator[None]:
    before = InstanceNorm.forward
    InstanceNorm.forward = forward
    try:
        yield
    finally:
        InstanceNorm.forward = before


def colours(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of each frame."""
    return frames.mean((2, 3), keepdim=True), frames.std((2, 3), keepdim=True)


def low_pass(frames: Tensor, side: int) -> Tensor:
    """Means over ``side`` x ``side`` pixels round each."""
    return F.avg_pool2d(F.pad(frames, [side // 2] * 4, mode="reflect"), side, 1)


def source_rows(clip: Clip) -> dict[str, Tensor]:
    """By name, pictures of all frames of the source domain."""
    true, key = clip.frames, clip.is_key
    each = clip.decode(clip.latents, clip.source)
    made = clip.decode(clip.path, clip.source)
    (mean, spread), (mean_each, spread_each) = colours(true), colours(each)
    lost = true[key] - each[key]
    scale = spread[key] / spread_each[key]
    shift = mean[key] - scale * mean_each[key]
    small = F.avg_pool2d(true, 4, ceil_mode=True)
    return {
        "true frames": true,
        "each frame, encoded and decoded": each,
        "the same, with its true mean colour": each - mean_each + mean,
        "the same, with its true mean colour and contrast": (each - mean_each) / spread_each * spread + mean,
        "each frame, averaged over 4x4 pixels": F.interpolate(small, scale_factor=4)[
            ..., : true.shape[2], : true.shape[3]
        ],
        "synthesised": made,
        "norms interpolated": clip.decode_with_faded_norms(clip.source),
        "cross-fade of the decoded key frames": clip.fade(each[key]),
        "cross-fade of the true key frames": clip.fade(true[key]),
        "residual": made + clip.fade(lost),
        "residual, low-passed 9x9": made + clip.fade(low_pass(lost, 9)),
        "residual, half": made + clip.fade(lost) / 2,
        "colours": clip.fade(scale) * made + clip.fade(shift),
    }


def target_rows(clip: Clip, true: Tensor, domain: str) -> dict[str, Tensor]:
    """By name, pictures of all frames of the other domain."""
    each = clip.decode(clip.latents, domain)
    return {
        "true frames": true,
        "each frame, translated": each,
        "synthesised": clip.decode(clip.path, domain),
        "norms interpolated": clip.decode_with_faded_norms(domain),
        "key frames translated, then cross-faded": clip.fade(each[clip.is_key]),
    }


def measure(rows: dict[str, Tensor], is_key: Tensor) -> dict[str, dict[str, float]]:
    """Of each row ``l1`` and ``ssim`` of the frames in between, and ``flicker``."""
    true = rows["true frames"]
    table = {}
    for name, frames in rows.items():
        frames = frames.clamp(-1, 1)
        table[name] = {"flicker": flicker(frames.permute(0, 2, 3, 1).numpy())}
        if name != "true frames":
            ours, truth = frames[~is_key], true[~is_key]
            table[name] |= {"l1": _l1(ours, truth), "ssim": ssim(_bytes(ours), _bytes(truth))}
    return table


def distances(clip: Clip, made: Tensor, each: Tensor) -> dict[str, float]:
    """How far the path is from a line of pictures, and from the latents and pictures of the true frames."""
    between, keys = ~clip.is_key, clip.latents[clip.is_key]
    bend = (made - clip.fade(each[clip.is_key]))[between].double()
    missing = (clip.frames - clip.fade(clip.frames[clip.is_key]))[between].double()
    return {
        "synthesised to cross-fade of decoded (non-linearity)": _l1(made, clip.fade(each[clip.is_key]), between),
        "synthesised to each frame decoded (path)": _l1(made, each, between),
        "latents of path to those of true frames, of key to key": _l1(clip.path, clip.latents, between)
        / _l1(keys[1:], keys[:-1]),
        "of that non-linearity, what to add to a cross-fade (least squares)": float(
            (bend * missing).sum() / bend.square().sum()
        ),
        "key frames decoded": _l1(each, clip.frames, clip.is_key),
    }


def _l1(ours: Tensor, true: Tensor, where: Tensor | slice = slice(None)) -> float:
    return float((ours[where] - true[where]).abs().mean(dtype=torch.float64))


def _bytes(frames: Tensor) -> np.ndarray:
    return frames_to_uint8(frames.contiguous()).numpy()


def _mean(tables: list[dict]) -> dict:
    first = tables[0]
    if not isinstance(first, dict):
        return float(np.mean(tables))
    return {name: _mean([table[name] for table in tables]) for name in first}


@torch.inference_mode()
def run(options: argparse.Namespace) -> dict:
    """Everything that is measured, by factor."""
    model = load(options.run, device="cpu")
    other = next(domain for domain in model.domains if domain != options.source)
    report = {}
    for factor in options.factors:
        source, target, far = [], [], []
        for number, names in enumerate(options.clips):
            films = [to_float(np.stack(list(open_frames(name)))) for name in names.split(",")]
            clip = Clip(model, films[0], factor, options.source)
            rows = source_rows(clip)
            source.append(measure(rows, clip.is_key))
            far.append(distances(clip, rows["synthesised"], rows["each frame, encoded and decoded"]))
            if len(films) > 1:
                target.append(measure(target_rows(clip, films[1][: len(clip.frames)], other), clip.is_key))
            if options.picture and number == 0 and factor == options.factors[-1]:
                shown = slice(0, factor + 1, max(1, factor // 8))
                save_image(options.picture, contact_sheet([_bytes(rows[name])[shown] for name in SHOWN], scale=2))
        report[factor] = {"source": _mean(source), "distances": _mean(far), "target": _mean(target) if target else None}
    return report


def show(console: Console, report: dict) -> None:
    """One table for each domain: L1 / SSIM / flicker, a column for each factor."""
    factors = list(report)
    for part in ("source", "target", "distances"):
        if report[factors[0]][part] is None:
            continue
        table = Table(part, *(f"factor {factor}" for factor in factors))
        for name in report[factors[0]][part]:
            cells = [report[factor][part][name] for factor in factors]
            table.add_row(name, *(_cell(cell) for cell in cells))
        console.print(table)


def _cell(cell: dict[str, float] | float) -> str:
    if not isinstance(cell, dict):
        return f"{cell:.4f}"
    if "l1" not in cell:
        return f"{cell['flicker']:.4f}"
    return f"{cell['l1']:.4f} / {cell['ssim']:.3f} / {cell['flicker']:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("clips", nargs="+")
    parser.add_argument("--source", default="x")
    parser.add_argument("--factors", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture", type=Path, help="true frames above what is made of the first clip, last factor")
    options = parser.parse_args()
    report = run(options)
    text = json.dumps(report, indent=1) + "\n"
    write_atomically(options.out, lambda file: file.write(text.encode()))
    show(Console(width=200), report)


if __name__ == "__main__":
    main()
