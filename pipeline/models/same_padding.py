"""Pads as TensorFlow's SAME does: output = ceil(input / stride), an odd pixel goes to the bottom and to the right.

The published EfficientNets were trained with it (Tan and Le 2019, section 3, by way of TensorFlow). Sizes are plain
integers when the model is exported, so a pad becomes a constant, which `effedge.pipeline.export.passes.fuse_pad` moves
into the asymmetric `pads` of the convolution or pooling.

Models that were trained in PyTorch pad `kernel // 2` pixels on either side instead: `pad_symmetrically`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def same_pads(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Computes the pixels to pad (before, after) along one axis of `size` pixels.

    >>> same_pads(224, kernel=3, stride=2)
    (0, 1)
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_same(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Pads [N,C,H,W] for a `kernel` at `stride`; returns `x` itself if there is nothing to pad."""
    top, bottom = same_pads(x.shape[2], kernel, stride)
    left, right = same_pads(x.shape[3], kernel, stride)
    if top == bottom == left == right == 0:
        return x
    return F.pad(x, (left, right, top, bottom), value=value)


class Conv2d(nn.Conv2d):
    """A convolution with SAME padding: [N,Cin,H,W] -> [N,Cout,ceil(H/stride),ceil(W/stride)]."""

    symmetric = False

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = False):
        # At stride 1 an odd kernel pads the same on both sides, which the convolution does by itself.
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1 and not self.symmetric:
            x = pad_same(x, self.kernel_size[0], self.stride[0])
        return super().forward(x)


class MaxPool3x3(nn.Module):
    """The BiFPN's downsampling: a 3x3 max-pool at stride 2 with SAME padding by minus infinity."""

    symmetric = False

    def forward(self, x: Tensor) -> Tensor:
        if self.symmetric:
            return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        return F.max_pool2d(pad_same(x, 3, 2, value=-torch.inf), kernel_size=3, stride=2)


def pad_symmetrically(model: nn.Module) -> None:
    """Makes convolutions and max-pools inside `model` pad kernel // 2 pixels on either side; sizes stay the same."""
    for module in model.modules():
        if isinstance(module, Conv2d):
            module.padding = (module.kernel_size[0] // 2, module.kernel_size[1] // 2)
        if isinstance(module, Conv2d | MaxPool3x3):
            module.symmetric = True
