"""Fuses the features of the pyramid's levels: BiFPN (Tan, Pang and Le 2020, section 3), with effdet's state-dict keys.

A layer goes over the levels top-down, then bottom-up. A node resamples its inputs to its own resolution, fuses them by
learned weights, and applies swish, a depthwise separable convolution and BatchNorm:

    P6_td  = Conv((w1 P6_in + w2 Resize(P7_in)) / (w1 + w2 + eps))
    P6_out = Conv((w1' P6_in + w2' P6_td + w3' Resize(P5_out)) / (w1' + w2' + w3' + eps))

FPN (Lin et al. 2017) and PANet (Liu et al. 2018) are layers of the same nodes along other paths, as the paper compares
them with BiFPN in section 5.2 and table 5: repeated, and with its convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effedge.pipeline.models.mbconv import activation, batch_norm
from effedge.pipeline.models.same_padding import Conv2d, MaxPool3x3
from effedge.pipeline.models.tables import NeckRow

FUSIONS = ("fast", "softmax", "unbounded", "sum")  # section 3.3's three, and the plain sum of D6 to D7x and Lite
FUSION_EPS = 1e-4


class SeparableConv(nn.Module):
    """A depthwise 3x3 convolution and a 1x1 with bias, [N,Cin,H,W] -> [N,Cout,H,W]; then BatchNorm if `norm`."""

    def __init__(self, inputs: int, outputs: int, norm: bool = False):
        super().__init__()
        self.conv_dw = Conv2d(inputs, inputs, 3, groups=inputs)
        # TensorFlow's models have this bias in front of BatchNorm too, where it is redundant; export folds it away.
        self.conv_pw = Conv2d(inputs, outputs, 1, bias=True)
        self.bn = batch_norm(outputs) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_pw(self.conv_dw(x))
        return x if self.bn is None else self.bn(x)


class Projection(nn.Module):
    """A 1x1 convolution with BatchNorm, to the BiFPN's channels."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = Conv2d(inputs, outputs, 1, bias=True)
        self.bn = batch_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class Resample(nn.Module):
    """Brings a level to another level's channels (projection) and resolution.

    The resolution changes by a max-pool down and repeated pixels up, or both ways bilinearly (`resample_bilinearly`).
    """

    bilinear = False

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = Projection(inputs, outputs) if inputs != outputs else None
        self.downsample = MaxPool3x3()

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        if self.conv is not None:
            x = self.conv(x)
        # Of a wide input one side of a coarse level may be a cell already, while the other still halves.
        if x.shape[2] > size[0] or x.shape[3] > size[1]:
            return resize_bilinearly(x, size) if self.bilinear else self.downsample(x)
        if x.shape[2] < size[0] or x.shape[3] < size[1]:
            return resize_bilinearly(x, size) if self.bilinear else F.interpolate(x, size=size, mode="nearest")
        return x


