"""Lists the published EfficientNets and EfficientDets, a row for each model.

EfficientNet: Tan and Le 2019 (B0 to B7 in its code release), Xie et al. 2020 (B8 and L2), and EfficientNet-Lite's
release notes. EfficientDet: Tan, Pang and Le 2020, table 1, and google/automl's configurations for what the published
checkpoints have beyond the paper: D6, D7 and D7x fuse by a plain sum, D7x has a level P8, and the anchors of D7 and of
the smaller Lite models have another scale. `effedge.pipeline.models.compound_scaling` holds the rules behind the
numbers; `effedge.pipeline.models.create` makes the module of a row.
"""

from __future__ import annotations

from typing import NamedTuple

from effedge.deploy.common.cli import UserError, choose


class EfficientNetRow(NamedTuple):
    """The scaling of a classifier, or of a detector's backbone.

    width, depth: multipliers of B0's channels and layers.
    size: the side of the input in pixels.
    lite: no squeeze-and-excite, ReLU6 in place of swish, stem and head not scaled.
    """

    name: str
    width: float
    depth: float
    size: int
    dropout: float
    lite: bool = False


class EfficientDetRow(NamedTuple):
    """The scaling of a detector.

    backbone: a key of EFFICIENTNETS.
    size: the side of the input in pixels.
    channels: of the BiFPN and of the heads.
    layers: of the BiFPN; `head_layers`: of each head.
    fusion: one of `effedge.pipeline.models.bifpn.FUSIONS`.
    levels: of the pyramid, from P3 on.
    anchor_scale: the base size of an anchor in strides.
    """

    name: str
    backbone: str
    size: int
    channels: int
    layers: int
    head_layers: int
    fusion: str = "fast"
    levels: int = 5
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

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


def is_detector(name: str) -> bool:
    """Returns True for the name of an EfficientDet."""
    return name in EFFICIENTDETS


def input_size(name: str, size: int | None = None) -> int:
    """Returns the side of a model's square input in pixels: the published one, or `size` if it suits the model.

    Raises:
        UserError: an unknown name (the nearest is named); a `size` that is no multiple of 32, or too small for a cell
            on the coarsest level.
    """
    row = (EFFICIENTDETS | EFFICIENTNETS)[choose("model", name, MODELS)]
    if size is None or size == row.size:  # B1's 240, say, is no multiple of 32
        return row.size
    smallest = 128 if is_detector(name) else 32
    if size < smallest or size % 32:
        raise UserError(f"size {size} does not suit {name}: expected a multiple of 32, {smallest} or more")
    return size


def normalization(name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Returns (mean, std) of RGB in 0..1 of the family's training: ImageNet's, or a half for Lite.

    `effedge.pipeline.weights.published.preprocessing` knows the checkpoints that were trained otherwise (AdvProp).
    """
    backbone = EFFICIENTDETS[name].backbone if is_detector(name) else name
    return (HALF, HALF) if EFFICIENTNETS[backbone].lite else (IMAGENET_MEAN, IMAGENET_STD)
