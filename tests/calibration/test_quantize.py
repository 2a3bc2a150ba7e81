"""The whole of quantization on small networks: what runs where, how near it is, what is reported."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from effedge.calibration.graph.macs import macs
from effedge.calibration.graph.session import session
from effedge.calibration.placement.insert import RoundedWeight, quantize_weight
from effedge.calibration.post_training import PostTrainingQuantizer, describe, quantize
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.search.sqnr import last_layers, sqnr
from effedge.calibration.search.trials import Trials
from effedge.calibration.settings import Settings
from effedge.calibration.weights.round_weights import round_weights
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import CALIBRATION_KEY
from tests.calibration import networks
from tests.calibration.networks import Network

Load = Callable[[Network], ir.Model]
Run = Callable[..., list[np.ndarray]]


@pytest.mark.parametrize(
    ("method", "correction"),
    [("minmax", False), ("percentile", True), ("entropy", False), ("mse", True), ("auto", True)],
)
def test_int8_is_near_float_on_every_backend(
    load: Load, samples: Samples, run_ort: Run, run_openvino: Run, method: str, correction: bool
) -> None:
    model = load(networks.classifier())
    changed, _ = quantize(model, samples, Settings(method, correction))
    for feed in networks.feeds(4, seed=9):
        expected = run_ort(model, feed)[0]
        spread = np.abs(expected).max()
        plain = run_ort(changed, feed, optimized=False)[0]
        np.testing.assert_allclose(plain, expected, atol=0.05 * spread)
        assert np.abs(plain - expected).max() > 1e-6 * spread, "nothing was quantized"
        # Kernels round at different places; both stay within the noise of quantization itself.
        np.testing.assert_allclose(run_ort(changed, feed)[0], plain, atol=0.03 * spread)
        np.testing.assert_allclose(run_openvino(changed, feed)[0], plain, atol=0.03 * spread)


def test_int8_builds_in_tensorrt_rtx(load: Load, samples: Samples, build_rtx: Callable[[ir.Model], bytes]) -> None:
    changed, _ = quantize(load(networks.classifier()), samples)
    plan = build_rtx(changed)
    assert b"int8" in plan.lower()


def test_the_detection_tail_is_left_as_it_was(load: Load, samples: Samples, run_ort: Run) -> None:
    model = load(networks.detector())
    changed, _ = quantize(model, samples)
    tail = ("TopK", "ReduceMax", "GatherElements", "Expand", "Unsqueeze", "Sigmoid", "Transpose", "Reshape")
    for node in changed.graph:
        if node.op_type in tail:
            assert not any(value.name.endswith("_dq") for value in node.inputs if value is not None)
    assert [value.name for value in changed.graph.outputs] == ["scores_out", "boxes_out"]
    assert [array.dtype for array in run_ort(changed, networks.feeds(1)[0])] == [np.float32, np.float32]


def test_the_float_model_stays_as_it_was(load: Load, samples: Samples) -> None:
    model = load(networks.classifier())
    before = ir.to_proto(model).SerializeToString()
    quantize(model, samples)
    assert ir.to_proto(model).SerializeToString() == before


def test_a_group_has_the_threshold_of_all_its_members_together(load: Load) -> None:
    net = Network()
    a = net.node("Relu", [net.input("x", [1, 2, 4, 4])], "a")
    b = net.node("Mul", [a, net.constant("five", np.float32(5))], "b")
    joined = net.node("Concat", [a, b], "joined", axis=1)
    for index, (x, channels) in enumerate([(a, 2), (joined, 4)]):
        net.output(net.conv(x, f"conv{index}", channels, 2), [1, 2, 4, 4])
    one = Samples(["one"], lambda index: {"x": np.full((1, 2, 4, 4), 2, np.float32)})
    changed, _ = quantize(load(net), one, Settings("minmax", float_share=0))
    scales = {name: value.const_value.numpy() for name, value in changed.graph.initializers.items() if "scale" in name}
    assert scales["a_scale"] == scales["joined_scale"] == np.float32(10 / 127)


def test_the_report_is_right_and_in_the_metadata(load: Load, samples: Samples) -> None:
    model = load(networks.classifier())
    changed, report = quantize(model, samples, Settings("minmax", correction=False))
    assert json.loads(changed.metadata_props[CALIBRATION_KEY]) == report
    assert (report["method"], report["images"]) == ("minmax", 12)
    work = macs(model)
    in_float = sum(work[name] for name in report["float_layers"])
    assert report["int8_macs"] == pytest.approx(1 - in_float / sum(work.values()), abs=1e-4)
    assert report["int8_layers"] + len(report["float_layers"]) == len(work)
    assert list(report["sqnr_db"]) == ["logits"] and report["sqnr_db"]["logits"] > 20
    assert report["correction"] == "none"
    scales = {
        node.inputs[0].name: node.inputs[1].const_value.numpy()
        for node in changed.graph
        if node.op_type == "QuantizeLinear"
    }
    assert report["thresholds"] == {name: pytest.approx(127 * float(scale), rel=1e-6) for name, scale in scales.items()}
    assert report["output_error"] == pytest.approx(Trials(model, samples).output_error(changed), rel=1e-2, abs=1e-6)
    assert "\n" not in describe(report) and f"{100 * report['int8_macs']:.1f}%" in describe(report)


def test_macs_by_hand(load: Load) -> None:
    net = Network()
    x = net.conv(net.input("x", ["N", 4, 8, 8]), "grouped", 4, 6, kernel=3, group=2, stride=2)
    flat = net.node("Flatten", [net.node("GlobalAveragePool", [x], "pool")], "flat")
    net.output(net.node("Gemm", [flat, net.constant("w", np.ones((5, 6), np.float32))], "fc", transB=1), ["N", 5])
    assert macs(load(net)) == {"grouped": 4 * 4 * 3 * 3 * 6 * 2, "fc": 6 * 5}


def test_sqnr_by_hand_and_where_it_is_taken(load: Load) -> None:
    one = Samples(["one"], lambda index: {"x": np.ones((1, 1, 2, 2), np.float32)})
    models = []
    for weight in (1.0, 0.9):
        net = Network()
        w = net.constant("w", np.full((1, 1, 1, 1), weight, np.float32))
        net.output(net.node("Relu", [net.node("Conv", [net.input("x", [1, 1, 2, 2]), w], "conv")], "y"), [1, 1, 2, 2])
        models.append(load(net))
    assert last_layers(models[0]) == ["conv"]
    assert sqnr(*models, one, ["conv"]) == {"conv": pytest.approx(20.0, abs=0.01)}
    assert last_layers(load(networks.detector())) == ["classes_conv", "boxes_conv"]


def test_an_input_of_zeros_leaves_its_layer_in_float(load: Load) -> None:
    net = Network()
    net.output(net.conv(net.conv(net.input("x", [1, 4, 8, 8]), "first", 4, 4), "second", 4, 4), [1, 4, 8, 8])
    zeros = Samples(["zeros"], lambda index: {"x": np.zeros((1, 4, 8, 8), np.float32)})
    _, report = quantize(load(net), zeros)
    assert report["float_layers"] == {"first": "its input was 0 on all calibration data"}


def test_a_model_without_anything_to_quantize_says_why(load: Load) -> None:
    net = Network()
    weight = net.constant("w", np.ones((4, 4, 1, 1), np.float32))
    net.output(net.node("ConvTranspose", [net.input("x", [1, 4, 4, 4]), weight], "up"), [1, 4, 4, 4])
    one = Samples(["one"], lambda index: {"x": np.ones((1, 4, 4, 4), np.float32)})
    with pytest.raises(UserError, match="nothing in the model can be INT8 .*transposed convolution"):
        quantize(load(net), one)


def test_a_depthwise_convolution_alone_is_quantized(load: Load) -> None:
    net = Network()
    net.output(net.conv(net.input("x", [1, 4, 8, 8]), "deep", 4, 4, kernel=3, group=4), [1, 4, 8, 8])
    samples = networks.as_samples(networks.normal_runs(4, (1, 4, 8, 8)))
    _, report = quantize(load(net), samples, Settings(float_share=0))
    assert (report["int8_layers"], report["float_layers"], report["int8_macs"]) == (1, {}, 1)


def spread_channels() -> Network:
    """A depthwise convolution with a hundredth of the work, whose input's channels differ ten thousandfold, though each
    counts the same at the output. Nothing equalizes them: the input is no convolution's."""
    net = Network(2)
    gains = np.float32([1, 1e-4, 1, 1e-4, 1, 1e-4, 1, 1e-4]).reshape(1, 8, 1, 1)
    uneven = net.node("Mul", [net.input("x", [1, 8, 8, 8]), net.constant("gains", gains)], "uneven")
    weight = net.constant("w", net.random.normal(0, 0.3, (8, 1, 3, 3)).astype(np.float32))
    deep = net.node("Conv", [uneven, weight], "deep", group=8, pads=[1, 1, 1, 1])
    even = net.node("Mul", [deep, net.constant("back", 1 / gains)], "even")
    wide = net.conv(net.silu(even, "act"), "wide", 8, 64, kernel=3)
    net.output(net.conv(net.silu(wide, "wide_act"), "last", 64, 4), [1, 4, 8, 8])
    return net


