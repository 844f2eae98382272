from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jdm_fast.data import IMAGE_SUFFIXES, check_image, find_images, read_image, resize_image, save_image
from jdm_fast.errors import UserError


def picture(height: int = 12, width: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_finding_is_sorted_case_blind_and_skips_the_rest(tmp_path: Path) -> None:
    wanted = ["B.JPG", "a.png", "c.Jpeg", "d.bmp", "e.tif", "f.TIFF", "g.webp", "h.ppm"]
    for name in [*wanted, "notes.txt", ".hidden.png", "png", "archive.png.zip"]:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "sub" / "deeper").mkdir(parents=True)
    (tmp_path / "sub" / "deeper" / "z.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "thumbnail.png").write_bytes(b"")
    assert [path.name for path in find_images(tmp_path)] == sorted(wanted)
    assert [path.name for path in find_images(str(tmp_path), recursive=True)] == [*sorted(wanted), "z.png"]


def test_no_folder_no_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        find_images(tmp_path / "nowhere")
    (tmp_path / "sub").mkdir()
    save_image(tmp_path / "sub" / "a.png", picture())
    with pytest.raises(UserError, match="no image in this folder; expected files ending in .png, .*sub-folders"):
        find_images(tmp_path)
    with pytest.raises(UserError, match="a.png: is a file, not a folder"):
        find_images(tmp_path / "sub" / "a.png")


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_written_images_are_read_back(tmp_path: Path, suffix: str) -> None:
    """Smooth, so that the lossy formats come close; the others must be exact. Height and width must not be swapped."""
    ramp = np.linspace(0, 255, 16 * 24).reshape(16, 24)
    image = np.stack([ramp, ramp[::-1], np.full_like(ramp, 90)], axis=-1).astype(np.uint8)
    path = tmp_path / f"image{suffix}"
    save_image(path, image)
    assert check_image(path) == (16, 24)
    result = read_image(path)
    assert result.dtype == np.uint8 and result.shape == image.shape
    lossy = suffix in (".jpg", ".jpeg", ".webp")
    assert np.abs(result.astype(int) - image).mean() <= (4 if lossy else 0)
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "no temporary file may stay"


def test_saving_is_careful(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="image.gif: expected a name ending in"):
        save_image(tmp_path / "image.gif", picture())
    with pytest.raises(UserError, match="nowhere/image.png: cannot be written"):
        save_image(tmp_path / "nowhere" / "image.png", picture())
    for wrong in (picture().astype(np.float32), picture()[:, :, 0], picture()[:, :, :2]):
        with pytest.raises(ValueError, match=r"expected uint8 \[H, W, 3\], got"):
            save_image(tmp_path / "image.png", wrong)
    assert not list(tmp_path.iterdir())


def grey(value: int) -> tuple[int, int, int]:
    return (value, value, value)


@pytest.mark.parametrize(
    "image, expected",
    [
        (Image.new("L", (3, 2), 77), grey(77)),
        (Image.new("1", (3, 2), 1), grey(255)),
        (Image.new("RGBA", (3, 2), (10, 20, 30, 255)), (10, 20, 30)),
        (Image.new("RGBA", (3, 2), (10, 20, 30, 0)), grey(255)),
        (Image.new("RGBA", (3, 2), (0, 0, 0, 102)), grey(153)),
        (Image.new("LA", (3, 2), (50, 0)), grey(255)),
        (Image.new("RGB", (3, 2), (1, 2, 3)).quantize(2), (1, 2, 3)),
    ],
    ids=["grey", "bilevel", "opaque", "transparent", "40 % black", "grey transparent", "palette"],
)
def test_kinds_that_are_converted(tmp_path: Path, image: Image.Image, expected: tuple[int, int, int]) -> None:
    image.save(tmp_path / "image.png")
    assert check_image(tmp_path / "image.png") == (2, 3)
    result = read_image(tmp_path / "image.png")
    assert result.shape == (2, 3, 3) and (result == expected).all()


def test_a_palette_with_a_transparent_colour_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([9, 9, 9, 200, 100, 50])
    image.save(tmp_path / "image.png", transparency=0)
    assert read_image(tmp_path / "image.png").tolist() == [[[255, 255, 255], [200, 100, 50]]]


def sixteen_bit_rgb_png() -> bytes:
    """Pillow cannot write one, so by hand: 1x1, bit depth 16, colour type 2."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">HHH", 1, 2, 3))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def saved(image: Image.Image, image_format: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format=image_format)
    return file.getvalue()


@pytest.mark.parametrize(
    "name, data, kind",
    [
        ("grey16.png", saved(Image.new("I;16", (2, 2)), "PNG"), "16- or 32-bit"),
        ("rgb16.png", sixteen_bit_rgb_png(), "16- or 32-bit"),
        ("grey16.tif", saved(Image.new("I;16", (2, 2)), "TIFF"), "16- or 32-bit"),
        ("float.tif", saved(Image.new("F", (2, 2)), "TIFF"), "mode F"),
        ("print.jpg", saved(Image.new("CMYK", (2, 2)), "JPEG"), "mode CMYK"),
        ("lab.tif", saved(Image.new("LAB", (2, 2)), "TIFF"), "mode LAB"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("reader", [check_image, read_image])
def test_kinds_that_are_refused(tmp_path: Path, reader: Callable, name: str, data: bytes, kind: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name}: an? .*{kind}.*convert it first"):
        reader(tmp_path / name)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    """All eight, against their meaning in the EXIF standard."""
    upright = picture(8, 14)
    as_stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright), 7: np.rot90(upright, 2).transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "image.png"
    Image.fromarray(np.ascontiguousarray(as_stored)).save(path, exif=exif)
    assert check_image(path) == (8, 14)
    assert np.array_equal(read_image(path), upright)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_files_cut_short_are_found_before_training(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    save_image(path, picture(64, 64))
    whole = path.read_bytes()
    for length in (len(whole) // 2, len(whole) - 200):
        path.write_bytes(whole[:length])
        for reader in (check_image, read_image):
            with pytest.raises(UserError, match=f"image{suffix}: the image cannot be read, it is damaged or cut short"):
                reader(path)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n"], ids=["empty", "text", "signature"])
@pytest.mark.parametrize("reader", [check_image, read_image])
def test_what_is_no_image(tmp_path: Path, reader: Callable, data: bytes) -> None:
    (tmp_path / "image.png").write_bytes(data)
    with pytest.raises(UserError, match="image.png: (not an image|the image cannot be read)"):
        reader(tmp_path / "image.png")
    with pytest.raises(UserError, match="gone.png: there is no such file"):
        reader(tmp_path / "gone.png")


def test_bytes_after_the_end_are_harmless(tmp_path: Path) -> None:
    """Cameras and editors append things; the file is decoded to see that it is whole."""
    path = tmp_path / "image.png"
    save_image(path, picture())
    path.write_bytes(path.read_bytes() + bytes(500))
    assert check_image(path) == (12, 20)
    assert np.array_equal(read_image(path), picture())


def test_resizing() -> None:
    image = picture(10, 30)
    assert resize_image(image, (10, 30)) is image
    result = resize_image(np.full((10, 30, 3), (9, 99, 199), np.uint8), (7, 41))
    assert result.shape == (7, 41, 3) and result.dtype == np.uint8 and (result == (9, 99, 199)).all()
    stripes = np.tile(np.array([0, 255], np.uint8), 32)[None, :, None].repeat(64, 0).repeat(3, 2)
    assert np.abs(resize_image(stripes, (8, 8)).astype(int) - 127.5).max() < 20, "shrinking must average, not pick"
