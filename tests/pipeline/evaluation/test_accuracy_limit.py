"""Accuracy of a model in memory, worked by hand, and the stage that keeps to a limit of its drop."""

import argparse
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from effedge.calibration.graph import onnx_file
from effedge.calibration.quantize import calibrate
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import CALIBRATION_KEY
from effedge.pipeline.evaluation.accuracy_limit import (
    IMAGES,
    AccuracyLimit,
    accuracy,
    add_limit,
    drop_budget,
    read_labelled,
    read_limit,
)

pytest.importorskip("openvino")
LABELS = ["red", "green", "blue"]
COLOURS = {"red": (200, 10, 10), "green": (10, 200, 10)}
SPEC = {
    "model": "tiny", "weights": "", "task": "classification", "labels": LABELS,
    "input": {"size": [8, 8], "batch": [1, 1, 1], "interpolation": "bilinear", "resize": "center-crop", "crop": 1.0},
}  # fmt: skip


@pytest.fixture
def path(tmp_path):
    """A classifier whose logits are the means of the channels."""
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["means", "weight"], ["logits"], name="product"),
    ]
    graph = helper.make_graph(
        nodes, "tiny", [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 8, 8, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.eye(3, dtype=np.float32), "weight")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"effedge": json.dumps(SPEC)})
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def folder(tmp_path):
    """Two red and two green images, and a green one in the folder of the red ones."""
    root = tmp_path / "data"
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (9, 8), colour).save(root / name / f"{index}.png")
    Image.new("RGB", (8, 8), COLOURS["green"]).save(root / "red" / "wrong.png")
    return root


def test_top_1_by_hand(path, folder):
    data = read_labelled(str(folder), None, "classification")
    assert accuracy(onnx_file.load(path), data=data) == 80.0


def test_the_images_are_spread_over_all_classes(tmp_path):
    for name in COLOURS:
        (tmp_path / name).mkdir()
        for index in range(IMAGES):
            (tmp_path / name / f"{index:03}.png").touch()
    data = read_labelled(str(tmp_path), None, "classification")
    assert [int(record.class_ids[0]) for record in data.records] == [0] * (IMAGES // 2) + [1] * (IMAGES // 2)


def test_digits_are_the_calibration_images_own_labels(tmp_path, folder):
    assert len(read_labelled(None, folder, "classification").records) == 5
    assert len(read_labelled("digits", folder, "classification").records) == 5
    (tmp_path / "coco" / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "coco" / "images" / "a.png")
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4]}],
        "categories": [{"id": 1, "name": "red"}],
    }
    (tmp_path / "coco" / "instances.json").write_text(json.dumps(coco))
    assert read_labelled(None, tmp_path / "coco" / "images", "detection").task == "detection"


def test_mistakes_are_one_line(folder):
    with pytest.raises(UserError, match="needs labelled images"):
        read_labelled(None, None, "classification")
    with pytest.raises(UserError, match="is for classification, the model is for detection"):
        read_labelled(str(folder), None, "detection")
    with pytest.raises(UserError, match="no class in common"):
        data = read_labelled(str(folder), None, "classification")
        drop_budget(AccuracyLimit(1), data, {"labels": ["cat", "dog", "cow"]})
    for max_drop in (-1, 101, float("nan")):
        with pytest.raises(UserError, match="MAX_DROP"):
            AccuracyLimit(max_drop)


def test_validation_data_without_a_limit_is_refused():
    parser = argparse.ArgumentParser()
    add_limit(parser)
    assert read_limit(parser.parse_args([])) is None
    assert read_limit(parser.parse_args(["--max-drop", "0", "--validation", "data"])) == AccuracyLimit(0, "data")
    with pytest.raises(UserError, match="is for MAX_DROP"):
        read_limit(parser.parse_args(["--validation", "data"]))


def test_the_stage_runs_again_with_another_drop_other_images_or_other_labels(path, folder, tmp_path):
    def run(max_drop):
        budget = drop_budget(AccuracyLimit(max_drop), read_labelled(str(folder), None, "classification"), SPEC)
        return calibrate(path, folder, tmp_path / "int8.onnx", budget=budget)

    calibration = tmp_path / "calibration"
    calibration.mkdir()
    assert run(0) is True and run(0) is False
    report = json.loads(onnx_file.read(tmp_path / "int8.onnx").metadata_props[CALIBRATION_KEY])
    assert report["budget"] == {
        "max_drop": 0, "unit": "points of top-1", "float": 80.0, "int8": 80.0,
        "float_fails": False,
        "attempts": [{"groups": 0, "int8_macs": 1.0, "accuracy": 80.0}],
    }  # fmt: skip
    assert run(1) is True
    (folder / "red" / "wrong.png").rename(folder / "green" / "wrong.png")
    assert run(1) is True
    report = json.loads(onnx_file.read(tmp_path / "int8.onnx").metadata_props[CALIBRATION_KEY])
    assert report["budget"]["int8"] == 100.0
