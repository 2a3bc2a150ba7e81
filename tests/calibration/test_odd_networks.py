"""Networks that other exporters write, and that a plan for textbook networks stumbles over: each is quantized, and is
near the float model, or is refused in one line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from effedge.calibration.graph import onnx_file
from effedge.calibration.graph.macs import macs, measured_shapes
from effedge.calibration.graph.session import check_runnable, session
from effedge.calibration.post_training import PostTrainingQuantizer, describe, quantize
from effedge.calibration.ranges.collect import collect_amax
from effedge.calibration.settings import Settings
from effedge.deploy.common.cli import UserError
from tests.calibration import networks
from tests.calibration.networks import Network

Load = Callable[[Network], ir.Model]
Run = Callable[..., list[np.ndarray]]
RUNS = networks.normal_runs(8, (1, 3, 16, 16))


def network(height: int | str = 16) -> tuple[Network, str]:
    net = Network()
    return net, net.input("x", [1, 3, height, height])


def errors(load: Load, run_ort: Run, net: Network) -> list[float]:
    """The squared error of each output in INT8 over its variance."""
    model = load(net)
    changed, _ = quantize(model, networks.as_samples(RUNS), Settings(output_kinds=()))
    pairs = [zip(run_ort(model, feeds), run_ort(changed, feeds), strict=True) for feeds in RUNS]
    return [
        float(np.mean([np.square(one - other).mean() / one.var() for one, other in both]))
        for both in zip(*pairs, strict=True)
    ]


def test_two_concatenations_of_one_constant_have_scales_of_their_own(load: Load, run_ort: Run) -> None:
    net, x = network()
    zeros = net.constant("zeros", np.zeros((1, 1, 16, 16), np.float32))
    for name, gain in (("large", 100.0), ("small", 0.01)):
        joined = net.node("Concat", [net.conv(x, f"{name}_first", 3, 8, gain=gain), zeros], f"{name}_joined", axis=1)
        net.output(net.conv(joined, name, 9, 4, 3), [1, 4, 16, 16])
    assert max(errors(load, run_ort, net)) < 0.01


def test_a_residual_add_of_two_convolutions_takes_another_shortcut_once_one_of_them_is_in_float(load: Load) -> None:
    """As of a ResNet's downsampling block: the shortcut of the smaller plan has no threshold."""
    net, x = network()
    first = net.node("Relu", [net.conv(x, "first", 3, 8)], "relu_first")
    main = net.node("Relu", [net.conv(first, "main", 8, 8)], "relu_main")
    added = net.node("Add", [net.conv(main, "last", 8, 8, 3), net.conv(first, "down", 8, 8)], "sum")
    net.output(net.conv(net.node("Relu", [added], "relu"), "head", 8, 4), [1, 4, 16, 16])
    quantizer = PostTrainingQuantizer(load(net), networks.as_samples(RUNS), Settings("minmax"))
    for group in range(len(quantizer.plan.groups)):
        changed, report = quantizer.build([group])
        assert report["int8_layers"] >= 3 and quantizer.trials.output_error(changed) < 0.1


def test_inputs_that_nothing_reads_or_that_are_outputs(load: Load) -> None:
    for is_output in (False, True):
        net, x = network()
        unused = net.input("unused", [1, 2])
        first = net.node("Relu", [net.conv(x, "first", 3, 8)], "relu")
        net.output(net.conv(first, "last", 8, 4), [1, 4, 16, 16])
        if is_output:
            net.output(unused, [1, 2])
        runs = [{**feeds, "unused": np.ones((1, 2), np.float32)} for feeds in RUNS]
        _, report = quantize(load(net), networks.as_samples(runs), Settings(float_share=0.5))
        assert report["output_error"] < 0.01
        assert report["judged_as"].get("unused", "") in ("", "not judged, as no layer makes it")


def test_tensors_that_already_have_the_names_of_new_ones(load: Load, run_ort: Run) -> None:
    net, x = network()
    scaled = net.node("Mul", [net.conv(x, "x_q", 3, 8), net.constant("x_q_scale", np.float32([2]))], "x_dq")
    shared = net.constant("w.of.x.scaled", np.eye(8, dtype=np.float32).reshape(8, 8, 1, 1))
    once = net.node("Conv", [net.node("Relu", [scaled], "relu"), shared], "once")
    net.output(net.node("Conv", [once, shared], "twice"), [1, 8, 16, 16])
    assert max(errors(load, run_ort, net)) < 0.01


def test_a_layer_that_nothing_reads_is_left_out(load: Load) -> None:
    net, x = network()
    net.conv(x, "dead", 3, 8)
    net.output(net.conv(x, "alive", 3, 8), [1, 8, 16, 16])
    model = load(net)
    assert [node.name for node in model.graph] == ["alive"]


def test_rows_whose_number_varies(load: Load) -> None:
    """As of regions that the network itself proposes; on some samples there are none."""
    net, x = network()
    flat = net.node("Transpose", [net.conv(x, "first", 3, 8)], "moved", perm=[0, 2, 3, 1])
    rows = net.node("Reshape", [flat, net.constant("shape", np.array([-1, 8]))], "rows")
    chosen = net.node("ReduceMax", [rows, net.constant("axis", np.array([1]))], "highest", keepdims=0)
    where = net.node("Greater", [chosen, net.constant("limit", np.float32(4.2))], "where")
    selected = net.node("Compress", [rows, where], "selected", axis=0)
    weight = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    net.output(net.node("MatMul", [selected, net.constant("w", weight)], "y"), ["K", 4])
    model, samples = load(net), networks.as_samples(RUNS)
    counts = {len(array) for array in (run[0] for run in map(lambda feeds: outputs_of(model, feeds), RUNS))}
    assert 0 in counts and len(counts) > 1
    _, report = quantize(model, samples)
    assert report["output_error"] < 0.1 and "dB" in describe(report) or "not known" in describe(report)
    assert collect_amax(model, samples, ["selected"])["selected"] > 0


