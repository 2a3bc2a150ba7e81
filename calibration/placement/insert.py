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
from effedge.calibration.graph.onnx_file import insert_behind
from effedge.calibration.placement.layers import Layer
from effedge.calibration.ranges.thresholds import INT8_MAX, quantization_parameters

# Whole numbers of a weight's shape, int8, and the float32 scale of each of its output channels.
RoundedWeight = tuple[np.ndarray, np.ndarray]
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
            key = (layer.name if layer.name in self.rounded else layer.weight, layer.axis)
            if key not in weights:
                weights[key] = self._quantize_weight(model.graph, layer)
            # A DequantizeLinear for each layer, even where heads share weights: backends look for the pair.
            output = ir.Value(name=f"{layer.name}_weight_dq", type=layer.weight.type, shape=layer.weight.shape)
            node = ir.node(
                "DequantizeLinear", weights[key], {"axis": layer.axis}, outputs=[output], name=f"{layer.name}_weight_dq"
            )
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
        scale = Tape(graph).initializer(ir.tensor(np.array(size, np.float32), name=f"{name}_scale"))
        if zero not in self.zero_points:
            self.zero_points[zero] = Tape(graph).initializer(
                ir.tensor(np.array(zero, self.number_format.numpy()), name=f"{self.prefix}_zero_point{zero or ''}")
            )
        zero_point = self.zero_points[zero]
        quantized = ir.Value(name=f"{name}_q", type=ir.TensorType(self.number_format), shape=value.shape)
        output = ir.Value(name=f"{name}_dq", type=ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
        pair = [
            ir.node("QuantizeLinear", [value, scale, zero_point], outputs=[quantized], name=f"{name}_q"),
            ir.node("DequantizeLinear", [quantized, scale, zero_point], outputs=[output], name=f"{name}_dq"),
        ]
        insert_behind(graph, value, pair)
        return output

    def _quantize_weight(self, graph: ir.Graph, layer: Layer) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Adds a layer's rounded weights, scales and zero points to the graph; returns them."""
        name = f"{layer.name}.rounded" if layer.name in self.rounded else layer.weight.name
        if self.number_format == FP8:
            weight, scale = e4m3.quantize_weight(layer.weight_array, layer.axis)  # type: ignore[arg-type]  # as above
        else:
            weight, scale = int8_weight(layer, self.rounded)
        zero_point = np.zeros(scale.shape, self.number_format.numpy())
        return (
            Tape(graph).initializer(ir.tensor(weight, name=f"{name}_{self.prefix}_{layer.axis}")),
            Tape(graph).initializer(ir.tensor(scale, name=f"{name}_scale_{layer.axis}")),
            Tape(graph).initializer(ir.tensor(zero_point, name=f"{name}_zero_point_{layer.axis}")),
        )
