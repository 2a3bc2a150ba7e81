"""The chain from an ONNX file that somebody else made: engines that compute the same, and one line for bad input."""

import sys
from collections import namedtuple

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from effedge import Classifier, Detector, Runner
from effedge.deploy.common.cli import run
from effedge.deploy.runtime.manifest import read_manifest
from effedge.engines.onnx_header import read_header
from effedge.pipeline import chain
from tests.pipeline.export.foreign_files import run_file
from tests.pipeline.export.heads.networks import SIZE, network, network_input, reference
from tests.pipeline.export.heads.test_classifier import write_classifier
from tests.pipeline.export.heads.test_dynamic_size import write_dynamic

pytest.importorskip("openvino")
Done = namedtuple("Done", "status out err")
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """call(*arguments): the command, whose artefacts go to tmp_path/build."""

    def inner(*arguments, target="cpu"):
        command = [
            "effedge.pipeline.chain",
            *map(str, arguments),
            "--target",
            target,
            "--out",
            str(tmp_path / "build"),
            "-q",
        ]
        monkeypatch.setattr(chain, "engine_table", lambda engine, request: f"the table of {engine.name}")
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as caught:
            run(chain.main)
        return Done(caught.value.code, *capsys.readouterr())

    return inner


def save(path, nodes, inputs, outputs, constants=None, opset=17):
    """An ONNX of nodes (operator, inputs, outputs, attributes) and values {name: (type, shape)}."""
    graph = helper.make_graph(
        [helper.make_node(op, ins, outs, **attributes) for op, ins, outs, attributes in nodes],
        "somebody's",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return path


def save_decision(path):
    """A graph with two graphs within: Relu or Neg, as the sum of x decides."""
    branches = {}
    for name, op in (("then_branch", "Relu"), ("else_branch", "Neg")):
        output = helper.make_tensor_value_info(op, FLOAT, [1, 3])
        branches[name] = helper.make_graph([helper.make_node(op, ["x"], [op])], op, [], [output])
    nodes = [
        ("ReduceSum", ["x"], ["sum"], {"keepdims": 0}),
        ("Cast", ["sum"], ["yes"], {"to": BOOL}),
        ("If", ["yes"], ["y"], branches),
    ]
    return save(path, nodes, {"x": (FLOAT, [1, 3])}, {"y": (FLOAT, [1, 3])})


@pytest.fixture
def two_inputs(tmp_path):
    """A image and an offset in, features and a class out; the batch is dynamic, and a Reshape works it out."""
    random = np.random.default_rng(0)
    nodes = [
        ("Conv", ["image", "kernel", "bias"], ["conv"], {"pads": [1] * 4}),
        ("BatchNormalization", ["conv", "gamma", "beta", "mean", "var"], ["norm"], {}),
        ("Relu", ["norm"], ["relu"], {}),
        ("Conv", ["relu", "kernel2"], ["features"], {"strides": [2, 2]}),
        ("Shape", ["features"], ["shape"], {}),
        ("Gather", ["shape", "first"], ["batch"], {"axis": 0}),
        ("Concat", ["batch", "rest"], ["rows"], {"axis": 0}),
        ("GlobalAveragePool", ["features"], ["pool"], {}),
        ("Reshape", ["pool", "rows"], ["flat"], {}),
        ("Add", ["flat", "offset"], ["moved"], {}),
        ("ArgMax", ["moved"], ["class"], {"axis": 1, "keepdims": 0}),
    ]
    constants = {
        "kernel": random.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        "bias": random.normal(size=8).astype(np.float32),
        **{name: random.uniform(0.5, 2, 8).astype(np.float32) for name in ("gamma", "beta", "mean", "var")},
        "kernel2": random.normal(0, 0.3, (8, 8, 3, 3)).astype(np.float32),
        "first": np.int64([0]),
        "rest": np.int64([8]),
    }
    inputs = {"image": (FLOAT, ["n", 3, 16, 16]), "offset": (FLOAT, ["n", 8])}
    outputs = {"features": (FLOAT, ["n", 8, 7, 7]), "class": (INT64, ["n"])}
    return save(tmp_path / "my net.v2.onnx", nodes, inputs, outputs, constants)


@pytest.fixture
def arrays(tmp_path):
    random = np.random.default_rng(1)
    path = tmp_path / "arrays.npz"
    image = random.normal(size=(12, 3, 16, 16)).astype(np.float32)
    np.savez(path, image=image, offset=random.normal(size=(12, 8)).astype(np.float32))
    return path


def feeds(count, seed=5):
    random = np.random.default_rng(seed)
    return {
        "image": random.normal(size=(count, 3, 16, 16)).astype(np.float32),
        "offset": random.normal(size=(count, 8)).astype(np.float32),
    }


def noise_in_db(path, given, outputs):
    """Signal to noise of the engine's features against ONNX Runtime on the file as it came."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    [reference] = session.run(["features"], given)
    return 10 * np.log10(np.square(reference).sum() / np.square(reference - outputs["features"]).sum())


@pytest.mark.parametrize(("precision", "least"), [("fp32", 100), ("int8", 25)])
def test_the_engine_computes_what_the_file_does(call, two_inputs, arrays, tmp_path, precision, least):
    done = call("--onnx", two_inputs, "--precision", precision, "--calibration", arrays)
    assert (done.status, done.err) == (0, "")
    folder = tmp_path / "build" / "my_net.v2" / f"{precision}-cpu"
    assert done.out.splitlines()[-1] == str(folder)
    manifest = read_manifest(folder)
    assert manifest["spec"] == {}
    assert manifest["inputs"] == [
        {"name": "image", "dtype": "float32", "shape": [1, 3, 16, 16]},
        {"name": "offset", "dtype": "float32", "shape": [1, 8]},
    ]
    assert manifest["outputs"] == [
        {"name": "features", "dtype": "float32", "shape": [1, 8, 7, 7]},
        {"name": "class", "dtype": "int64", "shape": [1]},
    ]
    given = feeds(1)
    outputs = Runner(folder)(given)
    assert (outputs["class"].shape, outputs["class"].dtype) == ((1,), np.int64)
    assert noise_in_db(two_inputs, given, outputs) > least


def test_a_head_makes_a_detector_of_the_file(call, tmp_path):
    source = network("yolox", tmp_path / "net.onnx")
    (tmp_path / "labels.txt").write_text("cat\ndog\nbird\n")
    command = ("--onnx", source, "--head", "yolox", "--labels", tmp_path / "labels.txt", "--precision", "fp32")
    done = call(*command)
    assert (done.status, done.err) == (0, "")
    folder = tmp_path / "build" / "net-yolox" / "fp32-cpu"
    assert done.out.splitlines()[-1] == str(folder)
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    [expected] = run_file(source, {"images": network_input("yolox", image[None])}).values()
    boxes, scores = reference("yolox", expected[0])
    box, class_id = np.unravel_index(scores.argmax(), scores.shape)
    detector = Detector(folder)
    best = detector(image)[0]
    assert best.label == ["cat", "dog", "bird"][class_id] and detector.engine.iou == 0.65
    np.testing.assert_allclose(best.score, scores.max(), rtol=1e-4)
    np.testing.assert_allclose(best.box, np.clip(boxes[box], 0, [SIZE[1], SIZE[0]] * 2), atol=1e-2)
    assert "head: up to date" in call(*command).out
    (tmp_path / "labels.txt").write_text("cat\ndog\nfish\n")
    assert "head: making" in call(*command).out


def test_a_detector_whose_size_is_dynamic_is_built_at_the_size_that_is_asked_for(call, tmp_path):
    source = write_dynamic(network("yolox", tmp_path / "net.onnx"), tmp_path / "dynamic.onnx")
    (tmp_path / "labels.txt").write_text("cat\ndog\nbird\n")
    command = ("--onnx", source, "--head", "yolox", "--labels", tmp_path / "labels.txt", "--precision", "fp32")
    refused(call(*command), "an engine has one height and width: give those that it is to have, SIZE=640 or SIZE=")
    assert not (tmp_path / "build").exists()
    done = call(*command, "--size", f"{SIZE[0]}x{SIZE[1]}")
    assert (done.status, done.err) == (0, "")
    folder = tmp_path / "build" / f"dynamic-yolox-{SIZE[0]}x{SIZE[1]}" / "fp32-cpu"
    assert done.out.splitlines()[-1] == str(folder)
    assert read_manifest(folder)["spec"]["input"]["size"] == list(SIZE)
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    [expected] = run_file(tmp_path / "net.onnx", {"images": network_input("yolox", image[None])}).values()
    _, scores = reference("yolox", expected[0])
    np.testing.assert_allclose(Detector(folder)(image)[0].score, scores.max(), rtol=1e-4)
    refused(call(*command, "--size", "100"), "which are not those of this head")


def test_a_detector_with_a_head_is_calibrated_on_images(call, tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(4):
        image = Image.fromarray(random.integers(0, 256, (50, 80, 3)).astype(np.uint8))
        image.save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "labels.txt").write_text("cat\ndog\nbird\n")
    words = [
        "--onnx",
        network("yolov8", tmp_path / "net.onnx"),
        "--head",
        "yolov8",
        "--labels",
        tmp_path / "labels.txt",
    ]
    done = call(*words, "--calibration", tmp_path / "images", "--precision", "int8", "--until", "calibrate")
    assert (done.status, done.err) == (0, "")
    assert "judged as detections after NMS" in done.out
    refused(call(*words, "--precision", "int8"), "give a folder of images with CALIBRATION")


def test_a_classifier_with_a_head_takes_images(call, tmp_path):
    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(4):
            image = Image.fromarray(random.integers(0, 256, (50, 80, 3)).astype(np.uint8))
            image.save(tmp_path / "images" / label / f"{number}.png")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    words = ["--onnx", write_classifier(tmp_path / "net.onnx", classes=2), "--labels", tmp_path / "labels.txt"]
    words += ["--head", "classifier", "--calibration", tmp_path / "images" / "cat"]
    done = call(*words, "--precision", "int8", "--max-drop", "100", "--validation", tmp_path / "images")
    assert done.status == 0, done.err
    assert "'logits': logits of a classifier" in done.out
    [best, other] = Classifier(tmp_path / "build" / "net-classifier" / "int8-cpu")(image)
    assert {best.label, other.label} == {"cat", "dog"} and best.score + other.score == pytest.approx(1)
    done = call("--onnx", write_classifier(tmp_path / "large.onnx", classes=1000), "--precision", "fp32")
    assert "looks like a classifier: with --head (HEAD), one of classifier, classifier-half, " in done.out


def test_a_likely_head_is_named_and_nothing_else_changes(call, tmp_path):
    done = call("--onnx", network("yolov8", tmp_path / "net.onnx"), "--precision", "fp32")
    assert "note: " in done.out and "with --head yolov8 (HEAD) it becomes a detector" in done.out
    manifest = read_manifest(tmp_path / "build" / "net" / "fp32-cpu")
    assert manifest["spec"] == {} and [each["name"] for each in manifest["outputs"]] == ["output"]


def test_fp16_needs_no_data(call, two_inputs, tmp_path):
    assert call("--onnx", two_inputs, "--precision", "fp16", "--until", "calibrate").status == 0
    assert (tmp_path / "build" / "my_net.v2" / "simplified.onnx").is_file()


def test_the_second_time_does_nothing_and_changed_arrays_are_seen(call, two_inputs, arrays):
    command = ("--onnx", two_inputs, "--precision", "int8", "--calibration", arrays)
    assert call(*command).status == 0
    again = call(*command)
    assert [line.split(",")[0] for line in again.out.splitlines()[:-2]] == [
        f"{stage}: up to date" for stage in ("simplify", "calibrate", "engine")
    ]
    np.savez(arrays, **feeds(9))
    assert "calibrate: making" in call(*command).out


def test_a_fixed_batch_has_its_own_folder(call, two_inputs, tmp_path):
    assert call("--onnx", two_inputs, "--precision", "fp32", "--batch", "4").status == 0
    runner = Runner(tmp_path / "build" / "my_net.v2-b4" / "fp32-cpu")
    assert [tensor.shape for tensor in runner.inputs] == [(4, 3, 16, 16), (4, 8)]
    given = feeds(4)
    assert noise_in_db(two_inputs, given, runner(given)) > 100


def test_a_dynamic_batch_stays_within_its_bounds(call, two_inputs, arrays, tmp_path):
    done = call("--onnx", two_inputs, "--precision", "int8", "--calibration", arrays, "--batch", "1:2:4")
    assert (done.status, done.err) == (0, "")
    runner = Runner(tmp_path / "build" / "my_net.v2-b1-2-4" / "int8-cpu")
    assert runner.batch == (1, 4) and runner.inputs[0].shape == (None, 3, 16, 16)
    for count in (1, 3, 4):
        assert noise_in_db(two_inputs, feeds(count), runner(feeds(count))) > 25


def test_the_graph_is_simplified_and_lowered(call, two_inputs, tmp_path):
    done = call("--onnx", two_inputs, "--precision", "fp32", "--until", "simplify")
    assert "outputs on random numbers within" in done.out
    header = read_header(tmp_path / "build" / "my_net.v2" / "simplified.onnx")
    assert header.opset == 13
    assert not {"BatchNormalization", "Shape", "Gather", "Concat"} & {node.op for node in header.nodes}


def test_an_operator_that_opset_13_lacks_keeps_its_opset(call, tmp_path):
    path = save(
        tmp_path / "new.onnx", [("HardSwish", ["x"], ["y"], {})], {"x": (FLOAT, [1, 4])}, {"y": (FLOAT, [1, 4])}
    )
    assert call("--onnx", path, "--precision", "fp32").status == 0
    assert read_header(tmp_path / "build" / "new" / "simplified.onnx").opset == 17
    x = np.float32([[-4, -1, 1, 4]])
    np.testing.assert_allclose(Runner(tmp_path / "build" / "new" / "fp32-cpu")({"x": x})["y"], [[0, -1 / 3, 2 / 3, 4]])


def test_opset_11_and_weights_beside_the_file_build(call, tmp_path):
    nodes = [("Unsqueeze", ["x"], ["row"], {"axes": [0]}), ("MatMul", ["row", "w"], ["y"], {})]
    weight = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    path = save(tmp_path / "old.onnx", nodes, {"x": (FLOAT, [64])}, {"y": (FLOAT, [1, 32])}, {"w": weight}, opset=11)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert call("--onnx", path, "--precision", "fp32").status == 0
    x = np.float32(np.arange(64))
    outputs = Runner(tmp_path / "build" / "old" / "fp32-cpu")({"x": x})
    np.testing.assert_allclose(outputs["y"], [x @ weight], rtol=1e-4)
    (tmp_path / "w.bin").write_bytes((2 * weight).tobytes())
    assert "engine: making" in call("--onnx", path, "--precision", "fp32").out
    outputs = Runner(tmp_path / "build" / "old" / "fp32-cpu")({"x": x})
    np.testing.assert_allclose(outputs["y"], [2 * x @ weight], rtol=1e-4)
    (tmp_path / "w.bin").unlink()
    refused(call("--onnx", path, "--precision", "fp32", "--until", "simplify"), "w.bin', which is missing")


def test_rtx_builds_it_too(call, two_inputs, arrays, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    command = ("--onnx", two_inputs, "--calibration", arrays, "--batch", "1:2:4")
    for precision in ("fp16", "int8"):
        assert call(*command, "--precision", precision, target="rtx").status == 0
        manifest = read_manifest(tmp_path / "build" / "my_net.v2-b1-2-4" / f"{precision}-rtx")
        assert manifest["batch"] == [1, 2, 4]


@pytest.mark.parametrize(
    ("target", "options", "int8"),
    [
        ("rtx", [], {"dense", "deep"}),
        ("rtx", ["--float-kinds"], {"dense", "deep", "groups"}),
        ("rtx", ["--float-kinds", "depthwise", "grouped"], {"dense"}),
        ("cpu", [], {"dense", "deep", "groups"}),
    ],
)
def test_what_the_target_is_slower_with_in_int8_stays_in_16_bit(call, tmp_path, target, options, int8):
    random = np.random.default_rng(0)
    groups = {"dense": 1, "deep": 8, "groups": 2}
    constants = {name: random.normal(0, 0.3, (8, 8 // each, 3, 3)).astype(np.float32) for name, each in groups.items()}
    nodes = [
        ("Conv", ["x", "dense"], ["a"], {"name": "dense"}),
        ("Conv", ["a", "deep"], ["b"], {"name": "deep", "group": 8}),
        ("Conv", ["b", "groups"], ["y"], {"name": "groups", "group": 2}),
    ]
    net = save(tmp_path / "groups.onnx", nodes, {"x": (FLOAT, [1, 8, 9, 9])}, {"y": (FLOAT, [1, 8, 3, 3])}, constants)
    np.savez(tmp_path / "x.npz", x=random.normal(size=(8, 8, 9, 9)).astype(np.float32))
    settings = ["--calibration", tmp_path / "x.npz", "--method", "minmax", "--float-share", "0", *options]
    assert call("--onnx", net, *settings, "--until", "calibrate", target=target).status == 0
    [quantized] = (tmp_path / "build" / "groups").glob("int8*.onnx" if target == "cpu" else "int8-fp16.onnx")
    assert {node.name for node in read_header(quantized).quantized_layers} == int8


def refused(done, message):
    """One line, exit status 2."""
    assert done.status == 2
    assert done.err.endswith("\n") and done.err.count("\n") == 1, done.err
    assert message in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["d0", "--onnx", "{net}"], "expected either a model (b0 to d7x, --help lists them) or --onnx FILE, 'd0' and"),
        (["--onnx", "no.onnx"], "cannot read 'no.onnx'"),
        (["--onnx", "{net}"], "needs data like what it will see: give an .npz with an array for each of its inputs"),
        (["--onnx", "{net}", "--weights", "coco"], "--weights is for the models of effedge"),
        (["--onnx", "{net}", "--size", "64"], "SIZE (--size) 64 was given, which is for a dynamic one: leave it out"),
        (["--onnx", "{text}", "--size", "64"], "no whole ONNX model"),
        (["--onnx", "{net}", "--head", "yolo8"], "did you mean 'yolov8'"),
        (["--onnx", "{net}", "--labels", "{text}"], "names the classes of a model, and --onnx"),
        (["--onnx", "{net}", "--head", "yolox", "--labels", "no.txt"], "no labels file 'no.txt'"),
        (["d0", "--head", "yolox"], "--head is for --onnx FILE, and the model d0 was given"),
        (["--onnx", "{one_input}", "--head", "yolox", "--labels", "{text}", "--precision", "fp32"], "has the inputs"),
        (["--onnx", "{net}", "--until", "export"], "is exported already"),
        (["--onnx", "{net}", "--precision", "fp32", "--batch", "0"], "batch '0' cannot be built"),
        (["--onnx", "{net}", "--calibration", "no.npz"], "no calibration data at 'no.npz'"),
        (["--onnx", "{net}", "--calibration", "{folder}"], "holds images, but"),
        (["--onnx", "{net}", "--calibration", "{float64}"], "array 'image' of"),
        (["--onnx", "{net}", "--calibration", "{one}"], "but the model also needs ['offset']"),
        (["--onnx", "{text}", "--precision", "fp32"], "no whole ONNX model"),
        (["--onnx", "{quantized}", "--precision", "int8"], "is already quantized (QuantizeLinear"),
        (["--onnx", "{any_size}", "--precision", "fp32"], "has shape [1, 3, 'h', '?'], and an engine has one height"),
        (["--onnx", "{fixed}", "--precision", "fp32", "--batch", "2"], "has a fixed batch of 1: leave BATCH"),
        (["--onnx", "{old}", "--precision", "fp32"], "is of opset 6, expected 7 or later"),
        (["--onnx", "{unknown}", "--precision", "fp32"], "ONNX Runtime cannot run"),
        (["--onnx", "{control}", "--calibration", "{flags}"], "nothing in the model can be INT8"),
    ],
)
def test_bad_input_is_one_line(arguments, message, call, two_inputs, tmp_path):
    files = {"net": two_inputs, "folder": tmp_path / "folder"}
    files["folder"].mkdir()
    for name, data in (("float64", {"image": np.zeros((1, 3, 16, 16)), "offset": np.zeros((1, 8))}),
                       ("one", {"image": np.zeros((1, 3, 16, 16), np.float32)}),
                       ("flags", {"x": np.ones((2, 3), np.float32)})):  # fmt: skip
        files[name] = tmp_path / f"{name}.npz"
        np.savez(files[name], **data)
    files["text"] = tmp_path / "text.onnx"
    files["text"].write_text("no model")
    one, row = ["x"], {"x": (FLOAT, [1, 3])}
    y = {"y": (FLOAT, [1, 3])}
    pair = [("QuantizeLinear", ["x", "s"], ["q"], {}), ("DequantizeLinear", ["q", "s"], ["y"], {})]
    files["quantized"] = save(tmp_path / "q.onnx", pair, row, y, {"s": np.float32(1)})
    wide = {"x": (FLOAT, [1, 3, "h", None])}
    files["any_size"] = save(tmp_path / "a.onnx", [("Relu", one, ["y"], {})], wide, {"y": (FLOAT, None)})
    files["fixed"] = save(tmp_path / "f.onnx", [("Relu", one, ["y"], {})], row, y)
    files["old"] = save(tmp_path / "o.onnx", [("Relu", one, ["y"], {})], row, y, opset=6)
    files["unknown"] = save(tmp_path / "u.onnx", [("NoSuchOperator", one, ["y"], {})], row, y)
    files["one_input"] = save(tmp_path / "one.onnx", [("Relu", one, ["y"], {})], row, y)
    files["control"] = save_decision(tmp_path / "c.onnx")
    refused(call(*(argument.format(**files) for argument in arguments)), message)


def test_control_flow_may_stay_where_nothing_is_calibrated(call, tmp_path):
    assert call("--onnx", save_decision(tmp_path / "if.onnx"), "--precision", "fp32").status == 0
    assert Runner(tmp_path / "build" / "if" / "fp32-cpu")({"x": np.float32([[1, -2, 3]])})["y"].tolist() == [[1, 0, 3]]


def test_two_files_of_one_name_do_not_overwrite_each_other(call, tmp_path):
    x, engines = np.float32([[1, -2, 3]]), []
    for folder, op in (("relu", "Relu"), ("neg", "Neg")):
        (tmp_path / folder).mkdir()
        shapes = {"x": (FLOAT, [1, 3])}, {"y": (FLOAT, [1, 3])}
        file = save(tmp_path / folder / "model.onnx", [(op, ["x"], ["y"], {})], *shapes)
        done = call("--onnx", file, "--precision", "fp32")
        assert done.status == 0
        engines.append(done.out.splitlines()[-1])
    assert engines == [str(tmp_path / "build" / name / "fp32-cpu") for name in ("model", "neg_model")]
    outputs = [Runner(engine)({"x": x})["y"] for engine in engines]
    np.testing.assert_array_equal(outputs, [np.maximum(x, 0), -x])
    named = call("--onnx", file, "--precision", "fp32", "--name", "mine")
    assert named.out.splitlines()[-1] == str(tmp_path / "build" / "mine" / "fp32-cpu")
    assert "expected a folder's name" in call("--onnx", file, "--name", "a/b").err
