"""Inserts Q/DQ pairs and INT8 or FP8 weights into a graph, as a plan says (`effedge.calibration.placement`).

Activations: QuantizeLinear + DequantizeLinear, one scale and zero point per tensor
(thresholds.quantization_parameters; fp8/e4m3.py). One pair serves all quantized readers of a tensor; its other readers
(a swish's product, a layer in 16 bit, a graph output) keep reading the float tensor. Weights: an initializer and
DequantizeLinear with a scale per output channel. Biases stay float: TensorRT's parser refuses an INT32 bias behind
DequantizeLinear, and computes the INT32 bias itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from effedge.calibration.fp8 import e4m3
from effedge.calibration.graph.onnx_file import FreeNames, constant, insert_behind
from effedge.calibration.placement.layers import Layer
from effedge.calibration.ranges.thresholds import INT8_MAX, quantization_parameters

# Whole numbers of a weight's shape, int8, and the float32 scale of each of its output channels.
RoundedWeight = tuple[np.ndarray, np.ndarray]
LARGEST_BIAS = 2**30  # of INT32, of which the sums take their part
INT8, FP8 = ir.DataType.INT8, ir.DataType.FLOAT8E4M3FN


def quantize_weight(weight: np.ndarray, axis: int) -> RoundedWeight:
    """Rounds weights to the nearest INT8, with the scale of each index of `axis` from its largest weight.

    scale * int8 is within scale / 2 of the weight. A channel of zeros gets scale 1, as any scale would do.
    """
    others = tuple(dimension for dimension in range(weight.ndim) if dimension != axis)
    amax = np.abs(weight).max(axis=others)
    smallest = np.finfo(np.float32).tiny  # a scale below it would be subnormal, or 0
    scale = np.where(amax > smallest * INT8_MAX, amax / INT8_MAX, np.float32(1)).astype(np.float32)
    shape = [-1 if dimension == axis else 1 for dimension in range(weight.ndim)]
    quantized = np.rint(weight / scale.reshape(shape))
    return np.clip(quantized, -INT8_MAX, INT8_MAX).astype(np.int8), scale


def int8_weight(layer: Layer, rounded: Mapping[str, RoundedWeight]) -> RoundedWeight:
    """Returns a layer's weights from `rounded`, by its name, or rounded to the nearest."""
    if layer.name in rounded:
        return rounded[layer.name]
    return quantize_weight(layer.weight_array, layer.axis)  # type: ignore[arg-type]  # a rule saw to it


def with_room_for_bias(
    weight: np.ndarray, scale: np.ndarray, axis: int, step: np.ndarray, bias: np.ndarray | None
) -> RoundedWeight:
    """Rounds weights anew to larger scales where the bias would overflow INT32, as of a dead channel whose weights are
    1e-20; returns them as they are where none would.

    ONNX Runtime holds the bias in INT32, in units of the activation's step times the weight's scale.
    """
    if bias is None or bias.shape != scale.shape:
        return weight, scale
    least = (np.abs(bias, dtype=np.float64) / (LARGEST_BIAS * float(step))).astype(np.float32)
    if (least <= scale).all():
        return weight, scale
    wider = np.maximum(scale, least)
    shape = [-1 if dimension == axis else 1 for dimension in range(weight.ndim)]
    return np.rint(weight * (scale / wider).reshape(shape)).astype(np.int8), wider


