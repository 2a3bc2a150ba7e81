"""timm's configurations of the classifiers that effedge has, held against what effedge makes of each: by the hub's
config.json, and by the rows of the published weights.

The figures are those of timm 1.0.31: `get_pretrained_cfg(name)`, and in the last two columns the size and the crop of
`resolve_data_config(..., use_test_size=True)`, by which timm evaluates.
"""

from pathlib import Path
from typing import NamedTuple

import pytest

from effedge.pipeline.models.names import model_of_arch
from effedge.pipeline.models.tables import input_size, is_detector
from effedge.pipeline.weights.load import Weights, size_of_input
from effedge.pipeline.weights.published import PUBLISHED, preprocessing
from effedge.pipeline.weights.statements import check_model_said, said_preprocessing, said_size

NORMALIZATION = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
RESIZE = {"center": "center-crop", "squash": "stretch"}
# name, input_size, test_input_size, crop_pct, test_crop_pct, crop_mode, interpolation, mean and std, num_classes,
# the file's SHA-256 in its URL; the size and the crop of the evaluation
TABLE = """
efficientnet_b0.ra4_e3600_r224_in1k  224  256  0.9    1  center  bicubic   half      1000   -         256  1
efficientnet_b0.ra_in1k              224  -    0.875  -  center  bicubic   imagenet  1000   3dd342df  224  0.875
efficientnet_b1.ft_in1k              224  256  0.875  1  center  bicubic   imagenet  1000   533bc792  256  1
efficientnet_b1.ra4_e3600_r240_in1k  240  288  0.9    1  center  bicubic   half      1000   -         288  1
efficientnet_b2.ra_in1k              256  288  0.875  1  center  bicubic   imagenet  1000   bcdf34b7  288  1
efficientnet_b3.ra2_in1k             288  320  0.875  1  center  bicubic   imagenet  1000   cf984f9c  320  1
efficientnet_b4.ra2_in1k             320  384  0.875  1  center  bicubic   imagenet  1000   7eb33cd5  384  1
efficientnet_b5.sw_in12k             416  -    0.95   -  center  bicubic   imagenet  11821  -         416  0.95
efficientnet_b5.sw_in12k_ft_in1k     448  -    1      -  squash  bicubic   imagenet  1000   -         448  1
efficientnet_lite0.ra_in1k           224  -    0.875  -  center  bicubic   imagenet  1000   37913777  224  0.875
tf_efficientnet_b0.aa_in1k           224  -    0.875  -  center  bicubic   imagenet  1000   827b6e33  224  0.875
tf_efficientnet_b0.ap_in1k           224  -    0.875  -  center  bicubic   half      1000   f262efe1  224  0.875
tf_efficientnet_b0.in1k              224  -    0.875  -  center  bicubic   imagenet  1000   0af12548  224  0.875
tf_efficientnet_b0.ns_jft_in1k       224  -    0.875  -  center  bicubic   imagenet  1000   c0e6a31c  224  0.875
tf_efficientnet_b1.aa_in1k           240  -    0.882  -  center  bicubic   imagenet  1000   ea7a6ee0  240  0.882
tf_efficientnet_b1.ap_in1k           240  -    0.882  -  center  bicubic   half      1000   44ef0a3d  240  0.882
tf_efficientnet_b1.in1k              240  -    0.882  -  center  bicubic   imagenet  1000   5c1377c4  240  0.882
tf_efficientnet_b1.ns_jft_in1k       240  -    0.882  -  center  bicubic   imagenet  1000   99dd0c41  240  0.882
tf_efficientnet_b2.aa_in1k           260  -    0.89   -  center  bicubic   imagenet  1000   60c94f97  260  0.89
tf_efficientnet_b2.ap_in1k           260  -    0.89   -  center  bicubic   half      1000   2f8e7636  260  0.89
tf_efficientnet_b2.in1k              260  -    0.89   -  center  bicubic   imagenet  1000   e393ef04  260  0.89
tf_efficientnet_b2.ns_jft_in1k       260  -    0.89   -  center  bicubic   imagenet  1000   00306e48  260  0.89
tf_efficientnet_b3.aa_in1k           300  -    0.904  -  center  bicubic   imagenet  1000   84b4657e  300  0.904
tf_efficientnet_b3.ap_in1k           300  -    0.904  -  center  bicubic   half      1000   aad25bdd  300  0.904
tf_efficientnet_b3.in1k              300  -    0.904  -  center  bicubic   imagenet  1000   e3bd6955  300  0.904
tf_efficientnet_b3.ns_jft_in1k       300  -    0.904  -  center  bicubic   imagenet  1000   9d44bf68  300  0.904
tf_efficientnet_b4.aa_in1k           380  -    0.922  -  center  bicubic   imagenet  1000   818f208c  380  0.922
tf_efficientnet_b4.ap_in1k           380  -    0.922  -  center  bicubic   half      1000   dedb23e6  380  0.922
tf_efficientnet_b4.in1k              380  -    0.922  -  center  bicubic   imagenet  1000   74ee3bed  380  0.922
tf_efficientnet_b4.ns_jft_in1k       380  -    0.922  -  center  bicubic   imagenet  1000   d6313a46  380  0.922
tf_efficientnet_b5.aa_in1k           456  -    0.934  -  center  bicubic   imagenet  1000   99018a74  456  0.934
tf_efficientnet_b5.ap_in1k           456  -    0.934  -  center  bicubic   half      1000   9e82fae8  456  0.934
tf_efficientnet_b5.in1k              456  -    0.934  -  center  bicubic   imagenet  1000   c6949ce9  456  0.934
tf_efficientnet_b5.ns_jft_in1k       456  -    0.934  -  center  bicubic   imagenet  1000   6f26d0cf  456  0.934
tf_efficientnet_b5.ra_in1k           456  -    0.934  -  center  bicubic   imagenet  1000   9a3e5369  456  0.934
tf_efficientnet_b6.aa_in1k           528  -    0.942  -  center  bicubic   imagenet  1000   80ba17e4  528  0.942
tf_efficientnet_b6.ap_in1k           528  -    0.942  -  center  bicubic   half      1000   4ffb161f  528  0.942
tf_efficientnet_b6.ns_jft_in1k       528  -    0.942  -  center  bicubic   imagenet  1000   51548356  528  0.942
tf_efficientnet_b7.aa_in1k           600  -    0.949  -  center  bicubic   imagenet  1000   076e3472  600  0.949
tf_efficientnet_b7.ap_in1k           600  -    0.949  -  center  bicubic   half      1000   ddb28fec  600  0.949
tf_efficientnet_b7.ns_jft_in1k       600  -    0.949  -  center  bicubic   imagenet  1000   1dbc32de  600  0.949
tf_efficientnet_b7.ra_in1k           600  -    0.949  -  center  bicubic   imagenet  1000   6c08e654  600  0.949
tf_efficientnet_b8.ap_in1k           672  -    0.954  -  center  bicubic   half      1000   00e169fa  672  0.954
tf_efficientnet_b8.ra_in1k           672  -    0.954  -  center  bicubic   imagenet  1000   572d5dd9  672  0.954
tf_efficientnet_l2.ns_jft_in1k       800  -    0.96   -  center  bicubic   imagenet  1000   df73bb44  800  0.96
tf_efficientnet_l2.ns_jft_in1k_475   475  -    0.936  -  center  bicubic   imagenet  1000   bebbd00a  475  0.936
tf_efficientnet_lite0.in1k           224  -    0.875  -  center  bicubic   half      1000   0aa007d2  224  0.875
tf_efficientnet_lite1.in1k           240  -    0.882  -  center  bicubic   half      1000   bde8b488  240  0.882
tf_efficientnet_lite2.in1k           260  -    0.89   -  center  bicubic   half      1000   dcccb7df  260  0.89
tf_efficientnet_lite3.in1k           300  -    0.904  -  center  bilinear  half      1000   b733e338  300  0.904
tf_efficientnet_lite4.in1k           380  -    0.92   -  center  bilinear  half      1000   741542c3  380  0.92
tf_efficientnetv2_b0.in1k            192  224  0.875  -  center  bicubic   imagenet  1000   c7cc451f  224  0.875
tf_efficientnetv2_b1.in1k            192  240  0.882  -  center  bicubic   imagenet  1000   be6e41b0  240  0.882
tf_efficientnetv2_b2.in1k            208  260  0.89   -  center  bicubic   imagenet  1000   847de54e  260  0.89
tf_efficientnetv2_b3.in1k            240  300  0.904  -  center  bicubic   imagenet  1000   57773f13  300  0.904
tf_efficientnetv2_b3.in21k           240  300  0.904  -  center  bicubic   half      21843  -         300  0.904
tf_efficientnetv2_b3.in21k_ft_in1k   240  300  0.9    -  squash  bicubic   half      1000   -         300  0.9
tf_efficientnetv2_l.in1k             384  480  1      -  squash  bicubic   half      1000   d664b728  480  1
tf_efficientnetv2_l.in21k            384  480  1      -  squash  bicubic   half      21843  91a19ec9  480  1
tf_efficientnetv2_l.in21k_ft_in1k    384  480  1      -  squash  bicubic   half      1000   60127a9d  480  1
tf_efficientnetv2_m.in1k             384  480  1      -  squash  bicubic   half      1000   cc09e0cd  480  1
tf_efficientnetv2_m.in21k            384  480  1      -  squash  bicubic   half      21843  361418a2  480  1
tf_efficientnetv2_m.in21k_ft_in1k    384  480  1      -  squash  bicubic   half      1000   bf41664a  480  1
tf_efficientnetv2_s.in1k             300  384  1      -  center  bicubic   half      1000   eb54923e  384  1
tf_efficientnetv2_s.in21k            300  384  1      -  center  bicubic   half      21843  6337ad01  384  1
tf_efficientnetv2_s.in21k_ft_in1k    300  384  1      -  center  bicubic   half      1000   d7dafa41  384  1
tf_efficientnetv2_xl.in21k           384  512  1      -  squash  bicubic   half      21843  fd7e8abf  512  1
tf_efficientnetv2_xl.in21k_ft_in1k   384  512  1      -  squash  bicubic   half      1000   06c35c48  512  1
"""


