"""Tests the traffic against bytes counted by hand, on graphs of a few nodes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, shape_inference

from effedge.engines.fusion import Graph
from effedge.engines.onnx_header import read_header
from effedge.engines.targets import TARGETS
from effedge.engines.traffic import traffic, traffic_on
from tests.engines.graphs import Graph as Nodes

SIZE, CHANNELS = 16, 8
MAP = SIZE * SIZE * CHANNELS  # elements of every map
WEIGHTS = CHANNELS * CHANNELS  # of a 1x1 convolution
SCALES = 2 * CHANNELS  # bytes of its scales in FP16, one a channel
SCALE = 3  # bytes of an activation's scale and zero point


class HalfNodes(Nodes):
    """Nodes with FP16 tensors around INT8."""

    def quantized(self, value, scale, name, zero_point=0):
        pair = [self.constant(f"{name}_scale", np.float16(scale)), self.constant(f"{name}_zero", np.int8(zero_point))]
        return self.add("DequantizeLinear", [self.add("QuantizeLinear", [value, *pair], f"{name}_q"), *pair], name)

    def convolution(self, value, name, group=1):
        integers = np.ones((CHANNELS, CHANNELS // group, 1, 1), np.int8)
        names = {"w": integers, "s": np.ones(CHANNELS, np.float16), "z": np.zeros(CHANNELS, np.int8)}
        parts = [self.constant(f"{name}_{part}", array) for part, array in names.items()]
        weight = self.add("DequantizeLinear", parts, f"{name}_dq", axis=0)
        return self.add("Conv", [value, weight], name, group=group)

    def swish(self, value, name):
        return self.add("Mul", [value, self.add("Sigmoid", [value], f"{name}_sigmoid")], name)

    def header(self, path, result, width=SIZE):
        shape, kind = [1, CHANNELS, SIZE], TensorProto.FLOAT16
        self.save(path, [("x", kind, [*shape, SIZE])], [(result, kind, [*shape, width])], None, opset=19)
        onnx.save(shape_inference.infer_shapes(onnx.load(path), strict_mode=True), path)
        return read_header(path)


def kernels(header, quantized=True):
    return [set(kernel.nodes) for kernel in Graph(header, quantized, half=False).kernels()]


def test_a_convolution_runs_with_its_swish_and_the_quantization_behind_it(tmp_path):
    nodes = HalfNodes()
    first = nodes.convolution(nodes.quantized("x", 0.1, "a"), "conv1")
    second = nodes.convolution(nodes.quantized(nodes.swish(first, "swish"), 0.1, "b"), "conv2")
    header = nodes.header(tmp_path / "chain.onnx", second)
    assert kernels(header) == [{"conv1", "swish_sigmoid", "swish", "b_q"}, {"conv2"}, {"a_q"}]
    counted = traffic(header, typed=True)
    quantize = 2 * MAP + MAP + SCALE
    conv1 = MAP + MAP + WEIGHTS + SCALES + SCALE
    conv2 = MAP + 2 * MAP + WEIGHTS + SCALES
    half = 2 * (2 * MAP + WEIGHTS) * 2
    assert counted["mib"] == pytest.approx((quantize + conv1 + conv2) / 2**20, abs=0.005)
    assert counted["fp16_mib"] == pytest.approx(half / 2**20, abs=0.005)
    assert sum(kernel.bytes for kernel in Graph(header, True, False).kernels()) == quantize + conv1 + conv2
    assert sum(kernel.bytes for kernel in Graph(header, False, True).kernels()) == half


def test_a_tensor_that_is_read_in_two_types_is_quantized_by_a_kernel_of_its_own(tmp_path):
    nodes = HalfNodes()
    first = nodes.convolution(nodes.quantized("x", 0.1, "a"), "conv1")
    second = nodes.convolution(nodes.quantized(first, 0.1, "b"), "conv2")
    header = nodes.header(tmp_path / "two.onnx", nodes.add("Mul", [first, second], "product"))
    assert {"b_q"} in kernels(header) and {"conv1"} in kernels(header)


def test_a_residual_add_runs_with_the_convolution_in_front_of_it(tmp_path):
    nodes = HalfNodes()
    shortcut = nodes.quantized("x", 0.1, "a")
    add = nodes.add("Add", [nodes.convolution(shortcut, "conv"), shortcut], "add")
    header = nodes.header(tmp_path / "residual.onnx", nodes.quantized(nodes.add("Relu", [add], "relu"), 0.1, "b"))
    assert kernels(header) == [{"conv", "add", "relu", "b_q"}, {"a_q"}]
    [residual] = [kernel for kernel in Graph(header, True, False).kernels() if "conv" in kernel.nodes]
    assert [kind for kind, _ in residual.tensors] == ["int8", "int8", "float16", "float16", "int8", "int8"]


def test_a_gate_of_another_shape_is_no_part_of_a_convolutions_kernel(tmp_path):
    nodes = HalfNodes()
    conv = nodes.convolution(nodes.quantized("x", 0.1, "a"), "conv", group=CHANNELS)
    mean = nodes.add("ReduceMean", [conv, nodes.constant("axes", np.array([2, 3]))], "mean", keepdims=1)
    gated = nodes.add("Mul", [conv, nodes.add("Sigmoid", [mean], "gate")], "gated")
    header = nodes.header(tmp_path / "gate.onnx", gated)
    assert kernels(header) == [{"conv"}, {"a_q"}, {"mean"}, {"gate"}, {"gated"}]
    by_kind = traffic(header, typed=True)["by_kind"]
    assert set(by_kind) == {"depthwise convolutions", "means", "element-wise"}


def test_quantization_moves_in_front_of_what_only_moves_values(tmp_path):
    nodes = HalfNodes()
    data = nodes.quantized("x", 0.1, "a")
    left, right = (nodes.convolution(data, name) for name in ("left", "right"))
    pooled = nodes.add("MaxPool", [right], "pool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    joined = nodes.add("Concat", [left, pooled], "concat", axis=3)
    last = nodes.convolution(nodes.quantized(joined, 0.1, "b"), "last")
    header = nodes.header(tmp_path / "moves.onnx", last, width=2 * SIZE)
    graph = Graph(header, True, False)
    [pool] = [kernel for kernel in graph.kernels() if "pool" in kernel.nodes]
    assert dict(pool.tensors) == {"int8": MAP} and len(pool.tensors) == 2
    assert {"left", "b_q"} in kernels(header) and {"right", "b_q"} in kernels(header)


def test_operations_that_wait_for_a_convolution_are_not_fused_around_it(tmp_path):
    nodes = HalfNodes()
    total = nodes.add("Add", ["x", nodes.constant("one", np.float16(1))], "before")
    conv = nodes.convolution(nodes.quantized(total, 0.1, "a"), "conv")
    pool = nodes.add("MaxPool", [conv], "pool", kernel_shape=[1, 1])
    header = nodes.header(tmp_path / "around.onnx", nodes.add("Mul", [total, pool], "behind"))
    assert {"before"} in kernels(header) and {"behind"} in kernels(header)


def test_float32_counts_as_16_bits_where_a_flag_says_so(prepared, tmp_path):
    path = tmp_path / "int8.onnx"
    onnx.save(shape_inference.infer_shapes(onnx.load(prepared("int8"))), path)
    typed, flagged = (traffic(read_header(path), typed=typed) for typed in (True, False))
    assert typed["fp16_mib"] == flagged["fp16_mib"]
    assert flagged["mib"] < typed["mib"]
    assert "float32" in typed["by_type"] and "float32" not in flagged["by_type"]


@pytest.fixture(scope="module")
def with_shapes(prepared, tmp_path_factory):
    """Returns the header of a prepared file, with the shapes of its tensors."""

    def header(name):
        path = tmp_path_factory.mktemp("shapes") / f"{name}.onnx"
        onnx.save(shape_inference.infer_shapes(onnx.load(prepared(name))), path)
        return read_header(path)

    return header


@pytest.mark.parametrize("target", ["jetson-nano", "jetson-xavier", "trt8", "jetson-orin", "rtx"])
def test_fp32_is_counted_as_32_bits_on_every_gpu(with_shapes, target):
    """Of fp32 all tensors of the body have twice the bytes of FP16."""
    entry, reason = traffic_on(TARGETS[target], with_shapes("f32"), "fp32", "")
    assert reason == "" and "float16" not in entry["by_type"] and entry["by_type"]["float32"] > 0
    sixteen, _ = traffic_on(TARGETS["trt8"], with_shapes("f32"), "fp16", "")
    assert entry["fp16_mib"] == sixteen["mib"] and entry["ratio"] > 1.5 and sixteen["ratio"] == 1


@pytest.mark.parametrize("target", ["jetson-xavier", "jetson-orin"])
def test_int8_by_ranges_has_no_traffic_and_a_reason(with_shapes, target):
    entry, reason = traffic_on(TARGETS[target], with_shapes("f32"), "int8", "fallback")
    assert entry is None and reason.startswith("INT8 is by ranges")


def test_a_network_for_a_dla_is_typed_from_tensorrt_11_on(with_shapes):
    header = with_shapes("f32")
    by_flags, typed = (traffic_on(TARGETS[name], header, "fp16", "fallback")[0]
                       for name in ("jetson-orin", "jetson-orin-trt11"))  # fmt: skip
    assert "float32" not in by_flags["by_type"] and "float32" in typed["by_type"]


def test_a_file_without_shapes_has_no_traffic(prepared):
    header = read_header(prepared("int8"))
    assert traffic(header, typed=True) is None
    assert traffic_on(TARGETS["rtx"], header, "int8", "") == (None, "the ONNX does not state the shapes of its tensors")
    assert traffic_on(TARGETS["cpu"], header, "int8", "") == (None, "")
