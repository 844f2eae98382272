"""Image files: finding, checking, reading, resizing and writing them."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jdm_fast._files import write_atomically
from jdm_fast.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
"""Endings of the files taken for images, in either case."""

_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
_MODES = {"RGB", "L", "1", "P", "RGBX", "CMYK", "I;16", "I;16L", "I;16B", "I;16N", *_ALPHA}
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 turn the picture on its side
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _TIFF_COLOURS, _TIFF_PLANES = 256, 257, 258, 262, 284  # TIFF tags
_PNG_TEXTS = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # chunks that may hold an orientation
_TIFF_DATA = ((273, 279), (324, 325))  # where the strips or tiles of a TIFF begin, and how long they are
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


@dataclass(frozen=True)
class ImageInfo:
    """What the header of an image file says.

    Attributes:
        size: (height, width) as :func:`read_image` gives it, that is, turned as the EXIF orientation says.
        mode: Pillow's name of the kind of pixels (``RGB``, ``L``, ``RGBA``, ``P``, ``CMYK`` ...), with ``;16`` behind
            it where a channel has 16 bits: ``L;16``, ``RGB;16``.
        format: Pillow's name of the file format: ``PNG``, ``JPEG`` ...
        needs_conversion: decoders that know only 8-bit grey and RGB would not give what :func:`read_image` gives:
            there is transparency, 16 bits a channel, CMYK, or a kind of TIFF or PPM that few read.
    """

    size: tuple[int, int]
    mode: str
    format: str
    needs_conversion: bool


def inspect_image(path: str | Path) -> ImageInfo:
    """What an image file is, from its header alone.

    A file without its end mark (a download cut short) is decoded to find out whether it is whole.

    Raises:
        UserError: it is not an image, is damaged, or is of a kind :func:`read_image` refuses.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            _check_kind(image, path)
            end = _look_behind(path, image)
            info = ImageInfo(
                _upright_size(image, end.has_text), _mode(image), image.format or "", _needs_conversion(image)
            )
            if not end.found:
                image.load()  # raises if the pixels are not whole
    except UserError:
        raise
    except _DECODING_ERRORS as error:
        raise _unreadable(path, error) from error
    return info


def check_image(path: str | Path) -> tuple[int, int]:
    """(height, width) of an image file as :func:`read_image` would give it; see :func:`inspect_image`."""
    return inspect_image(path).size


