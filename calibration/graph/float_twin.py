"""Makes the float twin of an INT8 model: the same graph and weights, without QuantizeLinear and DequantizeLinear.

x -> QuantizeLinear -> DequantizeLinear -> Conv becomes x -> Conv, and integer weights behind a DequantizeLinear become
float weights: scale * (integer - zero point). That is what the INT8 model computes with, after its channel equalization
and its correction. So the INT8 model's ranges fit its twin, and not the float model that was calibrated.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnx_ir.tape import Tape

from effedge.calibration.graph.onnx_file import QUANTIZATION_OPERATORS, constant
from effedge.calibration.weights.align_images import IMAGES_KEY
from effedge.calibration.weights.equalize import EQUALIZATION_KEY
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import CALIBRATION_KEY


def float_twin(quantized: ir.Model) -> ir.Model:
    """Returns a float model with the tensors of `quantized` under the same names; `quantized` stays as it is.

    Raises:
        UserError: quantization in another form than Q/DQ pairs and integer weights.
    """
    model = quantized.clone()
    for node in list(model.graph):
        if node.op_type == "DequantizeLinear":
            value = float_value(model.graph, node)
            if value is not None:
                ir.convenience.replace_all_uses_with(node.outputs[0], value, replace_graph_outputs=True)
    common.RemoveUnusedNodesPass()(model)
    left = next((node for node in model.graph if node.op_type in QUANTIZATION_OPERATORS), None)
    if left is not None:
        raise UserError(
            f"{left.op_type} '{left.name}' has no counterpart that could be taken out with it: expected the pairs of "
            "effedge quantize"
        )
    for key in (CALIBRATION_KEY, EQUALIZATION_KEY, IMAGES_KEY):  # they describe the INT8 model
        model.metadata_props.pop(key, None)
    return model


def dequantizer(value: ir.Value | None) -> ir.Node | None:
    """Returns the DequantizeLinear that writes a tensor, or None."""
    producer = None if value is None else value.producer()
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


def pair_input(dequantize: ir.Node) -> ir.Value | None:
    """Returns the activation that a Q/DQ pair rounds; None where the DequantizeLinear reads a constant."""
    quantize = None if dequantize.inputs[0] is None else dequantize.inputs[0].producer()
    return quantize.inputs[0] if quantize is not None and quantize.op_type == "QuantizeLinear" else None


def float_value(graph: ir.Graph, dequantize: ir.Node) -> ir.Value | None:
    """Returns the float tensor in place of a DequantizeLinear's output: the pair's input, or new float weights."""
    source = dequantize.inputs[0]
    assert source is not None
    integers = constant(source)
    if integers is None:
        return pair_input(dequantize)
    scale = constant(dequantize.inputs[1])
    zero = constant(dequantize.inputs[2]) if len(dequantize.inputs) > 2 else np.array(0, integers.dtype)
    if scale is None or zero is None:
        return None
    if scale.ndim == 1:
        attribute = dequantize.attributes.get("axis")
        axis = 1 if attribute is None else attribute.as_int()
        shape = [-1 if dimension == axis % integers.ndim else 1 for dimension in range(integers.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape) if zero.ndim else zero
    weights = (integers.astype(np.float32) - zero.astype(np.float32)) * scale
    return Tape(graph).initializer(ir.tensor(weights, name=f"{dequantize.outputs[0].name}_float"))
