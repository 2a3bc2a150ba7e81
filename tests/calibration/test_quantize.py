"""The whole of quantization on small networks: what runs where, how near it is, what is reported."""

import json
from collections.abc import Callable

import networks
import numpy as np
import onnx_ir as ir
import pytest
from networks import Network

from calibration.macs import macs
from calibration.quantize import METADATA, describe, quantize
from calibration.samples import Samples
from calibration.sqnr import last_layers, sqnr
from deploy.cli import UserError

Load = Callable[[Network], ir.Model]
Run = Callable[..., list[np.ndarray]]


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_int8_is_near_float_on_every_backend(
    load: Load, samples: Samples, run_ort: Run, run_openvino: Run, method: str
) -> None:
    model = load(networks.classifier())
    changed, _ = quantize(model, samples, method, quiet=True)
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
    changed, _ = quantize(load(networks.classifier()), samples, quiet=True)
    plan = build_rtx(changed)
    assert b"int8" in plan.lower()


def test_the_detection_tail_is_left_as_it_was(load: Load, samples: Samples, run_ort: Run) -> None:
    model = load(networks.detector())
    changed, _ = quantize(model, samples, quiet=True)
    tail = ("TopK", "ReduceMax", "GatherElements", "Expand", "Unsqueeze", "Sigmoid", "Transpose", "Reshape")
    for node in changed.graph:
        if node.op_type in tail:
            assert not any(value.name.endswith("_dq") for value in node.inputs if value is not None)
    assert [value.name for value in changed.graph.outputs] == ["scores_out", "boxes_out"]
    assert [array.dtype for array in run_ort(changed, networks.feeds(1)[0])] == [np.float32, np.float32]


def test_the_float_model_stays_as_it_was(load: Load, samples: Samples) -> None:
    model = load(networks.classifier())
    before = ir.to_proto(model).SerializeToString()
    quantize(model, samples, quiet=True)
    assert ir.to_proto(model).SerializeToString() == before


def test_a_group_has_the_threshold_of_all_its_members_together(load: Load) -> None:
    net = Network()
    a = net.node("Relu", [net.input("x", [1, 2, 4, 4])], "a")
    b = net.node("Mul", [a, net.constant("five", np.float32(5))], "b")
    joined = net.node("Concat", [a, b], "joined", axis=1)
    for index, (x, channels) in enumerate([(a, 2), (joined, 4)]):
        net.output(net.conv(x, f"conv{index}", channels, 2), [1, 2, 4, 4])
    one = Samples(["one"], lambda index: {"x": np.full((1, 2, 4, 4), 2, np.float32)})
    changed, _ = quantize(load(net), one, "minmax", quiet=True)
    scales = {name: value.const_value.numpy() for name, value in changed.graph.initializers.items() if "scale" in name}
    assert scales["a_scale"] == scales["joined_scale"] == np.float32(10 / 127)


def test_the_report_is_right_and_in_the_metadata(load: Load, samples: Samples) -> None:
    model = load(networks.classifier())
    changed, report = quantize(model, samples, "minmax", quiet=True)
    assert json.loads(changed.metadata_props[METADATA]) == report
    assert (report["method"], report["images"]) == ("minmax", 12)
    work = macs(model)
    in_float = sum(work[name] for name in report["float_layers"])
    assert report["int8_macs"] == pytest.approx(1 - in_float / sum(work.values()), abs=1e-4)
    assert report["int8_layers"] + len(report["float_layers"]) == len(work)
    assert list(report["sqnr_db"]) == ["logits"] and report["sqnr_db"]["logits"] > 20
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
    assert sqnr(*models, one, ["conv"], quiet=True) == {"conv": pytest.approx(20.0, abs=0.01)}
    assert last_layers(load(networks.detector())) == ["classes_conv", "boxes_conv"]


def test_all_black_images_leave_the_stem_in_float(load: Load) -> None:
    black = Samples(["black"], lambda index: {"image": np.zeros((1, networks.SIZE, networks.SIZE, 3), np.uint8)})
    _, report = quantize(load(networks.classifier()), black, quiet=True)
    assert report["float_layers"]["stem"] == "its input was 0 on all calibration data"


def test_a_model_without_anything_to_quantize_says_why(load: Load) -> None:
    net = Network()
    net.output(net.conv(net.input("x", [1, 4, 4, 4]), "deep", 4, 4, group=4), [1, 4, 4, 4])
    one = Samples(["one"], lambda index: {"x": np.ones((1, 4, 4, 4), np.float32)})
    with pytest.raises(UserError, match="nothing in the model can be INT8 .*depthwise"):
        quantize(load(net), one, quiet=True)


def test_a_symbolic_batch_stays_symbolic(load: Load, samples: Samples, run_ort: Run) -> None:
    changed, _ = quantize(load(networks.classifier(batch="N")), samples, quiet=True)
    assert run_ort(changed, networks.feeds(1, batch=3)[0])[0].shape == (3, networks.CLASSES)
