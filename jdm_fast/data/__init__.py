"""Everything that turns files into batches, and nothing else."""

from __future__ import annotations

from jdm_fast.data.images import IMAGE_SUFFIXES, check_image, find_images, read_image, resize_image, save_image

__all__ = [
    "IMAGE_SUFFIXES",
    "check_image",
    "find_images",
    "read_image",
    "resize_image",
    "save_image",
]
