"""Creates the untrained PyTorch module of a published model."""

from __future__ import annotations

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.anchors import ANCHORS_PER_CELL
from effedge.pipeline.models.efficientdet import EfficientDet
from effedge.pipeline.models.efficientnet import EfficientNet
from effedge.pipeline.models.tables import (
    COCO_CLASSES,
    EFFICIENTDETS,
    EFFICIENTNETS,
    IMAGENET_CLASSES,
    Size,
    input_size,
    is_detector,
)


def create_model(
    name: str, classes: int | None = None, size: int | tuple[int, int] | None = None, anchors: int = ANCHORS_PER_CELL
) -> EfficientNet | EfficientDet:
    """Create the untrained module of a model, in training mode.

    Args:
        name: a key of EFFICIENTNETS or EFFICIENTDETS.
        classes: of the data; ImageNet's 1000 or COCO's 90 by default.
        size: the side, or height and width, of the input, which is only checked: the weights do not depend on it, so
            the module runs at any.
        anchors: in a cell of a detector.

    Raises:
        UserError: unknown name (the nearest is named), classes below 1, or a size that does not suit.
    """
    input_size(name, Size(size, size) if isinstance(size, int) else size and Size(*size))
    if classes is not None and classes < 1:
        raise UserError(f"classes {classes} makes no model: expected 1 or more")
    if is_detector(name):
        row = EFFICIENTDETS[name]
        return EfficientDet(row, EFFICIENTNETS[row.backbone], classes or COCO_CLASSES, anchors)
    return EfficientNet(EFFICIENTNETS[name], classes or IMAGENET_CLASSES)
