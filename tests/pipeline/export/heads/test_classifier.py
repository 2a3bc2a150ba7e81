"""A classifier of another project takes images: against its own ONNX, run on pixels that NumPy normalizes."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.helper import make_node as node

from effedge.calibration.graph import onnx_file
from effedge.deploy.common.cli import UserError
from effedge.deploy.image.preprocess import preparation
from effedge.pipeline.export.heads.attach import attach_head
from effedge.pipeline.export.heads.table import CLASSIFIERS
from effedge.pipeline.models.tables import Size
from effedge.pipeline.weights.class_names import imagenet_labels
from tests.pipeline.export.foreign_files import run_file, save

ONE, SIDE, CLASSES = (1, 1, 1), 24, 5
NORMALIZE = {
    "classifier": lambda pixels: (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    "classifier-half": lambda pixels: pixels / 127.5 - 1,
    "classifier-unit": lambda pixels: pixels / 255,
}
ENDS = {
    "logits": ([node("Flatten", ["pool"], ["y"])], ["n", None]),
    "a map of one cell": ([node("Identity", ["pool"], ["y"])], ["n", None, 1, 1]),
    "probabilities": ([node("Flatten", ["pool"], ["flat"]), node("Softmax", ["flat"], ["y"], axis=1)], ["n", None]),
    "probabilities through a Reshape": (
        [node("Softmax", ["pool"], ["soft"], axis=1), node("Flatten", ["soft"], ["y"])], ["n", None],
    ),
}  # fmt: skip


def write_classifier(path, end="logits", classes=CLASSES, sides=(SIDE, SIDE), channels_last=False, names=None):
    """Writes a network of one convolution."""
    weight = np.random.default_rng(0).normal(0, 2, (classes, 3, 3, 3)).astype(np.float32)
    nodes, shape = ENDS[end]
    front = [node("Transpose", ["x"], ["chw"], perm=[0, 3, 1, 2])] if channels_last else []
    front += [node("Conv", [front[0].output[0] if front else "x", "w"], ["c"])]
    front += [node("GlobalAveragePool", ["c"], ["pool"])]
    dims = ["n", *sides, 3] if channels_last else ["n", 3, *sides]
    save(path, [*front, *nodes], {"x": dims}, {"y": [dim or classes for dim in shape]}, {"w": weight})
    if names is not None:
        model = onnx.load(path)
        helper.set_model_props(model, {"names": repr(names)})
        onnx.save(model, path)
    return path


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"class {number}\n" for number in range(CLASSES)))
    return path


@pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_probabilities_are_those_of_the_network(name, end, channels_last, labels, tmp_path):
    source = write_classifier(tmp_path / "net.onnx", end, channels_last=channels_last)
    model = attach_head(source, name, labels, ONE)
    onnx_file.save(model, tmp_path / "out.onnx")
    spec = json.loads(model.metadata_props["effedge"])
    photo = np.random.default_rng(1).integers(0, 256, (40, 56, 3)).astype(np.uint8)
    pixels = preparation(spec["input"])(photo).pixels
    assert pixels.shape == (SIDE, SIDE, 3) and spec["input"]["crop"] == 0.875
    logits = run_file(tmp_path / "out.onnx", {"image": pixels[None]})["logits"]
    assert logits.shape == (1, CLASSES) and spec["task"] == "classification" and len(spec["labels"]) == CLASSES

    x = NORMALIZE[name](pixels[None].astype(np.float64)).astype(np.float32)
    [expected] = run_file(source, {"x": x if channels_last else np.ascontiguousarray(x.transpose(0, 3, 1, 2))}).values()
    expected = expected.reshape(1, CLASSES)
    if "probabilities" not in end:
        expected = np.exp(expected) / np.exp(expected).sum()
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), expected, rtol=1e-4, atol=1e-6)


def test_names_come_from_the_labels_the_metadata_or_imagenet(labels, tmp_path):
    def names(path, labels=None):
        return json.loads(attach_head(path, "classifier", labels, ONE).metadata_props["effedge"])["labels"]

    stated = write_classifier(tmp_path / "a.onnx", names={number: f"n{number}" for number in range(CLASSES)})
    assert names(stated) == ["n0", "n1", "n2", "n3", "n4"] and names(stated, labels)[0] == "class 0"
    assert names(write_classifier(tmp_path / "b.onnx", classes=1000)) == imagenet_labels()
    with pytest.raises(UserError, match="does not say what its 5 classes are: give a file with a name a line, LABELS"):
        names(write_classifier(tmp_path / "c.onnx"))
    with pytest.raises(UserError, match=r"has 6 classes, and '.*labels.txt' \(--labels\) 5 names: expected as many"):
        names(write_classifier(tmp_path / "d.onnx", classes=6), labels)


def test_a_model_that_is_no_classifier_is_refused(labels, tmp_path):
    path = write_classifier(tmp_path / "a.onnx")
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, None))
    onnx.save(model, path)
    with pytest.raises(UserError, match=r"of shape \[1, 5\], \[1, 5, 22, 22\]: a classifier's .* is one, \[N,cl"):
        attach_head(path, "classifier", labels, ONE)


def test_a_dynamic_size_is_fixed(labels, tmp_path):
    path = write_classifier(tmp_path / "a.onnx", sides=("h", "w"))
    model = attach_head(path, "classifier", labels, ONE, Size(32, 48))
    assert json.loads(model.metadata_props["effedge"])["input"]["size"] == [32, 48]
    with pytest.raises(UserError, match="SIZE=HEIGHTxWIDTH"):
        attach_head(path, "classifier", labels, ONE)