def outputs_of(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return list(session(model).run(None, feeds))


def test_work_is_counted_where_the_height_and_width_are_symbols(load: Load) -> None:
    fixed, dynamic = network()[0], network("side")[0]
    for net, side in ((fixed, 8), (dynamic, "half")):
        net.output(net.conv(net.conv("x", "first", 3, 8, 3, stride=2), "last", 8, 4), [1, 4, side, side])
    model = load(dynamic)
    assert macs(model) == {"first": 0, "last": 0}
    assert macs(model, measured_shapes(model, RUNS[0])) == macs(load(fixed)) != macs(model)
    assert quantize(model, networks.as_samples(RUNS))[1]["int8_macs"] == 1
    assert measured_shapes(load(fixed), RUNS[0]) == {}


def test_a_dead_channel_with_a_bias_leaves_the_others_as_they_are(load: Load, run_ort: Run) -> None:
    """Its weights are 1e-25: in units of their scale its bias is beyond INT32, where ONNX Runtime holds it."""
    net, x = network()
    weight = np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32)
    weight[3] *= 1e-25
    names = [x, net.constant("w", weight), net.constant("b", np.arange(8, dtype=np.float32))]
    first = net.node("Relu", [net.node("Conv", names, "first", pads=[1] * 4)], "relu")
    net.output(net.conv(first, "last", 8, 4), [1, 4, 16, 16])
    assert max(errors(load, run_ort, net)) < 0.001


def test_one_layer_stays_in_int8_whatever_may_be_in_float(load: Load) -> None:
    net, x = network()
    net.output(net.conv(x, "only", 3, 4), [1, 4, 16, 16])
    runs = [{"x": feeds["x"] * np.float32([1000, 1, 0.01]).reshape(1, 3, 1, 1)} for feeds in RUNS]
    _, report = quantize(load(net), networks.as_samples(runs), Settings(float_share=1.0))
    assert report["int8_layers"] == 1


@pytest.mark.parametrize("dtype", [TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_weights_of_other_types_are_not_equalized(load: Load, dtype: int) -> None:
    numpy_type = helper.tensor_dtype_to_np_dtype(dtype)
    net = Network()
    x = net.input("x", [1, 3, 16, 16], dtype)
    for name, (cin, cout) in {"first": (3, 8), "last": (8, 4)}.items():
        x = net.node("Conv", [x, net.constant(f"{name}.w", np.ones((cout, cin, 1, 1), numpy_type))], name)
    net.output(x, [1, 4, 16, 16], dtype)
    samples = networks.as_samples([{"x": feeds["x"].astype(numpy_type)} for feeds in RUNS])
    with pytest.raises(UserError, match="nothing in the model can be INT8"):
        quantize(load(net), samples)


def test_a_float_model_that_computes_nothing_but_nan_is_refused(load: Load) -> None:
    net, x = network()
    net.output(net.node("Log", [net.node("Abs", [net.conv(x, "a", 3, 8)], "abs")], "log"), [1, 8, 16, 16])
    net.output(net.node("Sqrt", [net.node("Neg", ["abs"], "below")], "nan"), [1, 8, 16, 16])
    with pytest.raises(UserError, match="output 'nan' is NaN or infinite on all samples"):
        quantize(load(net), networks.as_samples(RUNS))


def unrunnable(kind: str) -> onnx.ModelProto:
    net, x = network()
    y = net.conv(x, "a", 3, 8)
    imports = [helper.make_opsetid("", 18)]
    if kind == "plugin":
        net.nodes.append(helper.make_node("EfficientNMS_TRT", [y], ["nms"], domain="TRT"))
        imports.append(helper.make_opsetid("TRT", 1))
        net.output("nms", [1, 8])
    elif kind == "sequence":
        net.node("SplitToSequence", [y], "parts", axis=1)
        net.outputs.append(helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None))
    graph = helper.make_graph(net.nodes, "network", net.inputs, net.outputs, net.initializers)
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("plugin", "ONNX Runtime cannot run 'odd.onnx', and calibration runs the float model: .*EfficientNMS_TRT"),
        ("sequence", "'odd.onnx' has the output 'parts' of type Sequence.*: expected a tensor of numbers"),
    ],
)
def test_what_calibration_cannot_run_is_refused_in_one_line(kind: str, message: str) -> None:
    model = onnx_file.prepare(ir.from_proto(unrunnable(kind)))
    with pytest.raises(UserError, match=message) as caught:
        check_runnable(model, Path("odd.onnx"))
    assert "\n" not in str(caught.value)


def test_texts_are_judged_as_labels(load: Load) -> None:
    net, x = network()
    pooled = net.node("Flatten", [net.node("GlobalMaxPool", [net.conv(x, "a", 3, 4)], "pooled")], "flat")
    index = net.node("ArgMax", [pooled], "index", axis=1, keepdims=0)
    net.initializers.append(helper.make_tensor("names", TensorProto.STRING, [4], [b"a", b"b", b"c", b"d"]))
    net.output(net.node("Gather", ["names", index], "label"), [1], TensorProto.STRING)
    _, report = quantize(load(net), networks.as_samples(RUNS))
    assert report["judged_as"] == {"label": "labels"}