def test_the_layer_with_the_most_output_error_for_the_least_work_stays_in_float(load: Load) -> None:
    model = load(spread_channels())
    samples = networks.as_samples(networks.normal_runs(8, (1, 8, 8, 8)))
    work = macs(model)
    share = work["deep"] / sum(work.values())
    _, report = quantize(model, samples, Settings(float_share=1.5 * share))
    assert list(report["float_layers"]) == ["deep"] and "output error" in report["float_layers"]["deep"]
    assert report["int8_macs"] == pytest.approx(1 - share, abs=1e-4)
    first = report["sensitivity"][0]
    assert first["layers"] == ["deep"] and first["macs"] == pytest.approx(share, abs=1e-5)
    assert [row["gain"] for row in report["sensitivity"]] == sorted(
        (row["gain"] for row in report["sensitivity"]), reverse=True
    )
    assert sum(row["macs"] for row in report["sensitivity"]) == pytest.approx(1, abs=1e-4)
    _, without_room = quantize(model, samples, Settings(float_share=0.5 * share))
    assert without_room["float_layers"] == {}
    assert without_room["output_error"] > 5 * report["output_error"]


def test_a_quantizer_builds_a_model_with_any_of_its_groups_in_float(load: Load, samples: Samples) -> None:
    quantizer = PostTrainingQuantizer(load(networks.classifier()), samples, Settings(correction=False))
    assert sum(quantizer.costs) <= 1 + 1e-9
    for float_groups in ([], [0], [1, 4]):
        changed, report = quantizer.build(float_groups)
        names = {name for index in float_groups for name in quantizer.plan.groups[index]}
        data = {node.name: node.inputs[0].name for node in quantizer.equalized.graph}
        by_rule = [name for name, why in report["float_layers"].items() if "squeeze" in why]
        wanted = {layer.name for layer in quantizer.plan.layers if data[layer.name] in names}
        assert set(report["float_layers"]) - set(by_rule) == wanted
        quantized = {node.inputs[0].name for node in changed.graph if node.op_type == "QuantizeLinear"}
        assert not quantized & names and quantized == set(report["thresholds"])


