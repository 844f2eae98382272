"""What DALI makes of pictures, against a plain float reference and against Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jdm_fast.data.dataset import Group, ImageFiles
from jdm_fast.data.images import read_image, save_image
from jdm_fast.data.items import as_pnm
from jdm_fast.data.loader import Loader
from jdm_fast.data.pipeline import DecodingError, Form, Picture, Pipeline

CPU = torch.device("cpu")
ROUNDING = 0.7  # levels


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JDM_FAST_CACHE", str(tmp_path / "cache"))


def form(**changes: Any) -> Form:
    settings: dict[str, Any] = dict(
        load=None, crop=None, channels=3, cut=False, device=CPU, dtype=torch.float32, channels_last=False, threads=2
    )
    return Form(**{**settings, **changes})


def smooth_noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise with edges: uint8 [height, width, 3]."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    return np.kron(noise, np.ones((4, 4, 1), np.uint8))[:height, :width]


def bytes_of(images: torch.Tensor) -> np.ndarray:
    return ((images.float() + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bicubic (a = -1/2) with the kernel as wide as the step where it shrinks, in float64, by the textbook."""

    def weights(source: int, target: int) -> np.ndarray:
        scale = source / target
        stretch = max(scale, 1.0)
        reach = int(2 * stretch) + 2  # beyond the borders the edge is repeated
        centres = (np.arange(target) + 0.5) * scale - 0.5
        distance = np.abs(np.arange(-reach, source + reach) - centres[:, None]) / stretch
        near = 1.5 * distance**3 - 2.5 * distance**2 + 1
        far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        kernel = np.where(distance < 1, near, np.where(distance < 2, far, 0))
        kernel /= kernel.sum(axis=1, keepdims=True)
        folded = kernel[:, reach:-reach].copy()
        folded[:, 0] += kernel[:, :reach].sum(axis=1)
        folded[:, -1] += kernel[:, -reach:].sum(axis=1)
        return folded

    down, right = weights(image.shape[0], size[0]), weights(image.shape[1], size[1])
    wide = np.tensordot(down, image.astype(np.float64), 1)
    return np.einsum("xw,ywc->yxc", right, wide, optimize=True).clip(0, 255)


def decoded(pictures: list[Picture], **changes: Any) -> list[np.ndarray]:
    pipeline = Pipeline(form(**changes), decode=True, augment=False)
    pipeline.submit(pictures)
    try:
        return pipeline.collect_pixels()
    finally:
        pipeline.close()


def as_picture(image: np.ndarray, **changes: Any) -> Picture:
    return Picture(as_pnm(image), **{"column": 0, "width": image.shape[1], "labels": False, **changes})


# ---- Geometry


# ---- Geometry


