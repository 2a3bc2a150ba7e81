"""Builds EfficientDet (Tan, Pang and Le 2020): EfficientNet backbone, BiFPN and two heads; effdet's state-dict keys.

In place of the BiFPN there may be another of `effedge.pipeline.models.tables.NECKS`.
"""

from __future__ import annotations

from torch import Tensor, nn

from effedge.pipeline.models.anchors import ANCHORS_PER_CELL
from effedge.pipeline.models.bifpn import Neck, Projection, SeparableConv, resample_bilinearly
from effedge.pipeline.models.efficientnet import Backbone
from effedge.pipeline.models.heads import Head, initialize_head, prior_bias
from effedge.pipeline.models.same_padding import pad_symmetrically
from effedge.pipeline.models.tables import NECKS, EfficientDetRow, EfficientNetRow


class EfficientDet(nn.Module):
    """A detector: [N,3,H,W] normalized -> (class logits per level, box codes per level), NCHW, finest level first.

    Class logits are [N,9*classes,h,w] with channel anchor * classes + class; box codes [N,36,h,w] with channel
    anchor * 4 + (ty, tx, th, tw). `effedge.pipeline.models.anchors` defines the anchors and the code. There are 9
    anchors in a cell, or `anchors`.
    """

    def __init__(self, row: EfficientDetRow, backbone: EfficientNetRow, classes: int, anchors: int = ANCHORS_PER_CELL):
        super().__init__()
        self.row, self.classes = row, classes
        self.backbone = Backbone(backbone)
        channels, levels, lite = row.channels, row.levels, backbone.lite
        self.fpn = Neck(self.backbone.pyramid_channels, channels, row.layers, levels, NECKS[row.neck], lite)
        self.class_net = Head(channels, row.head_layers, levels, classes, anchors, lite)
        self.box_net = Head(channels, row.head_layers, levels, 4, anchors, lite)
        for module in self.fpn.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
        for module in self.fpn.modules():
            if isinstance(module, SeparableConv):  # a depthwise filter's fans are counted within its group
                nn.init.kaiming_uniform_(module.conv_dw.weight, nonlinearity="linear")
        initialize_head(self.class_net, bias=prior_bias())
        initialize_head(self.box_net, bias=0.0)
        if row.bilinear:
            resample_bilinearly(self.fpn)
        for part in (self.fpn, self.class_net, self.box_net):
            if row.symmetric:
                pad_symmetrically(part)
            if not row.redundant_bias:
                drop_redundant_biases(part)

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        features = self.fpn(self.backbone(x))
        return self.class_net(features), self.box_net(features)


def drop_redundant_biases(model: nn.Module) -> None:
    """Removes the biases of the convolutions in front of BatchNorm, which subtracts them anyway."""
    for module in model.modules():
        if isinstance(module, Projection):
            module.conv.bias = None
        if isinstance(module, SeparableConv) and module.bn is not None:
            module.conv_pw.bias = None
        if isinstance(module, Head):
            for conv in module.conv_rep:
                assert isinstance(conv, SeparableConv)
                conv.conv_pw.bias = None  # its BatchNorm is a level's own, in bn_rep
