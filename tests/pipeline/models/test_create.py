"""Created models: the papers' parameters, and timm's and effdet's key names, counts and outputs ($EFFEDGE_DATA)."""

import functools
import json
import os
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.create import create_model
from effedge.pipeline.models.tables import EFFICIENTNETS, MODELS, input_size
from effedge.pipeline.weights.published import preprocessing
from tests.pipeline.synthetic_weights import fill

needs_data = pytest.mark.skipif("EFFEDGE_DATA" not in os.environ, reason="EFFEDGE_DATA is not set")

# Millions of parameters, as the papers, EfficientNet-Lite's release notes and EfficientNetV2's README (google/automl)
# print them.
PARAMETERS = {
    "b0": 5.3, "b1": 7.8, "b2": 9.2, "b3": 12, "b4": 19, "b5": 30, "b6": 43, "b7": 66, "l2": 480,
    "lite0": 4.7, "lite1": 5.4, "lite2": 6.1, "lite3": 8.2, "lite4": 13.0,
    "d0": 3.9, "d1": 6.6, "d2": 8.1, "d3": 12, "d4": 21, "d5": 34, "d6": 52, "d7": 52, "d7x": 77,
    "det-lite0": 3.2, "det-lite1": 4.2, "det-lite2": 5.3, "det-lite3": 8.4, "det-lite4": 15.1,
    "v2-s": 21.5, "v2-m": 54.1, "v2-b0": 7.1, "v2-b1": 8.1, "v2-b2": 10.1, "v2-b3": 14.4,
    "v2-l": 120, "v2-xl": 208,
}  # fmt: skip

# Models that take a second at most; the others take several, and up to a gigabyte.
SMALL = (
    "efficientnet_b0",
    "efficientnet_b2",
    "efficientdet_d0",
    "efficientdet_lite0",
    "b0",
    "b1",
    "b2",
    "lite0",
    "lite1",
    "lite2",
    "lite3",
    "d0",
    "d1",
    "d2",
    "det-lite0",
    "det-lite1",
    "det-lite2",
    "v2-b0",
    "v2-b1",
    "v2-b2",
    "v2-b3",
)
# Of timm's and effdet's own models, those that golden_pytorch.json has.
OWN = [
    *(f"efficientnet_b{index}" for index in range(5)),
    *(f"efficientdet_{size}" for size in ("d0", "d1", "d2", "d3", "lite0")),
]
TENSORFLOW = [name for name in MODELS if not name.startswith(("efficient", "det-v2-"))]
WITH_OUTPUTS = [
    pytest.param(name, marks=() if name in SMALL else pytest.mark.slow)
    for name in [*TENSORFLOW, *OWN]
    if name not in ("b8", "l2")
]


@functools.lru_cache
def golden():
    """The figures by effedge's names."""
    folder = Path(os.environ["EFFEDGE_DATA"])
    own = json.loads((folder / "golden_pytorch.json").read_text())
    own = {name.replace("timm-", "efficientnet_").replace("effdet-", "efficientdet_"): own[name] for name in own}
    second = json.loads((folder / "golden_v2.json").read_text())
    return json.loads((folder / "golden.json").read_text()) | own | second


def effdets_key(name, key):
    """The key in effdet's model: its Lite0 and V2 have the heads' BatchNorms by level and then layer, without `bn`."""
    is_level_first = name.startswith(("efficientdet_lite0", "efficientdetv2_"))
    replacement = r"\1.bn_rep.\3.\2.\4" if is_level_first else r"\g<0>"
    return re.sub(r"(\w+_net)\.bn_rep\.(\d)\.(\d)\.bn\.(\w+)", replacement, key)


