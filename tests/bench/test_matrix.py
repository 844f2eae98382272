"""The matrix: all ops and directions, the shapes of the networks and the hard ones, and selections of it."""

from __future__ import annotations

import pytest
import torch

from jdm_fast import ops
from jdm_fast.bench.contenders import EAGER, OPS, OURS
from jdm_fast.bench.matrix import DIRECTIONS, LAYOUTS, LISTED, Cell, cases, select
from jdm_fast.errors import UserError
from jdm_fast.methods.jwdm import JWDM, JWDMConfig
from jdm_fast.networks.layers import InstanceNorm
from jdm_fast.networks.patch_critic import PatchCritic

ALL = ("float32", "bfloat16", "float16")


def shapes_of(op: str, variant: str, shapes: str = "all") -> set[tuple[int, ...]]:
    return {cell.shape for cell in select(ops=[f"{op}/{variant}"], shapes=[shapes])}


def test_every_op_is_there_in_every_list_and_direction() -> None:
    assert set(OPS) == {op for op, _ in LISTED} == set(ops.__all__) - {"reference", "plan", "Plan", "Gpu", "GPUS"}
    for shapes in ("quick", "core", "all"):
        found = {(cell.op, cell.direction, cell.layout) for cell in select(shapes=[shapes])}
        inference = {"interpolate_instance_norm", "frames_to_uint8"}
        assert found == {
            (op, direction, layout)
            for op in OPS
            for layout in LAYOUTS
            for direction in (("forward",) if op in inference else DIRECTIONS)
        }
    for op, variant in LISTED:
        assert {OURS, EAGER} <= set(OPS[op].functions(variant))
        assert all(OPS[op].fits(listed.shape) for listed in LISTED[op, variant])
        assert shapes_of(op, variant, "core") < shapes_of(op, variant, "all")