class InsertQDQPass(ir.passes.InPlacePass):
    """Quantizes the given reads of activations and the weights of the given layers.

    Args:
        reads: (node, input index) of every read that is quantized.
        thresholds: by tensor name; the tensors of a scale group have the same threshold.
        layers: the layers whose weights are quantized.
        lows: by tensor name, the lowest value, where a tensor may have a zero point; the same within a scale group.
        rounded: the weights of layers by their names, where they are not rounded to the nearest.
        number_format: INT8, or FP8, whose zero point is 0, for a model of opset 19 or later.
    """

    def __init__(
        self,
        reads: Sequence[tuple[ir.Node, int]],
        thresholds: Mapping[str, float],
        layers: Sequence[Layer],
        lows: Mapping[str, float | None] = MappingProxyType({}),
        rounded: Mapping[str, RoundedWeight] = MappingProxyType({}),
        number_format: ir.DataType = INT8,
    ) -> None:
        super().__init__()
        self.reads = reads
        self.thresholds = thresholds
        self.layers = layers
        self.lows = lows
        self.rounded = rounded
        self.number_format = number_format
        self.prefix = "int8" if number_format == INT8 else "fp8"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.zero_points: dict[int, ir.Value] = {}
        self.free_name = FreeNames.for_tensors(model.graph)
        dequantized: dict[ir.Value, ir.Value] = {}
        for node, index in self.reads:
            value = node.inputs[index]
            assert value is not None and value.name is not None
            if value not in dequantized:
                dequantized[value] = self._quantize_activation(model.graph, value)
            node.replace_input_with(index, dequantized[value])
        weights: dict[tuple[ir.Value | str, int], tuple[ir.Value, ir.Value, ir.Value]] = {}
        for layer in self.layers:
            # Layers that share weights need not share rounded ones: each was rounded by its own input.
            rounded, own = self._rounded_weight(layer)
            key = (layer.name if own else layer.weight, layer.axis)
            if key not in weights:
                name = f"{layer.name}.rounded" if own else layer.weight.name or ""
                weights[key] = self._add_weight(model.graph, name, layer.axis, *rounded)
            # A DequantizeLinear for each layer, even where heads share weights: backends look for the pair.
            name = self.free_name(f"{layer.name}_weight_dq")
            output = ir.Value(name=name, type=layer.weight.type, shape=layer.weight.shape)
            node = ir.node("DequantizeLinear", weights[key], {"axis": layer.axis}, outputs=[output], name=name)
            model.graph.insert_before(layer.node, node)
            layer.node.replace_input_with(1, output)
        return ir.passes.PassResult(model, modified=bool(self.reads or self.layers))

    def _quantize_activation(self, graph: ir.Graph, value: ir.Value) -> ir.Value:
        """Inserts a Q/DQ pair behind `value`; returns the pair's output."""
        name = value.name
        assert name is not None
        if self.number_format == FP8:
            size, zero = e4m3.activation_scale(self.thresholds[name]), 0
        else:
            size, zero = quantization_parameters(self.thresholds[name], self.lows.get(name))
        scale = self._initializer(graph, np.array(size, np.float32), f"{name}_scale")
        if zero not in self.zero_points:
            array = np.array(zero, self.number_format.numpy())
            self.zero_points[zero] = self._initializer(graph, array, f"{self.prefix}_zero_point{zero or ''}")
        zero_point = self.zero_points[zero]
        q, dq = self.free_name(f"{name}_q"), self.free_name(f"{name}_dq")
        quantized = ir.Value(name=q, type=ir.TensorType(self.number_format), shape=value.shape)
        output = ir.Value(name=dq, type=ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
        pair = [
            ir.node("QuantizeLinear", [value, scale, zero_point], outputs=[quantized], name=q),
            ir.node("DequantizeLinear", [quantized, scale, zero_point], outputs=[output], name=dq),
        ]
        insert_behind(graph, value, pair)
        return output

    def _rounded_weight(self, layer: Layer) -> tuple[RoundedWeight, bool]:
        """Returns a layer's rounded weights with their scales, and if they are its own, not those of all layers that
        share the weights."""
        if self.number_format == FP8:
            return e4m3.quantize_weight(layer.weight_array, layer.axis), False  # type: ignore[arg-type]  # as above
        weight, scale = int8_weight(layer, self.rounded)
        pair = layer.data.producer()
        step, bias = constant(pair.inputs[1]) if pair else None, constant((*layer.node.inputs, None, None)[2])
        fitted = (weight, scale) if step is None else with_room_for_bias(weight, scale, layer.axis, step, bias)
        return fitted, layer.name in self.rounded or fitted[0] is not weight

    def _add_weight(
        self, graph: ir.Graph, name: str, axis: int, weight: np.ndarray, scale: np.ndarray
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Adds rounded weights, scales and zero points to the graph; returns them."""
        zero_point = np.zeros(scale.shape, self.number_format.numpy())
        return (
            self._initializer(graph, weight, f"{name}_{self.prefix}_{axis}"),
            self._initializer(graph, scale, f"{name}_scale_{axis}"),
            self._initializer(graph, zero_point, f"{name}_zero_point_{axis}"),
        )

    def _initializer(self, graph: ir.Graph, array: np.ndarray, name: str) -> ir.Value:
        """Adds a constant to the graph, by this name if it is free."""
        return Tape(graph).initializer(ir.tensor(array, name=self.free_name(name)))
