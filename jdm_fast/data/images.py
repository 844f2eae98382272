"""Image files: finding, checking, reading, resizing and writing them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jdm_fast._files import write_atomically
from jdm_fast.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
"""Endings of the files taken for images, in either case."""

_MODES = {"RGB", "L", "1", "P", "LA", "PA", "La", "RGBA", "RGBa", "RGBX"}
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 turn the picture on its side
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    Image.DecompressionBombError,
)  # what Pillow raises on bad files


def find_images(folder: str | Path, recursive: bool = False) -> list[Path]:
    """The image files in a folder, sorted by name; hidden files and folders are left out.

    Args:
        folder: where to look.
        recursive: look in sub-folders too.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "there is no such folder"
        raise UserError(f"{folder}: {what}; expected a folder of images")
    try:
        found = folder.rglob("*") if recursive else folder.iterdir()
        images = sorted(path for path in found if _is_image(path.relative_to(folder)) and path.is_file())
    except PermissionError as error:
        raise UserError(f"{error.filename}: the folder cannot be read: {error.strerror}") from error
    if not images:
        deeper = "" if recursive else "; sub-folders are not searched unless asked for (recursive)"
        raise UserError(
            f"{folder}: no image in this folder; expected files ending in {', '.join(IMAGE_SUFFIXES)}{deeper}"
        )
    return images


def check_image(path: str | Path) -> tuple[int, int]:
    """(height, width) of an image file as :func:`read_image` would give it, from its header alone.

    A file without its end mark (a download cut short) is decoded to find out whether it is whole.

    Raises:
        UserError: it is not an image, is damaged, or is of a kind :func:`read_image` refuses.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            _check_kind(image, path)
            width, height = image.size
            if image.getexif().get(_ORIENTATION) in (5, 6, 7, 8):
                width, height = height, width
            if not _has_end(path, image.format):
                image.load()
    except UserError:
        raise
    except _DECODING_ERRORS as error:
        raise _unreadable(path, error) from error
    return height, width


def read_image(path: str | Path) -> np.ndarray:
    """An image file as uint8 [H, W, 3] RGB, turned as its EXIF orientation says.

    Grey images get three equal channels, palettes are looked up, and what is transparent is laid over white.

    Raises:
        UserError: the file is missing, damaged, or neither 8-bit RGB nor grey (16-bit, float, CMYK, Lab): it names
        the file.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            _check_kind(image, path)
            return np.asarray(_as_rgb(ImageOps.exif_transpose(image)))
    except UserError:
        raise
    except _DECODING_ERRORS as error:
        raise _unreadable(path, error) from error


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``image`` uint8 [H, W, 3] as [height, width, 3] for ``size = (height, width)``: bicubic, antialiased when it
    shrinks."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def save_image(path: str | Path, image: np.ndarray) -> None:
    """Write ``image``, uint8 [H, W, 3], in the format of the name's ending; the file appears only when it is whole.

    Raises:
        UserError: the ending is not one of an image, or the file cannot be written.
    """
    path = Path(path)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image: expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"{path}: expected a name ending in {', '.join(IMAGE_SUFFIXES)}")
    image_format = Image.registered_extensions()[path.suffix.lower()]
    options = {"quality": 95} if image_format in ("JPEG", "WEBP") else {}
    write_atomically(path, lambda file: Image.fromarray(image).save(file, format=image_format, **options))


def _is_image(relative: Path) -> bool:
    return relative.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in relative.parts)


def _check_kind(image: Image.Image, path: Path) -> None:
    """Refuse what would lose bits or colours without a word: Pillow opens a 16-bit RGB file as an 8-bit one."""
    raw = str(image.tile[0][3]) if image.tile else ""
    if ";16" in raw or image.mode.startswith("I"):
        raise UserError(
            f"{path}: a 16- or 32-bit image ({raw or image.mode}); expected 8 bits a channel: convert it first"
        )
    if image.mode not in _MODES:
        raise UserError(
            f"{path}: an image of mode {image.mode}; expected RGB or grey with 8 bits a channel: convert it first"
        )


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _has_end(path: Path, image_format: str | None) -> bool:
    """Whether a PNG or JPEG file ends as a whole one does; others are taken at their word."""
    mark = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}.get(image_format or "")
    if mark is None:
        return True
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 64))
        return mark in file.read()


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: there is no such file")
    if isinstance(error, UnidentifiedImageError):
        return UserError(f"{path}: not an image, or damaged from the start; replace or remove it")
    return UserError(f"{path}: the image cannot be read, it is damaged or cut short ({error}); replace or remove it")
