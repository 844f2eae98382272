"""Fly-over clips as folders of frames: ``<clip>/<domain>/000000.png``, all domains showing the same.

Each clip is a data set of layout ``aligned``; ``videos``, where it is asked for, is one of layout ``videos``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from jdm_fast.data.earth.domains import known_domain
from jdm_fast.data.earth.split import describe_region
from jdm_fast.data.earth.write import RECORD, is_written, whole_folder, write_record
from jdm_fast.data.video_files import write_video
from jdm_fast.errors import UserError

if TYPE_CHECKING:
    from jdm_fast.data.earth.planet import Earth
    from jdm_fast.data.flyover import Camera, CameraPath, Clip

FPS = 24
_VERSION = 1  # raise when equal settings would give other frames


def write_clips(
    earth: Earth,
    out: str | os.PathLike[str],
    domains: Sequence[str] = ("satellite", "topographic"),
    camera: Camera | None = None,
    clips: int = 4,
    *,
    tile: int = 64,
    part: Literal["train", "test"] = "test",
    mp4: bool = False,
    compress_level: int = 1,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Write ``clips`` clips of :func:`jdm_fast.data.flyover.fly_over` (seeds 0, 1, …), and return where each is cut.

    ``test-000/satellite/000000.png`` is the first frame of the first clip over the test regions; the same number in the
    folder of another domain is its counterpart. ``test-000/camera.json`` says where the camera is at each frame. With
    ``mp4`` there is ``videos/satellite/test-000.mp4`` too (H.264, 24 frames a second). ``earth.json`` says over which
    regions each clip flies and at which frames it cuts; none is north of the polar circle. The folder appears whole or
    not at all; if it is there from an equal call it is kept.

    Args:
        tile: the size of the pictures trained on, which sets the split. part: of it, that the camera flies over.
        on_progress: told how many frames are written, and of how many.

    Returns:
        The numbers of the frames that begin at another place, for each clip by name.

    Raises:
        UserError: an argument makes no sense, a region is too small for the camera, the folder holds something else,
            or the disk is full.
    """
    from jdm_fast.data.flyover import Camera, fly_over  # which itself needs the planet

    root, domains, camera = Path(out), tuple(domains), camera or Camera()
    for domain in domains:
        known_domain(domain)
    if not 2 <= len(domains) <= 4 or len(set(domains)) != len(domains):
        raise UserError(
            f"two to four different domains are needed for layout frames, got {', '.join(domains) or 'none'}"
        )
    if clips < 1:
        raise UserError(f"clips must be at least 1, got {clips}")
    camera.check()
    settings = {
        "layout": "frames",
        "width": earth.width,
        "domains": list(domains),
        "camera": asdict(camera) | {"size": list(camera.size)},
        "clips": clips,
        "tile": tile,
        "part": part,
        "mp4": mp4,
        "version": _VERSION,
    }
    if is_written(root, settings):
        kept = json.loads((root / RECORD).read_text())["clips"]
        return {name: tuple(clip["cuts"]) for name, clip in kept.items()}
    total, done, told = clips * len(domains) * camera.frames, 0, {}
    with whole_folder(root) as scratch, ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as executor:
        for seed in range(clips):
            name = f"{part}-{seed:03d}"
            clip = fly_over(earth, domains, camera, tile=tile, seed=seed, part=part, snow=False)
            for domain, frames in clip.frames.items():
                folder = scratch / name / domain
                folder.mkdir(parents=True)

                def save(number: int, frames: np.ndarray = frames, folder: Path = folder) -> None:
                    Image.fromarray(frames[number]).save(folder / f"{number:06d}.png", compress_level=compress_level)

                for _ in executor.map(save, range(len(frames))):
                    done += 1
                    if on_progress:
                        on_progress(done, total)
                if mp4:
                    write_video(scratch / "videos" / domain / f"{name}.mp4", frames, FPS)
            (scratch / name / "camera.json").write_text(json.dumps(_camera(clip.path)) + "\n")
            told[name] = _describe(earth, clip)
        write_record(scratch, {"settings": settings, "clips": told})
    return {name: tuple(clip["cuts"]) for name, clip in told.items()}


def _describe(earth: Earth, clip: Clip) -> dict[str, object]:
    regions = [describe_region(region, earth.width, earth.height) for region in clip.regions]
    return {"cuts": list(clip.cuts), "regions": regions}


def _camera(path: CameraPath) -> dict[str, list[float]]:
    """The camera at each frame: its centre and scale in pixels of the planet's grid, its heading in degrees."""
    return {
        "centre_row": path.rows.round(3).tolist(),
        "centre_column": path.columns.round(3).tolist(),
        "heading_degrees": np.degrees(path.heading).round(3).tolist(),
        "grid_pixels_per_pixel": path.scale.round(5).tolist(),
    }
