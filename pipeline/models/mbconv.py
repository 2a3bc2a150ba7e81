"""Defines the blocks of EfficientNets: MBConv, a mobile inverted bottleneck with squeeze-and-excitation; Fused-MBConv.

Sandler et al. 2018 (the bottleneck), Tan and Le 2019, table 1 (MBConv1 and MBConv6), Tan and Le 2021, figure 2 and
table 4 (MBConv4 and Fused-MBConv). Attribute names are timm's, which names the parts of each block differently, so that
its checkpoints load without translation.
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


class Block(nn.Module):
    """A residual block: a branch of layers, and a shortcut around it where the shapes of input and output agree.

    In training a sample's branch is dropped with probability `drop_rate`.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, drop_rate: float):
        super().__init__()
        self.shortcut = stride == 1 and inputs == outputs
        self.drop_rate = drop_rate

    def branch(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        return drop_connect(y, self.drop_rate, self.training) + x if self.shortcut else y


class MBConv1(Block):
    """The block of EfficientNet's first stage, which does not expand: depthwise convolution, SE, 1x1 projection."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, lite: bool, drop_rate: float):
        super().__init__(inputs, outputs, stride, drop_rate)
        self.conv_dw = Conv2d(inputs, inputs, kernel, stride, groups=inputs)
        self.bn1 = batch_norm(inputs)
        self.act1 = activation(lite)
        self.se = nn.Identity() if lite else SqueezeExcite(inputs, inputs // 4)
        self.conv_pw = Conv2d(inputs, outputs, 1)
        self.bn2 = batch_norm(outputs)

    def branch(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv_pw(self.se(self.act1(self.bn1(self.conv_dw(x))))))


class MBConv(Block):
    """MBConv: 1x1 expansion by `expansion`, depthwise convolution, SE, 1x1 projection without activation.

    SE squeezes to a quarter of the block's input channels, not of the expanded ones.
    """

    expansion: int

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, lite: bool, drop_rate: float):
        super().__init__(inputs, outputs, stride, drop_rate)
        expanded = self.expansion * inputs
        self.conv_pw = Conv2d(inputs, expanded, 1)
        self.bn1 = batch_norm(expanded)
        self.act1 = activation(lite)
        self.conv_dw = Conv2d(expanded, expanded, kernel, stride, groups=expanded)
        self.bn2 = batch_norm(expanded)
        self.act2 = activation(lite)
        self.se = nn.Identity() if lite else SqueezeExcite(expanded, inputs // 4)
        self.conv_pwl = Conv2d(expanded, outputs, 1)
        self.bn3 = batch_norm(outputs)

    def branch(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv_pw(x)))
        y = self.se(self.act2(self.bn2(self.conv_dw(y))))
        return self.bn3(self.conv_pwl(y))


class MBConv4(MBConv):
    """MBConv with an expansion by four, of EfficientNetV2's fourth stage."""

    expansion = 4


class MBConv6(MBConv):
    """MBConv with an expansion by six, of all other stages."""

    expansion = 6


class FusedMBConv1(Block):
    """Fused-MBConv without expansion, EfficientNetV2's first stage: a convolution, BatchNorm and swish.

    Nothing is left to project, so the shortcut is added to the activation's output.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, lite: bool, drop_rate: float):
        super().__init__(inputs, outputs, stride, drop_rate)
        self.conv = Conv2d(inputs, outputs, kernel, stride)
        self.bn1 = batch_norm(outputs)
        self.act1 = activation(lite)

    def branch(self, x: Tensor) -> Tensor:
        return self.act1(self.bn1(self.conv(x)))


class FusedMBConv(Block):
    """Fused-MBConv: a full convolution, which expands by `expansion`, in place of MBConv's 1x1 and depthwise; no SE."""

    expansion: int

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, lite: bool, drop_rate: float):
        super().__init__(inputs, outputs, stride, drop_rate)
        expanded = self.expansion * inputs
        self.conv_exp = Conv2d(inputs, expanded, kernel, stride)
        self.bn1 = batch_norm(expanded)
        self.act1 = activation(lite)
        self.conv_pwl = Conv2d(expanded, outputs, 1)
        self.bn2 = batch_norm(outputs)

    def branch(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv_pwl(self.act1(self.bn1(self.conv_exp(x)))))


class FusedMBConv4(FusedMBConv):
    """Fused-MBConv with an expansion by four, of EfficientNetV2's second and third stage."""

    expansion = 4


class FusedMBConv1Projected(FusedMBConv):
    """Fused-MBConv without expansion but with the projection, the first stage of timm's efficientnetv2_rw_s.

    timm built that model from the paper's figures before the authors' code, where this stage is FusedMBConv1.
    """

    expansion = 1