@pytest.mark.parametrize("size", [(61, 47), (96, 130), (200, 180), (286, 30)], ids=str)
def test_resizing_is_bicubic_and_antialiased(size: tuple[int, int]) -> None:
    """To the rounding of the result and of the weights."""
    image = smooth_noise(96, 130)
    (result,) = decoded([as_picture(image)], load=size)
    assert result.shape == (*size, 3) and result.dtype == np.uint8
    assert np.abs(result - resized(image, size)).max() <= ROUNDING
    # Pillow is the same but in two places: between its two passes it cuts off what overshoots, so that this picture has
    # nothing near black and white, and at the borders it leaves away what lies outside where DALI repeats the edge.
    image = 64 + image // 2
    (result,) = decoded([as_picture(image)], load=size)
    pillow = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC), dtype=np.int64)
    reach = [2 * max(1, -(-target // source)) for source, target in zip(image.shape, size, strict=False)]
    inside = (slice(reach[0], -reach[0]), slice(reach[1], -reach[1]))
    assert np.abs(result - pillow)[inside].max() <= 1


@pytest.mark.parametrize("size", [(20, 36), (286, 256)], ids=str)
def test_labels_are_resized_to_the_nearest_class(size: tuple[int, int]) -> None:
    classes = smooth_noise(40, 72)
    result, cubic = decoded([as_picture(classes, labels=True), as_picture(classes)], load=size)
    rows, columns = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(size, classes.shape, strict=False))
    assert np.array_equal(result, classes[rows][:, columns])
    assert np.abs(cubic - resized(classes, size)).max() <= ROUNDING, "in one batch each picture has its own way"


def test_a_picture_of_the_right_size_already_stays_what_it_is() -> None:
    """Decoded pictures from the cache go through the decoding graph like this when others are not in it."""
    rng = np.random.default_rng(0)
    for channels in (1, 3):
        image = rng.integers(0, 256, (37, 53, channels), np.uint8)
        (result,) = decoded([as_picture(image)], load=(37, 53), channels=channels)
        assert np.array_equal(result, image)


def test_grey_is_the_weighted_mean_of_the_colours() -> None:
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    (result,) = decoded([as_picture(image)], channels=1)
    assert np.abs(result - image @ [[0.299], [0.587], [0.114]]).max() <= 0.51
    (whole,) = decoded([as_picture(image)], channels=1, load=(20, 30))
    assert np.abs(whole - resized(image, (20, 30)) @ [[0.299], [0.587], [0.114]]).max() <= 1.1


@pytest.mark.parametrize("decode", [True, False], ids=["encoded", "decoded"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_crops_begin_where_they_are_told_to(decode: bool, channels_last: bool) -> None:
    """All places, both ways round."""
    rows, columns = np.mgrid[:20, :24]
    image = np.stack([rows * 10, columns * 10, rows + columns], axis=-1).astype(np.uint8)
    cropped = form(crop=(13, 17), channels_last=channels_last)
    places = [(top, left, mirror) for top in range(8) for left in range(8) for mirror in (False, True)]
    pipeline = Pipeline(cropped, decode=decode, capacity=len(places))
    data = as_pnm(image) if decode else image
    pipeline.submit([Picture(data, 0, 24, False, top / 7, left / 7, mirror) for top, left, mirror in places])
    batch, rest = pipeline.collect([100, len(places) - 100])
    pipeline.close()
    for (top, left, mirror), result in zip(places, [*bytes_of(batch), *bytes_of(rest)], strict=True):
        expected = image[top : top + 13, left : left + 17]
        assert np.array_equal(result, expected[:, ::-1] if mirror else expected)


def test_batches_keep_their_pixels_when_the_pipeline_goes_on() -> None:
    pipeline = Pipeline(form(), decode=False, capacity=2)
    kept = []
    for level in range(8):
        pipeline.submit([Picture(np.full((6, 6, 3), level, np.uint8), 0, 6, False)])
        kept += pipeline.collect([1])
    pipeline.close()
    assert [int(bytes_of(images).max()) for images in kept] == list(range(8))


def test_garbage_is_an_error_with_dalis_reason() -> None:
    pipeline = Pipeline(form(), decode=True)
    pipeline.submit([Picture(np.frombuffer(b"garbage" * 40, np.uint8), 0, 6, False)])
    with pytest.raises(DecodingError, match="^nvImageCodec"):
        pipeline.collect([1])


# ---- Kinds of files: what read_image gives, whoever decodes


def kinds() -> dict[str, tuple[str, dict[str, Any], Image.Image]]:
    """Ending, options and picture of one file of each kind."""
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (5, 6, 4), np.uint8), np.ones((8, 8, 1), np.uint8))
    rgb = Image.fromarray(smooth[..., :3].copy())
    grey = rgb.convert("L")
    alpha = Image.fromarray(smooth)
    turned = rgb.getexif()
    turned[0x0112] = 6
    deep = Image.fromarray(rng.integers(0, 65536, (40, 48), dtype=np.uint16))
    colours = rgb.quantize(16)
    see_through = rgb.quantize(16)
    see_through.info["transparency"] = 3
    return {
        "jpeg": ("jpg", {"quality": 95}, rgb),
        "jpeg progressive": ("jpg", {"progressive": True}, rgb),
        "jpeg 4:2:0": ("jpg", {"subsampling": 2}, rgb),
        "jpeg grey": ("jpg", {}, grey),
        "jpeg cmyk": ("jpg", {"quality": 95}, rgb.convert("CMYK")),
        "jpeg turned": ("jpg", {"exif": turned}, rgb),
        "png": ("png", {}, rgb),
        "png grey": ("png", {}, grey),
        "png alpha": ("png", {}, alpha),
        "png grey alpha": ("png", {}, alpha.convert("LA")),
        "png palette": ("png", {}, colours),
        "png palette see-through": ("png", {"transparency": 3}, see_through),
        "png colour key": ("png", {"transparency": rgb.getpixel((0, 0))}, rgb),
        "png 1 bit": ("png", {}, grey.convert("1")),
        "png 16 bits": ("png", {}, deep),
        "png turned": ("png", {"exif": turned}, rgb),
        "tiff": ("tif", {}, rgb),
        "tiff lzw": ("tif", {"compression": "tiff_lzw"}, rgb),
        "tiff jpeg": ("tif", {"compression": "jpeg"}, rgb),
        "tiff 16 bits": ("tif", {}, deep),
        "tiff palette": ("tif", {}, colours),
        "tiff cmyk": ("tif", {}, rgb.convert("CMYK")),
        "tiff turned": ("tif", {"exif": turned}, rgb),
        "webp": ("webp", {"lossless": True}, rgb),
        "webp lossy": ("webp", {}, rgb),
        "webp alpha": ("webp", {"lossless": True}, alpha),
        "webp turned": ("webp", {"lossless": True, "exif": turned}, rgb),
        "bmp": ("bmp", {}, rgb),
        "bmp grey": ("bmp", {}, grey),
        "bmp palette": ("bmp", {}, colours),
        "ppm": ("ppm", {}, rgb),
        "pgm": ("ppm", {}, grey),
    }


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_of_file_is_what_read_image_makes_of_it(kind: str, tmp_path: Path) -> None:
    suffix, options, image = kinds()[kind]
    path = tmp_path / f"a.{suffix}"
    image.save(path, **options)
    expected = read_image(path)
    loader = Loader([Group({"x": ImageFiles((path,), tmp_path)})], preprocess="none", flip=False, cache_mb=0)
    result = bytes_of(loader.batch(0)["x"])[0]
    assert result.shape == expected.shape
    lossy = suffix == "jpg" or kind in ("tiff jpeg", "webp lossy")
    # Decoders of JPEG agree but for rounding; where colours are at half resolution, each has its way to spread them.
    assert np.abs(result.astype(int) - expected).max() <= (2 if lossy else 0)


def test_class_numbers_become_the_colours_of_the_palette(tmp_path: Path) -> None:
    classes = np.random.default_rng(0).integers(0, 3, (20, 24)).astype(np.uint8)
    Image.fromarray(classes).save(tmp_path / "a.png")
    palette = ((0, 0, 0), (128, 64, 128), (220, 20, 60))
    domain = ImageFiles((tmp_path / "a.png",), tmp_path, labels=True, palette=palette)
    for settings in ({"preprocess": "none"}, {"preprocess": "resize", "load_size": (31, 17)}):
        loader = Loader([Group({"x": domain})], flip=False, **settings)
        colours = {tuple(colour) for colour in bytes_of(loader.batch(0)["x"]).reshape(-1, 3).tolist()}
        assert colours == set(palette)
    loader = Loader([Group({"x": domain})], flip=False, preprocess="none")
    assert np.array_equal(bytes_of(loader.batch(0)["x"])[0], np.array(palette, np.uint8)[classes])


# ---- On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("cache_mb", [0, 64])
def test_gpu_batches_are_those_of_the_cpu(
    dtype: torch.dtype, channels_last: bool, cache_mb: int, tmp_path: Path
) -> None:
    """To rounding, and to what decoders of JPEG differ in."""
    for k in range(5):
        save_image(tmp_path / f"{k}.jpg", smooth_noise(80, 120, seed=k))
        save_image(tmp_path / f"{k}.png", smooth_noise(90, 70, seed=k))
    groups = [
        Group({"x": ImageFiles(tuple(sorted(tmp_path.glob("*.jpg"))), tmp_path)}),
        Group({"y": ImageFiles(tuple(sorted(tmp_path.glob("*.png"))), tmp_path, labels=True)}),
    ]
    settings: dict[str, Any] = dict(load_size=64, crop_size=48, batch_size=2, dtype=dtype, channels_last=channels_last)
    loader = Loader(groups, device="cuda", cache_mb=cache_mb, **settings)
    on_cpu = Loader(groups, cache_mb=cache_mb, **settings)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    with loader.batches(0, 12) as ours, on_cpu.batches(0, 12) as theirs:
        for one, other in zip(ours, theirs, strict=True):
            for key, images in one.items():
                assert images.device.type == "cuda" and images.dtype == dtype
                assert images.is_contiguous(memory_format=layout)
                difference = (images.cpu().float() - other[key].float()).abs() * 127.5
                assert difference.mean() < 1 and difference.max() <= (8 if key == "x" else 1)


@pytest.mark.gpu
def test_gpu_batches_are_ready_for_any_stream(tmp_path: Path) -> None:
    """Batches are kept, and used on another stream while more are made: none may change under its user."""
    for k in range(4):
        save_image(tmp_path / f"{k}.png", np.full((64, 64, 3), 50 * k, np.uint8))
    groups = [Group({"x": ImageFiles(tuple(sorted(tmp_path.glob("*.png"))), tmp_path)})]
    loader = Loader(groups, preprocess="none", device="cuda", batch_size=4, cache_mb=0)
    sums = []
    with loader.batches(0, 60) as batches, torch.cuda.stream(torch.cuda.Stream()):
        for batch in batches:
            sums.append(((batch["x"] + 1) * 127.5).mean(dim=(1, 2, 3)).sum())
            del batch
        torch.cuda.current_stream().synchronize()
    assert all(abs(float(value) - 300) < 0.01 for value in sums)
