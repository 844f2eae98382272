from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nvidia.dali import Pipeline, fn, types
from PIL import Image

from jdm_fast.data.images import (
    IMAGE_SUFFIXES,
    ImageInfo,
    check_image,
    find_images,
    inspect_image,
    read_image,
    resize_image,
    save_image,
)
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


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_16(values: list[int], colour_type: int, transparent: bytes = b"") -> bytes:
    """A PNG of one pixel with 16 bits a channel; Pillow cannot write most of them."""
    header = struct.pack(">IIBBBBB", 1, 1, 16, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(f">{len(values)}H", *values))
    trns = png_chunk(b"tRNS", transparent) if transparent else b""
    return (
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + trns + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    )


def saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=image_format, **options)
    return file.getvalue()


def deep(value: int) -> Image.Image:
    return Image.fromarray(np.full((1, 1), value, dtype=np.uint16))


CMYK = Image.new("CMYK", (1, 1), (255, 0, 51, 0))  # all cyan, a fifth yellow: no red, full green, 4/5 blue


@pytest.mark.parametrize(
    "name, data, mode, expected",
    [
        ("grey.png", png_16([0xABCD], 0), "L;16", grey(0xAB)),
        ("white.png", png_16([0xFFFF], 0), "L;16", grey(255)),
        ("rgb.png", png_16([0x1234, 0x5678, 0xFFFF], 2), "RGB;16", (0x12, 0x56, 0xFF)),
        ("opaque.png", png_16([0x1234, 0x5678, 0xFFFF, 0xFFFF], 6), "RGBA;16", (0x12, 0x56, 0xFF)),
        ("clear.png", png_16([0x1234, 0x5678, 0xFFFF, 0], 6), "RGBA;16", grey(255)),
        ("clear grey.png", png_16([0x1234, 0], 4), None, grey(255)),
        ("transparent grey.png", png_16([0x1234], 0, b"\x12\x34"), "L;16", grey(255)),
        ("other transparent grey.png", png_16([0x1234], 0, b"\x12\x35"), "L;16", grey(0x12)),
        (
            "transparent rgb.png",
            png_16([1000, 2000, 3000], 2, struct.pack(">HHH", 1000, 2000, 3000)),
            "RGB;16",
            grey(255),
        ),
        ("grey.tif", saved(deep(0xABCD), "TIFF"), "L;16", grey(0xAB)),
        ("packed.tif", saved(deep(0xABCD), "TIFF", compression="tiff_lzw"), "L;16", grey(0xAB)),
        ("grey.ppm", saved(deep(0xABCD), "PPM"), "L;16", grey(0xAB)),
        ("print.jpg", saved(CMYK, "JPEG", quality=100), "CMYK", (0, 255, 204)),
        ("print.tif", saved(CMYK, "TIFF"), "CMYK", (0, 255, 204)),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_deep_and_printers_pictures(
    tmp_path: Path, name: str, data: bytes, mode: str | None, expected: tuple[int, int, int]
) -> None:
    """16 bits keep their upper half, so that white stays white; CMYK is converted. Plain decoders would not do so."""
    (tmp_path / name).write_bytes(data)
    info = inspect_image(tmp_path / name)
    assert info.size == (1, 1) and info.needs_conversion
    assert mode is None or info.mode == mode
    result = read_image(tmp_path / name)
    assert result.shape == (1, 1, 3) and np.abs(result[0, 0].astype(int) - expected).max() <= (name == "print.jpg")


@pytest.mark.parametrize(
    "name, data, kind",
    [
        ("float.tif", saved(Image.new("F", (2, 2)), "TIFF"), r"mode F \(32-bit float\)"),
        ("integers.tif", saved(Image.new("I", (2, 2)), "TIFF"), r"mode I \(32-bit integers\)"),
        ("lab.tif", saved(Image.new("LAB", (2, 2)), "TIFF"), "mode LAB"),
        ("ycbcr.tif", saved(Image.new("YCbCr", (2, 2)), "TIFF"), "mode YCbCr"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
@pytest.mark.parametrize("reader", [check_image, read_image])
def test_kinds_that_are_refused(tmp_path: Path, reader: Callable, name: str, data: bytes, kind: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name}: an image of {kind}; expected grey, RGB or CMYK .*convert it first"):
        reader(tmp_path / name)


PLAIN, GREY = Image.fromarray(picture()), Image.fromarray(picture()[:, :, 0])
PALETTE = PLAIN.quantize(8)


HEADERS = [
    (saved(PLAIN, "JPEG"), ImageInfo((12, 20), "RGB", "JPEG", False)),
    (saved(PLAIN, "JPEG", progressive=True), ImageInfo((12, 20), "RGB", "JPEG", False)),
    (saved(GREY, "PNG"), ImageInfo((12, 20), "L", "PNG", False)),
    (saved(GREY.convert("1"), "PNG"), ImageInfo((12, 20), "1", "PNG", False)),
    (saved(PALETTE, "PNG"), ImageInfo((12, 20), "P", "PNG", False)),
    (saved(PALETTE, "PNG", transparency=2), ImageInfo((12, 20), "P", "PNG", True)),
    (saved(PALETTE, "TIFF"), ImageInfo((12, 20), "P", "TIFF", True)),
    (saved(PLAIN, "TIFF", compression="tiff_lzw"), ImageInfo((12, 20), "RGB", "TIFF", False)),
    (saved(PLAIN.convert("RGBA"), "WEBP", lossless=True, exact=True), ImageInfo((12, 20), "RGB", "WEBP", False)),
    (saved(PLAIN, "BMP"), ImageInfo((12, 20), "RGB", "BMP", False)),
    (saved(PLAIN, "PPM"), ImageInfo((12, 20), "RGB", "PPM", False)),
    (b"P3 1 1 100 100 0 0", ImageInfo((1, 1), "RGB", "PPM", True)),
]


@pytest.mark.parametrize(
    "data, expected",
    HEADERS,
    ids=lambda value: f"{value.format} {value.mode} {value.needs_conversion}" if isinstance(value, ImageInfo) else "",
)
def test_what_a_header_says(tmp_path: Path, data: bytes, expected: ImageInfo) -> None:
    (tmp_path / "image").write_bytes(data)
    assert inspect_image(tmp_path / "image") == expected
    assert read_image(tmp_path / "image").shape == (*expected.size, 3)


def test_what_needs_no_conversion_is_read_alike_by_dali(tmp_path: Path) -> None:
    """The loader leaves those files to DALI; the others it takes from read_image."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = [saved(PLAIN, image_format, exif=exif) for image_format in ("JPEG", "PNG", "TIFF", "WEBP")]
    files = [data for data, expected in HEADERS if not expected.needs_conversion] + turned
    pipeline = Pipeline(batch_size=len(files), num_threads=1, device_id=None)
    with pipeline:
        encoded = fn.external_source(source=lambda: [np.frombuffer(data, np.uint8) for data in files])
        pipeline.set_outputs(fn.decoders.image(encoded, output_type=types.RGB))
    (decoded,) = pipeline.run()
    for number, data in enumerate(files):
        (tmp_path / "image").write_bytes(data)
        assert not inspect_image(tmp_path / "image").needs_conversion
        expected, found = read_image(tmp_path / "image").astype(int), np.asarray(decoded.at(number))
        assert found.shape == expected.shape and np.abs(found - expected).max() <= 1


def test_class_numbers_become_colours(tmp_path: Path) -> None:
    path, palette = tmp_path / "ids.png", [(0, 0, 0), (128, 64, 128), (70, 70, 70)]
    for image in (np.array([[0, 1], [2, 1]], np.uint8), np.array([[0, 1], [2, 1]], np.uint16)):
        Image.fromarray(image).save(path)
        assert read_image(path, palette).tolist() == [[[0, 0, 0], [128, 64, 128]], [[70, 70, 70], [128, 64, 128]]]
    Image.fromarray(np.array([[0, 7]], np.uint8)).save(path)
    with pytest.raises(UserError, match="ids.png: the class number 7 is in it; expected numbers from 0 to 2"):
        read_image(path, palette)
    PLAIN.save(path)
    with pytest.raises(UserError, match="ids.png: an image of mode RGB; expected one channel of class numbers"):
        read_image(path, palette)


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


@pytest.mark.parametrize("image_format", ["TIFF", "BMP", "PPM", "WEBP"])
def test_other_files_cut_short_are_found_too(tmp_path: Path, image_format: str) -> None:
    whole = saved(Image.fromarray(picture(64, 64)), image_format)
    (tmp_path / "image").write_bytes(whole[: len(whole) - 200])
    for reader in (check_image, read_image):
        with pytest.raises(UserError, match="image: (the image cannot be read|not an image, or damaged)"):
            reader(tmp_path / "image")


def test_headers_are_read_without_the_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow decodes a PNG that has no EXIF to look for one behind the pixels; ours does so only if there may be."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture()).save(tmp_path / "plain.png")
    Image.fromarray(picture()).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(picture()).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(picture()).save(tmp_path / "turned.tif", exif=exif)
    plain = (tmp_path / "plain.png").read_bytes()
    late = plain[:-12] + png_chunk(b"eXIf", exif.tobytes()[6:]) + plain[-12:]
    (tmp_path / "late.png").write_bytes(late)
    assert check_image(tmp_path / "late.png") == (20, 12) == read_image(tmp_path / "late.png").shape[:2]

    def load(image: Image.Image) -> None:
        raise AssertionError("decoded")

    for name, size in (("plain.png", (12, 20)), ("turned.png", (20, 12)), ("turned.jpg", (20, 12))):
        with monkeypatch.context() as patch:
            patch.setattr("PIL.ImageFile.ImageFile.load", load)
            assert check_image(tmp_path / name) == size
    assert check_image(tmp_path / "turned.tif") == (20, 12) == read_image(tmp_path / "turned.tif").shape[:2]


def test_bytes_after_the_end_are_harmless(tmp_path: Path) -> None:
    """Cameras and editors append things."""
    for path in (tmp_path / "image.png", tmp_path / "image.jpg"):
        save_image(path, picture())
        pixels = read_image(path)
        path.write_bytes(path.read_bytes() + bytes(500))
        assert check_image(path) == (12, 20)
        assert np.array_equal(read_image(path), pixels)


def test_resizing() -> None:
    image = picture(10, 30)
    assert resize_image(image, (10, 30)) is image
    result = resize_image(np.full((10, 30, 3), (9, 99, 199), np.uint8), (7, 41))
    assert result.shape == (7, 41, 3) and result.dtype == np.uint8 and (result == (9, 99, 199)).all()
    stripes = np.tile(np.array([0, 255], np.uint8), 32)[None, :, None].repeat(64, 0).repeat(3, 2)
    assert np.abs(resize_image(stripes, (8, 8)).astype(int) - 127.5).max() < 20, "shrinking must average, not pick"
