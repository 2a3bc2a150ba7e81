"""Wraps a model in the engine's contract, uint8 images in, candidates or logits out: the modules that are exported.

Normalization: the standard deviation is folded into the stem's kernel; the mean is subtracted in front of it, because
SAME padding is zero in normalized pixels, and a mean that is folded into the bias would be wrong along two edges.

Candidates: the K best (anchor, class) pairs lie within the K anchors with the best class score. So a maximum over the
classes and a TopK over the anchors come first, and only K boxes are decoded; the result is exact.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effedge.pipeline.models.anchors import anchor_shapes, place_anchors
from effedge.pipeline.models.efficientdet import EfficientDet
from effedge.pipeline.models.efficientnet import EfficientNet
from effedge.pipeline.models.heads import flatten_levels

CANDIDATES = 1000
# A box is at most 62.5 times its anchor, as in torchvision's box coder: no exp() overflows on a wild background cell.
STRETCH_LIMIT = math.log(1000 / 16)


class Normalized(nn.Module):
    """A copy of a model that takes uint8 RGB [N,H,W,3], because normalization is folded into it."""

    mean: Tensor

    def __init__(self, model: EfficientNet | EfficientDet, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.model = copy.deepcopy(model).eval()
        stem = self.model.backbone.conv_stem if isinstance(self.model, EfficientDet) else self.model.conv_stem
        with torch.no_grad():
            stem.weight /= 255.0 * torch.tensor(std).view(1, 3, 1, 1)
        self.register_buffer("mean", 255.0 * torch.tensor(mean).view(1, 3, 1, 1))

    def normalized(self, image: Tensor) -> Tensor:
        """Converts uint8 [N,H,W,3] to float32 [N,3,H,W] minus the mean; the stem divides by the deviation."""
        return image.to(torch.float32).permute(0, 3, 1, 2) - self.mean


class ClassifierGraph(Normalized):
    """A classifier with the engine's contract: uint8 [N,H,W,3] -> logits float32 [N,C]."""

    outputs = ("logits",)

    def forward(self, image: Tensor) -> Tensor:
        return self.model(self.normalized(image))


class DetectorGraph(Normalized):
    """A detector with the engine's contract: uint8 [N,H,W,3] -> K candidates, sorted by falling score.

    Outputs: boxes float32 [N,K,4] xyxy in input pixels, scores float32 [N,K], classes int32 [N,K]. K is CANDIDATES, or
    the number of anchors where that is smaller. `size` is (H, W). The anchors are the published
    model's, or of `shapes` as `effedge.pipeline.models.anchors.place_anchors` takes them.
    """

    outputs = ("boxes", "scores", "classes")
    centres: Tensor
    halves: Tensor

    def __init__(
        self,
        model: EfficientDet,
        mean: Sequence[float],
        std: Sequence[float],
        size: tuple[int, int],
        shapes: np.ndarray | None = None,
    ):
        super().__init__(model, mean, std)
        assert isinstance(self.model, EfficientDet)
        # The box head predicts (ty, tx, th, tw) in anchor sizes. Its weights are permuted to the output's order, x
        # before y, and those of the shifts doubled, so that all four are in half anchor sizes at no cost.
        predict = self.model.box_net.predict.conv_pw
        order = torch.arange(predict.out_channels).view(-1, 2, 2).flip(2).flatten()
        assert predict.bias is not None
        unit = torch.tensor([2.0, 2.0, 1.0, 1.0]).repeat(predict.out_channels // 4)
        with torch.no_grad():
            predict.weight.copy_(predict.weight[order] * unit.view(-1, 1, 1, 1))
            predict.bias.copy_(predict.bias[order] * unit)
        shapes = anchor_shapes(model.row.anchor_scale, model.row.aspects) if shapes is None else shapes
        anchors = torch.from_numpy(place_anchors(size, model.row.levels, shapes))
        self.register_buffer("centres", (anchors[:, :2] + anchors[:, 2:]) / 2)
        self.register_buffer("halves", (anchors[:, 2:] - anchors[:, :2]) / 2)
        self.classes = model.classes
        self.candidates = min(CANDIDATES, len(anchors))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        class_levels, box_levels = self.model(self.normalized(image))
        logits, codes = flatten_levels(class_levels, self.classes), flatten_levels(box_levels, 4)
        # Along the last axis: OpenVINO 2026.4 takes 0.35 ms for this TopK, but 7.7 ms on [N,A,1] along the second.
        _, best_anchors = logits.amax(2).topk(self.candidates)  # [N,K]
        best_logits = logits.gather(1, best_anchors.unsqueeze(2).repeat(1, 1, self.classes))  # [N,K,C]
        scores, pairs = best_logits.flatten(1).topk(self.candidates)  # [N,K], pairs within K x C
        # An integer division would be exported as five nodes; export/passes/integer_division.py makes one node of this
        # product, which gives the same: a multiple of C comes out just above its quotient, and K * 2^-22 is far below
        # 1 / C, so no other number reaches the next quotient.
        rank = (pairs.to(torch.float32) * ((1 + 2.0**-22) / self.classes)).to(torch.int64)  # within best_anchors
        classes = pairs - rank * self.classes
        anchor = best_anchors.gather(1, rank)  # [N,K]
        best_codes = codes.gather(1, anchor.unsqueeze(2).repeat(1, 1, 4))
        shift, stretch = best_codes.split(2, dim=2)  # x before y, [N,K,2] each
        halves = F.embedding(anchor, self.halves)
        centre = shift * halves + F.embedding(anchor, self.centres)
        half = stretch.clamp(max=STRETCH_LIMIT).exp() * halves
        boxes = torch.cat([centre - half, centre + half], dim=2)
        return boxes, scores.sigmoid(), classes.to(torch.int32)
