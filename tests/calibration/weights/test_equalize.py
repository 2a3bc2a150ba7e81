"""Cross-layer equalization: the float model computes the same, and the channels come closer together."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from effedge.calibration.graph.session import session
from effedge.calibration.weights.equalize import (
    EQUALIZATION_KEY,
    EqualizedGroup,
    channel_extremes,
    channel_scales,
    equalize,
    equalize_as,
    find_groups,
)


class Runs(list):
    """Samples as effedge.calibration.ranges.samples makes them, in memory."""

    def spread(self, count):
        return Runs(self[:count])


def samples(channels=4, size=8):
    random = np.random.default_rng(0)
    return Runs((f"{i}", {"x": random.normal(size=(1, channels, size, size)).astype(np.float32)}) for i in range(3))


def network(nodes, weights, output):
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def uneven(random, outputs, inputs):
    """A 1x1 kernel whose output channels differ a thousandfold."""
    return random.normal(size=(outputs, inputs, 1, 1)) * np.logspace(-1.5, 1.5, outputs).reshape(-1, 1, 1, 1)


def spread_of(extremes):
    return extremes.max() / extremes.min()


def build(kind):
    random = np.random.default_rng(1)
    weights = {"w0": uneven(random, 4, 4), "b0": random.normal(size=4), "w1": random.normal(size=(3, 4, 1, 1))}
    first = helper.make_node("Conv", ["x", "w0", "b0"], ["a"], name="c0")
    last = helper.make_node("Conv", ["h", "w1"], ["y"], name="c1")
    if kind == "chain":
        return network([first, helper.make_node("Conv", ["a", "w1"], ["y"], name="c1")], weights, "y")
    if kind == "depthwise":
        weights["w0"] = uneven(random, 4, 1)
        first = helper.make_node("Conv", ["x", "w0", "b0"], ["h"], name="c0", group=4)
        return network([first, last], weights, "y")
    if kind == "gate":
        weights |= {"w2": random.normal(size=(4, 4, 1, 1))}
        middle = [
            helper.make_node("Sigmoid", ["a"], ["s"]),
            helper.make_node("Mul", ["a", "s"], ["silu"]),
            helper.make_node("GlobalAveragePool", ["silu"], ["p"]),
            helper.make_node("Conv", ["p", "w2"], ["e"], name="c2"),
            helper.make_node("Sigmoid", ["e"], ["g"]),
            helper.make_node("Mul", ["silu", "g"], ["h"]),
        ]
        return network([first, *middle, last], weights, "y")
    if kind == "residual":
        weights |= {"w2": uneven(random, 4, 4)}
        middle = [helper.make_node("Conv", ["a", "w2"], ["r"], name="c2"), helper.make_node("Add", ["a", "r"], ["h"])]
        return network([first, *middle, last], weights, "y")
    middle = [helper.make_node("Relu", ["a"], ["h"])]
    return network([first, *middle, last], weights, "y")


@pytest.mark.parametrize("kind", ["chain", "depthwise", "gate", "residual"])
def test_the_float_model_computes_the_same_and_its_channels_come_closer(kind):
    model, runs = build(kind), samples()
    before = [session(model).run(None, feeds)[0] for _, feeds in runs]
    read = next(node for node in model.graph if node.name == "c1").inputs[0]
    uneven_before = spread_of(channel_extremes(model, [read], runs)[read])

    assert equalize(model, runs) >= 1

    after = [session(model).run(None, feeds)[0] for _, feeds in runs]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(one).max())
    read = next(node for node in model.graph if node.name == "c1").inputs[0]
    assert spread_of(channel_extremes(model, [read], runs)[read]) < 0.2 * uneven_before


@pytest.mark.parametrize("kind", ["chain", "depthwise", "residual"])
def test_all_channels_have_the_same_range_and_the_tensor_keeps_its_magnitude(kind):
    model = build(kind)

    def ranges():
        (group,) = find_groups(model)  # its tensors share one scale per channel
        return np.max([*channel_extremes(model, group.tensors, samples()).values()], axis=0)

    before = ranges()
    equalize(model, samples())
    assert spread_of(before) > 2
    np.testing.assert_allclose(ranges(), np.exp(np.log(before).mean()), rtol=1e-5)


def test_a_channel_of_zeros_keeps_its_scale_and_a_faint_one_does_not_become_noise():
    values = [ir.Value(name="x")]
    extremes = {values[0]: np.array([2.0, 8.0, 0.0, 1e-9], np.float32)}
    scale = channel_scales(EqualizedGroup(values), extremes)
    assert not len(channel_scales(EqualizedGroup(values), {values[0]: np.array([2.0, np.inf], np.float32)}))
    assert scale[2] == 1 and scale[1] / scale[0] == pytest.approx(4) and scale[1] / scale[3] == pytest.approx(1000)


def test_nothing_is_rescaled_through_an_activation():
    assert find_groups(build("activation")) == []


@pytest.mark.parametrize("kind", ["chain", "depthwise", "gate", "residual", "activation"])
def test_what_was_done_is_done_again_without_the_samples(kind):
    model, again = build(kind), build(kind)
    equalize(model, samples())
    assert equalize_as(again, model.metadata_props[EQUALIZATION_KEY])
    assert [node.name for node in again.graph] == [node.name for node in model.graph]
    for name, value in model.graph.initializers.items():
        np.testing.assert_allclose(again.graph.initializers[name].const_value.numpy(), value.const_value.numpy(), 1e-6)


def test_a_model_of_other_weights_stays_as_it_is():
    model, other = build("chain"), build("chain")
    equalize(model, samples())
    other.graph.initializers["w1"].const_value = ir.tensor(np.ones((3, 4, 1, 1), np.float32))
    before = ir.to_proto(other).SerializeToString()
    assert not equalize_as(other, model.metadata_props[EQUALIZATION_KEY])
    assert ir.to_proto(other).SerializeToString() == before


def other_readers(kind):
    """c0 makes h [1,4,8,8], which a dense convolution reads, and something else that shares its scale or cannot."""
    random = np.random.default_rng(2)
    weights = {"w0": uneven(random, 4, 4), "b0": random.normal(size=4), "w1": random.normal(size=(3, 4, 1, 1))}
    first = helper.make_node("Conv", ["x", "w0", "b0"], ["h"], name="c0")
    dense = helper.make_node("Conv", ["h", "w1"], ["d"], name="c1")
    if kind in ("grouped", "half as many out", "more out"):
        group, outputs = {"grouped": (2, 6), "half as many out": (2, 2), "more out": (4, 8)}[kind]
        weights["w2"] = random.normal(size=(outputs, 4 // group, 1, 1))
        beside = [helper.make_node("Conv", ["h", "w2"], ["e"], name="c2", group=group)]
        return network([first, dense, *beside, helper.make_node("Concat", ["d", "e"], ["y"], axis=1)], weights, "y")
    weights["w2"] = random.normal(size=(1, 4, 1, 1))
    one = helper.make_node("Conv", ["x", "w2"], ["o"], name="c2")
    if kind == "one channel added":
        middle = [helper.make_node("Add", ["a", "o"], ["h"])]
    elif kind == "one channel added first":
        middle = [helper.make_node("Add", ["o", "a"], ["m"]), helper.make_node("Add", ["m", "o"], ["h"])]
    elif kind == "one channel as gate":
        pool = helper.make_node("GlobalAveragePool", ["o"], ["p"])
        middle = [pool, helper.make_node("Mul", ["a", "p"], ["h"])]
    else:  # channels repeated by a Resize
        weights["scales"] = np.array([1, 2, 1, 1])
        weights["w1"] = random.normal(size=(3, 8, 1, 1))
        middle = [helper.make_node("Resize", ["a", "", "scales"], ["h"], mode="nearest")]
    first.output[0] = "a"
    dense.output[0] = "y"
    return network([first, one, *middle, dense], weights, "y")


@pytest.mark.parametrize(
    "kind",
    ["grouped", "half as many out", "more out", "one channel added", "one channel added first", "one channel as gate",
     "channels repeated"],
)  # fmt: skip
def test_a_tensor_of_other_channels_or_a_grouped_reader_changes_nothing_that_is_computed(kind):
    model, runs = other_readers(kind), samples()
    before = [session(model).run(None, feeds)[0] for _, feeds in runs]
    equalize(model, runs)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for one, (_, feeds) in zip(before, runs, strict=True):
        other = session(model).run(None, feeds)[0]
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(one).max())


@pytest.mark.parametrize("kind", ["grouped", "half as many out", "one channel added", "channels repeated"])
def test_what_cannot_share_a_scale_per_channel_is_no_group(kind):
    assert not any(len(group.readers) > 1 or len(group.tensors) > 1 for group in find_groups(other_readers(kind)))
