"""A long film needs no more memory than a short one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jdm_fast
from tests.data.test_video_read import make_long

REPOSITORY = Path(jdm_fast.__file__).parents[1]
MEASURE = """
import resource, sys, torch
from jdm_fast.synthesis import Model, synthesize_video
from tests.synthesis.conftest import Negative

torch.set_num_threads(1)
for film in sys.argv[1:]:
    made = synthesize_video(Model(Negative(), "cpu"), film, film + ".out.mp4", factor=1, segment_frames=50)
    print(made.frames, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # KiB; it can only grow
"""


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    films = [str(make_long(tmp_path / f"{count}.mp4", count)) for count in (400, 1600)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *films], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    short_count, short, long_count, long = map(int, done.stdout.split())
    assert (short_count, long_count) == (400, 1600)
    # Encoders of one segment end while those of the next begin, or do not: that makes some tens of MiB.
    assert (long - short) / 1024 < 100, "1200 frames more, 132 MiB of pictures a domain, 528 in all"
