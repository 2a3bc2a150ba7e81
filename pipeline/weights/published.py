"""Lists the published checkpoints: their addresses, and how they want their images preprocessed.

Sources: the configurations of timm 1.0.31 (classifiers) and effdet 0.4.1 (detectors), whose files these are; they were
converted from the TensorFlow checkpoints of the papers' authors. A file name carries the first 8 hex digits of the
file's SHA-256.

- `imagenet`: trained on ImageNet alone, without AdvProp: the best such checkpoint, which is RandAugment's where there
  is one (B5, B7, B8), AutoAugment's for the other B's.
- `imagenet-ap`: AdvProp (Xie et al. 2020). `imagenet-ns`: NoisyStudent (Xie et al. 2020), with JFT-300M unlabelled.
- `imagenet21k`: EfficientNetV2 (Tan and Le 2021) trained on ImageNet-21k, 21,843 classes; `imagenet21k-ft1k`: the same,
  fine-tuned on ImageNet. V2-B3 has both on the Hugging Face hub only (timm/tf_efficientnetv2_b3.in21k), with no hash
  in timm, so they are no rows.
- `coco`: the EfficientDet paper's; `coco-ap`: with AdvProp and AutoAugment.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from effedge.deploy.common.contracts import CENTER_CROP, LETTERBOX, STRETCH, InputSpec
from effedge.pipeline.models.tables import (
    EFFICIENTNETS,
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    is_detector,
    normalization,
)

TIMM = "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights/"
TIMM_V2 = "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-effv2-weights/"
EFFDET = "https://github.com/rwightman/efficientdet-pytorch/releases/download/v0.1/"

# The authors' evaluation takes the central size / (size + 32) of the image.
CROP_PADDING = 32


class Published(NamedTuple):
    """A published checkpoint; `url` ends in `-<first 8 digits of its SHA-256>.pth`."""

    model: str
    kind: str
    url: str

    @property
    def sha256_prefix(self) -> str:
        """The digits that the file's SHA-256 begins with."""
        match = re.search(r"-([0-9a-f]{8})\.pth$", self.url)
        assert match, self.url
        return match[1]


class Preprocessing(NamedTuple):
    """The preprocessing that a checkpoint was trained with: RGB / 255, minus `mean`, over `std`.

    crop: for classifiers, the share of the image's shorter side that the centred input covers; None for detectors.
    fill: RGB, 0 to 255, of a detector's letterbox.
    resize: the image's way to the input's size, as of `effedge.deploy.common.contracts.InputSpec`; where it is
        "stretch", `crop` is the share of both sides.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop: float | None
    fill: tuple[int, int, int]
    resize: str

    def input_spec(self) -> InputSpec:
        """Returns the part of an input's spec that makes an image the input."""
        spec: InputSpec = {"interpolation": self.interpolation, "resize": self.resize}
        if self.resize == LETTERBOX:
            spec["fill"] = list(self.fill)
        elif self.crop is not None:
            spec["crop"] = self.crop
        return spec


