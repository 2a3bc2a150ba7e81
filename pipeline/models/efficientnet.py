"""Builds EfficientNet (Tan and Le 2019, table 1) and EfficientNet-Lite, with timm's state-dict keys."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from effedge.pipeline.models.compound_scaling import round_channels, round_layers
from effedge.pipeline.models.dropout import drop_out
from effedge.pipeline.models.mbconv import MBConv1, MBConv6, activation, batch_norm
from effedge.pipeline.models.same_padding import Conv2d, pad_symmetrically
from effedge.pipeline.models.tables import EfficientNetRow


class Stage(NamedTuple):
    """A row of the paper's table 1: `layers` blocks, the first at `stride`."""

    block: type[MBConv1] | type[MBConv6]
    kernel: int
    stride: int
    channels: int
    layers: int


STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
B0_STAGES = (
    Stage(MBConv1, 3, 1, 16, 1),
    Stage(MBConv6, 3, 2, 24, 2),
    Stage(MBConv6, 5, 2, 40, 2),
    Stage(MBConv6, 3, 2, 80, 3),
    Stage(MBConv6, 5, 1, 112, 3),
    Stage(MBConv6, 5, 2, 192, 4),
    Stage(MBConv6, 3, 1, 320, 1),
)
# The last stage at 1/8, 1/16 and 1/32 of the input: P3, P4 and P5 of the BiFPN.
PYRAMID_STAGES = (2, 4, 6)
DROP_CONNECT = 0.2


def scaled_stages(row: EfficientNetRow) -> list[Stage]:
    """Scales B0's stages by the row's width and depth. Lite keeps the depth of the first and the last stage."""
    last = len(B0_STAGES) - 1
    return [
        stage._replace(
            channels=round_channels(stage.channels * row.width),
            layers=stage.layers if row.lite and index in (0, last) else round_layers(stage.layers, row.depth),
        )
        for index, stage in enumerate(B0_STAGES)
    ]


class Trunk(nn.Module):
    """The stem and the seven MBConv stages, which classifier and detector have in common."""

    def __init__(self, row: EfficientNetRow):
        super().__init__()
        stages = scaled_stages(row)
        channels = STEM_CHANNELS if row.lite else round_channels(STEM_CHANNELS * row.width)
        self.conv_stem = Conv2d(3, channels, 3, stride=2)
        self.bn1 = batch_norm(channels)
        self.act1 = activation(row.lite)
        self.blocks = nn.Sequential()
        total, index = sum(stage.layers for stage in stages), 0
        for stage in stages:
            blocks = nn.Sequential()
            for layer in range(stage.layers):
                stride = stage.stride if layer == 0 else 1
                rate = DROP_CONNECT * index / total  # grows linearly over the blocks
                blocks.append(stage.block(channels, stage.channels, stage.kernel, stride, row.lite, rate))
                channels, index = stage.channels, index + 1
            self.blocks.append(blocks)
        self.channels = [stage.channels for stage in stages]


class EfficientNet(Trunk):
    """A classifier: [N,3,H,W] normalized -> logits [N,classes]."""

    def __init__(self, row: EfficientNetRow, classes: int):
        super().__init__(row)
        self.row, self.classes = row, classes
        features = HEAD_CHANNELS if row.lite else round_channels(HEAD_CHANNELS * row.width)
        self.conv_head = Conv2d(self.channels[-1], features, 1)
        self.bn2 = batch_norm(features)
        self.act2 = activation(row.lite)
        self.classifier = nn.Linear(features, classes)
        self.apply(initialize)
        follow_family(self, row)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.act1(self.bn1(self.conv_stem(x))))
        x = self.act2(self.bn2(self.conv_head(x))).mean((2, 3))
        x = drop_out(x, self.row.dropout, self.training)
        return self.classifier(x)


class Backbone(Trunk):
    """An EfficientNet without its head: [N,3,H,W] -> features at 1/8, 1/16 and 1/32, [N,C,H/8,W/8] and so on."""

    def __init__(self, row: EfficientNetRow):
        super().__init__(row)
        self.pyramid_channels = [self.channels[index] for index in PYRAMID_STAGES]
        self.apply(initialize)
        follow_family(self, row)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.act1(self.bn1(self.conv_stem(x)))
        features = []
        for index, stage in enumerate(self.blocks):
            x = stage(x)
            if index in PYRAMID_STAGES:
                features.append(x)
        return features


def follow_family(model: nn.Module, row: EfficientNetRow) -> None:
    """Gives all modules the padding and the BatchNorm epsilon of the row's family; they are made as TensorFlow's."""
    if row.symmetric:
        pad_symmetrically(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = row.epsilon


def initialize(module: nn.Module) -> None:
    """Initializes convolutions as the published models were: He normal by fan-out; linear layers with small numbers."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2.0 / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)  # small, so that few classes start near an even chance
        nn.init.zeros_(module.bias)
