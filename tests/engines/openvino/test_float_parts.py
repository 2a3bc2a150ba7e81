"""Tests the choice between 16 bits and FP32 for what is not INT8 in an engine for CPUs."""

import numpy as np
import pytest

from effedge.deploy.common.cli import UserError
from effedge.engines.openvino import float_parts, race
from effedge.engines.openvino.float_parts import fp32_is_better
from tests.engines import graphs
from tests.engines.openvino.builds import CAPABILITIES, built

needs_sixteen_bits = pytest.mark.skipif(
    not {"BF16", "FP16"}.intersection(CAPABILITIES), reason="this CPU computes in neither FP16 nor bfloat16"
)


@pytest.fixture
def quantized(tmp_path):
    """The INT8 ONNX of a small classifier, whose first convolution is in float, and an image for it."""
    from PIL import Image

    image = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    return graphs.network(tmp_path / "int8.onnx", quantized=True), str(tmp_path / "image.png")


@pytest.mark.parametrize(
    ("ratio", "decibels", "better"),
    [
        (0.96, 40.0, True),  # as fast
        (0.9, 40.0, False),
        (0.9, None, False),
        (0.9, 29.0, True),  # 16 bits lose as much as INT8
        (0.6, 29.0, False),  # but FP32 would take two thirds longer
        (None, 40.0, False),
        (None, 29.0, True),
        (None, None, False),
    ],
)
def test_fp32_is_taken_where_16_bits_save_nothing_or_lose_much(ratio, decibels, better):
    assert fp32_is_better(ratio, decibels) == better


@needs_sixteen_bits
@pytest.mark.parametrize(("ratio", "precision"), [(0.8, "16 bits"), (1.0, "f32")])
def test_the_faster_form_is_built_and_the_manifest_says_why(tmp_path, monkeypatch, capsys, quantized, ratio, precision):
    monkeypatch.setattr(race, "time_ratio", lambda first, second: ratio)
    onnx, image = quantized
    manifest = built(onnx, tmp_path / "engine", compare_on=image)
    chosen = manifest["float_parts"]
    assert (chosen["precision"] == "f32") == (precision == "f32")
    assert chosen["ratio"] == ratio and 30 < chosen["decibels"] < 100
    assert manifest["backend"]["config"] == {"INFERENCE_PRECISION_HINT": chosen["precision"]}
    kinds = {layer["name"]: layer["precision"] for layer in manifest["precision"]["layers"]}
    assert kinds["conv0"] == chosen["precision"] and kinds["conv1"] == "int8"
    said = capsys.readouterr().out
    takes = "with 16 bits a run would take" if precision == "f32" else "a run takes"
    assert f"what is not INT8 in {chosen['precision']}: {takes} {ratio:.2f} times as long as with f32" in said


@needs_sixteen_bits
def test_outputs_that_16_bits_move_far_are_computed_in_fp32(tmp_path, monkeypatch, quantized):
    """This network loses little, so the limit is moved above what it loses."""
    monkeypatch.setattr(race, "time_ratio", lambda first, second: 0.8)
    onnx, image = quantized
    near = built(onnx, tmp_path / "near", compare_on=image)["float_parts"]
    monkeypatch.setattr(float_parts, "LEAST_DECIBELS", near["decibels"] + 1)
    far = built(onnx, tmp_path / "far", compare_on=image)["float_parts"]
    assert near["precision"] != far["precision"] == "f32"
    assert built(onnx, tmp_path / "drawn")["float_parts"] == {**near, "decibels": None}


@needs_sixteen_bits
@pytest.mark.parametrize("asked", ["fp16", "fp32"])
def test_what_is_asked_for_is_built_without_a_race(tmp_path, monkeypatch, quantized, asked):
    monkeypatch.setattr(race, "time_ratio", lambda first, second: pytest.fail("raced"))
    manifest = built(quantized[0], tmp_path / "engine", float_parts=asked, swish="exact")
    assert (manifest["float_parts"]["precision"] == "f32") == (asked == "fp32")
    assert manifest["float_parts"]["ratio"] is None


def test_a_cpu_without_16_bits_has_nothing_to_choose(tmp_path, monkeypatch, quantized):
    monkeypatch.setattr(float_parts, "SIXTEEN_BITS", {})
    assert "float_parts" not in built(quantized[0], tmp_path / "engine")
    with pytest.raises(UserError, match="--float-parts fp16: this CPU computes in neither FP16 nor bfloat16"):
        built(quantized[0], tmp_path / "asked", float_parts="fp16")
