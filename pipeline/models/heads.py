"""Class and box heads: convolutions shared by all levels, a BatchNorm for each level.

Tan, Pang and Le 2020, section 4; the state-dict keys are effdet's.
"""

import math

from torch import Tensor, nn

from effedge.pipeline.models.bifpn import SeparableConv
from effedge.pipeline.models.mbconv import activation, batch_norm

PRIOR = 0.01  # the probability that an untrained head gives to every class (Lin et al. 2017, section 4.1)


class Norm(nn.Module):
    """effdet wraps each level's BatchNorm in a container; this keeps its key, `bn_rep.<layer>.<level>.bn`."""

    def __init__(self, channels: int):
        super().__init__()
        self.bn = batch_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x)


class Head(nn.Module):
    """Per level [N,channels,H,W] -> [N,outputs*anchors,H,W], where output o of anchor a is channel a * outputs + o."""

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


def initialize_head(head: Head, bias: float) -> None:
    """Variance scaling by fan-in, as the published models were initialized; `bias` for the predictions."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=math.sqrt(1.0 / fan_in))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    assert head.predict.conv_pw.bias is not None
    nn.init.constant_(head.predict.conv_pw.bias, bias)


def prior_bias() -> float:
    """The logit of PRIOR."""
    return -math.log((1 - PRIOR) / PRIOR)