def on_meta(name, **options):
    """The module without its memory."""
    with torch.device("meta"):
        return create_model(name, **options).eval()


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_parameters_are_those_that_the_papers_print(name):
    millions = PARAMETERS[name]
    digit = 1 if millions == int(millions) else 0.1
    # B2's 9.2 and V2-L's 120 in the papers are 9.1 and 118.5 in every implementation; the others round to the number.
    digits = {"b2": 1, "v2-l": 1.5}.get(name, 0.55)
    assert parameters(on_meta(name)) / 1e6 == pytest.approx(millions, abs=digit * digits)


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("b0", 5_288_548), ("b7", 66_347_960), ("d0", 3_880_067),
        ("v2-s", 21_458_488), ("v2-m", 54_139_356), ("v2-l", 118_515_272),
    ],
)  # fmt: skip
def test_parameters_are_exactly_the_published_number(name, total):
    # Keras's EfficientNetB0 and B7 print these (without the normalization layer's seven); automl's D0 prints 3.880067M;
    # torchvision documents these of its EfficientNet_V2_S, _M and _L.
    assert parameters(on_meta(name)) == total


@needs_data
@pytest.mark.parametrize("name", [*TENSORFLOW, *OWN])
def test_keys_shapes_and_parameters_are_timms_and_effdets(name):
    expected, model = golden()[name], on_meta(name)
    state = model.state_dict()
    keys = "\n".join(sorted(f"{effdets_key(name, key)} {tuple(tensor.shape)}" for key, tensor in state.items()))
    assert (parameters(model), len(state)) == (expected["parameters"], expected["tensors"])
    assert zlib.crc32(keys.encode()) == expected["keys_crc32"]
    assert expected.get("image_size", [*input_size(name)]) == [*input_size(name)]


@needs_data
@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("v2-")])
def test_sizes_and_preprocessing_of_v2_are_timms(name):
    expected, row, look = golden()[name], EFFICIENTNETS[name], preprocessing(name, "")
    assert expected["input_size"] == [3, row.train_size, row.train_size]
    assert expected["test_input_size"] == [3, row.size, row.size]
    assert (list(look.mean), list(look.std), look.interpolation) == (expected["mean"], expected["std"], "bicubic")
    assert look.crop == pytest.approx(expected["crop_pct"], abs=1e-3)


def outputs_on_synthetic_weights(name, model, shape):
    filled = fill({effdets_key(name, key): tensor for key, tensor in model.state_dict().items()})
    model.load_state_dict({key: filled[effdets_key(name, key)] for key in model.state_dict()}, assign=True)
    image = torch.from_numpy(np.random.RandomState(7).randn(*shape)).float()
    with torch.inference_mode():
        return model(image)


@needs_data
@pytest.mark.parametrize("name", WITH_OUTPUTS)
def test_outputs_on_synthetic_weights_are_timms_and_effdets(name):
    expected = golden()[name]
    model = on_meta(name)
    outputs = outputs_on_synthetic_weights(name, model, expected["input"])
    flat = [outputs] if torch.is_tensor(outputs) else [level for head in outputs for level in head]
    assert len(flat) == len(expected["outputs"])
    for output, figures in zip(flat, expected["outputs"], strict=True):
        assert list(output.shape) == figures["shape"]
        numbers = output.double().flatten()
        spread = max(figures["std"], abs(figures["mean"]))
        assert numbers.mean().item() == pytest.approx(figures["mean"], abs=1e-4 * spread)
        assert numbers.std().item() == pytest.approx(figures["std"], abs=1e-4 * spread)
        assert numbers[figures["at"]].numpy() == pytest.approx(np.array(figures["values"]), abs=1e-4 * spread, rel=1e-4)


