"""What ``jdm-fast video`` says: the plan before, and what was made after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from jdm_fast.synthesis.video import VideoPlan, VideoResult


def show_plan(console: Console, name: str, plan: VideoPlan) -> None:
    """Print a plan."""
    height, width = plan.size
    frames = "as many frames as the input gives (its header does not tell)"
    if plan.frames is not None:
        frames = f"{plan.frames} frames, {plan.frames / float(plan.fps):.2f} s"
    lines = {
        "frames": f"{frames}, at {float(plan.fps):g} frames/s",
        "size": f"{width}x{height} a domain",
        "segments": f"{plan.segments or 'any number'} of {plan.keys_per_segment} key frames",
        "memory": f"{plan.picture_bytes / 2**20:.1f} MiB of pictures at a time ({plan.batch_size} a batch), however "
        "long it is; the networks' own comes on top",
        "codec": plan.codec,
        "sound": "copied" if plan.sound else "none",
    }
    console.print(name, markup=False)
    for word, text in lines.items():
        console.print(f"  {word:9} {text}", markup=False, soft_wrap=True)
    for word, path in plan.files.items():
        console.print(f"  {word:9} {path}", markup=False, soft_wrap=True)


def show_result(console: Console, made: VideoResult, wanted_sound: bool) -> None:
    """Print what was made."""
    more = f", {made.scene_cuts} scene cuts" if made.scene_cuts else ""
    more += f", {made.reused} segments of an earlier job" if made.reused else ""
    console.print(
        f"{made.frames} frames from {made.key_frames} key frames, {float(made.fps):g} frames/s{more}:", markup=False
    )
    for name, path in made.files.items():
        console.print(f"  {name:5} {path}", markup=False, soft_wrap=True)
    if wanted_sound and not made.sound:
        console.print("the input has no sound to keep", markup=False)


def show_folder(console: Console, results: Mapping[str, VideoResult], output: Path, wanted_sound: bool) -> None:
    """Print what was made of a folder."""
    for name, made in results.items():
        console.print(name, markup=False)
        show_result(console, made, wanted_sound)
    console.print(f"{len(results)} videos in {output}", markup=False, soft_wrap=True)
