"""Every EfficientNet and EfficientDet that was published, a row each; `create_model` makes the module of a row.

EfficientNet: Tan and Le 2019 (B0 to B7 in its code release), Xie et al. 2020 (B8 and L2), and EfficientNet-Lite's
release notes. EfficientDet: Tan, Pang and Le 2020, table 1, and google/automl's configurations for what the published
checkpoints do beyond the paper: D6, D7 and D7x fuse by a plain sum, D7x has a level P8, and the anchors of D7 and of
the smaller Lite models have another scale. The rules behind the numbers are in `effedge.pipeline.models.compound_scaling`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from effedge.deploy.common.cli import UserError, choose

if TYPE_CHECKING:  # torch takes two seconds to import, and the tables are read before it is needed
    from effedge.pipeline.models.efficientdet import EfficientDet
    from effedge.pipeline.models.efficientnet import EfficientNet


class EfficientNetRow(NamedTuple):
    name: str
    width: float
    depth: float
    size: int
    dropout: float
    lite: bool = False  # no SE, ReLU6, stem and head not scaled


class EfficientDetRow(NamedTuple):
    name: str
    backbone: str
    size: int
    channels: int  # of the BiFPN and the heads
    layers: int  # of the BiFPN
    head_layers: int
    fusion: str = "fast"
    levels: int = 5  # from P3 on
    anchor_scale: float = 4.0


EFFICIENTNETS = {
    row.name: row
    for row in (
        EfficientNetRow("b0", 1.0, 1.0, 224, 0.2),
        EfficientNetRow("b1", 1.0, 1.1, 240, 0.2),
        EfficientNetRow("b2", 1.1, 1.2, 260, 0.3),
        EfficientNetRow("b3", 1.2, 1.4, 300, 0.3),
        EfficientNetRow("b4", 1.4, 1.8, 380, 0.4),
        EfficientNetRow("b5", 1.6, 2.2, 456, 0.4),
        EfficientNetRow("b6", 1.8, 2.6, 528, 0.5),
        EfficientNetRow("b7", 2.0, 3.1, 600, 0.5),
        EfficientNetRow("b8", 2.2, 3.6, 672, 0.5),
        EfficientNetRow("l2", 4.3, 5.3, 800, 0.5),
        EfficientNetRow("lite0", 1.0, 1.0, 224, 0.2, lite=True),
        EfficientNetRow("lite1", 1.0, 1.1, 240, 0.2, lite=True),
        EfficientNetRow("lite2", 1.1, 1.2, 260, 0.3, lite=True),
        EfficientNetRow("lite3", 1.2, 1.4, 280, 0.3, lite=True),
        EfficientNetRow("lite4", 1.4, 1.8, 300, 0.3, lite=True),
    )
}

EFFICIENTDETS = {
    row.name: row
    for row in (
        EfficientDetRow("d0", "b0", 512, 64, 3, 3),
        EfficientDetRow("d1", "b1", 640, 88, 4, 3),
        EfficientDetRow("d2", "b2", 768, 112, 5, 3),
        EfficientDetRow("d3", "b3", 896, 160, 6, 4),
        EfficientDetRow("d4", "b4", 1024, 224, 7, 4),
        EfficientDetRow("d5", "b5", 1280, 288, 7, 4),
        EfficientDetRow("d6", "b6", 1280, 384, 8, 5, fusion="sum"),
        EfficientDetRow("d7", "b6", 1536, 384, 8, 5, fusion="sum", anchor_scale=5.0),
        EfficientDetRow("d7x", "b7", 1536, 384, 8, 5, fusion="sum", levels=6),
        EfficientDetRow("det-lite0", "lite0", 320, 64, 3, 3, fusion="sum", anchor_scale=3.0),
        EfficientDetRow("det-lite1", "lite1", 384, 88, 4, 3, fusion="sum", anchor_scale=3.0),
        EfficientDetRow("det-lite2", "lite2", 448, 112, 5, 3, fusion="sum", anchor_scale=3.0),
        EfficientDetRow("det-lite3", "lite3", 512, 160, 6, 4, fusion="sum"),
        EfficientDetRow("det-lite4", "lite4", 640, 224, 7, 4, fusion="sum"),
    )
}

MODELS = (*EFFICIENTNETS, *EFFICIENTDETS)
IMAGENET_CLASSES = 1000
COCO_CLASSES = 90  # COCO's category ids run to 90, with ten gaps; the published heads have an output for each


def is_detector(name: str) -> bool:
    return name in EFFICIENTDETS


def input_size(name: str, size: int | None = None) -> int:
    """The side of the square input in pixels: the published one, or `size` if it suits the model.

    Raises UserError if `size` is no multiple of 32, or too small for the coarsest level to hold an anchor's cell.
    """
    row = (EFFICIENTDETS | EFFICIENTNETS)[choose("model", name, MODELS)]
    if size is None or size == row.size:  # B1's 240, say, is no multiple of 32
        return row.size
    smallest = 128 if is_detector(name) else 32
    if size < smallest or size % 32:
        raise UserError(f"size {size} does not suit {name}: expected a multiple of 32, {smallest} or more")
    return size


def create_model(name: str, classes: int | None = None, size: int | None = None) -> EfficientNet | EfficientDet:
    """The untrained module of a row, in training mode.

    Args:
        name: a key of EFFICIENTNETS or EFFICIENTDETS.
        classes: of the data; ImageNet's 1000 or COCO's 90 by default.
        size: checked against the model. The weights do not depend on it, so the module runs at any size.

    Raises:
        UserError: unknown name (the nearest is named), classes below 1, or a size that does not suit.
    """
    input_size(name, size)
    if classes is not None and classes < 1:
        raise UserError(f"classes {classes} makes no model: expected 1 or more")
    if is_detector(name):
        from effedge.pipeline.models.efficientdet import EfficientDet

        row = EFFICIENTDETS[name]
        return EfficientDet(row, EFFICIENTNETS[row.backbone], classes or COCO_CLASSES)
    from effedge.pipeline.models.efficientnet import EfficientNet

    return EfficientNet(EFFICIENTNETS[name], classes or IMAGENET_CLASSES)


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


def normalization(name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """(mean, std) of RGB in 0..1 that the family was trained with: ImageNet's, or a half for Lite.

    Checkpoints that were trained otherwise (AdvProp) say so in their own row.
    """
    backbone = EFFICIENTDETS[name].backbone if is_detector(name) else name
    return (HALF, HALF) if EFFICIENTNETS[backbone].lite else (IMAGENET_MEAN, IMAGENET_STD)
