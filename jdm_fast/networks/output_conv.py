"""The convolution from many channels to an image's three, arranged for the CPU.

oneDNN works on blocks of 8 or 16 output channels, so three cost as much as a whole block. There are equal arrangements
with more outputs, or with few *input* channels, which it does well:

- Forward: the four outputs of a 2x2 square become four channels of one stride-2 convolution, whose 8x8 kernel holds the
  7x7 one in its four positions; they are put in their places afterwards.
- Backward: a convolution is also a transposed convolution with the flipped kernel, and the gradients of that one go
  from the three channels of dy to the many of x.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class OutputConv(nn.Conv2d):
    """``nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)``, faster on a CPU for few outputs.

    Same parameters, and same values and gradients up to rounding. It is that very convolution wherever the arrangement
    does not apply: on a GPU, in other dtypes than float32, under autocast, for channels_last input, odd sides, and in
    compiled or exported graphs. The arranged one can be differentiated once; a second time raises.

    Args:
        in_channels, out_channels: as ``nn.Conv2d``.
        kernel_size: odd.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: expected an odd number, got {kernel_size}")
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] to [N, out_channels, H, W]."""
        arranged = (
            not torch.compiler.is_compiling()
            and x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and x.is_contiguous()
            and x.shape[-2] % 2 == 0
            and x.shape[-1] % 2 == 0
        )
        return _ArrangedConv.apply(x, self.weight, self.bias) if arranged else super().forward(x)


class _ArrangedConv(torch.autograd.Function):
    """The forward and backward arrangements of the module's docstring."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        padding = weight.shape[-1] // 2
        # [out, (dy, dx), in, k + 1, k + 1]: the kernel moved by (dy, dx), in the order pixel_shuffle puts back.
        moved = [F.pad(weight, (dx, 1 - dx, dy, 1 - dy)) for dy in (0, 1) for dx in (0, 1)]
        squares = F.conv2d(x, torch.stack(moved, 1).flatten(0, 1), bias.repeat_interleave(4), stride=2, padding=padding)
        return F.pixel_shuffle(squares, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        padding = [weight.shape[-1] // 2] * 2
        flipped = weight.flip(2, 3).transpose(0, 1).contiguous()  # [in, out, k, k]
        dx = F.conv2d(dy, flipped, padding=padding) if needs_x else None
        d_weight = None
        if needs_weight:
            # The weight gradient of the convolution dy -> x whose kernel is `flipped`.
            mask = [False, True, False]
            swapped = (x, dy, flipped, None, [1, 1], padding, [1, 1], False, [0, 0], 1, mask)
            d_weight = torch.ops.aten.convolution_backward(*swapped)[1].flip(2, 3).transpose(0, 1)
        return dx, d_weight, dy.sum((0, 2, 3)) if needs_bias else None
