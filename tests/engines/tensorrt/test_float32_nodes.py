"""Tests the rule of the FP32 nodes: the same as the FP16 conversion's, and right for the arithmetic on indices."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from effedge.calibration.fp16.half_precision_pass import HalfPrecisionPass
from effedge.calibration.fp16.node_selection import find_unfit_nodes, select_nodes
from effedge.calibration.graph import onnx_file
from effedge.calibration.placement.sharing import passes_values_on
from effedge.engines.onnx_header import read_header
from effedge.engines.tensorrt.float32_nodes import BEHIND, SUM, fits_half, float32_nodes
from tests.calibration import networks
from tests.engines import graphs

CLASSES, CANDIDATES = 90, 1000
PAIRS = np.arange(CLASSES * CANDIDATES, dtype=np.int64)[None]


def index_tail(path, *, division):
    """Saves a layer, and behind it the rank and the class of each of a detector's (rank, class) pairs: by an integer
    `division`, or by the product with 1 / classes that TensorRT 8 may compute in FP16."""
    graph = graphs.Graph()
    weight = graph.constant("weight", np.ones((1, 1, 1, 1), np.float32))
    graph.add("Conv", ["x", weight], "conv")
    count = graph.constant("count", np.int64(CLASSES))
    if division:
        rank = graph.add("Div", ["pairs", count], "rank")
    else:
        number = graph.add("Cast", ["pairs"], "number", to=onnx.TensorProto.FLOAT)
        factor = graph.constant("factor", np.float32((1 + 2.0**-22) / CLASSES))
        rank = graph.add("Cast", [graph.add("Mul", [number, factor], "product")], "rank", to=onnx.TensorProto.INT64)
    graph.add("Sub", ["pairs", graph.add("Mul", [rank, count], "first")], "class")
    shape = list(PAIRS.shape)
    image = ("x", onnx.TensorProto.FLOAT, [1, 1, 4, 4])
    outputs = [("conv_out", onnx.TensorProto.FLOAT, [1, 1, 4, 4])]
    outputs += [(f"{name}_out", onnx.TensorProto.INT64, shape) for name in ("rank", "class")]
    return graph.save(path, [image, ("pairs", onnx.TensorProto.INT64, shape)], outputs, {})


def wrong_pairs(path, float32):
    """The share of the pairs with a wrong rank or class, with every node in FP16 but those that write `float32`."""
    model = onnx_file.load(path)
    nodes = [node for node in model.graph if node.outputs[0].name not in float32]
    HalfPrecisionPass(nodes)(model)
    running = ReferenceEvaluator(ir.to_proto(model))  # ONNX Runtime computes FP16 in FP32, and takes Casts away
    with np.errstate(over="ignore", invalid="ignore"):
        _, rank, kind = running.run(None, {"x": np.zeros((1, 1, 4, 4), np.float32), "pairs": PAIRS})
    return np.mean((rank != PAIRS // CLASSES) | (kind != PAIRS % CLASSES))


def test_the_indices_of_all_pairs_are_right_in_fp16(tmp_path):
    """As exported today: an integer division has no float that could be FP16, whatever the rule says."""
    path = index_tail(tmp_path / "tail.onnx", division=True)
    assert wrong_pairs(path, set()) == 0
    assert wrong_pairs(path, float32_nodes(read_header(path))) == 0


def test_the_product_that_was_exported_once_is_wrong_in_fp16_and_right_where_the_rule_keeps_it_in_fp32(tmp_path):
    """As of other exporters too (NVIDIA/TensorRT#2996)."""
    path = index_tail(tmp_path / "tail.onnx", division=False)
    assert wrong_pairs(path, set()) > 0.3
    kept = float32_nodes(read_header(path))
    assert set(kept.values()) == {BEHIND} and {"number_out", "product_out", "rank_out"} <= set(kept)
    assert wrong_pairs(path, kept) == 0


def classifier(path):
    return networks.classifier().save(path)


def detector(path):
    return networks.detector().save(path)


@pytest.mark.parametrize(
    "graph", [graphs.network, graphs.detection_tail, graphs.quantized_concat, classifier, detector]
)
def test_the_conversion_selects_the_same_nodes(graph, tmp_path):
    path = graph(tmp_path / "model.onnx")
    model = onnx_file.load(path)
    selected = select_nodes(model.graph)
    unfit = find_unfit_nodes(selected, {})
    half = {node.outputs[0].name for node in selected if node not in unfit}
    everything = {node.outputs[0].name for node in model.graph if node.op_type not in onnx_file.PAIR}
    assert set(float32_nodes(read_header(path))) == everything - half


def test_a_detectors_selection_is_fp16_and_what_follows_fp32(tmp_path):
    kept = float32_nodes(read_header(detector(tmp_path / "model.onnx")))
    assert set(kept.values()) <= {BEHIND, SUM}
    assert {"top", "scores_out", "boxes_out"} <= set(kept) and not {"classes_conv", "best", "picked"} & set(kept)


def test_what_passes_values_on_is_one_list():
    names = ("Concat", "MaxPool", "Relu", "Transpose", "Mul")
    nodes = [ir.node(name, [ir.Value(name="x")]) for name in names]
    assert [passes_values_on(node) for node in nodes] == [True, True, False, True, False]


@pytest.mark.parametrize(
    ("values", "fits"),
    [((1.0, 0.1), True), ((), True), ((1e5,), False), ((1e-8,), False), ((1.0, 1e-8), True), ((float("nan"),), False)],
)
def test_constants_that_fp16_holds(values, fits):
    assert fits_half(values) is fits


def test_a_node_with_a_constant_that_fp16_cannot_hold_stays_in_fp32(tmp_path):
    graph = graphs.Graph()
    weight = graph.constant("weight", np.ones((1, 1, 1, 1), np.float32))
    safe = graph.add("Add", ["x", graph.constant("epsilon", np.float32(1e-8))], "safe")
    graph.add("Conv", [graph.add("Mul", [safe, graph.constant("two", np.float32(2))], "twice"), weight], "conv")
    shape = [1, 1, 4, 4]
    path = graph.save(tmp_path / "m.onnx", [("x", 1, shape)], [("conv_out", 1, shape)], {})
    assert float32_nodes(read_header(path)) == {"safe_out": "FP16 cannot hold its constant 'epsilon'"}


def test_nodes_that_the_calibration_keeps_in_fp32_are_read_from_the_file(tmp_path):
    report = {"float32_nodes": {"conv2": "'conv2_out' reached 1e+05"}}
    path = graphs.network(tmp_path / "m.onnx", metadata={"effedge_calibration": report})
    assert float32_nodes(read_header(path))["conv2_out"] == "'conv2_out' reached 1e+05"
