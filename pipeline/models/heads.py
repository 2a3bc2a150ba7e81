"""Predicts classes and boxes from the pyramid's features: heads that share their convolutions over the levels.

BatchNorm is not shared: each level has its own. Tan, Pang and Le 2020, section 4; the state-dict keys are effdet's.
"""

import math

import torch
from torch import Tensor, nn

from effedge.pipeline.models.bifpn import SeparableConv
from effedge.pipeline.models.mbconv import activation, batch_norm

PRIOR = 0.01  # the probability that an untrained head gives to every class (Lin et al. 2017, section 4.1)


class Norm(nn.Module):
    """A level's BatchNorm in a container of its own, so that its key is effdet's `bn_rep.<layer>.<level>.bn`."""

    def __init__(self, channels: int):
        super().__init__()
        self.bn = batch_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x)


class Head(nn.Module):
    """Head: per level [N,channels,H,W] -> [N,outputs*anchors,H,W]; output o of anchor a is channel a * outputs + o."""

    def __init__(self, channels: int, layers: int, levels: int, outputs: int, anchors: int, lite: bool):
        super().__init__()
        self.conv_rep = nn.ModuleList(SeparableConv(channels, channels) for _ in range(layers))
        self.bn_rep = nn.ModuleList(nn.ModuleList(Norm(channels) for _ in range(levels)) for _ in range(layers))
        self.act = activation(lite)
        self.predict = SeparableConv(channels, outputs * anchors)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        outputs = []
        for level, x in enumerate(features):
            for conv, norms in zip(self.conv_rep, self.bn_rep, strict=True):
                assert isinstance(norms, nn.ModuleList)
                x = self.act(norms[level](conv(x)))
            outputs.append(self.predict(x))
        return outputs


def flatten_levels(levels: list[Tensor], width: int) -> Tensor:
    """Concatenates a head's outputs per level, [N,anchors*width,h,w], to [N,A,width] in the anchors' order."""
    return torch.cat([level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, width) for level in levels], dim=1)


def initialize_head(head: Head, bias: float) -> None:
    """Initializes a head as the published models were: variance scaling by fan-in, and `bias` for the predictions."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=math.sqrt(1.0 / fan_in))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    assert head.predict.conv_pw.bias is not None
    nn.init.constant_(head.predict.conv_pw.bias, bias)


def prior_bias() -> float:
    """Returns the logit of PRIOR."""
    return -math.log((1 - PRIOR) / PRIOR)