@pytest.mark.parametrize("width", [256, 512])
@pytest.mark.parametrize("batch", [1, 16])
def test_the_shapes_are_those_of_the_networks(batch: int, width: int) -> None:
    seen: set[tuple[int, ...]] = set()
    residual: set[tuple[int, ...]] = set()

    def remember(module: InstanceNorm, arguments: tuple[torch.Tensor, ...], options: dict, _: torch.Tensor) -> None:
        with_residual = len(arguments) > 1 or options.get("residual") is not None
        (residual if with_residual else seen).add(tuple(arguments[0].shape))

    with torch.device("meta"):
        model = JWDM(JWDMConfig())
        for module in model.modules():
            if isinstance(module, InstanceNorm):
                module.register_forward_hook(remember, with_kwargs=True)
        latent = model.encoders["x"](torch.empty(batch, 3, 256, width))
        picture = model.decoders["x"](latent)
        logits = PatchCritic(6, classes=5)(torch.empty(5 * batch, 6, 256, width))
    assert len(seen) == 4 and seen <= shapes_of("instance_norm", "relu", "jwdm")
    assert len(residual) == 1 and residual <= shapes_of("instance_norm", "relu+residual", "jwdm")
    assert tuple(logits.shape) in shapes_of("softmax_critic_loss", "sources", "jwdm")
    assert tuple(picture.shape) in shapes_of("frames_to_uint8", "plain", "jwdm")
    keys = batch + 1  # so many gaps between key frames
    for mode in ("lerp", "slerp"):
        assert (keys, *latent.shape[1:]) in shapes_of("interpolate_latents", mode, "jwdm")
    assert (keys, 256, 64, width // 4) in shapes_of("interpolate_instance_norm", "relu", "jwdm")


@pytest.mark.parametrize("op, variant", [pair for pair in LISTED if pair[1] not in ("relu+residual", "slerp", "tanh")])
def test_hard_shapes(op: str, variant: str) -> None:
    shapes = shapes_of(op, variant)
    sides = {shape[2:] for shape in shapes}
    assert {(7, 7), (33, 65), (1024, 512)} <= sides
    assert (57, 57) in sides
    assert any(shape[1] == 3 for shape in shapes)
    assert any(shape[1] == 2048 for shape in shapes) or not OPS[op].fits((1, 2048, 7, 7))


def test_a_selection() -> None:
    cells = select(
        ops=["frames_to_uint8", "interpolate_latents/slerp"],
        shapes=["2x3x5x7"],
        dtypes=["bfloat16"],
        layouts=["nchw"],
        directions=["both", "forward"],
    )
    assert [(cell.op, cell.variant, cell.direction) for cell in cells] == [
        ("interpolate_latents", "slerp", "forward"),
        ("interpolate_latents", "slerp", "both"),
        ("frames_to_uint8", "plain", "forward"),
        ("frames_to_uint8", "tanh", "forward"),
    ]
    assert {(cell.shape, cell.dtype, cell.layout) for cell in cells} == {((2, 3, 5, 7), "bfloat16", "nchw")}
    assert [len(group) for group in cases(cells)] == [2, 1, 1]
    # a shape that one op cannot take is left to the others
    assert {cell.op for cell in select(shapes=["1x80x4x4"])} == set(OPS) - {"frames_to_uint8", "softmax_critic_loss"}
    assert len(set(select(shapes=["all"], dtypes=ALL))) == len(select(shapes=["all"], dtypes=ALL))


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"ops": ["batch_norm"]}, "ops: expected some of instance_norm, .*; got 'batch_norm'"),
        ({"ops": ["instance_norm/gelu"]}, "one variant of instance_norm/relu, .*; got 'instance_norm/gelu'"),
        ({"shapes": ["huge"]}, "shapes: expected some of quick, core, .* or a shape like 1x64x256x256, got 'huge'"),
        ({"shapes": ["64x64"]}, "got '64x64'"),
        ({"shapes": ["0x3x64x64"]}, "got '0x3x64x64'"),
        ({"shapes": []}, "got none"),
        ({"dtypes": ["float64"]}, "dtypes: expected some of float32, bfloat16, float16, got 'float64'"),
        ({"layouts": ["nhwc"]}, "layouts: expected some of nchw, channels_last, got 'nhwc'"),
        ({"directions": []}, "directions: expected some of forward, backward, both, got none"),
        ({"ops": ["frames_to_uint8"], "directions": ["backward"]}, "nothing to measure.*frames_to_uint8/plain"),
        ({"ops": ["frames_to_uint8"], "shapes": ["1x64x8x8"]}, "nothing to measure.*asked for were shapes 1x64x8x8"),
    ],
    ids=str,
)
def test_what_cannot_be_selected(asked: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        select(**asked)


def test_least_bytes() -> None:
    def least(op: str, variant: str, shape: tuple[int, ...], itemsize: int = 4) -> dict[str, int]:
        return dict(OPS[op].traffic(shape, variant, itemsize))

    assert least("instance_norm", "relu", (2, 3, 4, 5)) == {"forward": 960, "backward": 1440, "both": 2400}
    assert least("instance_norm", "relu+residual", (2, 3, 4, 5)) == {"forward": 1440, "backward": 1440, "both": 2880}
    assert least("softmax_critic_loss", "sources", (2, 3, 4, 5), 2) == {"forward": 240, "backward": 480, "both": 480}
    # 3 keys of 40 bytes and 17 frames
    assert least("interpolate_latents", "lerp", (3, 1, 2, 5)) == {"forward": 800, "backward": 800, "both": 1600}
    assert least("interpolate_latents", "slerp", (3, 1, 2, 5)) == {"forward": 800, "backward": 920, "both": 1720}
    assert least("interpolate_instance_norm", "relu", (3, 1, 2, 5)) == {"forward": 800}
    assert least("frames_to_uint8", "tanh", (2, 3, 4, 5)) == {"forward": 600}


def test_a_title_tells_cells_apart() -> None:
    cells = select(shapes=["all"], dtypes=ALL)
    assert len({cell.title for cell in cells}) == len({(cell.op, cell.id) for cell in cells}) == len(cells)
    cell = Cell("instance_norm", "relu", (1, 2, 3, 4), "float32", "nchw", "both")
    assert cell.title == "instance_norm relu both [1, 2, 3, 4] float32 nchw"
    assert cell.id == "relu-1x2x3x4-float32-nchw-both"
