"""Detectors of other projects' ONNX: candidates as the projects' own post-processing has them, and bad input."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.preprocess import boxes_to_image, preparation
from effedge.engines.onnx_header import read_header
from effedge.pipeline.export.heads import candidates
from effedge.pipeline.export.heads.attach import attach_head, make_head_spec, note_likely_head
from effedge.pipeline.export.heads.table import HEADS
from effedge.pipeline.export.simplify import simplify_file
from tests.pipeline.export.foreign_files import run_file, save
from tests.pipeline.export.heads.networks import JOINED, SIZE, network, network_input, reference

ONE = (1, 1, 1)


def attached(source, name, labels, tmp_path, batch=ONE):
    ir.save(attach_head(source, name, labels, batch), tmp_path / "detector.onnx")
    return tmp_path / "detector.onnx"


def images(count=1):
    return np.random.default_rng(3).integers(0, 256, (count, *SIZE, 3)).astype(np.uint8)


def assert_same_candidates(outputs, boxes, scores, at=0):
    """The K best pairs of box and class, in the order of their scores, each with its box."""
    kept = outputs["scores"].shape[1]
    pairs = np.argsort(-scores.ravel(), kind="stable")[:kept]
    np.testing.assert_allclose(outputs["scores"][at], scores.ravel()[pairs], rtol=1e-4, atol=1e-6)
    rows, classes = pairs // scores.shape[1], pairs % scores.shape[1]
    clear = np.abs(np.diff(scores.ravel()[pairs], prepend=2, append=-1))
    alone = (clear[:-1] > 1e-5) & (clear[1:] > 1e-5)  # pairs of equal score may change places
    assert alone.sum() > kept / 4
    np.testing.assert_array_equal(outputs["classes"][at][alone], classes[alone])
    np.testing.assert_allclose(outputs["boxes"][at][alone], boxes[rows][alone], rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("name", JOINED)
def test_candidates_are_those_of_the_projects_own_post_processing(name, labels, tmp_path):
    source = network(name, tmp_path / "net.onnx")
    [output] = run_file(source, {"images": network_input(name, images())}).values()
    outputs = run_file(attached(source, name, labels, tmp_path), {"image": images()})
    assert_same_candidates(outputs, *reference(name, output[0]))


@pytest.mark.parametrize("name", JOINED)
def test_of_more_rows_than_candidates_the_best_remain(name, labels, tmp_path, monkeypatch):
    monkeypatch.setattr(candidates, "CANDIDATES", 20)
    source = network(name, tmp_path / "net.onnx")
    [output] = run_file(source, {"images": network_input(name, images())}).values()
    outputs = run_file(attached(source, name, labels, tmp_path), {"image": images()})
    assert outputs["boxes"].shape == (1, 20, 4)
    assert_same_candidates(outputs, *reference(name, output[0]))


@pytest.mark.parametrize("name", ["nanodet", "nanodet-plus"])
def test_an_output_for_each_level_is_taken_too(name, labels, tmp_path):
    whole, split = network(name, tmp_path / "net.onnx"), network(name, tmp_path / "split.onnx", split=True)
    [output] = run_file(whole, {"images": network_input(name, images())}).values()
    outputs = run_file(attached(split, name, labels, tmp_path), {"image": images()})
    assert_same_candidates(outputs, *reference(name, output[0]))


def test_a_batch_of_several_images_has_each_images_candidates(labels, tmp_path):
    source = network("yolov8", tmp_path / "net.onnx", batch="n")
    detector = attached(source, "yolov8", labels, tmp_path, batch=(1, 2, 4))
    outputs = run_file(detector, {"image": images(3)})
    [output] = run_file(source, {"images": network_input("yolov8", images(3))}).values()
    for at in range(3):
        assert_same_candidates(outputs, *reference("yolov8", output[at]), at=at)
    header = read_header(detector)
    assert header.batch == (1, 2, 4) and header.inputs["image"][1] == ("N", *SIZE, 3)


def test_the_spec_says_how_the_head_takes_images(labels, tmp_path):
    spec = read_header(attached(network("yolov10", tmp_path / "net.onnx"), "yolov10", labels, tmp_path)).spec
    assert spec == {
        "model": "net", "weights": "yolov10", "task": "detection", "labels": ["cat", "dog", "bird"], "candidates": 300,
        "iou": 1.0, "input": {"size": [64, 96], "batch": [1, 1, 1], "interpolation": "bilinear", "resize": "letterbox",
                              "fill": [114, 114, 114]},
    }  # fmt: skip


# What the projects' own pre-processing does: cv2.resize(image, (width, height)) in `Resize` of pytorch-ssd and of
# Ultra-Light-Fast; `fixed_size` of torchvision's GeneralizedRCNNTransform; `keep_ratio: False` of NanoDet-Plus' config.
STRETCHING = {"ultraface", "ssd", "ssd300", "ssdlite", "nanodet-plus"}


@pytest.mark.parametrize("name", HEADS)
def test_images_are_stretched_where_the_project_stretches_them(name):
    image = make_head_spec("net", name, ["a"], (64, 96), (1, 1, 1))["input"]
    assert image["resize"] == ("stretch" if name in STRETCHING else "letterbox")
    assert ("fill" in image) == (name not in STRETCHING)
    assert name not in STRETCHING or not HEADS[name].otherwise


def on_an_image(detector, image):
    """The spec's preparation, the detector, and its candidates in the image's own pixels."""
    prepared = preparation(read_header(detector).spec["input"])(image)
    outputs = run_file(detector, {"image": prepared.pixels[None]})
    return {**outputs, "boxes": boxes_to_image(outputs["boxes"][0], prepared)[None]}


def stretched_by_pillow(image, size):
    """The resize of a project that stretches, but for its antialiasing, which effedge's has."""
    narrow = Image.fromarray(image).resize((size[1], image.shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(narrow.resize((size[1], size[0]), Image.Resampling.BILINEAR))[None]


@pytest.mark.parametrize("image_size", [(50, 200), (333, 90)])
def test_boxes_of_a_stretched_image_are_in_its_pixels_as_nanodet_plus_has_them(labels, tmp_path, image_size):
    source = network("nanodet-plus", tmp_path / "net.onnx")
    image = np.random.default_rng(5).integers(0, 256, (*image_size, 3)).astype(np.uint8)
    [output] = run_file(source, {"images": network_input("nanodet-plus", stretched_by_pillow(image, SIZE))}).values()
    boxes, scores = reference("nanodet-plus", output[0])
    # warp_boxes of nanodet/data/transform/warp.py, by the inverse of the matrix of get_resize_matrix; then its clip
    ratios, limits = np.array(image_size[::-1] * 2) / (SIZE[::-1] * 2), np.array(image_size[::-1] * 2)
    outputs = on_an_image(attached(source, "nanodet-plus", labels, tmp_path), image)
    assert_same_candidates(outputs, np.clip(boxes * ratios, 0, limits), scores)


def test_a_yolox_that_decodes_its_boxes_itself_is_not_decoded_again(labels, tmp_path):
    model = onnx.load(network("yolov5", tmp_path / "net.onnx"))
    for tensor in model.graph.initializer:  # of three boxes a cell, the first third
        if tensor.name in ("table", "offset"):
            array = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array[: len(array) // 3], tensor.name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value //= 3
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1), "stride"))
    model.graph.node.extend(
        [
            helper.make_node("Log", ["output"], ["log"]),
            helper.make_node("Exp", ["log"], ["size"]),
            helper.make_node("Mul", ["size", "stride"], ["again"]),
        ]
    )
    model.graph.output[0].name = "again"
    onnx.save(model, tmp_path / "decoded.onnx")
    [output] = run_file(tmp_path / "decoded.onnx", {"images": network_input("yolox", images())}).values()
    outputs = run_file(attached(tmp_path / "decoded.onnx", "yolox", labels, tmp_path), {"image": images()})
    assert_same_candidates(outputs, *reference("yolov5", output[0]))