class Row(NamedTuple):
    name: str
    size: str
    test_size: str
    crop: str
    test_crop: str
    mode: str
    interpolation: str
    normalization: str
    classes: str
    sha256: str
    evaluated_size: str
    evaluated_crop: str


ROWS = {row.name: row for row in (Row(*line.split()) for line in TABLE.strip().splitlines())}
OF_FILE = {row.sha256: row for row in ROWS.values()}
# Where the authors' inputs are others than timm's: the size, and size / (size + 32).
AUTHORS = {"lite3": (280, 0.897), "lite4": (300, 0.903)}


def hub_values(row):
    """What the hub's config.json of a row says."""
    mean, std = NORMALIZATION[row.normalization]
    stated = {
        "input_size": [3, int(row.size), int(row.size)], "crop_pct": float(row.crop), "crop_mode": row.mode,
        "interpolation": row.interpolation, "mean": list(mean), "std": list(std), "fixed_input_size": False,
    }  # fmt: skip
    if row.test_size != "-":
        stated["test_input_size"] = [3, int(row.test_size), int(row.test_size)]
    if row.test_crop != "-":
        stated["test_crop_pct"] = float(row.test_crop)
    architecture = {"architecture": row.name.partition(".")[0], "num_classes": int(row.classes)}
    return architecture | {f"pretrained_cfg.{key}": value for key, value in stated.items()}


