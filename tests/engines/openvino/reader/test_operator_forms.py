"""Sweeps OpenVINO's reader over the operators' forms: what it reads otherwise than ONNX Runtime is corrected, or known.

A form that is neither right nor known is a new fault: it needs a rule in engines/openvino/reader, or an entry here. The
engines of the known ones are ONNX Runtime's.
"""

import json
from collections import Counter

import onnx
import pytest

from effedge.deploy.common.cli import UserError
from effedge.engines.build import build_engine
from effedge.engines.comparison.nearness import nearness
from effedge.engines.comparison.reference import Reference
from effedge.engines.onnx_header import read_header
from effedge.engines.openvino.reader.correct import correct_reading
from effedge.engines.openvino.reader.search import CONFIG
from effedge.engines.targets import TARGETS
from tests.engines.openvino.reader.operator_forms import FAMILIES, Form, forms

ov = pytest.importorskip("openvino")
CORE = ov.Core()
REFUSED, WRONG, CORRECTED, RIGHT, NO_REFERENCE = "refused", "wrong", "corrected", "right", "no reference"
ENOUGH = 60  # dB
# Of OpenVINO 2026.4, by operator: what it refuses, and what it reads otherwise and no rule corrects.
PASSED_ON = "of one tensor: where nothing else is in the network, the input loses its name"
KNOWN = {
    **{op: {REFUSED: PASSED_ON} for op in ("Max", "Min", "Sum")},
    "DeformConv": {REFUSED: "opset 22's alone"},
    "Pad": {REFUSED: "mode wrap"},
    "ReduceLogSum": {WRONG: "noop_with_empty_axes, of which it drops the logarithm"},
    "Resize": {
        REFUSED: "half_pixel_symmetric, tf_crop_and_resize, and negative axes",
        WRONG: "keep_aspect_ratio_policy, which it drops",
    },
    "RoiAlign": {WRONG: "mode max, which ONNX Runtime computes otherwise than ONNX defines it, as it says itself"},
}


def state(form: Form, folder) -> str:
    """Returns what becomes of a form in OpenVINO."""
    path = folder / "form.onnx"
    onnx.save(form.model(), path)
    try:
        expected = Reference(path, path).run(form.feeds())
    except UserError:
        return NO_REFERENCE
    try:
        model = CORE.read_model(path)
        corrected = correct_reading(ov, model, read_header(path))
        results = CORE.compile_model(model, "CPU", CONFIG)(form.feeds())
    except RuntimeError:
        return REFUSED
    actual = {name: results[name] for name in expected}
    if min(nearness(expected, actual, {}).values()) < ENOUGH:
        return WRONG
    return CORRECTED if corrected else RIGHT


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_every_form_is_right_or_known(family, tmp_path):
    counts, unknown = Counter(), []
    for form in family():
        result = state(form, tmp_path)
        counts[result] += 1
        if result in (WRONG, REFUSED) and result not in KNOWN.get(form.op, {}):
            unknown.append(f"{result}: {form.name}")
    print(family.__name__, dict(counts))
    assert unknown == []


@pytest.mark.slow
def test_an_engine_of_a_known_form_is_onnx_runtimes(tmp_path):
    engines = Counter()
    for number, form in enumerate(form for form in forms() if form.op in KNOWN):
        if state(form, tmp_path) not in (WRONG, REFUSED):
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        build_engine(tmp_path / "form.onnx", folder, precision="fp32", target=TARGETS["cpu"])
        manifest = json.loads((folder / "manifest.json").read_text())
        engines[form.op, manifest["target"]] += 1
    print(dict(engines))
    assert {target for _, target in engines} == {"cpu-ort"}
    assert {op for op, _ in engines} == set(KNOWN)


# One of each rule, of those that OpenVINO 2026.4 reads otherwise.
CORRECTED_FORMS = (
    "AveragePool-18(2x3x10x13; kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, "
    "count_include_pad=1)",
    "MaxPool-11(2x3x6x7x8; kernel_shape=[2, 2, 2], strides=[3, 3, 3], pads=[0, 0, 0, 0, 0, 0], ceil_mode=1)",
    "ConvTranspose-21(2x4x5x6, 4x4x3x3; strides=[2, 2], group=2, output_shape=[11, 12])",
    "ConvTranspose-21(2x4x5x6, 4x8x3x3; strides=[2, 2], group=1, output_shape=[10, 12], auto_pad=SAME_UPPER)",
    "Resize-18(1x2x9x13, -, -, 4:int64=[1, 2, 16, 7]; mode=linear, antialias=1, "
    "coordinate_transformation_mode=half_pixel)",
    "Resize-18(1x2x9x13, -, -, 4:int64=[1, 2, 5, 31]; mode=cubic, antialias=1, "
    "coordinate_transformation_mode=align_corners)",
    "Resize-12(1x2x9x13, 0=[], 0=[], 4:int64=[1, 2, 20, 7]; mode=cubic, exclude_outside=1)",
    "ReduceL1-17(2x3x4x5; axes=[2, 3], keepdims=0)",
    "ReduceLogSum-17(2x3x4x5; axes=[-1])",
    "ReduceLogSumExp-17(2x3x4x5; axes=[1, -1], keepdims=0)",
    "Softmax-12(3x4x2x5; axis=-2)",
    "Softmax-12(3x4x2x5; )",
)


@pytest.fixture(scope="module")
def by_name():
    return {form.name: form for form in forms()}


@pytest.mark.parametrize("name", CORRECTED_FORMS)
def test_a_form_that_openvino_reads_otherwise_is_corrected(by_name, name, tmp_path):
    assert state(by_name[name], tmp_path) == CORRECTED


@pytest.mark.parametrize("name", CORRECTED_FORMS)
def test_openvino_alone_reads_it_otherwise(by_name, name, tmp_path, monkeypatch):
    """Fails where a later OpenVINO is right: then its rule can go."""
    monkeypatch.setattr("effedge.engines.openvino.reader.correct.RULES", {})
    assert state(by_name[name], tmp_path) == WRONG