# Detectors of effdet 0.4.1 for 5 classes, whose configuration had `fpn_name` set: parameters, tensors, the digest of
# their keys and shapes, and mean and deviation of the class logits of P3 and P7 and the box codes of P3 and P7, on
# synthetic weights and an input of 256.
OTHER_NECKS = {
    "d0-bifpn-sum": (
        3830285,
        760,
        2277289803,
        [0.043235, 0.174461, 0.021876, 0.120503, 0.007747, 0.218958, -0.002883, 0.165054],
    ),
    "d0-bifpn-softmax": (
        3830342,
        784,
        268343857,
        [0.041673, 0.171688, 0.022054, 0.121098, 0.007605, 0.218748, -0.002533, 0.164327],
    ),
    "d0-panet": (
        3831437,
        794,
        2321577259,
        [0.042937, 0.15917, 0.021802, 0.121286, 0.000591, 0.218682, -0.00262, 0.164218],
    ),
    "d0-panet-fast": (
        3831491,
        824,
        3237250875,
        [0.039158, 0.158064, 0.022602, 0.121018, 0.00075, 0.216021, -0.002854, 0.164185],
    ),
    "det-lite0-panet": (
        3194897,
        730,
        2648713566,
        [0.057645, 0.29712, 0.0301, 0.163158, 0.038245, 0.292799, 0.014231, 0.219404],
    ),
    "det-lite0-bifpn-softmax": (
        3193802,
        720,
        32995321,
        [0.072121, 0.280842, 0.029682, 0.143062, 0.05329, 0.2679, 0.022022, 0.190563],
    ),
    "efficientdet_d0-panet-fast": (
        3828931,
        784,
        2882707042,
        [0.040287, 0.135795, 0.023915, 0.118946, -0.008989, 0.183055, -0.004621, 0.153403],
    ),
    "d7x-panet-fast": (78951761, 2420, 3025975985, None),
}


@pytest.mark.parametrize("name", OTHER_NECKS)
def test_another_neck_is_effdets_in_parameters_keys_and_outputs(name):
    total, tensors, digest, figures = OTHER_NECKS[name]
    model = on_meta(name, classes=5)
    state = model.state_dict()
    keys = "\n".join(sorted(f"{key} {tuple(tensor.shape)}" for key, tensor in state.items()))
    assert (parameters(model), len(state), zlib.crc32(keys.encode())) == (total, tensors, digest)
    if figures is None:
        return
    model.load_state_dict(fill(state), assign=True)
    image = torch.from_numpy(np.random.RandomState(7).randn(1, 3, 256, 256)).float()
    with torch.inference_mode():
        classes, boxes = model(image)
    levels = [level.double() for head in (classes, boxes) for level in (head[0], head[-1])]
    found = [number for level in levels for number in (level.mean().item(), level.std().item())]
    assert found == pytest.approx(figures, abs=2e-6)  # softmax and fast fusion differ by 1.5e-5


