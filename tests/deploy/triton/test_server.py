"""A real Triton server answers over HTTP and gRPC as Detector and Classifier do (server.py says what is needed)."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from effedge import Classifier, Detector
from tests.deploy.conftest import model, ops, write_engine
from tests.deploy.scenes import png, scene
from tests.deploy.triton.server import PYTHON, running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="EFFEDGE_TRITON_PYTHON names no Python with a Triton server"),
]
CELLS = sorted((Path(__file__).resolve().parents[3] / "examples" / "cells").glob("*.jpg"))
PARSE = """
import sys
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig
for path in sys.argv[1:]:
    text_format.Parse(open(path).read(), ModelConfig())
"""


@pytest.fixture
def images(tmp_path):
    """Image files of several sizes: a service's own, and photographs."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, size in enumerate([(64, 64), (120, 200), (300, 90), (7, 500), (120, 200)]):
        (folder / f"{number}.png").write_bytes(png(scene(*size, red=(1, 2, 5 + number, 6), blue=None)))
    (folder / "black.png").write_bytes(png(scene(50, 50, red=None, blue=None)))
    return [*sorted(folder.iterdir()), *CELLS]


def check(answers, expected):
    """Compares the answers with Detections."""
    for answer, detections in zip(answers, expected):
        assert answer["num_detections"] == [[len(detections)]], answer
        np.testing.assert_array_equal(np.array(answer["boxes"][0], np.float32).reshape(-1, 4), detections.boxes)
        np.testing.assert_array_equal(np.array(answer["scores"][0], np.float32), detections.scores)
        assert answer["classes"][0] == detections.classes.tolist() and answer["labels"][0] == detections.labels
    assert len(answers) == len(expected)


def test_a_real_server_answers_as_effedge_does(triton, engine, tmp_path, images):
    detector = engine(batch=(1, 4, 8), labels=["rot", "gr\u00fcn", "blau"])
    classifier = engine("classification", name="classes")
    (classifier / "manifest.json").write_text((classifier / "manifest.json").read_text().replace("tiny", "small"))
    repository = triton(detector, classifier, "--batch-wait", "100")
    with running(repository, tmp_path / "server") as server:
        expected, best = Detector(detector)(images), Classifier(classifier)(images)
        for protocol in ("http", "grpc"):
            for name in ("tiny", "tiny-file"):
                before = server.ask(protocol, name, images[:1])
                check(server.ask(protocol, name, images)["answers"], expected)
                together = server.ask(protocol, name, images * 2, concurrent=8)
                check(together["answers"], expected * 2)
                assert together["images"] == before["images"] + 3 * len(images)
                assert together["executions"] < together["images"] - len(images) / 2, "no batch was formed"
            for answer, classes in zip(server.ask(protocol, "small-file", images)["answers"], best):
                assert answer["labels"][0] == classes.labels
                np.testing.assert_allclose(answer["scores"][0], classes.scores, rtol=1e-6)
        check(server.ask("grpc", "tiny-file", images, threshold="0.95")["answers"], Detector(detector, 0.95)(images))
        [refused] = server.ask("http", "tiny-file", images[:1], threshold=3)["answers"]
        assert "from 0 to 1" in refused
        (tmp_path / "text.png").write_text("no image")
        [refused] = server.ask("http", "tiny-file", [tmp_path / "text.png"])["answers"]
        assert "is no image of a format that is read" in refused


ARRAYS = """
import sys, numpy as np, tritonclient.http as http
client, tensors = http.InferenceServerClient(sys.argv[1]), []
for name, array in (("x", np.arange(6, dtype=np.float32).reshape(2, 3)), ("y", np.array([[10], [20]], np.int32))):
    tensors.append(http.InferInput(name, array.shape, {"x": "FP32", "y": "INT32"}[name]))
    tensors[-1].set_data_from_numpy(array)
result = client.infer("adder", tensors)
print(result.as_numpy("sum").tolist(), result.as_numpy("total").tolist())
"""


def test_a_real_server_runs_an_engine_of_arrays_and_one_that_fills_its_batch(triton, engine, tmp_path, images):
    kinds = {"x": ("float32", ["N", 3]), "y": ("int32", ["N", 1]), "sum": ("float32", ["N", 3])}
    kinds["total"] = ("float32", ["N"])
    rows = [{"name": name, "dtype": dtype, "shape": shape} for name, (dtype, shape) in kinds.items()]
    x, y = ops.parameter([-1, 3], np.float32, name="x"), ops.parameter([-1, 1], np.int32, name="y")
    for parameter in (x, y):
        parameter.output(0).get_tensor().set_names({parameter.get_friendly_name()})
    added = ops.add(x, ops.convert(y, np.float32))
    total = ops.reduce_sum(added, ops.constant(np.int64([1])), False)  # [N]
    network, adder = model([x, y], {"sum": added, "total": total}), tmp_path / "adder"
    write_engine(adder, network, {}, inputs=rows[:2], outputs=rows[2:], batch=[1, 2, 4])
    filled = engine(batch=(4, 4, 4))
    with running(triton(adder, filled), tmp_path / "server") as server:
        check(server.ask("http", "tiny-file", images)["answers"], Detector(filled)(images))
        printed = subprocess.check_output([PYTHON, "-c", ARRAYS, server.addresses["http"]], text=True)
        assert printed == "[[10.0, 11.0, 12.0], [23.0, 24.0, 25.0]] [[33.0], [72.0]]\n"


def test_a_real_server_takes_a_fixed_batch_of_1_between_steps_that_have_batches(triton, engine, tmp_path, images):
    """The form that ONNX Runtime's backend demands (max_batch_size 0); the engine is a Python model in its place."""
    folder = engine()
    repository = triton(folder)
    config = repository / "tiny-engine" / "config.pbtxt"
    text = config.read_text().replace("max_batch_size: 1", "max_batch_size: 0")
    for dims in ("64, 64, 3", "3, 4", "3"):
        text = text.replace(f"dims: [ {dims} ]", f"dims: [ 1, {dims} ]")
    config.write_text(text)
    with running(repository, tmp_path / "server") as server:
        check(server.ask("grpc", "tiny-file", images, concurrent=4)["answers"], Detector(folder)(images))


def test_tritons_own_messages_read_every_configuration(triton, as_runtime, engine, tmp_path):
    plan = triton(
        as_runtime(
            "tensorrt",
            batch=(1, 4, 8),
            dla={"core": 0},
        ),
        out="plan",
    )
    (tmp_path / "engine").rename(tmp_path / "first")
    onnx = triton(as_runtime("onnxruntime", "engine.onnx", b"\x3a\x00"), "--backend", "onnxruntime", out="onnx")
    (tmp_path / "engine").rename(tmp_path / "second")
    python = triton(engine("classification"), out="python")
    paths = [path for folder in (plan, onnx, python) for path in folder.glob("*/config.pbtxt")]
    assert len(paths) == 18
    subprocess.run([PYTHON, "-c", PARSE, *map(str, paths)], check=True)
