from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from jdm_fast.data.debian import fashion_mnist_files
from jdm_fast.data.layouts import find_layout, fitting_layouts
from jdm_fast.data.layouts.idx import read_idx_images
from jdm_fast.data.preview import read_item
from jdm_fast.errors import UserError


def idx(pixels: np.ndarray, magic: bytes = b"\0\0\x08\x03") -> bytes:
    return magic + struct.pack(f">{pixels.ndim}I", *pixels.shape) + pixels.tobytes()


PIXELS = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-images.idx3-ubyte", "train-images-idx3-ubyte.gz"])
def test_mnist_as_users_have_it(tmp_path: Path, name: str) -> None:
    data = idx(PIXELS)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + struct.pack(">I", 3) + bytes(3))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(PIXELS[:2]))
    assert fitting_layouts(tmp_path) == ("idx",)
    layout = find_layout(tmp_path)
    assert layout.domains == ("original", "clockwise", "anticlockwise")
    (group,) = layout.groups("train")
    assert list(group.domains) == ["x", "y", "z"] and len(group) == 3
    assert len(layout.splits["test"][0]) == 2
    original, clockwise, anticlockwise = (read_item(domain, 1)[:, :, 0] for domain in group.domains.values())
    assert np.array_equal(original, PIXELS[1])
    assert clockwise.shape == (5, 4) and clockwise[0].tolist() == PIXELS[1][::-1, 0].tolist()
    assert anticlockwise[0].tolist() == PIXELS[1][:, -1].tolist()


def test_colour_idx(tmp_path: Path) -> None:
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    (tmp_path / "a").write_bytes(idx(pixels, b"\0\0\x08\x04"))
    assert np.array_equal(read_idx_images(tmp_path / "a"), pixels)


WHOLE = idx(PIXELS)


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("a", b"", "not an IDX file: it begins with nothing, expected 00 00 08 03"),
        ("a", b"PK\x03\x04zip", "not an IDX file: it begins with 50 4b 03 04"),
        ("a", b"\0\0\x08\x01\0\0\0\x05abcde", "labels, not pictures: it begins with 00 00 08 01"),
        ("a", b"\0\0\x0d\x03" + WHOLE[4:], "another kind of IDX file: it begins with 00 00 0d 03"),
        ("a", WHOLE[:10], "cut short in its header, at 10 bytes"),
        ("a", WHOLE[:-7], "cut short: its header says 3 x 4 x 5 = 60 bytes of pixels, there are 53"),
        ("a", WHOLE + b"12", "too long: its header says 3 x 4 x 5 = 60 bytes of pixels, there are 62"),
        ("a", idx(PIXELS[:0]), "pictures of 0 x 4 x 5; expected N x height x width"),
        ("a", idx(np.zeros((1, 2, 2, 2), np.uint8), b"\0\0\x08\x04"), "pictures of 1 x 2 x 2 x 2; expected N x height"),
        ("a.gz", gzip.compress(WHOLE)[:-12], "cannot be unpacked, it is damaged or cut short"),
        ("a.gz", WHOLE, "cannot be unpacked, it is damaged or cut short"),
        ("a.gz", gzip.compress(WHOLE)[:20] + bytes(20), "cannot be unpacked, it is damaged or cut short"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name}: {message}"):
        read_idx_images(tmp_path / name)


def test_fashion_mnist(tmp_path: Path) -> None:
    """The real files, from Debian."""
    layout = find_layout(fashion_mnist_files())
    assert {split: len(groups[0]) for split, groups in layout.splits.items()} == {"train": 60000, "test": 10000}
    original, clockwise, _ = layout.splits["train"][0].domains.values()
    assert original.pixels.shape == (60000, 28, 28, 1) and clockwise.quarter_turns == 1
    assert original.pixels[0].max() == 255 and original.pixels[0, 0, 0] == 0  # an ankle boot on black
