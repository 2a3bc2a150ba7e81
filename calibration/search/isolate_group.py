"""Isolates a group of layers in INT8: makes the float model with only that group as the INT8 model has it.

Taking all other layers out of the INT8 model (graph/unquantize.py) would not do: they would keep the weights that their
integers stood for, rounded or fine-tuned, so that the output error of all groups, but for their activations, would
count as this group's. Here all of them have the float model's own weights and biases. Only the channels are those of
the INT8 model, as its scales and integers are for equalized channels; the equalization changes nothing that a float
model computes.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnx_ir.tape import Tape

from effedge.calibration.graph.float_twin import dequantizer, pair_input
from effedge.calibration.graph.onnx_file import constant
from effedge.calibration.weights.align_images import IMAGES_KEY, align_images_as
from effedge.calibration.weights.equalize import EQUALIZATION_KEY, equalize_as
from effedge.deploy.common.cli import UserError
from effedge.engines.onnx_header import LAYER_OPERATORS


def equalized(float_model: ir.Model, int8: ir.Model, float_path: Path, int8_path: Path) -> ir.Model:
    """Returns the float model with the channel equalization of the INT8 model that was made of it; both stay as they
    are.

    Args:
        float_path, int8_path: the names of the models in errors.

    Raises:
        UserError: the INT8 model was made of another model, or by a version that does not record its equalization.
    """
    equalization = int8.metadata_props.get(EQUALIZATION_KEY)
    if equalization is None:
        raise UserError(f"'{int8_path}' was calibrated before channel equalization was recorded: calibrate again")
    model = float_model.clone()
    if not equalize_as(model, equalization):
        raise UserError(
            f"'{float_path}' is not the float model that '{int8_path}' was made of: give that one, or calibrate this "
            "one"
        )
    align_images_as(model, int8.metadata_props.get(IMAGES_KEY, "{}"))
    return model


def isolate_group(equalized_model: ir.Model, int8: ir.Model, tensors: Collection[str]) -> ir.Model:
    """Returns the float model with the INT8 model's Q/DQ pairs for `tensors`, and its weights and biases for the layers
    that read them. Both models stay as they are; a layer that the INT8 model has in 16 bit stays in 16 bit.

    Args:
        equalized_model: the float model as `equalized` returns it.
    """
    model = int8.clone()
    float_nodes = {node.name: node for node in equalized_model.graph}
    for node in list(model.graph):
        for index, value in enumerate(node.inputs):
            activation = float_activation(value)
            if activation is not None and activation.name not in tensors:
                node.replace_input_with(index, activation)
        if node.op_type in LAYER_OPERATORS and float_activation(node.inputs[0]) is None:
            copy_constants(model.graph, node, float_nodes[node.name])
    common.RemoveUnusedNodesPass()(model)
    return model


def float_activation(value: ir.Value | None) -> ir.Value | None:
    """Returns the activation whose Q/DQ pair writes `value`; None for any other tensor."""
    dequantize = dequantizer(value)
    return None if dequantize is None else pair_input(dequantize)


def copy_constants(graph: ir.Graph, node: ir.Node, source: ir.Node) -> None:
    """Gives the node the constants of the same node of another graph."""
    node.resize_inputs(len(source.inputs))  # the INT8 model may have a bias more
    for index, value in enumerate(source.inputs):
        array = constant(value)
        if array is not None:
            tensor = ir.tensor(np.array(array), name=f"{node.name}.float_{index}")
            node.replace_input_with(index, Tape(graph).initializer(tensor))
