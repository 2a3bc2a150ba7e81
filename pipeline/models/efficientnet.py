"""Builds EfficientNet (Tan and Le 2019, table 1), EfficientNet-Lite and EfficientNetV2 (Tan and Le 2021, table 4).

The state-dict keys are timm's. The stages of V2's other sizes are those of its code release (google/automl,
efficientnetv2, effnetv2_configs.py), and those of V2's variants in PyTorch timm's (1.0.31, efficientnetv2_rw_*).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from effedge.pipeline.models.compound_scaling import round_channels, round_layers
from effedge.pipeline.models.dropout import drop_out
from effedge.pipeline.models.mbconv import (
    FusedMBConv1,
    FusedMBConv1Projected,
    FusedMBConv4,
    MBConv1,
    MBConv4,
    MBConv6,
    activation,
    batch_norm,
)
from effedge.pipeline.models.same_padding import Conv2d, pad_symmetrically
from effedge.pipeline.models.tables import EfficientNetRow

BlockType = type[MBConv1 | MBConv4 | MBConv6 | FusedMBConv1 | FusedMBConv1Projected | FusedMBConv4]


class Stage(NamedTuple):
    """A row of the papers' tables: `layers` blocks, the first at `stride`."""

    block: BlockType
    kernel: int
    stride: int
    channels: int
    layers: int


class Network(NamedTuple):
    """The stages of a network, with the output channels of the stem in front and of a classifier's last 1x1."""

    stem: int
    stages: tuple[Stage, ...]
    head: int = 1280


B0_STAGES = (
    Stage(MBConv1, 3, 1, 16, 1),
    Stage(MBConv6, 3, 2, 24, 2),
    Stage(MBConv6, 5, 2, 40, 2),
    Stage(MBConv6, 3, 2, 80, 3),
    Stage(MBConv6, 5, 1, 112, 3),
    Stage(MBConv6, 5, 2, 192, 4),
    Stage(MBConv6, 3, 1, 320, 1),
)


def v2_stages(*sizes: tuple[int, int], first: BlockType = FusedMBConv1) -> tuple[Stage, ...]:
    """Makes the stages of an EfficientNetV2 of (channels, layers) for each of its six or seven stages."""
    blocks: tuple[BlockType, ...] = (first, FusedMBConv4, FusedMBConv4, MBConv4, MBConv6, MBConv6, MBConv6)
    return tuple(
        Stage(block, 3, stride, *size)
        for block, stride, size in zip(blocks, (1, 2, 2, 2, 1, 2, 1), sizes, strict=False)
    )


# By the row's `stages`. V2-RW-T is timm's V2-S by width 0.8 and depth 0.9, with channels that are rounded as V1's.
STAGES = {
    "b0": Network(32, B0_STAGES),
    "v2-b0": Network(32, v2_stages((16, 1), (32, 2), (48, 2), (96, 3), (112, 5), (192, 8))),
    "v2-s": Network(24, v2_stages((24, 2), (48, 4), (64, 4), (128, 6), (160, 9), (256, 15))),
    "v2-m": Network(24, v2_stages((24, 3), (48, 5), (80, 5), (160, 7), (176, 14), (304, 18), (512, 5))),
    "v2-l": Network(32, v2_stages((32, 4), (64, 7), (96, 7), (192, 10), (224, 19), (384, 25), (640, 7))),
    "v2-xl": Network(32, v2_stages((32, 4), (64, 8), (96, 8), (192, 16), (256, 24), (512, 32), (640, 8))),
    "v2-rw-t": Network(24, v2_stages((24, 2), (40, 4), (48, 4), (104, 6), (128, 9), (208, 14)), head=1024),
    "v2-rw-s": Network(
        24,
        v2_stages((24, 2), (48, 4), (64, 4), (128, 6), (160, 9), (272, 15), first=FusedMBConv1Projected),
        head=1792,
    ),
}
DROP_CONNECT = 0.2


def scaled_stages(row: EfficientNetRow) -> list[Stage]:
    """Scales the stages by the row's width and depth. Lite keeps the depth of the first and the last stage."""
    stages = STAGES[row.stages].stages
    last = len(stages) - 1
    return [
        stage._replace(
            channels=scaled_channels(row, stage.channels),
            layers=stage.layers if row.lite and index in (0, last) else round_layers(stage.layers, row.depth),
        )
        for index, stage in enumerate(stages)
    ]


def scaled_channels(row: EfficientNetRow, channels: int) -> int:
    """Multiplies channels by the row's width; V2 rounds to the nearest multiple of 8 even below 90%."""
    return round_channels(channels * row.width, least=0.9 if row.stages == "b0" else 0.0)


def stem_channels(row: EfficientNetRow) -> int:
    """Returns the output channels of the stem, which Lite does not scale."""
    channels = STAGES[row.stages].stem
    return channels if row.lite else scaled_channels(row, channels)


def head_channels(row: EfficientNetRow) -> int:
    """Returns the output channels of a classifier's last 1x1 convolution, which Lite does not scale."""
    channels = STAGES[row.stages].head
    return channels if row.lite else scaled_channels(row, channels)


def pyramid_stages(row: EfficientNetRow) -> list[int]:
    """Lists the last stages at 1/8, 1/16 and 1/32 of the input: P3, P4 and P5 of the BiFPN.

    The stem is at 1/2; each stage at stride 2 halves that.
    """
    stages = STAGES[row.stages].stages
    ends = [index for index, stage in enumerate(stages[1:]) if stage.stride == 2]  # the stage before is the last
    return [*ends, len(stages) - 1][-3:]


class Trunk(nn.Module):
    """The stem and the stages of blocks, which classifier and detector have in common."""

    def __init__(self, row: EfficientNetRow):
        super().__init__()
        stages = scaled_stages(row)
        channels = stem_channels(row)
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
        self.dropout = row.dropout  # which a training may change
        features = head_channels(row)
        self.conv_head = Conv2d(self.channels[-1], features, 1)
        self.bn2 = batch_norm(features)
        self.act2 = activation(row.lite)
        self.classifier = nn.Linear(features, classes)
        self.apply(initialize)
        follow_family(self, row)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.act1(self.bn1(self.conv_stem(x))))
        x = self.act2(self.bn2(self.conv_head(x))).mean((2, 3))
        x = drop_out(x, self.dropout, self.training)
        return self.classifier(x)


class Backbone(Trunk):
    """An EfficientNet without its head: [N,3,H,W] -> features at 1/8, 1/16 and 1/32, [N,C,H/8,W/8] and so on."""

    def __init__(self, row: EfficientNetRow):
        super().__init__(row)
        self.pyramid_stages = pyramid_stages(row)
        self.pyramid_channels = [self.channels[index] for index in self.pyramid_stages]
        self.apply(initialize)
        follow_family(self, row)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.act1(self.bn1(self.conv_stem(x)))
        features = []
        for index, stage in enumerate(self.blocks):
            x = stage(x)
            if index in self.pyramid_stages:
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
