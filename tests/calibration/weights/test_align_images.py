"""Tests that INT8 holds the levels of images without rounding, and that the float model computes what it did."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto

from effedge.calibration.fp16.convert import to_fp16
from effedge.calibration.graph.session import session
from effedge.calibration.post_training import quantize
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.ranges.thresholds import quantization_parameters
from effedge.calibration.settings import Settings
from effedge.calibration.weights.align_images import (
    IMAGES_KEY,
    Range,
    align_images,
    align_images_as,
    alignment_of,
    range_of,
    unalign_images,
)
from effedge.calibration.weights.image_levels import Levels, levels_of
from tests.calibration import networks

SIDE = 16  # as many pixels as levels
MEAN = np.float32([123.675, 116.28, 103.53]).reshape(1, 3, 1, 1)
DEVIATION = np.float32([58.395, 57.12, 57.375]).reshape(1, 3, 1, 1)
Load = Callable[[networks.Network], ir.Model]
Step = tuple[str, "np.ndarray | float"]

# Preprocessing of an image with channels first, as operators with a constant.
STEPS: dict[str, Sequence[Step]] = {
    "raw": [],
    "from 0 to 1": [("Div", 255.0)],
    "from -1 to 1": [("Div", 127.5), ("Sub", 1.0)],
    "of TensorFlow Lite": [("Sub", 127.0), ("Div", 128.0)],
    "a mean of each colour": [("Sub", MEAN)],
    "torchvision's": [("Sub", MEAN), ("Div", DEVIATION)],
    "blue first": [("Gather", np.int64([2, 1, 0])), ("Sub", MEAN)],
}


def network(
    steps: Sequence[Step], *, image: bool = True, pads: Sequence[int] = (1, 1, 1, 1), auto_pad: str = "NOTSET"
) -> networks.Network:
    """A convolution that pads on an image, and one behind it."""
    net = networks.Network()
    if image:
        x = net.node("Cast", [net.input("image", [1, SIDE, SIDE, 3], TensorProto.UINT8)], "cast", to=TensorProto.FLOAT)
        x = net.node("Transpose", [x], "nchw", perm=[0, 3, 1, 2])
    else:
        x = net.input("x", [1, 3, SIDE, SIDE])
    for index, (operator, operand) in enumerate(steps):
        name, array = f"step{index}", np.asarray(operand)
        constant = net.constant(f"{name}_with", array if array.dtype == np.int64 else array.astype(np.float32))
        x = net.node(operator, [x, constant], name, **({"axis": 1} if operator == "Gather" else {}))
    weight = net.constant("w", net.random.normal(0, 0.2, (8, 3, 3, 3)).astype(np.float32))
    padding = {"pads": pads} if auto_pad == "NOTSET" else {"auto_pad": auto_pad}
    x = net.node("Conv", [x, weight], "stem", **padding, strides=[2, 2])
    net.output(net.conv(net.silu(x, "act"), "last", 8, 4), [1, 4, None, None])
    return net


def images(count: int = 8, seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    runs = [random.integers(0, 256, (1, SIDE, SIDE, 3), np.uint8) for _ in range(count)]
    return Samples([f"{index}" for index in range(count)], lambda index: {"image": runs[index]})


def tensors(model: ir.Model, names: Sequence[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return list(session(model, names).run(list(names), feeds))


def stem_input(model: ir.Model) -> str:
    stem = next(node for node in model.graph if node.name == "stem")
    assert stem.inputs[0] is not None and stem.inputs[0].name is not None
    return stem.inputs[0].name


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_int8_holds_every_level_and_the_float_model_stays(name: str, zero_points: bool, load: Load) -> None:
    model = load(network(STEPS[name]))
    aligned = model.clone()
    ranges = align_images(aligned, images(), zero_points=zero_points)
    every = np.arange(256, dtype=np.uint8).reshape(SIDE, SIDE)
    feeds = {"image": np.stack([every, every.T, every[::-1]], axis=-1)[np.newaxis]}
    [before], [after] = (session(each).run(None, feeds) for each in (model, aligned))
    edges = name in ("from -1 to 1", "of TensorFlow Lite")  # where the stem pads by half a level, or one, besides
    largest = np.abs(before - after)[..., 1:, 1:].max()
    assert largest < 1e-5 * np.abs(before).max()
    assert edges or np.abs(before - after).max() < 1e-5 * np.abs(before).max()
    scale, zero_point = quantization_parameters(*ranges[stem_input(aligned)])
    [read] = tensors(aligned, [stem_input(aligned)], feeds)
    around = (read.shape[-1] - SIDE) // 2  # pads, which need no level
    levels = read[..., around : around + SIDE, around : around + SIDE] / scale + zero_point
    assert np.abs(levels - np.rint(levels)).max() < 0.01
    assert (levels.min().round(), levels.max().round()) == (-128, 127)
    assert len(np.unique(np.rint(levels))) == 256


@pytest.mark.parametrize("in_16_bit", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_the_int8_model_reads_the_image_without_rounding(name: str, in_16_bit: bool, load: Load) -> None:
    changed, _ = quantize(load(network(STEPS[name])), images(), Settings(float_share=0, correction=False))
    if in_16_bit:
        changed, _ = to_fp16(changed)
    dequantize = next(node for node in changed.graph if node.name == "stem").inputs[0].producer()  # type: ignore
    assert dequantize is not None and dequantize.op_type == "DequantizeLinear"
    quantized = dequantize.inputs[0]
    assert quantized is not None
    [read] = tensors(changed, [quantized.name or ""], feeds := images().load(0))
    colours = [2, 1, 0] if name == "blue first" else [0, 1, 2]
    around = (read.shape[-1] - SIDE) // 2
    expected = feeds["image"].transpose(0, 3, 1, 2)[:, colours].astype(int) - 128
    np.testing.assert_array_equal(read[..., around : around + SIDE, around : around + SIDE], expected)


def test_the_image_is_padded_by_the_mean(load: Load) -> None:
    changed, _ = quantize(load(network(STEPS["torchvision's"])), images(), Settings(float_share=0, correction=False))
    quantize_linear = next(node for node in changed.graph if node.op_type == "QuantizeLinear")
    [read] = tensors(changed, [quantize_linear.outputs[0].name or ""], images().load(0))
    edge = (MEAN - 128).round()
    np.testing.assert_array_equal(read[:, :, 0, :], np.broadcast_to(edge[:, :, 0], read[:, :, 0, :].shape))


def test_with_zero_points_raw_bytes_need_no_shift(load: Load) -> None:
    model = load(network(STEPS["raw"]))
    operators = [node.op_type for node in model.graph]
    assert align_images(model, images(), zero_points=True) == {"nchw": Range(pytest.approx(255), 0)}
    assert [node.op_type for node in model.graph] == operators


def test_a_convolution_that_does_not_pad_gets_no_pad(load: Load) -> None:
    for pads, kinds in (((0, 0, 0, 0), ["Add"]), ((0, 0, 1, 1), ["Pad", "Add"])):
        model = load(network(STEPS["a mean of each colour"], pads=pads))
        before = [node.op_type for node in model.graph]
        align_images(model, images())
        assert [node.op_type for node in model.graph] == [*before[:3], *kinds, *before[3:]]


def test_an_image_in_floats_is_found_by_its_values(load: Load) -> None:
    random = np.random.default_rng(0)
    bytes_of = random.integers(0, 256, (3, 1, 3, SIDE, SIDE))
    runs = ((bytes_of - MEAN) / DEVIATION).astype(np.float32)
    model = load(network([], image=False))
    found = align_images(model, Samples(["a", "b", "c"], lambda index: {"x": runs[index]}))
    assert list(found) == ["x.aligned"]


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(lambda random: random.normal(size=(3, SIDE, SIDE)), id="no levels"),
        pytest.param(lambda random: random.integers(0, 2, (3, SIDE, SIDE)) * 255.0, id="a mask"),
        pytest.param(lambda random: random.integers(0, 600, (3, SIDE, SIDE)) * 1.0, id="more than 256 levels"),
        pytest.param(lambda random: np.zeros((3, SIDE, SIDE)), id="zeros"),
        pytest.param(lambda random: random.integers(0, 256, (3, SIDE, SIDE)) ** 0.5, id="uneven levels"),
        pytest.param(lambda random: np.full((3, SIDE, SIDE), np.nan), id="not a number"),
    ],
)
def test_what_has_no_levels_stays_as_it_is(values: Callable[..., np.ndarray], load: Load) -> None:
    array = values(np.random.default_rng(0)).astype(np.float32)[np.newaxis]
    model = load(network([], image=False))
    before = ir.to_proto(model.graph)
    assert align_images(model, Samples(["one"], lambda index: {"x": array})) == {}
    assert ir.to_proto(model.graph) == before


def test_a_model_is_aligned_as_another_was(load: Load) -> None:
    model = load(network(STEPS["torchvision's"]))
    first, second = model.clone(), model.clone()
    align_images(first, images())
    align_images_as(second, first.metadata_props[IMAGES_KEY])
    assert ir.to_proto(second.graph) == ir.to_proto(first.graph)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_pads_that_a_convolution_works_out_are_written_down(auto_pad: str, load: Load) -> None:
    model = load(network(STEPS["a mean of each colour"], auto_pad=auto_pad))
    aligned, feeds = model.clone(), images().load(0)
    assert align_images(aligned, images())
    assert ("Pad" in [node.op_type for node in aligned.graph]) == (auto_pad != "VALID")
    for first, second in zip(*(session(each).run(None, feeds) for each in (model, aligned)), strict=True):
        np.testing.assert_allclose(second, first, atol=1e-5 * np.abs(first).max())


def test_levels_that_int8_has_need_no_operator(load: Load) -> None:
    model = load(network([("Sub", 128.0)]))
    before = [node.op_type for node in model.graph]
    assert align_images(model, images()) == {"step0": Range(pytest.approx(127))}
    assert [node.op_type for node in model.graph] == before


@pytest.mark.parametrize("name", STEPS)
def test_an_alignment_is_taken_out_again(name: str, load: Load) -> None:
    model = load(network(STEPS[name]))
    aligned, feeds = model.clone(), images().load(0)
    align_images(aligned, images())
    read, before = stem_input(aligned), stem_input(model)
    found = unalign_images(aligned, aligned.metadata_props[IMAGES_KEY])
    assert [node.op_type for node in aligned.graph] == [node.op_type for node in model.graph]
    [image] = tensors(
        model, [before], {"image": np.uint8([0, 255]).repeat(SIDE * SIDE * 3 // 2).reshape(1, SIDE, SIDE, 3)}
    )
    assert found == {read: (before, pytest.approx(np.abs(image).max(), rel=1e-5))}
    for first, second in zip(*(session(each).run(None, feeds) for each in (model, aligned)), strict=True):
        np.testing.assert_allclose(second, first, atol=1e-5 * np.abs(first).max())


def test_levels_are_found_though_some_are_missing_or_rounded_twice() -> None:
    levels = np.delete(np.arange(5, 230), [3, 4, 77]) / 255
    values = np.sort(np.append(levels, levels[::7] * (1 + 1e-7)))
    found = levels_of([values, np.array([0.5])])
    assert found is not None
    np.testing.assert_allclose(found.step, [1 / 255, 1 / 255], rtol=1e-6)
    np.testing.assert_allclose(found.lowest, [5, 127.5], atol=1e-3)
    assert found.span.tolist() == [224, 0]


def test_fewer_levels_stay_where_they_are_or_lie_in_the_middle() -> None:
    near = Levels(np.ones(1), np.array([-100.4]), np.array([200]))
    assert alignment_of(near, [1, 1, 1, 1]) == ([1.0], [pytest.approx(0.4)], [], 1.0)
    far = Levels(np.ones(1), np.array([40.0]), np.array([200]))
    assert alignment_of(far, [0, 0, 1, 1]) == ([1.0], [-128 + 27 - 40], [0, 0, 1, 1], 1.0)
    assert not alignment_of(far, [0, 0, 0, 0]).pads


def test_a_zero_point_serves_levels_that_are_whole_steps_from_zero_and_reach_to_one_side() -> None:
    whole = Levels(np.full(2, 0.5), np.array([0.0, 3.0]), np.array([255, 200]))
    assert range_of(whole) == Range(127.5, 0.0)
    for lowest in ([0.3, 0.0], [0.0, 100.0], [-128.0, -128.0]):
        assert range_of(whole._replace(lowest=np.array(lowest))) is None
    assert range_of(whole._replace(step=np.array([0.5, 0.51]))) is None
