"""One group of layers alone in INT8: the float model with that group as the INT8 model has it, and no more of that.

Taking all other layers out of the INT8 model (unquantize.py) would not do: they keep the weights that their integers
stood for, rounded, refitted and with a corrected bias, and so the damage of all groups but for their activations would
count as this one's. Here all of them have the float model's own weights and biases. Only the channels are those of the
INT8 model, as its steps and integers are for evened-out channels; that changes nothing that a float model computes.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnx_ir.tape import Tape

from effedge.calibration.graph.float_twin import dequantizer, rounded_tensor
from effedge.calibration.graph.onnx_file import constant
from effedge.calibration.placement.layers import OPERATORS
from effedge.calibration.weights.equalize import EQUALIZED, equalize_as
from effedge.deploy.common.cli import UserError


def evened_out(plain: ir.Model, int8: ir.Model, path: Path, int8_path: Path) -> ir.Model:
    """The float model `plain`, which stays as it is, with the channels of the INT8 model that was made of it.

    Args:
        path, int8_path: what errors call them.

    Raises:
        UserError: the INT8 model was made of another one, or by a version that does not say how.
    """
    done = int8.metadata_props.get(EQUALIZED)
    if done is None:
        raise UserError(f"'{int8_path}' was calibrated before it was kept how channels are evened out: calibrate again")
    model = plain.clone()
    if not equalize_as(model, done):
        raise UserError(
            f"'{path}' is not the float model that '{int8_path}' was made of: give that one, or calibrate this one"
        )
    return model


def alone(evened: ir.Model, int8: ir.Model, tensors: Collection[str]) -> ir.Model:
    """The float model with the INT8 model's steps for `tensors`, and its weights and biases for the layers that read
    them; what the INT8 model reads in 16 bit stays so.

    Args:
        evened: as `evened_out`; both models stay as they are.
    """
    model = int8.clone()
    floats = {node.name: node for node in evened.graph}
    for node in list(model.graph):
        for index, value in enumerate(node.inputs):
            source = rounded(value)
            if source is not None and source.name not in tensors:
                node.replace_input_with(index, source)
        if node.op_type in OPERATORS and rounded(node.inputs[0]) is None:
            take_weights(model.graph, node, floats[node.name])
    common.RemoveUnusedNodesPass()(model)
    return model


def rounded(value: ir.Value | None) -> ir.Value | None:
    """The activation that comes out of its QuantizeLinear and DequantizeLinear as `value`; None for anything else."""
    dequantize = dequantizer(value)
    return None if dequantize is None else rounded_tensor(dequantize)


def take_weights(graph: ir.Graph, node: ir.Node, source: ir.Node) -> None:
    """Give the node the constants of the same node of another graph."""
    node.resize_inputs(len(source.inputs))  # a correction may have added a bias
    for index, value in enumerate(source.inputs):
        array = constant(value)
        if array is not None:
            tensor = ir.tensor(np.array(array), name=f"{node.name}.float_{index}")
            node.replace_input_with(index, Tape(graph).initializer(tensor))
