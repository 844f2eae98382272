"""The model as a value: sizes, kinds of input, and Algorithm 2 against plain loops."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from PIL import Image

from jdm_fast.errors import UserError
from jdm_fast.ops import reference
from jdm_fast.synthesis import Model, frame_engine
from jdm_fast.synthesis.padding import pad_reflect, padded_side

SIZES = [(1, 1), (3, 40), (12, 12), (13, 15), (37, 51), (64, 30)]


def picture(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def pictures(count: int, height: int = 13, width: int = 18) -> np.ndarray:
    return np.stack([picture(seed, height, width) for seed in range(count)])


def network_input(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1)


# ---- padding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side, expected", [(1, 12), (12, 12), (13, 16), (16, 16), (17, 20)])
def test_padded_side(side: int, expected: int) -> None:
    assert padded_side(side, minimum=12, multiple=4) == expected


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 4), (12, 7)])
def test_padding_reflects_to_and_fro(size: tuple[int, int]) -> None:
    image = torch.arange(size[0] * size[1], dtype=torch.float32).reshape(1, 1, *size)
    expected = np.pad(image[0, 0].numpy(), ((0, 13 - size[0]), (0, 20 - size[1])), mode="reflect")
    np.testing.assert_array_equal(pad_reflect(image, 13, 20)[0, 0].numpy(), expected)


# ---- translation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("to", ["x", "y"])
def test_translation_keeps_kind_and_size(negative: Model, size: tuple[int, int], to: str) -> None:
    image = picture(0, *size)
    np.testing.assert_array_equal(negative.translate(image, to), 255 - image)
    np.testing.assert_array_equal(negative.translate(image[None], to), 255 - image[None])
    made = negative.translate(Image.fromarray(image), to=to)
    assert isinstance(made, Image.Image)
    np.testing.assert_array_equal(np.asarray(made), 255 - image)
    tensor = network_input(image)
    torch.testing.assert_close(negative.translate(tensor, to), -tensor, rtol=0, atol=0)
    half = negative.translate(tensor.half(), to)
    assert half.dtype == torch.float16 and half.shape == tensor.shape


def test_list_of_pictures_of_all_sizes(negative: Model) -> None:
    images = [picture(seed, *size) for seed, size in enumerate(SIZES * 2)]
    made = negative.translate([Image.fromarray(image) for image in images])
    for image, answer in zip(images, made, strict=True):
        np.testing.assert_array_equal(np.asarray(answer), 255 - image)
    assert negative.method.encoded == [2] * len(SIZES), "pictures of one size go together"
    assert negative.translate([]) == []


def test_grey_pictures_are_taken_as_rgb(negative: Model) -> None:
    made = negative.translate(Image.new("L", (20, 14), 55))
    assert (np.asarray(made) == 200).all() and made.size == (20, 14) and made.mode == "RGB"


def test_source_may_be_the_target(negative: Model) -> None:
    image = picture(0, 13, 18)
    np.testing.assert_array_equal(negative.translate(image, to="x", source="x"), image)


@pytest.mark.parametrize("batch_size, calls", [(1, [1] * 5), (2, [2, 2, 1]), (None, [5])])
def test_batches(negative: Model, batch_size: int | None, calls: list[int]) -> None:
    images = pictures(5)
    np.testing.assert_array_equal(negative.translate(images, batch_size=batch_size), 255 - images)
    assert negative.method.encoded == calls


def test_no_pictures(negative: Model) -> None:
    assert negative.translate(np.empty((0, 9, 9, 3), np.uint8)).shape == (0, 9, 9, 3)
    assert negative.translate(torch.empty(0, 3, 9, 9)).shape == (0, 3, 9, 9)


def test_unfit_pictures_are_refused(negative: Model) -> None:
    with pytest.raises(UserError, match="domains x, y; got 'z'"):
        negative.translate(pictures(1), to="z")
    for images in (
        np.zeros((2, 8, 8, 3), np.float32),
        torch.zeros(3, 8, 8),
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
    ):
        with pytest.raises(ValueError, match="must be"):
            negative.translate(images)
    with pytest.raises(TypeError, match="PIL"):
        negative.translate("picture.png")


def test_real_networks_see_the_padded_picture(jwdm: Model) -> None:
    image = picture(0, 19, 26)
    with torch.no_grad():
        padded = np.pad(image, ((0, 1), (0, 2), (0, 0)), mode="reflect")
        expected = jwdm.method.translate(network_input(padded), "y")[..., :19, :26]
    torch.testing.assert_close(jwdm.translate(network_input(image), to="y"), expected, rtol=0, atol=1e-5)
    bytes_expected = reference.frames_to_uint8(expected)[0].numpy().astype(int)
    assert np.abs(jwdm.translate(image).astype(int) - bytes_expected).max() <= 1


# ---- Algorithm 2 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys, factor", [(2, 1), (2, 8), (5, 3), (4, 1), (1, 4)])
def test_frames_come_in_time_order_with_both_ends(negative: Model, keys: int, factor: int) -> None:
    frames = pictures(keys)
    made = negative.video(frames, factor=factor)
    expected = []
    for k in range(keys - 1):
        for step in range(factor):
            z_begin, z_end = frames[k] / 127.5 - 1, frames[k + 1] / 127.5 - 1
            expected.append((1 - step / factor) * z_begin + step / factor * z_end)
    expected.append(frames[-1] / 127.5 - 1)
    assert made["x"].shape == made["y"].shape == ((keys - 1) * factor + 1, 13, 18, 3)
    for frame_x, frame_y, z in zip(made["x"], made["y"], expected, strict=True):
        assert np.abs(frame_x - (z + 1) * 127.5).max() <= 0.51  # rounded to bytes
        assert np.abs(frame_y - (1 - z) * 127.5).max() <= 0.51
    np.testing.assert_array_equal(made["x"][::factor], frames)
    np.testing.assert_array_equal(made["y"][::factor], 255 - frames)


def test_source_may_be_y(negative: Model) -> None:
    frames = pictures(3)
    made = negative.video(frames, factor=2, source="y")
    np.testing.assert_array_equal(made["y"][::2], frames)
    np.testing.assert_array_equal(made["x"][::2], 255 - frames)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 64])
@pytest.mark.parametrize("mode", ["lerp", "slerp"])
def test_real_networks_frame_by_frame(jwdm: Model, mode: str, batch_size: int) -> None:
    frames = pictures(4, 22, 16)
    made = jwdm.video(frames, factor=3, mode=mode, batch_size=batch_size)
    encoder, decoders = jwdm.method.encoders["x"], jwdm.method.decoders
    with torch.no_grad():
        latents = [encoder(network_input(np.pad(f, ((0, 2), (0, 0), (0, 0)), mode="reflect"))) for f in frames]
        expected = []
        for begin, end in zip(latents, latents[1:]):  # noqa: B905
            cosine = (begin.double() * end.double()).sum() / (begin.double().norm() * end.double().norm())
            angle = math.acos(float(cosine))
            for ratio in (0, 1 / 3, 2 / 3):
                a, b = 1 - ratio, ratio
                if mode == "slerp":
                    a, b = math.sin((1 - ratio) * angle) / math.sin(angle), math.sin(ratio * angle) / math.sin(angle)
                expected.append(a * begin + b * end)
        expected.append(latents[-1])
        for domain in ("x", "y"):
            assert len(made[domain]) == len(expected) == 10
            for frame, z in zip(made[domain], expected, strict=True):
                value = reference.frames_to_uint8(decoders[domain](z))[0, :22].numpy().astype(int)
                assert np.abs(frame - value).max() <= 1


@pytest.mark.parametrize("batch_size", [1, 2, 7, 8, 64])
def test_each_key_frame_is_encoded_once(negative: Model, batch_size: int) -> None:
    negative.video(pictures(9), factor=4, batch_size=batch_size)
    assert sum(negative.method.encoded) == 9
    assert sum(negative.method.decoded) == 2 * 33
    assert max(negative.method.decoded) <= batch_size


def test_stream_reads_a_few_frames_ahead_and_no_further(negative: Model) -> None:
    taken = 0
    # Frames that wait for the caller, one being computed and one on its way, and key frames that wait.
    ahead = 2 * (frame_engine.AHEAD + 3) + frame_engine.READ_AHEAD + 2

    def key_frames():
        nonlocal taken
        while True:
            taken += 1
            yield picture(taken, 16, 16)

    stream = negative.stream_video(key_frames(), factor=4, batch_size=8)
    assert taken == 0
    for done in range(1, 20):
        part = next(stream)
        assert part["x"].shape == part["y"].shape == (8, 16, 16, 3)
        time.sleep(0.01)  # for the reader to run away
        assert 1 + 2 * done <= taken <= 1 + 2 * done + ahead
    assert not torch.is_inference_mode_enabled()
    stream.close()


def test_video_is_the_stream_put_together(negative: Model) -> None:
    frames = pictures(6)
    parts = list(negative.stream_video(iter(frames), factor=5, batch_size=4))
    whole = negative.video(frames, factor=5, batch_size=4)
    for domain in ("x", "y"):
        np.testing.assert_array_equal(np.concatenate([part[domain] for part in parts]), whole[domain])


def test_unfit_video_arguments(negative: Model) -> None:
    for arguments, message in (({"factor": 0}, "factor"), ({"mode": "cubic"}, "mode"), ({"source": "z"}, "domains")):
        with pytest.raises(UserError, match=message):
            negative.stream_video(iter(pictures(2)), **arguments)
    with pytest.raises(ValueError, match="at least one key frame"):
        negative.video([])
    with pytest.raises(ValueError, match="frames must be uint8"):
        negative.video([picture(0, 16, 16), picture(1, 16, 17)])