def test_auto_has_less_output_error_than_a_percentile_where_a_clip_behind_makes_outliers_small(load: Load) -> None:
    net = Network(3)
    y = net.conv(net.input("x", [1, 4, 16, 16]), "conv", 4, 6)
    y = net.node("Clip", [y, net.constant("low", np.float32(-2)), net.constant("high", np.float32(2))], "clip")
    net.output(net.conv(y, "last", 6, 3), [1, 3, 16, 16])
    runs = networks.normal_runs(8, (1, 4, 16, 16))
    for index, feeds in enumerate(runs):
        feeds["x"][0, index % 4, 3, index] = 400
    model, samples = load(net), networks.as_samples(runs)
    errors = {
        method: quantize(model, samples, Settings(method, False, 0))[1]["output_error"]
        for method in ("auto", "minmax", "percentile")
    }
    assert errors["auto"] < 0.1 * min(errors["minmax"], errors["percentile"])


def test_zero_points_halve_the_steps_where_activations_reach_to_one_side(load: Load) -> None:
    net = Network(3)
    y = net.input("x", [1, 4, 16, 16])
    for index, channels in enumerate((4, 8, 8)):
        y = net.node("Relu", [net.conv(y, f"conv{index}", channels, 8)], f"relu{index}")
    net.output(net.conv(y, "last", 8, 3), [1, 3, 16, 16])
    for tensor in net.initializers:  # weights that INT8 holds, so that activations make all of the error
        array = numpy_helper.to_array(tensor)
        if array.ndim == 4:
            weight, scale = quantize_weight(array, 0)
            tensor.CopyFrom(numpy_helper.from_array(weight * scale.reshape(-1, 1, 1, 1), tensor.name))
    runs = [{"x": np.abs(feeds["x"])} for feeds in networks.normal_runs(8, (1, 4, 16, 16))]
    quantizers = [
        PostTrainingQuantizer(load(net), networks.as_samples(runs), Settings("minmax", zero_points=zero_points))
        for zero_points in (False, True)
    ]
    # Errors are counted in squares.
    assert quantizers[1].output_error == pytest.approx(quantizers[0].output_error / 4, rel=0.25)
    assert [quantizer.build([])[1]["zero_points"] for quantizer in quantizers] == [False, True]


