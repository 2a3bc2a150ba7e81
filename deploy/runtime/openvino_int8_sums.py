"""Makes INT8 weights narrower on CPUs on which OpenVINO adds their products in too few bits.

An x86 CPU without VNNI multiplies eight-bit data (0 to 255; signed data are moved by 128) by weights in pairs of
neighbouring input channels, and adds each pair in 16 bits, where it saturates: 255 * 127 + 255 * 127 becomes half of
that. So there the weights of an output channel get larger steps when the engine is loaded, until no pair can reach that
far: larger by a fifth on average. Depthwise convolutions are not computed in pairs.

det-lite0 on blood cells: AP 58.7 before, 59.6 with narrower weights and in float32; its last layers are 31 dB from what
its INT8 ONNX says before, 42 dB after.
"""

import functools
from typing import Any, Optional, Tuple

import numpy as np
import openvino as ov

from effedge.deploy.timing.machine import has_vnni

LARGEST_PAIR = 32767 // 255  # of weights of one sign
CHANNELS = 32  # of the probe
OPENVINO_NAMES = {"float32": "f32", "float16": "f16"}
LAYERS = ("Convolution", "GroupConvolution", "MatMul")
# The functions that make operations; OpenVINO 2024.4, of Python 3.8, has them elsewhere.
ops: Any = ov.opset13 if hasattr(ov, "opset13") else ov.runtime.opset13


@functools.lru_cache(maxsize=None)
def saturates() -> bool:
    """Returns True if OpenVINO's INT8 convolutions saturate on this CPU. Where its abilities do not tell, one of the
    largest weights and data is run."""
    if has_vnni():
        return False
    image = ops.parameter([1, CHANNELS, 4, 4], np.float32)
    low, high = ops.constant(np.float32(0)), ops.constant(np.float32(255))
    data = ops.fake_quantize(image, low, high, low, high, 256)
    integers = ops.constant(np.full((CHANNELS, CHANNELS, 1, 1), 127, np.int8))
    weights = ops.multiply(ops.convert(integers, "f32"), ops.constant(np.float32(1 / 127)))
    layer = ops.convolution(data, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    compiled = ov.Core().compile_model(ov.Model([layer], [image]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    sums = compiled([np.full((1, CHANNELS, 4, 4), 255, np.float32)])[0]
    return bool(np.abs(sums - CHANNELS * 255).max() > 255)


def narrow_weights(model: Any) -> int:
    """Applies the rule to an OpenVINO model, in place; returns the number of weights it changed."""
    changed = set()  # layers may share their weights
    for layer in model.get_ordered_ops():
        if layer.get_type_name() not in LAYERS:
            continue
        product, axis = weights_of(layer)
        found = int8_weights(product)
        if found is None or product.get_friendly_name() in changed:
            continue
        integers, scale = found
        shares = largest_shares(integers, axis)
        if shares.min() == 1:
            continue
        rounded = ops.constant(np.rint(integers * shares).astype(np.int8))
        narrow = ops.convert(rounded, OPENVINO_NAMES[scale.dtype.name])
        narrowed = ops.multiply(narrow, ops.constant((scale / shares).astype(scale.dtype)))
        narrowed.set_friendly_name(product.get_friendly_name())
        changed.add(product.get_friendly_name())
        product.output(0).replace(narrowed.output(0))
    return len(changed)


def weights_of(layer: Any) -> Tuple[Any, int]:
    """Returns the operation that makes the layer's weights, and the axis of its output that has the input channels."""
    node = layer.input_value(1).get_node()
    if layer.get_type_name() == "MatMul":
        dims = len(node.output(0).get_partial_shape())
        return node, dims - (1 if layer.get_attributes()["transpose_b"] else 2)
    if layer.get_type_name() == "Convolution":
        return node, 1
    if node.get_type_name() == "Reshape":  # ONNX has no axis for the groups
        return node.input_value(0).get_node(), 1
    return node, 2


def int8_weights(product: Any) -> Optional[Tuple[np.ndarray, np.ndarray]]:
    """Returns the integers and the scale, which can be multiplied with them, of a DequantizeLinear of weights; None for
    every other operation."""
    if product.get_type_name() != "Multiply":
        return None
    scale = constant_of(product.input_value(1).get_node())
    node = product.input_value(0).get_node()
    if node.get_type_name() == "Subtract":
        zero_point = constant_of(node.input_value(1).get_node())
        if zero_point is None or zero_point.any():
            return None
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Convert" or scale is None:
        return None
    integers = constant_of(node.input_value(0).get_node())
    return None if integers is None or integers.dtype != np.int8 else (integers, scale)


def constant_of(node: Any) -> Optional[np.ndarray]:
    """Returns a constant's value, also through Convert and Reshape; None for every other node."""
    if node.get_type_name() in ("Convert", "Reshape"):
        value = constant_of(node.input_value(0).get_node())
        return None if value is None else value.reshape(tuple(node.output(0).get_shape()))
    return node.data if node.get_type_name() == "Constant" else None


def largest_shares(integers: np.ndarray, axis: int) -> np.ndarray:
    """Returns for each output channel what share of its weights no pair of input channels saturates with: at most 1.

    Args:
        integers: [channels out, channels in, ...], or any other order with the input channels at `axis`.

    Returns:
        Of as many dimensions as `integers`, which it can be multiplied with.
    """
    if integers.shape[axis] == 1:
        return np.ones((1,) * integers.ndim)
    padding = [(0, 0)] * integers.ndim
    padding[axis] = (0, integers.shape[axis] % 2)
    even = np.pad(integers, padding).astype(np.int64)
    first, second = (even.take(range(start, even.shape[axis], 2), axis) for start in (0, 1))
    positive = first.clip(0) + second.clip(0)
    negative = first.clip(None, 0) + second.clip(None, 0)
    kernel = tuple(range(axis, integers.ndim)) if integers.ndim > 2 else (axis,)
    largest = np.maximum(positive, -negative).max(axis=kernel, keepdims=True)
    return np.where(largest > LARGEST_PAIR, (LARGEST_PAIR - 1) / np.maximum(largest, 1), 1)  # both are rounded, up to 1