PUBLISHED = {
    (row.model, row.kind): row
    for row in (
        Published("b0", "imagenet", TIMM + "tf_efficientnet_b0_aa-827b6e33.pth"),
        Published("b1", "imagenet", TIMM + "tf_efficientnet_b1_aa-ea7a6ee0.pth"),
        Published("b2", "imagenet", TIMM + "tf_efficientnet_b2_aa-60c94f97.pth"),
        Published("b3", "imagenet", TIMM + "tf_efficientnet_b3_aa-84b4657e.pth"),
        Published("b4", "imagenet", TIMM + "tf_efficientnet_b4_aa-818f208c.pth"),
        Published("b5", "imagenet", TIMM + "tf_efficientnet_b5_ra-9a3e5369.pth"),
        Published("b6", "imagenet", TIMM + "tf_efficientnet_b6_aa-80ba17e4.pth"),
        Published("b7", "imagenet", TIMM + "tf_efficientnet_b7_ra-6c08e654.pth"),
        Published("b8", "imagenet", TIMM + "tf_efficientnet_b8_ra-572d5dd9.pth"),
        Published("lite0", "imagenet", TIMM + "tf_efficientnet_lite0-0aa007d2.pth"),
        Published("lite1", "imagenet", TIMM + "tf_efficientnet_lite1-bde8b488.pth"),
        Published("lite2", "imagenet", TIMM + "tf_efficientnet_lite2-dcccb7df.pth"),
        Published("lite3", "imagenet", TIMM + "tf_efficientnet_lite3-b733e338.pth"),
        Published("lite4", "imagenet", TIMM + "tf_efficientnet_lite4-741542c3.pth"),
        Published("b0", "imagenet-ap", TIMM + "tf_efficientnet_b0_ap-f262efe1.pth"),
        Published("b1", "imagenet-ap", TIMM + "tf_efficientnet_b1_ap-44ef0a3d.pth"),
        Published("b2", "imagenet-ap", TIMM + "tf_efficientnet_b2_ap-2f8e7636.pth"),
        Published("b3", "imagenet-ap", TIMM + "tf_efficientnet_b3_ap-aad25bdd.pth"),
        Published("b4", "imagenet-ap", TIMM + "tf_efficientnet_b4_ap-dedb23e6.pth"),
        Published("b5", "imagenet-ap", TIMM + "tf_efficientnet_b5_ap-9e82fae8.pth"),
        Published("b6", "imagenet-ap", TIMM + "tf_efficientnet_b6_ap-4ffb161f.pth"),
        Published("b7", "imagenet-ap", TIMM + "tf_efficientnet_b7_ap-ddb28fec.pth"),
        Published("b8", "imagenet-ap", TIMM + "tf_efficientnet_b8_ap-00e169fa.pth"),
        Published("b0", "imagenet-ns", TIMM + "tf_efficientnet_b0_ns-c0e6a31c.pth"),
        Published("b1", "imagenet-ns", TIMM + "tf_efficientnet_b1_ns-99dd0c41.pth"),
        Published("b2", "imagenet-ns", TIMM + "tf_efficientnet_b2_ns-00306e48.pth"),
        Published("b3", "imagenet-ns", TIMM + "tf_efficientnet_b3_ns-9d44bf68.pth"),
        Published("b4", "imagenet-ns", TIMM + "tf_efficientnet_b4_ns-d6313a46.pth"),
        Published("b5", "imagenet-ns", TIMM + "tf_efficientnet_b5_ns-6f26d0cf.pth"),
        Published("b6", "imagenet-ns", TIMM + "tf_efficientnet_b6_ns-51548356.pth"),
        Published("b7", "imagenet-ns", TIMM + "tf_efficientnet_b7_ns-1dbc32de.pth"),
        Published("l2", "imagenet-ns", TIMM + "tf_efficientnet_l2_ns-df73bb44.pth"),
        Published("v2-b0", "imagenet", TIMM_V2 + "tf_efficientnetv2_b0-c7cc451f.pth"),
        Published("v2-b1", "imagenet", TIMM_V2 + "tf_efficientnetv2_b1-be6e41b0.pth"),
        Published("v2-b2", "imagenet", TIMM_V2 + "tf_efficientnetv2_b2-847de54e.pth"),
        Published("v2-b3", "imagenet", TIMM_V2 + "tf_efficientnetv2_b3-57773f13.pth"),
        Published("v2-s", "imagenet", TIMM_V2 + "tf_efficientnetv2_s-eb54923e.pth"),
        Published("v2-m", "imagenet", TIMM_V2 + "tf_efficientnetv2_m-cc09e0cd.pth"),
        Published("v2-l", "imagenet", TIMM_V2 + "tf_efficientnetv2_l-d664b728.pth"),
        Published("v2-s", "imagenet21k", TIMM_V2 + "tf_efficientnetv2_s_21k-6337ad01.pth"),
        Published("v2-m", "imagenet21k", TIMM_V2 + "tf_efficientnetv2_m_21k-361418a2.pth"),
        Published("v2-l", "imagenet21k", TIMM_V2 + "tf_efficientnetv2_l_21k-91a19ec9.pth"),
        Published("v2-xl", "imagenet21k", TIMM_V2 + "tf_efficientnetv2_xl_in21k-fd7e8abf.pth"),
        Published("v2-s", "imagenet21k-ft1k", TIMM_V2 + "tf_efficientnetv2_s_21ft1k-d7dafa41.pth"),
        Published("v2-m", "imagenet21k-ft1k", TIMM_V2 + "tf_efficientnetv2_m_21ft1k-bf41664a.pth"),
        Published("v2-l", "imagenet21k-ft1k", TIMM_V2 + "tf_efficientnetv2_l_21ft1k-60127a9d.pth"),
        Published("v2-xl", "imagenet21k-ft1k", TIMM_V2 + "tf_efficientnetv2_xl_in21ft1k-06c35c48.pth"),
        Published("d0", "coco", EFFDET + "tf_efficientdet_d0_34-f153e0cf.pth"),
        Published("d1", "coco", EFFDET + "tf_efficientdet_d1_40-a30f94af.pth"),
        Published("d2", "coco", EFFDET + "tf_efficientdet_d2_43-8107aa99.pth"),
        Published("d3", "coco", EFFDET + "tf_efficientdet_d3_47-0b525f35.pth"),
        Published("d4", "coco", EFFDET + "tf_efficientdet_d4_49-f56376d9.pth"),
        Published("d5", "coco", EFFDET + "tf_efficientdet_d5_51-c79f9be6.pth"),
        Published("d6", "coco", EFFDET + "tf_efficientdet_d6_52-4eda3773.pth"),
        Published("d7", "coco", EFFDET + "tf_efficientdet_d7_53-6d1d7a95.pth"),
        Published("d7x", "coco", EFFDET + "tf_efficientdet_d7x-f390b87c.pth"),
        Published("det-lite0", "coco", EFFDET + "tf_efficientdet_lite0-dfacfc78.pth"),
        Published("det-lite1", "coco", EFFDET + "tf_efficientdet_lite1-6dc7ab30.pth"),
        Published("det-lite2", "coco", EFFDET + "tf_efficientdet_lite2-86c5d55b.pth"),
        Published("det-lite3", "coco", EFFDET + "tf_efficientdet_lite3-506852cb.pth"),
        Published("det-lite4", "coco", EFFDET + "tf_efficientdet_lite4-391ddabc.pth"),
        Published("d0", "coco-ap", EFFDET + "tf_efficientdet_d0_ap-d0cdbd0a.pth"),
        Published("d1", "coco-ap", EFFDET + "tf_efficientdet_d1_ap-7721d075.pth"),
        Published("d2", "coco-ap", EFFDET + "tf_efficientdet_d2_ap-a2995c19.pth"),
        Published("d3", "coco-ap", EFFDET + "tf_efficientdet_d3_ap-e4a2feab.pth"),
        Published("d4", "coco-ap", EFFDET + "tf_efficientdet_d4_ap-f601a5fc.pth"),
        Published("d5", "coco-ap", EFFDET + "tf_efficientdet_d5_ap-3673ae5d.pth"),
    )
}

