"""Tests the search for the operator that OpenVINO computes otherwise, with OpenVINO's own faults and without any."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from effedge import Runner
from effedge.engines.build import build_engine
from effedge.engines.build_request import BuildRequest
from effedge.engines.comparison.reference import open_session
from effedge.engines.onnx_header import read_header
from effedge.engines.openvino.reader.search import Search
from effedge.engines.targets import TARGETS
from tests.engines import graphs

ov = pytest.importorskip("openvino")
FEEDS = {"x": np.random.default_rng(0).normal(size=(1, 3, 13, 12)).astype(np.float32)}
POOL = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "ceil_mode": 1, "count_include_pad": 1}


def save(path, nodes, outputs, constants=(), opset=13):
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 13, 12])]
    outs = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()]
    graph = helper.make_graph(nodes, "graph", ends, outs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def network(path, opset=13):
    """Convolution, pool, a branch of two activations, and their sum."""
    kernel = np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["a"], name="conv"),
        helper.make_node("AveragePool", ["a"], ["b"], name="pool", **POOL),
        helper.make_node("Sigmoid", ["b"], ["c"], name="left"),
        helper.make_node("Tanh", ["a"], ["d"], name="right"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], name="mean"),
        helper.make_node("Add", ["c", "e"], ["y"], name="sum"),
    ]
    return save(path, nodes, {"y": TensorProto.FLOAT}, {"k": kernel}, opset)


def search(path, model=None, precision="fp32"):
    core = ov.Core()
    request = BuildRequest(path, read_header(path), precision, TARGETS["cpu"])
    return Search(ov, core, model or core.read_model(path), request)


def test_the_first_wrong_operator_is_named(tmp_path):
    assert search(network(tmp_path / "m.onnx"))(FEEDS).operator == "AveragePool 'pool'"


@pytest.mark.parametrize("at_a_time", [1, 2, 64])
def test_it_is_found_behind_many_others(tmp_path, monkeypatch, at_a_time):
    monkeypatch.setattr("effedge.engines.openvino.reader.search.NODES_AT_A_TIME", at_a_time)
    nodes = [helper.make_node("Elu", [f"v{n}" if n else "x"], [f"v{n + 1}"], name=f"elu{n}") for n in range(9)]
    nodes += [helper.make_node("Softmax", ["v9"], ["s"], name="old", axis=1), helper.make_node("Exp", ["s"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, {"y": TensorProto.FLOAT}, opset=12)
    assert search(path)(FEEDS).operator == "Softmax 'old'"


def test_a_right_graph_is_right(tmp_path):
    path = save(tmp_path / "m.onnx", [helper.make_node("Sigmoid", ["x"], ["y"])], {"y": TensorProto.FLOAT})
    found = search(path)(FEEDS)
    assert (found.operator, found.rounding, found.together_right) == ("", False, True)


def test_places_that_rounding_changes_are_no_fault(tmp_path):
    """The sums of one image in another order differ by rounding alone, whose sign decides the place of the largest."""
    ones = np.ones((64, 3, 13, 12), np.float32) / 468
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["a"]),
        helper.make_node("Reshape", ["a", "flat"], ["b"]),
        helper.make_node("ReduceMean", ["b"], ["mean"], axes=[1]),
        helper.make_node("Sub", ["b", "mean"], ["c"], name="difference"),
        helper.make_node("Mul", ["c", "large"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    kernel = ones + rng.permutation(64)[:, None, None, None].astype(np.float32) * 1e-9
    constants = {"k": kernel, "flat": np.array([1, 64]), "large": np.float32(1e8)}
    path = save(tmp_path / "m.onnx", nodes, {"y": TensorProto.FLOAT}, constants)
    found = search(path)({"x": np.ones((1, 3, 13, 12), np.float32) * np.float32(1.1)})
    assert found.operator == "" and found.together_right


def test_a_fault_between_right_operators_is_found_in_the_whole(tmp_path, monkeypatch):
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Sigmoid", ["x"], ["a"]), helper.make_node("Exp", ["a"], ["y"])],
        {"y": TensorProto.FLOAT},
    )
    whole = search(path)
    run = whole.run

    def fused(model, feeds):
        results = run(model, feeds)
        return {name: array + 1 for name, array in results.items()} if list(results) == ["y"] else results

    monkeypatch.setattr(whole, "run", fused)
    monkeypatch.setattr(whole, "nearness_alone", lambda *_: pytest.fail("every operator is right"))
    found = whole(FEEDS)
    assert found.operator == "" and not found.together_right


def test_an_engine_with_a_wrong_operator_is_onnx_runtimes_and_one_line_says_why(tmp_path, monkeypatch, capsys):
    path = network(tmp_path / "m.onnx")
    monkeypatch.setattr("effedge.engines.openvino.reader.correct.RULES", {})
    (tmp_path / "e").mkdir()
    build_engine(path, tmp_path / "e", precision="fp32", target=TARGETS["cpu"])
    manifest = json.loads((tmp_path / "e" / "manifest.json").read_text())
    assert manifest["target"] == "cpu-ort" and set(manifest["files"]) == {"engine.onnx"}
    [line] = [line for line in capsys.readouterr().err.splitlines() if "built for ONNX Runtime" in line]
    assert "computes AveragePool 'pool' otherwise than ONNX defines it" in line
    assert manifest["warnings"] == [line.partition("; so it")[0].partition("engine: ")[2]]
    expected = open_session(str(path)).run(None, FEEDS)[0]
    np.testing.assert_allclose(Runner(tmp_path / "e")(FEEDS)["y"], expected, rtol=1e-5, atol=1e-6)


def test_rounding_to_int8_does_not_hide_a_wrong_operator(tmp_path, monkeypatch):
    """A quantized layer, and a pool with one wrong corner behind it."""
    graph = graphs.Graph()
    rng = np.random.default_rng(0)
    data = graph.quantized("x", 4 / 127, "data")
    graph.add("Conv", [data, graph.quantized_weight([8, 3, 3, 3], rng, "w")], "conv", pads=[1] * 4)
    value = graph.add("AveragePool", ["conv_out"], "pool", **{**POOL, "kernel_shape": [2, 2], "pads": [1, 1, 0, 0]})
    path = graph.save(tmp_path / "m.onnx", [("x", TensorProto.FLOAT, [1, 3, 64, 65])],
                      [(value, TensorProto.FLOAT, [1, 8, 33, 33])], {}, opset=13)  # fmt: skip
    monkeypatch.setattr("effedge.engines.openvino.reader.correct.RULES", {})
    (tmp_path / "e").mkdir()
    build_engine(path, tmp_path / "e", precision="int8", target=TARGETS["cpu"])
    manifest = json.loads((tmp_path / "e" / "manifest.json").read_text())
    assert manifest["target"] == "cpu-ort" and "AveragePool 'pool'" in manifest["warnings"][0]
