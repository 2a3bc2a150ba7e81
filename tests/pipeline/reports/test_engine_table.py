"""The table that a build ends with, of small engines whose figures are known."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from PIL import Image

from effedge.calibration.graph import onnx_file
from effedge.calibration.post_training import quantize
from effedge.calibration.settings import Settings
from effedge.engines.build import make_engine
from effedge.engines.targets import TARGETS
from effedge.pipeline.evaluation.accuracy_limit import AccuracyLimit
from effedge.pipeline.reports import engine_table
from tests.calibration import networks
from tests.engines import graphs
from tests.engines.openvino.builds import built

pytest.importorskip("openvino")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(engine_table, "SECONDS", 0.05)
    monkeypatch.setattr(engine_table, "WARM_UP", 0.0)


@pytest.fixture
def simplified(tmp_path):
    return graphs.network(tmp_path / "net" / "simplified.onnx", metadata={"effedge": graphs.spec()})


@pytest.fixture(autouse=True)
def folder(tmp_path):
    (tmp_path / "net").mkdir()


@pytest.fixture
def fp32(simplified):
    make_engine(simplified, simplified.with_name("fp32-cpu"), precision="fp32", target=TARGETS["cpu"])
    return simplified.with_name("fp32-cpu")


def request_of(validation=None):
    limit = None if validation is None else AccuracyLimit(1.0, str(validation))
    return SimpleNamespace(target=TARGETS["cpu"], accuracy_limit=limit)


def row(table, title):
    """The cells behind a title; two spaces or more part them."""
    [line] = [line for line in table.splitlines() if line.startswith(f"  {title}")]
    return re.split(r" {2,}", line.strip())[1:]


def twin_of(fp32, name="fp16-cpu"):
    """Another engine folder of the same files, whose manifest says that a convolution is in another precision."""
    folder = fp32.with_name(name)
    folder.mkdir()
    for path in fp32.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["precision"]["asked"] = "fp16"
    convolutions = [layer for layer in manifest["precision"]["layers"] if layer["type"] == "Convolution"]
    convolutions[0]["precision"] = "bf16"
    convolutions[1]["name"] += "_out"  # OpenVINO names some layers by their output
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder, convolutions[0]["name"]


def test_an_engine_alone(fp32):
    table = engine_table.engine_table(fp32, request_of())
    assert row(table, "multiply-adds") == ["f32 100%"]
    size = sum((fp32 / name).stat().st_size for name in json.loads((fp32 / "manifest.json").read_text())["files"])
    assert row(table, "size, MB") == [f"{size / 1e6:.1f}"]
    [latency] = row(table, "latency, ms")
    median, p99 = map(float, re.fullmatch(r"([\d.]+) \(p99 ([\d.]+)\)", latency).groups())
    assert 0 <= median <= p99
    assert f"accuracy: effedge evaluate {fp32} --data DATA" in table and "effedge latency" in table


def test_beside_its_fp32_engine_with_each_layers_work(fp32, simplified):
    other, changed = twin_of(fp32)
    table = engine_table.engine_table(other, request_of())
    assert re.split(r" {2,}", table.splitlines()[0].strip()) == ["FP16", "FP32"]
    work = {}
    model = onnx.shape_inference.infer_shapes(onnx.load(simplified))
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in
              [*model.graph.value_info, *model.graph.output]}  # fmt: skip
    weights = {value.name: list(value.dims) for value in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv":  # by hand: positions x kernel x channels in a group x channels out
            out, kernel = shapes[node.output[0]], weights[node.input[1]]
            work[node.name] = out[2] * out[3] * np.prod(kernel)
        elif node.op_type in ("Gemm", "MatMul"):
            work[node.name] = np.prod(weights[node.input[1]])
    share = 100 * work[changed] / sum(work.values())
    assert "unknown" not in table
    cells = dict(cell.rsplit(" ", 1) for cell in row(table, "multiply-adds")[0].split(", "))
    assert cells["bf16"] == f"{share:.0f}%" and row(table, "multiply-adds")[1] == "f32 100%"
    assert len(row(table, "latency")) == 2


def test_an_fp32_engine_of_another_onnx_is_left_out(fp32, simplified):
    other, _ = twin_of(fp32)
    model = onnx.load(simplified)
    model.doc_string = "changed"
    onnx.save(model, simplified)
    assert re.split(r" {2,}", engine_table.engine_table(other, request_of()).splitlines()[0].strip()) == ["FP16"]


def test_accuracy_on_the_users_labelled_images(fp32, tmp_path):
    data = tmp_path / "val"
    for label in ("3", "5"):
        (data / label).mkdir(parents=True)
        for index in range(2):
            pixels = np.random.default_rng(index).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(data / label / f"{index}.png")
    table = engine_table.engine_table(fp32, request_of(data))
    from effedge.pipeline.evaluation.evaluate import evaluate_engine

    assert row(table, "top-1") == [f"{100 * evaluate_engine(fp32, str(data))['figures']['top-1']:.1f}"]
    assert f"effedge evaluate {fp32} --data {data}" in table


def test_labelled_images_that_cannot_be_used_are_a_note(fp32, tmp_path):
    table = engine_table.engine_table(fp32, request_of(tmp_path / "gone"))
    assert "no accuracy: " in table and "gone" in table and row(table, "multiply-adds")


def test_large_annotations_are_a_note(fp32, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_table, "LARGEST_ANNOTATIONS", 10)
    (tmp_path / "val.json").write_text("{}" * 20)
    table = engine_table.engine_table(fp32, request_of(tmp_path / "val.json"))
    assert "top-1" not in table and f"effedge evaluate {fp32} --data {tmp_path / 'val.json'}" in table


def test_what_does_not_run_here_is_a_dash_and_a_note(fp32):
    manifest = json.loads((fp32 / "manifest.json").read_text())
    manifest["backend"]["name"] = "tensorrt"
    (fp32 / "manifest.json").write_text(json.dumps(manifest))
    table = engine_table.engine_table(fp32, request_of())
    assert row(table, "latency") == ["–"] and "not timed: " in table and row(table, "size")[0] != "–"


def test_the_table_is_kept_until_an_engine_changes(fp32, monkeypatch):
    first = engine_table.engine_table(fp32, request_of())
    monkeypatch.setattr(engine_table, "timed", lambda *_: pytest.fail("it is measured again"))
    assert engine_table.engine_table(fp32, request_of()) == first
    manifest = json.loads((fp32 / "manifest.json").read_text())
    manifest["files"][manifest["engine"]] = "0" * 64
    (fp32 / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(pytest.fail.Exception):
        engine_table.engine_table(fp32, request_of())


def test_the_work_of_matrix_products_is_known_too(tmp_path):
    """OpenVINO gives a Gemm's name to the transposition of its weights too, and has another for an INT8 MatMul."""
    net = networks.Network()
    weights = [np.random.default_rng(seed).normal(0, 0.1, (64, 64)).astype(np.float32) for seed in range(2)]
    x, state = net.input("x", [1, 64]), net.input("state", [1, 64])
    product = net.node("MatMul", [state, net.constant("w0", weights[0])], "product")
    net.output(net.node("Gemm", [x, net.constant("w1", weights[1]), product], "sum"), [1, 64])  # as of an LSTM
    model = onnx_file.prepare(ir.from_proto(net.proto()))
    onnx_file.save(model, tmp_path / "simplified.onnx")
    pairs = zip(networks.normal_runs(8, (1, 64)), networks.normal_runs(8, (1, 64), 1, "state"), strict=True)
    changed, _ = quantize(model, networks.as_samples([one | other for one, other in pairs]), Settings("minmax"))
    onnx_file.save(changed, tmp_path / "int8.onnx")
    manifests = [
        built(tmp_path / "int8.onnx", tmp_path / "int8"),
        built(tmp_path / "simplified.onnx", tmp_path / "f", "fp32"),
    ]
    int8, float32 = engine_table.work_by_precision(tmp_path / "simplified.onnx", manifests)
    assert int8 == {"int8": pytest.approx(1)} and float32 == {"f32": pytest.approx(1)}
