"""Reads and writes ONNX files, and brings models into the form that the passes rely on.

After `load`, a model has no Constant nodes and no initializers among its inputs, every node and tensor has its own
name, tensors carry the type and shape that ONNX's shape inference finds, the weights are in memory, and a node with a
graph of its own is a function's call (control_flow.py) until `save`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError
from onnx_ir.passes import common

from effedge.calibration.graph.control_flow import unwrap_control_flow, wrap_control_flow
from effedge.calibration.graph.onnx_path import check_is_file
from effedge.calibration.graph.raise_opset import raise_opset
from effedge.calibration.graph.standard_operators import divide_fused, inline_functions, name_own_domain
from effedge.calibration.graph.training_mode import check_inference
from effedge.calibration.graph.unknown_sizes import name_unknown_sizes
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.paths import inside
from effedge.deploy.runtime.onnx_external import external_files

INITIALIZERS_APART = 4  # the first IR version in which an initializer need not be an input too
PAIR = ("QuantizeLinear", "DequantizeLinear")
QUANTIZATION_OPERATORS = (
    *PAIR,
    "DynamicQuantizeLinear",
    "ConvInteger",
    "MatMulInteger",
)


def load(path: str | Path) -> ir.Model:
    """Reads an ONNX file for a pass over its whole graph.

    Raises:
        UserError: as `read`.
    """
    return prepare(read(path))


def read(path: str | Path) -> ir.Model:
    """Reads an ONNX file, with its weights in memory, at opset 13 or later.

    Raises:
        UserError: as `read_own_opset`; a file older than opset 11, whose conversion has to be verified.
    """
    return raise_opset(read_own_opset(path), path)


def read_own_opset(path: str | Path) -> ir.Model:
    """Reads an ONNX file at the opset that it has, with its weights in memory; its dynamic dimensions are symbols.

    Raises:
        UserError: the file is missing, cut short, empty, in training mode, or lacks its external weights.
    """
    path = Path(path)
    check_is_file(path)
    try:
        model = ir.load(path)
    except (DecodeError, ValueError, TypeError) as error:
        raise UserError(f"'{path}' is no whole ONNX file ({error}): export it again") from error
    if len(model.graph) == 0:
        raise UserError(f"'{path}' holds no nodes, so it is no whole ONNX file: export it again")
    _check_external_data(model, path)
    name_own_domain(model)
    check_inference(model, path)
    divide_fused(model)
    name_unknown_sizes(model)
    common.TopologicalSortPass()(model)  # ONNX Runtime takes nodes in any order, onnx-simplifier does not
    common.RemoveInitializersFromInputsPass()(model)
    model.ir_version = max(model.ir_version, INITIALIZERS_APART)
    return ir.external_data.load_to_model(model)


def prepare(model: ir.Model) -> ir.Model:
    """Brings a model in memory into the form that the passes expect, in place where it has no functions; returns it."""
    model = unwrap_control_flow(model)
    if model.functions:
        model = inline_functions(model)
    for tidy in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveInitializersFromInputsPass(),
        common.NameFixPass(),
        common.RemoveUnusedNodesPass(),
        common.ShapeInferencePass(check_type=False, strict_mode=False),
    ):
        tidy(model)
    free_name = FreeNames()
    for node in model.graph:  # reports and the engine's layers go by these names
        node.name = free_name(node.name or node.op_type)
    wrap_control_flow(model)
    return model


def _check_external_data(model: ir.Model, path: Path) -> None:
    for name in external_files(path):
        inside(path.parent, name, f"'{path}'")
    for tensor in (value.const_value for value in model.graph.initializers.values()):
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        size = os.path.getsize(tensor.path) if os.path.isfile(tensor.path) else None
        if size is None:
            problem = "is missing"
        elif size < (tensor.offset or 0) + (tensor.length or tensor.nbytes):
            problem = "is cut short"
        else:
            continue
        raise UserError(f"'{path}' keeps its weights in '{tensor.path}', which {problem}: put it beside the ONNX file")


def check_float(model: ir.Model, path: str | Path, allowed: Sequence[str] = ()) -> None:
    """Raises a UserError if the model is already quantized, by other operators than the `allowed` ones."""
    for node in model.graph:
        quantized = node.op_type in QUANTIZATION_OPERATORS or node.op_type.startswith("QLinear")
        if quantized and node.op_type not in allowed:
            raise UserError(f"'{path}' is already quantized ({node.op_type} '{node.name}'): give the float model")


def check_float32_scales(model: ir.Model, path: str | Path) -> None:
    """Raises a UserError if the model has FP16 around its INT8, which passes over an INT8 model do not expect."""
    for node in model.graph:
        scale = constant(node.inputs[1]) if node.op_type in PAIR else None
        if scale is not None and scale.dtype == np.float16:
            raise UserError(f"'{path}' has FP16 around its INT8: give the INT8 ONNX that it was made from")


def save(model: ir.Model, path: str | Path) -> None:
    """Writes the model, weights inside, to `path`. Raises UserError beyond protobuf's 2 GiB."""
    try:
        ir.save(unwrap_control_flow(model), path)
    except (EncodeError, ValueError) as error:
        raise UserError(f"cannot write '{path}': {error}; a model is at most 2 GiB here") from error


def insert_behind(graph: ir.Graph, value: ir.Value, nodes: ir.Node | Sequence[ir.Node]) -> None:
    """Inserts nodes just behind the node that writes `value`, or first of all where it is an input of the graph."""
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], nodes)
    else:
        graph.insert_after(producer, nodes)


class FreeNames:
    """Makes names that differ from each other, and from those that are taken."""

    def __init__(self, taken: Iterable[str | None] = ()) -> None:
        self.taken = set(taken)

    @classmethod
    def for_tensors(cls, graph: ir.Graph) -> FreeNames:
        """Makes names for new tensors of a graph: exporters have a `conv1_scale` and a `data_q` of their own."""
        values = (*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs))
        return cls(value.name for value in values)

    def __call__(self, wanted: str) -> str:
        """Returns the name that is wanted, or if it is taken one with a number behind it."""
        name, count = wanted, 1
        while name in self.taken:
            name, count = f"{wanted}_{count}", count + 1
        self.taken.add(name)
        return name


def constant(value: ir.Value | None) -> np.ndarray | None:
    """Returns the content of an initializer; None for every other tensor."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return value.const_value.numpy()
