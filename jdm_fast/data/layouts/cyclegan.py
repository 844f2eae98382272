"""CycleGAN's layout: a folder for each domain of each split.

``trainA/``, ``trainB/`` and, where there are some, ``testA/``, ``testB/``, ``valA/``, ``valB/``. Domains: A, B.

Training pictures are unpaired. Test pictures are pairs if all names agree (``testA/0001.png`` and ``testB/0001.png``,
or ``1_A.jpg`` and ``1_B.jpg``), so that translations can be compared with the truth.
"""

from __future__ import annotations

from pathlib import Path

from jdm_fast.data.dataset import Layout
from jdm_fast.data.layouts._folders import SPLITS, has_pictures, paired_if_named_so, pictures, unpaired
from jdm_fast.errors import UserError

EXPECTED = "trainA/ and trainB/ with pictures, perhaps testA/ and testB/"


def fits(root: Path) -> bool:
    return all(has_pictures(root / name, recursive=True) for name in ("trainA", "trainB"))


def find(root: Path, recursive: bool = False) -> Layout:
    """The data set at ``root``. Raises UserError if trainA or trainB is missing or empty."""
    missing = [name for name in ("trainA", "trainB") if not (root / name).is_dir()]
    if missing:
        raise UserError(f"{root}: there is no {' and no '.join(missing)} in it; expected CycleGAN's layout: {EXPECTED}")
    splits = {}
    for split in SPLITS:
        folders = {name: root / f"{split}{name}" for name in ("A", "B") if (root / f"{split}{name}").is_dir()}
        if folders:
            domains = {name: pictures(folder, recursive) for name, folder in folders.items()}
            splits[split] = unpaired(domains) if split == "train" else paired_if_named_so(domains)
    return Layout("cyclegan", root, ("A", "B"), splits)