def test_the_table_has_all_of_timms_efficientnetv2():
    assert sum(name.startswith("tf_efficientnetv2_") for name in ROWS) == 17
    assert [row.name for row in ROWS.values() if row.mode == "squash" and row.crop != "1"] == [
        "tf_efficientnetv2_b3.in21k_ft_in1k"
    ]


@pytest.mark.parametrize("name", ROWS)
def test_an_engine_of_the_hubs_weights_takes_its_images_as_timm_evaluates(name):
    row, values, file = ROWS[name], hub_values(ROWS[name]), Path("model.safetensors")
    model = model_of_arch(name)
    assert model is not None and check_model_said(values, model, file)
    look = said_preprocessing(values, model, preprocessing(model, ""))
    assert (look.mean, look.std) == NORMALIZATION[row.normalization]
    assert look.input_spec() == {
        "interpolation": row.interpolation, "resize": RESIZE[row.mode], "crop": float(row.evaluated_crop)
    }  # fmt: skip
    loaded = Weights({}, int(row.classes), [], look, said_size(values), file)
    assert size_of_input(model, loaded) == (int(row.evaluated_size),) * 2


@pytest.mark.parametrize(
    ("model", "kind"), [(row.model, row.kind) for row in PUBLISHED.values() if not is_detector(row.model)]
)
def test_an_engine_of_published_weights_takes_its_images_as_timm_evaluates(model, kind):
    row, look = OF_FILE[PUBLISHED[model, kind].sha256_prefix], preprocessing(model, kind)
    size, crop = AUTHORS.get(model, (int(row.evaluated_size), float(row.evaluated_crop)))
    assert input_size(model) == (size, size)
    assert (look.mean, look.std, look.interpolation) == (*NORMALIZATION[row.normalization], row.interpolation)
    assert look.resize == RESIZE[row.mode]
    assert look.crop == pytest.approx(crop, abs=0.0011)  # the authors' rule, where timm rounds