KINDS = ("imagenet", "imagenet-ap", "imagenet-ns", "imagenet21k", "imagenet21k-ft1k", "coco", "coco-ap")


def published_kinds(model: str) -> list[str]:
    """Lists the kinds of published weights that a model has.

    >>> published_kinds("l2"), published_kinds("v2-s")
    (['imagenet-ns'], ['imagenet', 'imagenet21k', 'imagenet21k-ft1k'])
    """
    return [kind for kind in KINDS if (model, kind) in PUBLISHED]


def preprocessing(model: str, kind: str) -> Preprocessing:
    """Returns the preprocessing of weights of `kind`; for unpublished weights (digits, a path) the model's usual."""
    # AdvProp scales pixels to [-1, 1], as Lite does.
    mean, std = (HALF, HALF) if kind.endswith("-ap") else normalization(model)
    if is_detector(model):
        # The letterbox's border is the mean colour, so that it is about 0 once normalized; AdvProp's is black.
        red, green, blue = (round(255 * value) for value in mean)
        fill = (0, 0, 0) if kind == "coco-ap" else (red, green, blue)
        return Preprocessing(mean, std, "bilinear", None, fill, LETTERBOX)
    row = EFFICIENTNETS[model]
    if (model, kind) == ("v2-b3", "imagenet"):  # trained as V2-B0 to B2; the row is that of its ImageNet-21k weights
        mean, std, row = IMAGENET_MEAN, IMAGENET_STD, row._replace(crop=None, stretch=False)
    # Bicubic for the smaller Lites too: timm found that it matches TensorFlow's bilinear best at low resolution.
    interpolation = "bilinear" if model in ("lite3", "lite4") else "bicubic"
    # Rounded down, so that size / crop, rounded down, is size + 32 again.
    crop = row.crop or math.floor(1000 * row.size / (row.size + CROP_PADDING)) / 1000
    return Preprocessing(mean, std, interpolation, crop, (0, 0, 0), STRETCH if row.stretch else CENTER_CROP)
