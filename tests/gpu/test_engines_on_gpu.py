"""Engines of TensorRT or TensorRT-RTX, whichever is installed, built and run on this GPU."""

import importlib.util

import numpy as np
import pytest

from effedge import Detector
from effedge.deploy.runtime.manifest import read_manifest

SIZE = (48, 64)
WITHIN = {"fp32": 0.002, "fp16": 0.005, "int8": 0.02}  # error over the outputs' norm; fp32 may use TF32's 10 bits


@pytest.fixture(scope="module")
def target(gpu):
    pytest.importorskip("onnx")
    from effedge.engines.targets import TARGETS

    for name, module in (("trt", "tensorrt"), ("rtx", "tensorrt_rtx")):
        if importlib.util.find_spec(module) is not None:
            return TARGETS[name]
    pytest.skip("neither tensorrt nor tensorrt_rtx is installed")


@pytest.fixture(scope="module")
def make(target, tmp_path_factory):
    """make(onnx, precision) builds an engine's folder."""
    from effedge.engines.build import make_engine
    from effedge.engines.build_options import CURRENT_GPU, DEFAULT, BuildOptions

    build_options = BuildOptions(compute_capabilities=(CURRENT_GPU,)) if target.name == "rtx" else DEFAULT

    def engine(onnx, precision):
        folder = onnx.with_name(f"{onnx.stem}-engine")
        make_engine(onnx, folder, precision=precision, target=target, build_options=build_options)
        return folder

    return engine


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_gives_what_onnx_runtime_gives(make, tmp_path, precision):
    from effedge.deploy.runtime.backends import load_backend
    from tests.engines import graphs

    onnxruntime = pytest.importorskip("onnxruntime")
    path = graphs.network(
        tmp_path / "n.onnx", quantized=precision == "int8", half=precision == "fp16", batch=(1, 2, 4), zero_bias=True
    )
    folder = make(path, precision)
    backend = load_backend(folder, read_manifest(folder))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    for batch in (2, 2, 2, 1, 4, 4, 1, 1):  # the second run of a shape is recorded, the third replayed
        image = random.integers(0, 256, (batch, graphs.SIZE, graphs.SIZE, 3), np.uint8)
        [expected] = session.run(None, {"image": image})
        logits = backend({"image": image})["logits"]
        assert np.linalg.norm(logits - expected) < WITHIN[precision] * np.linalg.norm(expected)


def colour_finder(path, batch):
    """A detector of three candidates: the box around the pixels whose red (green, blue) is above 127."""
    from onnx import TensorProto

    from tests.engines import graphs

    graph, (height, width) = graphs.Graph(), SIZE
    number = graph.add("Cast", ["image"], "number", to=TensorProto.FLOAT)
    bright = graph.add("Greater", [number, graph.constant("limit", np.float32(127))], "bright")
    mask = graph.add("Cast", [bright], "mask", to=TensorProto.FLOAT)
    axes = [graph.constant(f"axis{axis}", np.int64([axis])) for axis in range(3)]

    def highest(value, axis, name, keep=0):
        return graph.add("ReduceMax", [value, axes[axis]], name, keepdims=keep)

    sides = []
    for name, axis, length in (("x", 1, width), ("y", 2, height)):
        line, at = highest(mask, axis, f"{name}line"), np.arange(length, dtype=np.float32).reshape(1, -1, 1)
        up = graph.add("Mul", [line, graph.constant(f"{name}up", at + 1)], f"{name}ahead")
        down = graph.add("Mul", [line, graph.constant(f"{name}down", length - at)], f"{name}back")
        extent = graph.constant(f"{name}length", np.float32(length))
        first = graph.add("Sub", [extent, highest(down, 1, f"{name}first")], f"{name}0")
        sides.append((first, highest(up, 1, f"{name}1")))
    corners = [side[part] for part in (0, 1) for side in sides]
    corners = [graph.add("Unsqueeze", [value, axes[2]], f"corner{i}") for i, value in enumerate(corners)]
    graph.add("Concat", corners, "boxes", axis=2)
    present = highest(highest(mask, 1, "rows"), 1, "anywhere")
    graph.add("Mul", [present, graph.constant("sure", np.float32([0.9, 0.8, 0.7]))], "scores")
    none = graph.add("Mul", [present, graph.constant("nothing", np.float32(0))], "none")
    numbered = graph.add("Add", [none, graph.constant("numbers", np.float32([0, 1, 2]))], "numbered")
    graph.add("Cast", [numbered], "classes", to=TensorProto.INT32)
    for node in graph.nodes:
        if node.name in ("boxes", "scores", "classes"):
            node.output[0] = node.name
    image = {"size": list(SIZE), "batch": list(batch), "interpolation": "bilinear", "resize": "letterbox"}
    spec = {"model": "tiny", "task": "detection", "weights": "none", "labels": ["red", "green", "blue"]}
    spec["input"] = {**image, "fill": [0, 0, 0]}
    count = batch[1] if batch[0] == batch[2] else "N"
    outputs = [
        ("boxes", TensorProto.FLOAT, [count, 3, 4]), ("scores", TensorProto.FLOAT, [count, 3]),
        ("classes", TensorProto.INT32, [count, 3]),
    ]  # fmt: skip
    return graph.save(path, [("image", TensorProto.UINT8, [count, *SIZE, 3])], outputs, {"effedge": spec})


