"""Lists the published EfficientNets and EfficientDets, a row for each model.

EfficientNet: Tan and Le 2019 (B0 to B7 in its code release), Xie et al. 2020 (B8 and L2), and EfficientNet-Lite's
release notes. EfficientNetV2: Tan and Le 2021 (arXiv 2104.00298), and google/automl's effnetv2_configs.py for the sizes
and dropouts; crop and normalization are timm's (B3's those of its weights from ImageNet-21k, fine-tuned). EfficientDet:
Tan, Pang and Le 2020, table 1, and google/automl's configurations for what the published checkpoints have beyond the
paper: D6, D7 and D7x fuse by a plain sum, D7x has a level P8, and the anchors of D7 and of the smaller Lite models have
another scale. Each detector is there with the other necks too, by which tables 4 to 6 of the paper compare: d0-panet is
D0 with PANet in place of the BiFPN. `effedge.pipeline.models.compound_scaling` holds the rules behind the numbers;
`effedge.pipeline.models.create` makes the module of a row.

det-v2-b0 and det-v2-s are EfficientDets on EfficientNetV2, of which nobody published weights: D0's sizes on V2-B0, and
on V2-S those of effdet's efficientdetv2_ds.

There are two families. The authors' models, in timm and effdet with the prefix `tf_`, have short names here: b0 is
tf_efficientnet_b0, v2-s tf_efficientnetv2_s, d0 tf_efficientdet_d0, det-lite0 tf_efficientdet_lite0. timm and effdet
trained others in PyTorch, without the prefix there and under the same names here. Their tensors may be the same, but
they pad symmetrically, and the BatchNorm of their EfficientNets has PyTorch's epsilon (timm 1.0.31, effdet 0.4.1).
timm's efficientnetv2_rw_t and efficientnetv2_rw_s have stages of their own, and effdet's efficientdetv2_dt and
efficientdetv2_ds, which are built on them, resize bilinearly between the levels.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from effedge.deploy.common.cli import UserError, choose
from effedge.pipeline.models.anchors import ASPECTS, EXACT_ASPECTS, Aspects


class EfficientNetRow(NamedTuple):
    """The scaling of a classifier, or of a detector's backbone.

    width, depth: multipliers of the stages' channels and layers.
    size: the side of the input in pixels.
    lite: no squeeze-and-excite, ReLU6 in place of swish, stem and head not scaled.
    symmetric: convolutions pad kernel // 2 pixels on either side, not as TensorFlow's SAME.
    epsilon: of BatchNorm.
    crop: the share of the image's shorter side that the input covers; None: size / (size + 32), the authors' rule.
    stretch: images are not cropped after their shorter side, but stretched to the input over `crop` (timm's "squash").
    to_one: trained on pixels scaled to -1..1, not normalized by ImageNet's mean and deviation.
    stages: a key of `effedge.pipeline.models.efficientnet.STAGES`.
    train_size: the side of the largest images in training, where that is not `size` (FixRes, Touvron et al. 2019).
    """

    name: str
    width: float
    depth: float
    size: int
    dropout: float
    lite: bool = False
    symmetric: bool = False
    epsilon: float = 1e-3
    crop: float | None = None
    to_one: bool = False
    stages: str = "b0"
    train_size: int | None = None
    stretch: bool = False


class NeckRow(NamedTuple):
    """A network between backbone and heads, which fuses the features of the pyramid's levels.

    paths: a key of `effedge.pipeline.models.bifpn.PATHS`.
    fusion: one of `effedge.pipeline.models.bifpn.FUSIONS`.
    effdet: the `fpn_name` of effdet's configuration; None where effdet has none.
    """

    name: str
    paths: str
    fusion: str
    effdet: str | None


NECKS = {
    row.name: row
    for row in (
        NeckRow("fpn", "fpn", "sum", None),
        NeckRow("panet", "panet", "sum", "pan_sum"),
        NeckRow("panet-fast", "panet", "fast", "pan_fa"),
        NeckRow("bifpn-sum", "bifpn", "sum", "bifpn_sum"),
        NeckRow("bifpn-fast", "bifpn", "fast", "bifpn_fa"),
        NeckRow("bifpn-softmax", "bifpn", "softmax", "bifpn_attn"),
    )
}


class EfficientDetRow(NamedTuple):
    """The scaling of a detector.

    backbone: a key of EFFICIENTNETS.
    size: the side of the input in pixels.
    channels: of the neck and of the heads.
    layers: of the neck; `head_layers`: of each head.
    neck: a key of NECKS.
    levels: of the pyramid, from P3 on.
    anchor_scale: the base size of an anchor in strides; `aspects`: the anchors' (width, height) factors.
    symmetric: neck and heads pad symmetrically; the backbone has a field of its own.
    redundant_bias: the convolutions in front of BatchNorm have a bias.
    bilinear: the neck resizes bilinearly, not by a max-pool down and repeated pixels up.
    """

    name: str
    backbone: str
    size: int
    channels: int
    layers: int
    head_layers: int
    neck: str = "bifpn-fast"
    levels: int = 5
    anchor_scale: float = 4.0
    symmetric: bool = False
    redundant_bias: bool = True
    bilinear: bool = False
    aspects: Aspects = ASPECTS


TENSORFLOW_EFFICIENTNETS = {
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
        EfficientNetRow("lite0", 1.0, 1.0, 224, 0.2, lite=True, to_one=True),
        EfficientNetRow("lite1", 1.0, 1.1, 240, 0.2, lite=True, to_one=True),
        EfficientNetRow("lite2", 1.1, 1.2, 260, 0.3, lite=True, to_one=True),
        EfficientNetRow("lite3", 1.2, 1.4, 280, 0.3, lite=True, to_one=True),
        EfficientNetRow("lite4", 1.4, 1.8, 300, 0.3, lite=True, to_one=True),
        EfficientNetRow("v2-s", 1.0, 1.0, 384, 0.2, stages="v2-s", train_size=300, crop=1.0, to_one=True),
        EfficientNetRow("v2-m", 1.0, 1.0, 480, 0.3, stages="v2-m", train_size=384, crop=1.0, to_one=True, stretch=True),
        EfficientNetRow("v2-l", 1.0, 1.0, 480, 0.4, stages="v2-l", train_size=384, crop=1.0, to_one=True, stretch=True),
        EfficientNetRow(
            "v2-xl", 1.0, 1.0, 512, 0.4, stages="v2-xl", train_size=384, crop=1.0, to_one=True, stretch=True
        ),
        EfficientNetRow("v2-b0", 1.0, 1.0, 224, 0.2, stages="v2-b0", train_size=192),
        EfficientNetRow("v2-b1", 1.0, 1.1, 240, 0.2, stages="v2-b0", train_size=192),
        EfficientNetRow("v2-b2", 1.1, 1.2, 260, 0.3, stages="v2-b0", train_size=208),
        EfficientNetRow(
            "v2-b3", 1.2, 1.4, 300, 0.3, stages="v2-b0", train_size=240, crop=0.9, to_one=True, stretch=True
        ),
    )
}


def timm_row(name: str, size: int, crop: float = 0.875, to_one: bool = False, stretch: bool = False) -> EfficientNetRow:
    """Makes the row of timm's efficientnet_<name>; `size`, `crop` and the normalization are those of its training."""
    return TENSORFLOW_EFFICIENTNETS[name]._replace(
        name=f"efficientnet_{name}", size=size, symmetric=True, epsilon=1e-5, crop=crop, to_one=to_one, stretch=stretch
    )


def timm_v2_row(letter: str, size: int, train_size: int) -> EfficientNetRow:
    """Makes the row of timm's efficientnetv2_rw_<letter>; `size` is its configuration's test_input_size."""
    name, stages = f"efficientnetv2_rw_{letter}", f"v2-rw-{letter}"
    row = EfficientNetRow(name, 1.0, 1.0, size, 0.2, symmetric=True, epsilon=1e-5, crop=1.0, stages=stages)
    return row._replace(train_size=train_size)


PYTORCH_EFFICIENTNETS = {
    row.name: row
    for row in (
        timm_row("b0", 224),
        timm_row("b1", 240, crop=0.9, to_one=True),  # since timm 1.0.9; before, normalized as the others
        timm_row("b2", 256),
        timm_row("b3", 288),
        timm_row("b4", 320),
        timm_row("b5", 448, crop=1.0, stretch=True),
        timm_row("b6", 528, crop=0.942),
        timm_row("b7", 600, crop=0.949),
        timm_row("lite0", 224),
        timm_row("lite1", 240, crop=0.882),
        timm_row("lite2", 260, crop=0.890),
        timm_row("lite3", 300, crop=0.904),
        timm_row("lite4", 380, crop=0.922),
        timm_v2_row("t", 288, train_size=224),
        timm_v2_row("s", 384, train_size=288),
    )
}
EFFICIENTNETS = TENSORFLOW_EFFICIENTNETS | PYTORCH_EFFICIENTNETS

TENSORFLOW_EFFICIENTDETS = {
    row.name: row
    for row in (
        EfficientDetRow("d0", "b0", 512, 64, 3, 3),
        EfficientDetRow("d1", "b1", 640, 88, 4, 3),
        EfficientDetRow("d2", "b2", 768, 112, 5, 3),
        EfficientDetRow("d3", "b3", 896, 160, 6, 4),
        EfficientDetRow("d4", "b4", 1024, 224, 7, 4),
        EfficientDetRow("d5", "b5", 1280, 288, 7, 4),
        EfficientDetRow("d6", "b6", 1280, 384, 8, 5, neck="bifpn-sum"),
        EfficientDetRow("d7", "b6", 1536, 384, 8, 5, neck="bifpn-sum", anchor_scale=5.0),
        EfficientDetRow("d7x", "b7", 1536, 384, 8, 5, neck="bifpn-sum", levels=6),
        EfficientDetRow("det-lite0", "lite0", 320, 64, 3, 3, neck="bifpn-sum", anchor_scale=3.0),
        EfficientDetRow("det-lite1", "lite1", 384, 88, 4, 3, neck="bifpn-sum", anchor_scale=3.0),
        EfficientDetRow("det-lite2", "lite2", 448, 112, 5, 3, neck="bifpn-sum", anchor_scale=3.0),
        EfficientDetRow("det-lite3", "lite3", 512, 160, 6, 4, neck="bifpn-sum"),
        EfficientDetRow("det-lite4", "lite4", 640, 224, 7, 4, neck="bifpn-sum"),
    )
}


def effdet_row(name: str, symmetric: bool = True, redundant_bias: bool = False) -> EfficientDetRow:
    """Makes the row of effdet's efficientdet_<name>, which has the sizes of `name` and timm's backbone."""
    row = TENSORFLOW_EFFICIENTDETS[name]
    return row._replace(
        name=f"efficientdet_{name}",
        backbone=f"efficientnet_{row.backbone}",
        symmetric=symmetric,
        redundant_bias=redundant_bias,
    )


def effdet_v2_row(row: EfficientDetRow) -> EfficientDetRow:
    """Gives a row what effdet's efficientdetv2_* have in common."""
    return row._replace(symmetric=True, redundant_bias=False, bilinear=True, aspects=EXACT_ASPECTS)


PYTORCH_EFFICIENTDETS = {
    row.name: row
    for row in (
        effdet_row("d0"),
        effdet_row("d1"),
        effdet_row("d2"),
        effdet_row("d3"),
        # Their configurations leave BiFPN and heads as TensorFlow has them.
        effdet_row("d4", symmetric=False, redundant_bias=True),
        effdet_row("d5", symmetric=False, redundant_bias=True),
        EfficientDetRow("efficientdet_lite0", "efficientnet_lite0", 384, 64, 3, 3, redundant_bias=False),
        effdet_v2_row(EfficientDetRow("efficientdetv2_dt", "efficientnetv2_rw_t", 768, 128, 5, 3)),
        effdet_v2_row(EfficientDetRow("efficientdetv2_ds", "efficientnetv2_rw_s", 1024, 256, 7, 4)),
    )
}
V2_EFFICIENTDETS = {
    row.name: row
    for row in (
        EfficientDetRow("det-v2-b0", "v2-b0", 512, 64, 3, 3),
        EfficientDetRow("det-v2-s", "v2-s", 1024, 256, 7, 4),
    )
}
LISTED_EFFICIENTDETS = TENSORFLOW_EFFICIENTDETS | V2_EFFICIENTDETS | PYTORCH_EFFICIENTDETS
EFFICIENTDETS = LISTED_EFFICIENTDETS | {
    f"{row.name}-{neck}": row._replace(name=f"{row.name}-{neck}", neck=neck)
    for row in LISTED_EFFICIENTDETS.values()
    for neck in NECKS
    if neck != row.neck
}

MODELS = (*EFFICIENTNETS, *LISTED_EFFICIENTDETS)  # those to list; a detector's other necks are a suffix
IMAGENET_CLASSES = 1000
COCO_CLASSES = 90  # COCO's category ids run to 90, with ten gaps; the published heads have an output for each

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


def is_detector(name: str) -> bool:
    """Returns True for the name of an EfficientDet."""
    return name in EFFICIENTDETS


SIZE_HELP = "side of the input in pixels, or HEIGHTxWIDTH such as 384x640"


class Size(NamedTuple):
    """The height and the width of an input, in pixels.

    >>> str(Size(512, 512)), str(Size(384, 640))
    ('512', '384x640')
    """

    height: int
    width: int

    def __str__(self) -> str:
        return str(self.height) if self.height == self.width else f"{self.height}x{self.width}"


def parse_size(text: str) -> Size:
    """Reads SIZE (--size): a side, or HEIGHTxWIDTH.

    >>> parse_size("512"), parse_size("384x640")
    (Size(height=512, width=512), Size(height=384, width=640))

    Raises:
        UserError: anything else.
    """
    match = re.fullmatch(r"(\d{1,5})(?:[xX](\d{1,5}))?", text, re.ASCII)
    if match is None:
        raise UserError(f"SIZE (--size) '{text}': expected a side in pixels, or HEIGHTxWIDTH such as 384x640")
    height, width = match.groups()
    return Size(int(height), int(width or height))


def input_size(name: str, size: Size | None = None, multiple: int = 32) -> Size:
    """Returns the size of a model's input: the published one, or `size` if it suits the model.

    Raises:
        UserError: an unknown name (the nearest is named); a side that is no multiple of `multiple`, or too small for a
            cell on the coarsest level.
    """
    row = (EFFICIENTDETS | EFFICIENTNETS)[name if name in EFFICIENTDETS else choose("model", name, MODELS)]
    published = Size(row.size, row.size)  # B1's 240, say, is no multiple of 32
    if size is None or size == published:
        return published
    smallest = 128 if is_detector(name) else 32
    if min(size) < smallest or any(side % multiple for side in size):
        sides = "a multiple of 32" if size.height == size.width else "multiples of 32"
        raise UserError(f"size {size} does not suit {name}: expected {sides}, {smallest} or more")
    return size


def normalization(name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Returns (mean, std) of RGB in 0..1 of the family's training: ImageNet's, or a half for Lite and most of V2.

    `effedge.pipeline.weights.published.preprocessing` knows the checkpoints that were trained otherwise (AdvProp).
    """
    backbone = EFFICIENTDETS[name].backbone if is_detector(name) else name
    if is_detector(name) and backbone in PYTORCH_EFFICIENTNETS:
        return IMAGENET_MEAN, IMAGENET_STD
    return (HALF, HALF) if EFFICIENTNETS[backbone].to_one else (IMAGENET_MEAN, IMAGENET_STD)
