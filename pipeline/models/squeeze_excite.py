"""Reweights channels by their own global average: squeeze-and-excitation (Hu, Shen and Sun 2018)."""

from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation: x * sigmoid(expand(swish(reduce(mean(x))))), [N,C,H,W] -> the same shape."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, squeezed, 1)
        self.act1 = nn.SiLU(inplace=True)
        self.conv_expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        weights = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.conv_expand(self.act1(self.conv_reduce(weights))))
