"""An isolated group of layers in INT8: its numbers by hand, and by a calibration that has nothing else in INT8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from effedge.calibration.graph import onnx_file
from effedge.calibration.graph.float_twin import float_twin
from effedge.calibration.graph.onnx_file import constant
from effedge.calibration.graph.session import session
from effedge.calibration.graph.unquantize import int8_layers, int8_tensors, unquantize
from effedge.calibration.post_training import PostTrainingQuantizer
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.search.isolate_group import equalized, isolate_group
from effedge.calibration.settings import Settings
from effedge.calibration.weights.equalize import EQUALIZATION_KEY
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import CALIBRATION_KEY
from tests.calibration import networks

Load = Callable[[networks.Network], ir.Model]
FEED = networks.feeds(1, seed=9)[0]
NAMES = Path("simplified.onnx"), Path("int8.onnx")


def build(plain: ir.Model, samples: Samples, correction: bool) -> tuple[PostTrainingQuantizer, ir.Model]:
    """The quantizer, and the model with all groups in INT8 as it is read from its file."""
    quantizer = PostTrainingQuantizer(plain, samples, Settings("minmax", correction))
    return quantizer, onnx_file.prepare(ir.from_proto(ir.to_proto(quantizer.build([])[0])))


def run(model: ir.Model, *names: str) -> list[np.ndarray]:
    return session(model, names).run(None, FEED)


def test_without_any_group_it_is_the_float_model_and_not_the_twin_of_int8(load: Load, samples: Samples) -> None:
    plain = load(networks.classifier())
    _, int8 = build(plain, samples, correction=True)
    assert '"correction": "rounded"' in int8.metadata_props[CALIBRATION_KEY]
    before = ir.to_proto(int8).SerializeToString()
    nothing = isolate_group(equalized(plain, int8, *NAMES), int8, [])
    assert not any(node.op_type in onnx_file.QUANTIZATION_OPERATORS for node in nothing.graph)
    expected, spread = run(plain)[0], np.abs(run(plain)[0]).max()
    np.testing.assert_allclose(run(nothing)[0], expected, atol=1e-5 * spread)
    assert np.abs(run(float_twin(int8))[0] - expected).max() > 5e-4 * spread
    assert ir.to_proto(int8).SerializeToString() == before


def test_the_last_layer_alone_by_hand(load: Load, samples: Samples) -> None:
    plain = load(networks.classifier())
    _, int8 = build(plain, samples, correction=True)
    changed = isolate_group(equalized(plain, int8, *NAMES), int8, ["flat"])
    assert [node.name for node in int8_layers(changed)] == ["logits"] and int8_tensors(changed) == {"flat"}

    node = next(node for node in int8.graph if node.name == "logits")
    weights = node.inputs[1].producer().inputs  # type: ignore[union-attr]
    scale, zero = (constant(value) for value in node.inputs[0].producer().inputs[1:])  # type: ignore[union-attr]
    flat = run(plain, "flat")[0]
    assert scale is not None and zero is not None
    data = (np.clip(np.rint(flat / scale) + zero, -128, 127) - zero) * scale
    matrix = constant(weights[0]).astype(np.float32) * constant(weights[1])[:, None]  # type: ignore[union-attr,index]
    by_hand = data @ matrix.T + constant(node.inputs[2])  # type: ignore[operator]
    np.testing.assert_allclose(run(changed)[0], by_hand, rtol=1e-4, atol=1e-5)
    assert np.abs(by_hand - run(plain)[0]).max() > 1e-4


def test_each_group_is_as_a_calibration_that_keeps_all_others_in_16_bit(load: Load, samples: Samples) -> None:
    plain = load(networks.classifier())
    quantizer, int8 = build(plain, samples, correction=False)
    equalized_model = equalized(plain, int8, *NAMES)
    compared = 0
    for index, group in enumerate(quantizer.plan.groups):
        changed = isolate_group(equalized_model, int8, group)
        assert int8_tensors(changed) == set(group)
        readers = [node for node, i in quantizer.plan.reads if node.inputs[i].name in group]  # type: ignore[union-attr]
        if any(node.op_type == "Add" for node in readers):
            continue  # with its convolution in 16 bit a calibration leaves the shortcut there too
        expected = quantizer.build([i for i in range(len(quantizer.plan.groups)) if i != index])[0]
        np.testing.assert_allclose(run(changed)[0], run(expected)[0], rtol=1e-4, atol=1e-5)
        compared += 1
    assert compared > len(quantizer.plan.groups) / 2


def test_layers_that_were_taken_out_of_int8_have_their_own_weights_too(load: Load, samples: Samples) -> None:
    plain = load(networks.classifier())
    _, int8 = build(plain, samples, correction=True)
    equalized_model = equalized(plain, int8, *NAMES)
    fewer = unquantize(int8, ["block1_depthwise"])
    expected = run(isolate_group(equalized_model, int8, ["flat"]))[0]
    np.testing.assert_array_equal(run(isolate_group(equalized_model, fewer, ["flat"]))[0], expected)


def test_a_bias_that_only_the_int8_model_has_goes_with_its_layer(load: Load) -> None:
    net = networks.Network()
    x = net.input("image", [1, 4, 8, 8])
    for index in range(2):
        weight = net.constant(f"w{index}", net.random.normal(size=(4, 4, 1, 1)).astype(np.float32))
        x = net.node("Relu", [net.node("Conv", [x, weight], f"conv{index}")], f"relu{index}")
    net.output(x, [1, 4, 8, 8])
    plain = load(net)
    runs = networks.as_samples(networks.normal_runs(8, (1, 4, 8, 8), name="image"))
    _, int8 = build(plain, runs, correction=True)
    bias = ir.tape.Tape(int8.graph).initializer(ir.tensor(np.ones(4, np.float32), name="bias"))
    for node in int8_layers(int8):
        node.resize_inputs(3)
        node.replace_input_with(2, bias)
    changed = isolate_group(equalized(plain, int8, *NAMES), int8, ["relu0"])
    assert {node.name: len(node.inputs) for node in changed.graph if node.op_type == "Conv"} == {"conv0": 2, "conv1": 3}


def test_another_float_model_is_one_line(load: Load, samples: Samples) -> None:
    _, int8 = build(load(networks.classifier()), samples, correction=False)
    with pytest.raises(UserError, match="'simplified.onnx' is not the float model that 'int8.onnx' was made of"):
        equalized(load(networks.classifier(seed=1)), int8, *NAMES)
    int8.metadata_props.pop(EQUALIZATION_KEY)
    with pytest.raises(UserError, match="calibrate again"):
        equalized(load(networks.classifier()), int8, *NAMES)