def test_weights_that_do_harm_are_rounded_to_the_nearest_instead(
    load: Load, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(networks.classifier())
    nearest, _ = quantize(model, samples, Settings("minmax", correction=False, float_share=0))
    _, report = quantize(model, samples, Settings("minmax", float_share=0))
    assert report["correction"] == "rounded" and report["output_error"] < Trials(model, samples).output_error(nearest)

    def harm(*arguments: Any) -> dict[str, RoundedWeight]:
        return {name: (whole, 2 * scale) for name, (whole, scale) in round_weights(*arguments).items()}

    monkeypatch.setattr("effedge.calibration.post_training.round_weights", harm)
    changed, report = quantize(model, samples, Settings("minmax", float_share=0))
    assert report["correction"] == "none"
    feed = networks.feeds(1, seed=9)[0]
    np.testing.assert_array_equal(session(changed).run(None, feed)[0], session(nearest).run(None, feed)[0])


def test_a_symbolic_batch_stays_symbolic(load: Load, samples: Samples, run_ort: Run) -> None:
    changed, _ = quantize(load(networks.classifier(batch="N")), samples)
    assert run_ort(changed, networks.feeds(1, batch=3)[0])[0].shape == (3, networks.CLASSES)


def test_what_one_groups_error_hides_is_measured_without_it(load: Load, samples: Samples) -> None:
    """The first group makes all of the output error; without it the others make half as much."""
    quantizer = PostTrainingQuantizer(load(networks.classifier()), samples, Settings("minmax", float_share=1.0))
    count = len(quantizer.gains)
    quantizer.output_error, quantizer.gains = 1.0, [1.0, 2e-3, *[1e-6] * (count - 2)]

    class Hidden:
        def output_error(self, thresholds: Mapping[int, float]) -> float:
            return 1.0 if 0 in thresholds else 0.5 if 1 in thresholds else 1e-4

    quantizer.switched = Hidden()  # type: ignore[assignment]
    assert quantizer.choose_float_groups() == [0, 1]
