"""The detector's loss: focal loss for classes, Huber loss for boxes (Tan, Pang and Le 2020, section 5.1).

Focal loss: Lin et al. 2017, equation 5, with alpha 0.25 and EfficientDet's gamma 1.5. The Huber loss of the published
training has delta 0.1 and weight 50. Both are normalized by the number of positive anchors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ALPHA, GAMMA = 0.25, 1.5
HUBER_DELTA, BOX_WEIGHT = 0.1, 50.0


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of -alpha_t (1 - p_t)^gamma log p_t over logits and targets (0 or 1) of one shape."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = torch.exp(-cross_entropy)
    alpha_t = ALPHA * targets + (1 - ALPHA) * (1 - targets)
    return (alpha_t * (1 - p_t) ** GAMMA * cross_entropy).sum()


def box_loss(codes: Tensor, targets: Tensor) -> Tensor:
    """Sum over (ty, tx, th, tw) of the positive anchors, both [p,4]; the mean over the four."""
    return F.huber_loss(codes, targets, reduction="sum", delta=HUBER_DELTA) / 4


def flatten_levels(levels: list[Tensor], width: int) -> Tensor:
    """Head outputs per level [N,anchors*width,h,w] -> [N,A,width] in the anchors' order."""
    return torch.cat([level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, width) for level in levels], dim=1)


def detection_loss(
    class_levels: list[Tensor],
    box_levels: list[Tensor],
    picture: Tensor,
    anchor: Tensor,
    class_ids: Tensor,
    codes: Tensor,
    classes: int,
    positives: float | None = None,
) -> tuple[Tensor, Tensor]:
    """(class loss, box loss) of a batch, the second already weighted.

    Args:
        class_levels: per level [N,9*classes,h,w].
        box_levels: per level [N,36,h,w].
        picture: int64 [p], the picture in the batch of each positive anchor; `anchor` int64 [p], its index;
            `class_ids` int64 [p] and `codes` float32 [p,4], what it should say.
        positives: of the whole batch, where this is a part of it; p by default.
    """
    logits, boxes = flatten_levels(class_levels, classes), flatten_levels(box_levels, 4)
    targets = torch.zeros_like(logits)
    targets[picture, anchor, class_ids] = 1.0
    positives = max(len(anchor) if positives is None else positives, 1)
    return (
        focal_loss(logits, targets) / positives,
        BOX_WEIGHT * box_loss(boxes[picture, anchor], codes) / positives,
    )
