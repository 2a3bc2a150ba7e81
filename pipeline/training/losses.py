"""Computes the detector's loss: focal loss for classes, Huber or GIoU loss for boxes.

Focal loss: Lin et al. 2017, equation 5, with alpha 0.25 and EfficientDet's gamma 1.5 (Tan, Pang and Le 2020, section
5.1). The Huber loss of the published training has delta 0.1 and weight 50. GIoU loss: Rezatofighi et al. 2019,
algorithm 1, with weight 2; it measures what AP measures, at every size of object. All are normalized by the number of
positive anchors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from effedge.pipeline.models.heads import flatten_levels

ALPHA, GAMMA = 0.25, 1.5
HUBER_DELTA = 0.1
BOX_WEIGHTS = {"huber": 50.0, "giou": 2.0}
LARGEST_CODE = 4.0  # of a side, as a logarithm: an untrained network's e^90 is no number to learn from


class DetectionTargets(NamedTuple):
    """The p positive anchors of a batch and their targets.

    image_indices: int64 [p], the anchor's image in the batch.
    anchor_indices: int64 [p].
    class_ids: int64 [p].
    codes: float32 [p,4], (ty, tx, th, tw).
    """

    image_indices: Tensor
    anchor_indices: Tensor
    class_ids: Tensor
    codes: Tensor


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sums -alpha_t (1 - p_t)^gamma log p_t over logits and targets (0 or 1) of one shape."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = torch.exp(-cross_entropy)
    alpha_t = ALPHA * targets + (1 - ALPHA) * (1 - targets)
    return (alpha_t * (1 - p_t) ** GAMMA * cross_entropy).sum()


def huber_loss(codes: Tensor, targets: Tensor) -> Tensor:
    """Sums the Huber loss over the positive anchors; the mean over (ty, tx, th, tw), both [p,4]."""
    return F.huber_loss(codes, targets, reduction="sum", delta=HUBER_DELTA) / 4


def giou_loss(codes: Tensor, targets: Tensor) -> Tensor:
    """Sums 1 - GIoU over the positive anchors, both [p,4].

    Ratios of areas are the same in any unit, so the unit of each box is its anchor's height in y and its width in x.
    """
    (first, last), (wanted_first, wanted_last) = map(corners, (codes, targets))
    intersection = (torch.minimum(last, wanted_last) - torch.maximum(first, wanted_first)).clamp(min=0).prod(1)
    union = (last - first).prod(1) + (wanted_last - wanted_first).prod(1) - intersection
    hull = (torch.maximum(last, wanted_last) - torch.minimum(first, wanted_first)).prod(1)
    return (1 - intersection / union + (hull - union) / hull).sum()


def corners(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Decodes the top left and bottom right corners (y, x), [p,2], in the sides of the anchor around its centre."""
    centres, halves = codes[:, :2], codes[:, 2:].clamp(max=LARGEST_CODE).exp() / 2
    return centres - halves, centres + halves


BOX_LOSSES = {"huber": huber_loss, "giou": giou_loss}


def detection_loss(
    class_levels: list[Tensor],
    box_levels: list[Tensor],
    targets: DetectionTargets,
    classes: int,
    positives: float | None = None,
    box_loss: str = "huber",
) -> tuple[Tensor, Tensor]:
    """Computes (class loss, box loss) of a batch, the second already weighted.

    Args:
        class_levels: per level [N,9*classes,h,w].
        box_levels: per level [N,36,h,w].
        targets: of the p positive anchors.
        positives: number of positive anchors of the batch that these samples are a part of; p by default.
        box_loss: a key of BOX_LOSSES.
    """
    image_indices, anchor_indices, class_ids, codes = targets
    logits, boxes = flatten_levels(class_levels, classes), flatten_levels(box_levels, 4)
    one_hot = torch.zeros_like(logits)
    one_hot[image_indices, anchor_indices, class_ids] = 1.0
    positives = max(len(anchor_indices) if positives is None else positives, 1)
    return (
        focal_loss(logits, one_hot) / positives,
        BOX_WEIGHTS[box_loss] * BOX_LOSSES[box_loss](boxes[image_indices, anchor_indices], codes) / positives,
    )