def test_an_exponential_of_a_sigmoid_that_is_written_out_decodes_no_box():
    """As of SiLU: x / (1 + exp(-x))."""
    graph = helper.make_graph(
        [
            helper.make_node("Exp", ["x"], ["e"]),
            helper.make_node("Add", ["e", "one"], ["sum"]),
            helper.make_node("Div", ["x", "sum"], ["y"]),
        ],
        "silu",
        [helper.make_tensor_value_info("x", 1, [1, 3])],
        [helper.make_tensor_value_info("y", 1, [1, 3])],
        [onnx.numpy_helper.from_array(np.float32(1), "one")],
    )
    assert not candidates.is_decoded(ir.from_proto(helper.make_model(graph)))


@pytest.mark.parametrize("head", ["classifier-unit", "classifier"])
def test_a_network_that_takes_bytes_gets_them(head, labels, tmp_path, caplog):
    """It normalizes them itself: the head's mean and deviation would leave next to nothing of them."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=1),
        helper.make_node("ReduceMean", ["float"], ["logits"], axes=[2, 3], keepdims=0),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "bytes", [info("pixels", 2, [1, 3, *SIZE])], [info("logits", 1, [1, 3])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    with caplog.at_level("INFO", "effedge"):
        [logits] = run_file(attached(tmp_path / "net.onnx", head, labels, tmp_path), {"image": images()}).values()
    np.testing.assert_allclose(logits[0], images()[0].mean(axis=(0, 1)), rtol=1e-5)
    assert "the network takes UINT8 pixels, 0 to 255, and normalizes them itself" in caplog.text


def test_a_network_that_cannot_be_simplified_is_built_as_it_is_with_a_head_too(labels, tmp_path, caplog):
    """A Relu of integers is of opset 14, where the simplified graph is of 13."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["integers"], to=6),
        helper.make_node("Relu", ["integers"], ["relu"]),
        helper.make_node("Cast", ["relu"], ["float"], to=1),
        helper.make_node("ReduceMean", ["float"], ["logits"], axes=[2, 3], keepdims=0),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "integers", [info("pixels", 1, [1, 3, *SIZE])], [info("logits", 1, [1, 3])])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx"
    )
    path = attached(tmp_path / "net.onnx", "classifier-unit", labels, tmp_path)
    simplify_file(path, tmp_path / "simplified.onnx")
    assert "detector.onnx, simplified': " in caplog.text and "so it is built as it is" in caplog.text
    [before], [after] = (run_file(each, {"image": images()}).values() for each in (path, tmp_path / "simplified.onnx"))
    np.testing.assert_allclose(after, before, rtol=1e-5)