def read_image(path: str | Path, palette: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """An image file as uint8 [H, W, 3] RGB, turned as its EXIF orientation says.

    Grey images get three equal channels, palettes are looked up, and what is transparent is laid over white. Of 16 bits
    a channel the upper 8 are kept, so that the full range stays the full range. CMYK becomes RGB by Pillow's plain
    formula, without a colour profile.

    Args:
        path: the file.
        palette: the pixels are class numbers, not colours: (red, green, blue) of each number. Only for files of one
            channel.

    Raises:
        UserError: the file is missing, damaged, or of a kind that has no plain 8-bit picture (32-bit, float, Lab ...),
        or has class numbers that ``palette`` lacks: it names the file.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            _check_kind(image, path)
            if _has_16_bits(image) and isinstance(image.info.get("transparency"), tuple):
                image.info["transparency"] = tuple(value >> 8 for value in image.info["transparency"])
            upright = ImageOps.exif_transpose(image)
            return np.asarray(_as_rgb(upright)) if palette is None else _colours(upright, palette, path)
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
    """Refuse what has no plain 8-bit picture, rather than show a wrong one."""
    deep = image.mode == "I" and _has_16_bits(image)  # Pillow opens some 16-bit files as 32-bit ones
    if image.mode not in _MODES and not deep:
        kinds = {"F": "F (32-bit float)", "I": "I (32-bit integers)"}
        raise UserError(
            f"{path}: an image of mode {kinds.get(image.mode, image.mode)}; expected grey, RGB or CMYK with 8 or 16 "
            "bits a channel: convert it first"
        )
    if _has_16_bits(image) and _tag(image, _TIFF_PLANES) == 2:
        raise UserError(
            f"{path}: a TIFF with 16 bits a channel and a plane for each channel; expected the channels of a pixel "
            "side by side: convert it first"
        )


def _has_16_bits(image: Image.Image) -> bool:
    raw = str(image.tile[0][3]) if image.tile else ""
    bits = _tag(image, _TIFF_BITS) or (8,)
    return ";16" in raw or image.mode.startswith("I;16") or max(bits) == 16


def _tag(image: Image.Image, tag: int) -> Any:
    """A tag of a TIFF file; None where there is none, or the file is no TIFF."""
    return image.tag_v2.get(tag) if image.format == "TIFF" else None


def _mode(image: Image.Image) -> str:
    if not _has_16_bits(image):
        return image.mode
    return "L;16" if image.mode.startswith("I") else f"{image.mode};16"


def _upright_size(image: Image.Image, text_behind: bool) -> tuple[int, int]:
    width, height = image.size
    # Of a PNG without EXIF, getexif() decodes the pixels to see what is behind them: not if that is known.
    exif = image.getexif() if text_behind else Image.Image.getexif(image)
    if image.format == "TIFF":  # some versions of Pillow have turned this size already, others have not
        width, height = image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]
    on_its_side = exif.get(_ORIENTATION) in (5, 6, 7, 8)
    return (width, height) if on_its_side else (height, width)


def _needs_conversion(image: Image.Image) -> bool:
    plain = image.mode in ("RGB", "L", "1", "P") and not _has_16_bits(image) and "transparency" not in image.info
    if image.format == "TIFF":
        grey_or_rgb = _tag(image, _TIFF_COLOURS) in (1, 2) and _tag(image, _TIFF_PLANES) in (None, 1)
        plain = plain and image.mode in ("RGB", "L") and grey_or_rgb
    if image.format == "PPM":
        plain = plain and image.tile[0][0] == "raw"  # not as text, and 255 is white
    return not plain


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        image_8 = Image.fromarray((values >> 8).astype(np.uint8))
        if "transparency" in image.info:
            image_8.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
        image = image_8
    if image.mode in _ALPHA or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _colours(image: Image.Image, palette: Sequence[Sequence[int]], path: Path) -> np.ndarray:
    if image.mode not in ("L", "P", "1") and not image.mode.startswith("I"):
        raise UserError(f"{path}: an image of mode {image.mode}; expected one channel of class numbers")
    classes = np.asarray(image).astype(np.int64)
    if classes.max() >= len(palette):
        raise UserError(
            f"{path}: the class number {classes.max()} is in it; expected numbers from 0 to {len(palette) - 1}"
        )
    return np.asarray(palette, dtype=np.uint8)[classes]


class _End(NamedTuple):
    """What is behind the pixels of a file: its end (``True`` too where only decoding would tell), and texts."""

    found: bool
    has_text: bool = False


def _look_behind(path: Path, image: Image.Image) -> _End:
    """Whether a file is as long, or ends, as a whole one does."""
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        if image.format == "PNG":
            return _last_chunks(file, length)
        if image.format == "JPEG":
            file.seek(max(0, length - 64))
            return _End(b"\xff\xd9" in file.read())
        head = file.read(8)
    if image.format == "TIFF":
        parts = [zip(_tag(image, at) or (), _tag(image, size) or (), strict=False) for at, size in _TIFF_DATA]
        return _End(all(at + size <= length for part in parts for at, size in part))
    if image.format == "BMP":
        return _End(int.from_bytes(head[2:6], "little") <= length)
    if image.format == "PPM" and image.tile[0][0] == "raw":
        bits = image.width * image.height * len(image.getbands()) * (16 if _has_16_bits(image) else 8)
        return _End(image.tile[0][2] + (bits // 8 if image.mode != "1" else bits // 64) <= length)
    return _End(True)


def _last_chunks(file: BinaryIO, length: int) -> _End:
    """Step over the chunks of a PNG file, without reading what is in them."""
    position, pixels, text = 8, False, False
    while position + 12 <= length:
        file.seek(position)
        size, name = struct.unpack(">I4s", file.read(8))
        pixels = pixels or name == b"IDAT"
        text = text or (pixels and name in _PNG_TEXTS)
        position += 12 + size
        if name == b"IEND":
            return _End(position <= length, text)
    return _End(False, text)


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: there is no such file")
    if isinstance(error, UnidentifiedImageError):
        return UserError(f"{path}: not an image, or damaged from the start; replace or remove it")
    return UserError(f"{path}: the image cannot be read, it is damaged or cut short ({error}); replace or remove it")
