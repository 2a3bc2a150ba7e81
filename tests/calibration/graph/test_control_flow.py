"""Control flow becomes a call, so that passes see what it reads, and comes back as it was."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from effedge.calibration.fp16.convert import to_fp16
from effedge.calibration.graph import onnx_file
from effedge.calibration.graph.control_flow import DOMAIN, unwrap_control_flow
from effedge.calibration.graph.session import session, session_of
from effedge.calibration.post_training import quantize
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.settings import Settings
from tests.calibration.networks import Network

MAP = [1, 8, 8, 8]
BOOL, FLOAT, INT64 = TensorProto.BOOL, TensorProto.FLOAT, TensorProto.INT64


def info(name: str, shape: list[int], dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def branch(name: str, net: Network) -> onnx.GraphProto:
    """A convolution of a tensor of the outer graph, by weights of its own, and a sum with an outer constant."""
    weight = net.random.normal(0, 0.1, (8, 8, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["second", f"{name}_weight"], [f"{name}_conv"], pads=[1] * 4),
        helper.make_node("Add", [f"{name}_conv", "shift"], [f"{name}_out"]),
    ]
    return helper.make_graph(
        nodes, name, [], [info(f"{name}_out", MAP)], [numpy_helper.from_array(weight, f"{name}_weight")]
    )


def add_if(net: Network) -> None:
    mean = net.node("ReduceMean", ["second"], "mean", keepdims=0)
    positive = net.node("Greater", [mean, net.constant("zero", np.float32(0))], "positive")
    net.node("If", [positive], "flow", then_branch=branch("then", net), else_branch=branch("else", net))


def add_loop_around_if(net: Network) -> None:
    inner = helper.make_node("If", ["go"], ["chosen"], then_branch=branch("then", net), else_branch=branch("else", net))
    nodes = [
        inner,
        helper.make_node("Add", ["chosen", "state"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["next"]),
        helper.make_node("Identity", ["go"], ["go_on"]),
    ]
    inputs = [info("step", [], INT64), info("go", [], BOOL), info("state", MAP)]
    body = helper.make_graph(nodes, "body", inputs, [info("go_on", [], BOOL), info("next", MAP)])
    count, yes = net.constant("count", np.int64(2)), net.constant("yes", np.bool_(True))
    net.node("Loop", [count, yes, "second"], "flow", body=body)


def add_scan(net: Network) -> None:
    nodes = [
        helper.make_node("Add", ["state", "row"], ["sum"]),
        helper.make_node("Add", ["sum", "shift"], ["shifted"]),
        helper.make_node("Tanh", ["shifted"], ["next"]),
        helper.make_node("Identity", ["next"], ["written"]),
    ]
    body = helper.make_graph(
        nodes, "body", [info("state", [1, 8, 8]), info("row", [1, 8, 8])],
        [info("next", [1, 8, 8]), info("written", [1, 8, 8])],
    )  # fmt: skip
    start = net.constant("start", np.zeros((1, 8, 8), np.float32))
    net.nodes.append(
        helper.make_node("Scan", [start, "second"], ["last", "flow"], "flow", body=body, num_scan_inputs=1,
                         scan_input_axes=[2], scan_output_axes=[2])
    )  # fmt: skip


@pytest.fixture(params=[add_if, add_loop_around_if, add_scan], ids=["if", "loop around if", "scan"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    net = Network()
    first = net.node("Relu", [net.conv(net.input("x", [1, 3, 8, 8]), "conv_1", 3, 8, 3)], "first")
    net.node("Relu", [net.conv(first, "conv_2", 8, 8, 3)], "second")
    net.constant("shift", np.float32([[[0.25]]]))
    request.param(net)
    joined = net.node("Add", [net.conv("flow", "conv_3", 8, 8, 3), "second"], "joined")
    net.output(net.conv(joined, "conv_4", 8, 4), [1, 4, 8, 8])
    return net.save(tmp_path / "net.onnx", opset=17)


def feeds(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    return [{"x": random.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def decibels(expected: np.ndarray, actual: np.ndarray) -> float:
    return float(10 * np.log10(np.square(expected).sum() / np.square(expected - actual).sum()))


def test_a_wrapped_model_is_flat_and_unwraps_to_the_nodes_and_names_of_the_file(path: Path) -> None:
    model, before = onnx_file.load(path), onnx.load(path)
    [call] = [node for node in model.graph if node.domain == DOMAIN]
    assert "second" in [value.name for value in call.inputs]
    assert not [node for node in model.graph if any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values())]
    after = ir.to_proto(unwrap_control_flow(model))
    assert [(node.op_type, node.output[0]) for node in after.graph.node] == [
        (node.op_type, node.output[0]) for node in before.graph.node
    ]
    assert "flow" in [node.name for node in after.graph.node] and not after.functions
    assert [opset.domain for opset in after.opset_import] == [""]
    x = feeds(1)[0]
    [expected], [wrapped], [unwrapped] = (
        session.run(None, x)
        for session in (
            session_of(path.read_bytes()),
            session(model),
            session_of(after.SerializeToString()),
        )
    )
    assert np.array_equal(wrapped, unwrapped) and np.allclose(expected, wrapped, atol=1e-6)


def test_what_lies_outside_is_quantized_and_made_float16_and_what_lies_within_stays_float32(
    path: Path, tmp_path: Path
) -> None:
    model, runs = onnx_file.load(path), feeds(8)
    samples = Samples([str(index) for index in range(8)], lambda index: runs[index])
    int8, report = quantize(model, samples, Settings("minmax", float_share=0))
    assert report["int8_layers"] == 4
    float16 = to_fp16(int8, None)[0]
    before = session_of(path.read_bytes())
    for name, changed, least in (("int8", int8, 25), ("fp16", float16, 25), ("float fp16", to_fp16(model)[0], 50)):
        file = tmp_path / f"{name}.onnx"
        onnx_file.save(changed, file)
        onnx.checker.check_model(str(file), full_check=True)
        after = session_of(file.read_bytes())
        errors = [decibels(before.run(None, x)[0], after.run(None, x)[0].astype(np.float32)) for x in runs]
        assert min(errors) > least, (name, errors)
        for node in onnx.load(file).graph.node:
            for graph in (attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH):
                assert not any(array.data_type == TensorProto.FLOAT16 for array in graph.initializer)