def test_names_of_the_networks_own_tensors_are_no_obstacle(labels, tmp_path):
    model = onnx.load(network("yolov5", tmp_path / "net.onnx"))
    renamed = {"images": "image", "raw": "boxes", "table": "scores", "output": "classes"}
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.name = renamed.get(value.name, value.name)
    onnx.save(model, tmp_path / "named.onnx")
    [output] = run_file(tmp_path / "named.onnx", {"image": network_input("yolov5", images())}).values()
    outputs = run_file(attached(tmp_path / "named.onnx", "yolov5", labels, tmp_path), {"image": images()})
    assert_same_candidates(outputs, *reference("yolov5", output[0]))


def test_an_input_of_float16_with_channels_last_and_outputs_of_other_ranks_are_taken_too(labels, tmp_path):
    """As exporters of TensorFlow have it, and YOLOv5's with the maps of its levels beside its boxes."""
    source = network("yolov5", tmp_path / "net.onnx")
    model = onnx.load(source)
    half = onnx.TensorProto.FLOAT16
    front = [
        helper.make_node("Cast", ["nhwc"], ["wide"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["wide"], ["images"], perm=[0, 3, 1, 2]),
    ]
    behind = [helper.make_node("Cast", ["output"], ["rows"], to=half)]
    nodes = [*front, *model.graph.node, *behind]
    del model.graph.node[:], model.graph.input[:], model.graph.output[:]
    model.graph.node.extend(nodes)
    model.graph.input.append(helper.make_tensor_value_info("nhwc", half, [1, *SIZE, 3]))
    model.graph.output.append(helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, [1, 1, *SIZE]))
    model.graph.output.append(helper.make_tensor_value_info("rows", half, None))
    onnx.save(model, tmp_path / "half.onnx")
    rounded = np.float16(network_input("yolov5", images())).astype(np.float32)
    [output] = run_file(source, {"images": rounded}).values()
    outputs = run_file(attached(tmp_path / "half.onnx", "yolov5", labels, tmp_path), {"image": images()})
    assert outputs["boxes"].dtype == np.float32
    boxes, scores = reference("yolov5", output[0])
    np.testing.assert_allclose(outputs["scores"][0, :20], np.sort(scores.ravel())[::-1][:20], rtol=2e-3)
    best = np.unravel_index(scores.argmax(), scores.shape)
    np.testing.assert_allclose(outputs["boxes"][0, 0], boxes[best[0]], atol=0.1)


def test_a_later_opset_is_kept(labels, tmp_path):
    source = network("yolov8", tmp_path / "net.onnx")
    raised = onnx.version_converter.convert_version(onnx.load(source), 20)
    onnx.save(raised, tmp_path / "new.onnx")
    [output] = run_file(source, {"images": network_input("yolov8", images())}).values()
    outputs = run_file(attached(tmp_path / "new.onnx", "yolov8", labels, tmp_path), {"image": images()})
    assert_same_candidates(outputs, *reference("yolov8", output[0]))