def random_images(count):
    """Yields rectangles of the three colours on black, in images of all sizes."""
    random = np.random.default_rng(0)
    for _ in range(count):
        height, width = random.integers(20, 300, 2)
        image = np.zeros((height, width, 3), np.uint8)
        for colour in range(3):
            top, left = random.integers(0, height - 10), random.integers(0, width - 10)
            image[top : top + random.integers(10, 60), left : left + random.integers(10, 60), colour] = 255
        yield image


@pytest.mark.parametrize("throughput", [False, True])
def test_a_detector_finds_with_letterbox_and_nms_on_the_gpu_what_it_finds_with_them_on_the_cpu(
    make, tmp_path, throughput, capsys
):
    folder = make(colour_finder(tmp_path / "finder.onnx", (1, 2, 4)), "fp32")
    fused, apart = Detector(folder, throughput=throughput), Detector(folder)
    assert fused.engine.fused is not None, capsys.readouterr().err
    apart.engine.fused = None
    images = [*random_images(40), *[np.zeros((90, 70, 3), np.uint8)] * 9]
    images[3:3] = images[:1] * 8  # the same size again and again: recorded
    detections, expected = list(fused(images)), list(apart(images))
    for row, expected_row in zip(detections, expected):
        np.testing.assert_array_equal(row.boxes, expected_row.boxes)
        np.testing.assert_array_equal(row.scores, expected_row.scores)
        assert row.labels == expected_row.labels
    assert sum(map(len, detections)) > 100
    note = capsys.readouterr().err
    assert "without a CUDA graph" not in note, note


@pytest.mark.parametrize("options", [{"class_agnostic": True}, {"classes": ["green"]}], ids=str)
def test_some_classes_and_nms_across_classes_are_those_of_the_cpu(make, tmp_path, options):
    folder = make(colour_finder(tmp_path / "finder.onnx", (1, 2, 4)), "fp32")
    fused, apart = Detector(folder, **options), Detector(folder, **options)
    apart.engine.fused = None
    images = list(random_images(20))
    assert fused(images) == apart(images)


def test_where_a_rectangle_is(make, tmp_path):
    image = np.zeros((96, 128, 3), np.uint8)  # twice the input's size
    image[20:40, 30:70, 1] = 255
    [detections] = Detector(make(colour_finder(tmp_path / "finder.onnx", (1, 1, 1)), "fp32"))([image])
    assert detections.labels == ["green"]
    np.testing.assert_allclose(detections.boxes, [[30, 20, 70, 40]], atol=2)
    np.testing.assert_allclose(detections.scores, [0.8], rtol=1e-6)


def test_the_second_load_takes_the_kernels_that_the_first_compiled(make, tmp_path):
    folder = make(colour_finder(tmp_path / "finder.onnx", (1, 1, 1)), "fp32")
    Detector(folder)
    kept = {path.name: path.stat().st_mtime_ns for path in (folder / ".compiled").iterdir()}
    assert kept
    [detections] = Detector(folder)([next(iter(random_images(1)))])
    assert len(detections) == 3
    for name, time in kept.items():
        if not name.startswith("runtime"):  # TensorRT-RTX may add what it compiles at the first run
            assert (folder / ".compiled" / name).stat().st_mtime_ns == time