def resize_bilinearly(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes [N,C,H,W] bilinearly, without antialiasing, pixel centres at halves.

    Half of an even size is the mean of 2x2 pixels, which every backend has as a pooling.
    """
    if (x.shape[2], x.shape[3]) == (2 * size[0], 2 * size[1]):
        return F.avg_pool2d(x, kernel_size=2)
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def resample_bilinearly(model: nn.Module) -> None:
    """Makes all of `model` that changes a level's resolution do so bilinearly; the sizes stay the same."""
    for module in model.modules():
        if isinstance(module, Resample):
            module.bilinear = True


class Fusion(nn.Module):
    """The weighted sum of a node's inputs, resampled to `size`.

    The weight of input i is, by `fusion`:

    - fast: relu(w_i) / (eps + sum relu(w_j)), section 3.3's fast normalized fusion;
    - softmax: exp(w_i) / sum exp(w_j);
    - unbounded: w_i;
    - sum: 1, and there are no parameters.

    The sum is written as w0 * a + w1 * b, without a stack or a reduction, so that the normalized weights fold to
    constants in the exported graph.
    """

    def __init__(self, channels: Sequence[int], sources: Sequence[int], outputs: int, fusion: str):
        super().__init__()
        self.sources, self.fusion = tuple(sources), fusion
        self.resample = nn.ModuleDict({str(source): Resample(channels[source], outputs) for source in sources})
        self.edge_weights = None if fusion == "sum" else nn.Parameter(torch.ones(len(sources)))

    def weights(self) -> Tensor | None:
        """Returns the normalized weights, [inputs], or None for the plain sum."""
        if self.edge_weights is None or self.fusion == "unbounded":
            return self.edge_weights
        if self.fusion == "softmax":
            return torch.softmax(self.edge_weights, dim=0)
        positive = F.relu(self.edge_weights)
        return positive / (positive.sum() + FUSION_EPS)

    def forward(self, nodes: list[Tensor], size: tuple[int, int]) -> Tensor:
        inputs = [self.resample[str(source)](nodes[source], size) for source in self.sources]
        weights = self.weights()
        if weights is not None:
            inputs = [weight * x for weight, x in zip(weights.unbind(), inputs, strict=True)]
        # The activation behind works in place, which must not reach the source of a node with a single input.
        total = inputs[0].clone() if weights is None and len(inputs) == 1 else inputs[0]
        for x in inputs[1:]:
            total = total + x
        return total


class Node(nn.Module):
    """A node of a layer: fusion, activation, convolution."""

    def __init__(self, channels: Sequence[int], sources: Sequence[int], outputs: int, fusion: str, lite: bool):
        super().__init__()
        self.combine = Fusion(channels, sources, outputs, fusion)
        self.after_combine = nn.Sequential()
        self.after_combine.add_module("act", activation(lite))
        self.after_combine.add_module("conv", SeparableConv(outputs, outputs, norm=True))

    def forward(self, nodes: list[Tensor], size: tuple[int, int]) -> Tensor:
        return self.after_combine(self.combine(nodes, size))


# A node's level, and its sources: 0 to levels-1 are the layer's inputs, later numbers the nodes in their order.
Plan = list[tuple[int, list[int]]]


def fpn_nodes(levels: int) -> Plan:
    """Lists the nodes of an FPN layer (figure 2a): top-down, each level with the node of the next coarser one.

    The coarsest level's node has a single input.
    """
    nodes = [(levels - 1, [levels - 1])]
    for level in range(levels - 2, -1, -1):
        nodes.append((level, [level, levels + len(nodes) - 1]))
    return nodes


def panet_nodes(levels: int) -> Plan:
    """Lists the nodes of a PANet layer (figure 2b): FPN's, then as many bottom-up over those; effdet's pan_*.

    The coarsest level's first node and the finest level's last have a single input.
    """
    nodes = fpn_nodes(levels)
    top_down = [2 * levels - 1 - level for level in range(levels)]
    nodes.append((0, [top_down[0]]))
    for level in range(1, levels):
        nodes.append((level, [top_down[level], levels + len(nodes) - 1]))
    return nodes


def bifpn_nodes(levels: int) -> Plan:
    """Lists the nodes of a BiFPN layer (figure 2d).

    The nodes go top-down from the second coarsest level, then bottom-up. An output node fuses its level's input and
    intermediate node (the paper's extra edge) with the next finer output. Nodes with a single input do not exist.
    """
    history = [[level] for level in range(levels)]
    nodes = []
    for level in range(levels - 2, -1, -1):
        nodes.append((level, [history[level][-1], history[level + 1][-1]]))
        history[level].append(levels + len(nodes) - 1)
    for level in range(1, levels):
        nodes.append((level, [*history[level], history[level - 1][-1]]))
        history[level].append(levels + len(nodes) - 1)
    return nodes


PATHS = {"fpn": fpn_nodes, "panet": panet_nodes, "bifpn": bifpn_nodes}


class NeckLayer(nn.Module):
    """A layer of a neck: features of all levels, finest first -> as many, all with `outputs` channels."""

    def __init__(self, channels: Sequence[int], outputs: int, neck: NeckRow, lite: bool):
        super().__init__()
        levels = len(channels)
        self.plan = PATHS[neck.paths](levels)
        self.last_of_level = {level: levels + index for index, (level, _) in enumerate(self.plan)}
        source_channels = [*channels, *[outputs] * len(self.plan)]
        self.fnode = nn.ModuleList(
            Node(source_channels, sources, outputs, neck.fusion, lite) for _, sources in self.plan
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        sizes = [(x.shape[2], x.shape[3]) for x in features]
        nodes = list(features)
        for (level, _), node in zip(self.plan, self.fnode, strict=True):
            nodes.append(node(nodes, sizes[level]))
        return [nodes[self.last_of_level[level]] for level in range(len(features))]


class Neck(nn.Module):
    """A stack of layers over the backbone's P3 to P5 and the coarser levels that are pooled from P5."""

    def __init__(self, channels: Sequence[int], outputs: int, layers: int, levels: int, neck: NeckRow, lite: bool):
        super().__init__()
        level_channels = list(channels)
        self.resample = nn.ModuleDict()
        for level in range(len(channels), levels):
            self.resample[str(level)] = Resample(level_channels[-1], outputs)
            level_channels.append(outputs)
        self.cell = nn.Sequential()
        for _ in range(layers):
            self.cell.append(NeckLayer(level_channels, outputs, neck, lite))
            level_channels = [outputs] * levels

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        for resample in self.resample.values():
            finer = features[-1]
            features = [*features, resample(finer, (-(-finer.shape[2] // 2), -(-finer.shape[3] // 2)))]
        return self.cell(features)
