"""Defines MBConv, the block of all EfficientNets: a mobile inverted bottleneck with squeeze-and-excitation.

Sandler et al. 2018 (the bottleneck), Tan and Le 2019, table 1 (MBConv1 and MBConv6). Attribute names are timm's, which
names the parts of MBConv1 and MBConv6 differently, so that its checkpoints load without translation.
"""

from torch import Tensor, nn

from effedge.pipeline.models.dropout import random_rows
from effedge.pipeline.models.same_padding import Conv2d
from effedge.pipeline.models.squeeze_excite import SqueezeExcite

# The published models' BatchNorm: TensorFlow's epsilon 1e-3, and decay 0.99, which PyTorch writes as momentum 0.01.
BATCH_NORM_EPS = 1e-3
BATCH_NORM_MOMENTUM = 0.01


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Returns a BatchNorm with the published models' epsilon and momentum."""
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)


def activation(lite: bool) -> nn.Module:
    """Returns swish (SiLU), or ReLU6 for the Lite models, whose quantized ranges are known beforehand."""
    return nn.ReLU6(inplace=True) if lite else nn.SiLU(inplace=True)


def drop_connect(x: Tensor, rate: float, training: bool) -> Tensor:
    """Drops a sample's branch with probability `rate` in training: stochastic depth (Huang et al. 2016)."""
    if not training or rate == 0.0:
        return x
    keep = random_rows(x.shape[0], 1, 1, 1, device=x.device) >= rate
    return x * keep / (1.0 - rate)


class MBConv1(nn.Module):
    """The block of the first stage, which does not expand: depthwise convolution, SE, 1x1 projection."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, lite: bool, drop_rate: float):
        super().__init__()
        self.conv_dw = Conv2d(inputs, inputs, kernel, stride, groups=inputs)
        self.bn1 = batch_norm(inputs)
        self.act1 = activation(lite)
        self.se = nn.Identity() if lite else SqueezeExcite(inputs, inputs // 4)
        self.conv_pw = Conv2d(inputs, outputs, 1)
        self.bn2 = batch_norm(outputs)
        self.shortcut = stride == 1 and inputs == outputs
        self.drop_rate = drop_rate

    def forward(self, x: Tensor) -> Tensor:
        y = self.se(self.act1(self.bn1(self.conv_dw(x))))
        y = self.bn2(self.conv_pw(y))
        return drop_connect(y, self.drop_rate, self.training) + x if self.shortcut else y


class MBConv6(nn.Module):
    """The block of the other stages: 1x1 expansion by six, depthwise convolution, SE, 1x1 projection.

    The projection has no activation; a shortcut is added where the shapes agree. SE squeezes to a
    quarter of the block's input channels, not of the expanded ones.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, lite: bool, drop_rate: float):
        super().__init__()
        expanded = 6 * inputs
        self.conv_pw = Conv2d(inputs, expanded, 1)
        self.bn1 = batch_norm(expanded)
        self.act1 = activation(lite)
        self.conv_dw = Conv2d(expanded, expanded, kernel, stride, groups=expanded)
        self.bn2 = batch_norm(expanded)
        self.act2 = activation(lite)
        self.se = nn.Identity() if lite else SqueezeExcite(expanded, inputs // 4)
        self.conv_pwl = Conv2d(expanded, outputs, 1)
        self.bn3 = batch_norm(outputs)
        self.shortcut = stride == 1 and inputs == outputs
        self.drop_rate = drop_rate

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv_pw(x)))
        y = self.se(self.act2(self.bn2(self.conv_dw(y))))
        y = self.bn3(self.conv_pwl(y))
        return drop_connect(y, self.drop_rate, self.training) + x if self.shortcut else y