# timm 1.0.31's classifiers for 5 classes on an input of 64 x 96, and detectors of effdet 0.4.1 for 5 classes on 256 and
# on 160 x 224, whose levels are odd: parameters, tensors, the digest of keys and shapes, mean and deviation as above.
# det-v2-b0 is tf_efficientdet_d0 with another `backbone_name`; det-v2-s is efficientdetv2_ds with tf_efficientnetv2_s
# and the entries of tf_efficientdet_*.
ON_V2 = {
    "efficientnetv2_rw_t": (12629513, 760, 47272642, {(64, 96): [-0.093005, 0.236074]}),
    "efficientnetv2_rw_s": (22157261, 794, 2357011484, {(64, 96): [0.089606, 0.49697]}),
    "efficientdetv2_dt": (
        13333812, 1264, 1934916985,
        {
            (256, 256): [0.056887, 0.180042, 0.008838, 0.128942, 0.000218, 0.178359, -0.019548, 0.140259],
            (160, 224): [0.0562, 0.178164, 0.008835, 0.128941, 0.000205, 0.177759, -0.019544, 0.140265],
        },
    ),
    "efficientdetv2_ds": (
        26384030, 1492, 350140231,
        {
            (256, 256): [0.004166, 0.178599, 0.022013, 0.125459, -0.009206, 0.205959, -0.008747, 0.139046],
            (160, 224): [0.004806, 0.177301, 0.022012, 0.12546, -0.009017, 0.205022, -0.008745, 0.139047],
        },
    ),
    "det-v2-b0": (
        5821274, 844, 1483771141,
        {
            (256, 256): [0.041772, 0.17148, 0.022057, 0.12111, 0.007506, 0.218868, -0.002526, 0.164332],
            (160, 224): [0.041191, 0.169977, 0.022054, 0.12111, 0.007251, 0.217555, -0.002523, 0.164335],
        },
    ),
    "det-v2-s": (
        24380710, 1529, 3418840616,
        {
            (256, 256): [0.032898, 0.166923, 0.009774, 0.132346, 0.027389, 0.180217, -0.000387, 0.156386],
            (160, 224): [0.032776, 0.166006, 0.009773, 0.132346, 0.026763, 0.179509, -0.000386, 0.156388],
        },
    ),
    "efficientdetv2_dt-panet-fast": (
        13484847, 1338, 2664130093,
        {
            (256, 256): [0.050131, 0.17271, 0.008353, 0.130789, 0.006342, 0.172685, -0.020349, 0.140599],
            (160, 224): [0.049695, 0.171196, 0.008349, 0.130785, 0.00598, 0.172134, -0.020356, 0.140596],
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ON_V2)
def test_models_on_v2_are_timms_and_effdets_in_parameters_keys_and_outputs(name):
    total, tensors, digest, outputs = ON_V2[name]
    model = on_meta(name, classes=5)
    state = model.state_dict()
    keys = "\n".join(sorted(f"{effdets_key(name, key)} {tuple(tensor.shape)}" for key, tensor in state.items()))
    assert (parameters(model), len(state), zlib.crc32(keys.encode())) == (total, tensors, digest)
    for size, figures in outputs.items():
        given = outputs_on_synthetic_weights(name, model, (1, 3, *size))
        levels = [given] if torch.is_tensor(given) else [level for head in given for level in (head[0], head[-1])]
        found = [number for level in levels for number in (level.double().mean().item(), level.double().std().item())]
        assert found == pytest.approx(figures, abs=2e-6)


@pytest.mark.parametrize("name", ["b0", "lite3"])
def test_a_classifier_has_an_output_for_each_class(name):
    assert on_meta(name, classes=7)(torch.zeros(2, 3, 64, 96, device="meta")).shape == (2, 7)


def test_a_detector_has_nine_anchors_of_outputs_for_each_cell_of_each_level():
    classes, boxes = on_meta("d0", classes=7)(torch.zeros(2, 3, 128, 192, device="meta"))
    cells = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    assert [tuple(level.shape) for level in classes] == [(2, 63, *cell) for cell in cells]
    assert [tuple(level.shape) for level in boxes] == [(2, 36, *cell) for cell in cells]


def test_d7x_has_a_level_more():
    classes, _ = on_meta("d7x", classes=1)(torch.zeros(1, 3, 256, 256, device="meta"))
    assert [level.shape[2] for level in classes] == [32, 16, 8, 4, 2, 1]


def test_an_unknown_model_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="unknown model 'det-lit0': did you mean 'det-lite0'"):
        create_model("det-lit0")
    with pytest.raises(UserError, match="unknown model 'resnet50': .*expected one of b0, "):
        create_model("resnet50")


@pytest.mark.parametrize("classes", [0, -3])
def test_less_than_one_class_is_refused(classes):
    with pytest.raises(UserError, match=f"classes {classes} makes no model"):
        create_model("b0", classes)


@pytest.mark.parametrize(("name", "size"), [("d0", 500), ("d0", 96), ("d0", 0), ("b0", 225), ("b0", 0), ("b0", -32)])
def test_a_size_that_does_not_suit_is_refused_with_those_that_do(name, size):
    with pytest.raises(UserError, match=f"size {size} does not suit {name}: expected a multiple of 32, "):
        create_model(name, size=size)