def test_ultralytics_names_in_the_file_are_the_labels(tmp_path):
    model = onnx.load(network("yolov8", tmp_path / "net.onnx"))
    helper.set_model_props(model, {"names": "{0: 'cat', 1: \"guide dog\", 2: 'bird'}"})
    onnx.save(model, tmp_path / "named.onnx")
    assert json.loads(attach_head(tmp_path / "named.onnx", "yolov8", None, ONE).metadata_props["effedge"])[
        "labels"
    ] == ["cat", "guide dog", "bird"]


def test_empty_lines_are_dropped_where_the_network_has_no_column_for_them(tmp_path):
    gaps = tmp_path / "gaps.txt"
    gaps.write_text("cat\n\ndog\nbird\n\n")
    model = attach_head(network("yolox", tmp_path / "net.onnx"), "yolox", gaps, ONE)
    assert json.loads(model.metadata_props["effedge"])["labels"] == ["cat", "dog", "bird"]


@pytest.mark.parametrize(
    ("built", "head", "names", "message"),
    [
        (
            "yolox",
            "yolov8",
            3,
            r"has the outputs 'output' \[1, 126, 8\], which are not those of this head for 3 classes",
        ),
        ("yolox", "yolox", 4, "expected 126 rows of 9 columns"),
        ("yolov5", "yolox", 3, "expected 126 rows of 8 columns"),
        ("yolov8", "yolov8", 0, "has no names: expected a class name a line"),
        ("yolov8", "yolov8", None, "does not say what its classes are: give a file with a name a line, LABELS"),
        ("two inputs", "yolov8", 3, r"a head \(--head\) is for one, \[N,3,H,W\]"),
    ],
)
def test_what_does_not_fit_is_one_line(built, head, names, message, tmp_path):
    labels = None if names is None else tmp_path / "labels.txt"
    if labels is not None:
        labels.write_text("".join(f"{number}\n" for number in range(names or 0)))
    if built == "two inputs":
        node = helper.make_node("Add", ["a", "b"], ["y"])
        source = save(tmp_path / "net.onnx", [node], {"a": [1, 3, 8, 8], "b": [1, 3, 8, 8]}, {"y": [1, 3, 8, 8]}, {})
    else:
        source = network(built, tmp_path / "net.onnx")
    with pytest.raises(UserError, match=message):
        attach_head(source, head, labels, ONE)


@pytest.mark.parametrize(
    ("built", "suggested"),
    [("yolov8", "yolov8"), ("yolov5", "yolov5"), ("yolov10", "yolov10"), ("yolox", None), ("nanodet", None)],
)
def test_a_head_is_suggested_only_where_shapes_do_not_leave_it_open(built, suggested, tmp_path, caplog):
    caplog.set_level("INFO")
    path = network(built, tmp_path / "net.onnx")
    note_likely_head(read_header(path), path)
    assert (f"with --head {suggested} (HEAD)" in caplog.text) if suggested else not caplog.text


def test_a_yolox_is_suggested_by_its_weights_names(tmp_path, caplog):
    caplog.set_level("INFO")
    model = onnx.load(network("yolox", tmp_path / "net.onnx"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.float32), "head.obj_preds.0.bias"))
    onnx.save(model, tmp_path / "named.onnx")
    note_likely_head(read_header(tmp_path / "named.onnx"), tmp_path / "named.onnx")
    assert "looks like YOLOX from 0.2 on: with --head yolox" in caplog.text


def test_a_classifier_gets_no_suggestion(tmp_path, caplog):
    caplog.set_level("INFO")
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["y"])]
    path = save(tmp_path / "net.onnx", nodes, {"x": [1, 3, 64, 96]}, {"y": [1, 3, 1, 1]}, {})
    note_likely_head(read_header(path), path)
    assert not caplog.text


@pytest.mark.parametrize("name", JOINED)
def test_the_simplified_detector_runs_in_openvino(name, labels, tmp_path):
    openvino = pytest.importorskip("openvino")
    detector = attached(network(name, tmp_path / "net.onnx"), name, labels, tmp_path)
    simplify_file(detector, tmp_path / "simplified.onnx")
    compiled = openvino.Core().compile_model(
        str(tmp_path / "simplified.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    result = compiled({"image": images()})
    outputs = {output.get_any_name(): array for output, array in result.items()}
    [output] = run_file(tmp_path / "net.onnx", {"images": network_input(name, images())}).values()
    assert_same_candidates(outputs, *reference(name, output[0]))
