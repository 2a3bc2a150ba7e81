"""Brings a model's operators into ONNX's own form, whoever wrote the file.

1. The domain `ai.onnx` is ONNX's own, which is written as an empty text otherwise. ONNX defines the two as equal.
2. A `FusedConv` is divided into a convolution, a sum and an activation. ONNX Runtime writes it into the files that it
   has optimized, for itself alone.
3. Functions become a part of the graph, those of another opset too.
"""

from __future__ import annotations

import numpy as np
import onnx.inliner
import onnx_ir as ir
from onnx_ir.passes import common
from onnx_ir.tape import Tape

OWN_DOMAIN = "ai.onnx"
RUNTIME_DOMAIN = "com.microsoft"
# The attributes of an activation, in the order of FusedConv's activation_params.
PARAMETERS = {
    "Relu": (), "Sigmoid": (), "Tanh": (), "LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"),
    "Clip": ("min", "max"),
}  # fmt: skip
CLIP_BY_INPUTS = 11  # the opset from which on these are a Clip's inputs


def name_own_domain(model: ir.Model) -> None:
    """Gives ONNX's own domain its usual name, in place."""
    functions = list(model.functions.values())
    for imports in (model.opset_imports, *(function.opset_imports for function in functions)):
        if OWN_DOMAIN in imports:
            imports[""] = imports.pop(OWN_DOMAIN)
    for nodes in (model.graph.all_nodes(), *(function.all_nodes() for function in functions)):
        for node in nodes:
            if node.domain == OWN_DOMAIN:
                node.domain = ""


def divide_fused(model: ir.Model) -> None:
    """Divides each FusedConv, in place; one with an activation that is not known stays as it is."""
    for node in list(model.graph):
        activation = node.attributes.get_string("activation", "Relu")
        if (node.domain, node.op_type) != (RUNTIME_DOMAIN, "FusedConv") or activation not in PARAMETERS:
            continue
        parameters = list(node.attributes.get_floats("activation_params", ()))
        own = [each for name, each in node.attributes.items() if not name.startswith("activation")]
        parts = [ir.Node("", "Conv", list(node.inputs[:3]), own, name=node.name)]
        if len(node.inputs) > 3:
            parts.append(ir.node("Add", [parts[-1].outputs[0], node.inputs[3]]))
        result = node.outputs[0]
        attributes, bounds = dict(zip(PARAMETERS[activation], parameters, strict=False)), []
        if activation == "Clip" and model.opset_imports.get("", CLIP_BY_INPUTS) >= CLIP_BY_INPUTS:
            tensors = [ir.tensor(np.float32(bound), name=f"{result.name}.{name}") for name, bound in attributes.items()]
            attributes, bounds = {}, [Tape(model.graph).initializer(tensor) for tensor in tensors]
        parts.append(ir.node(activation, [parts[-1].outputs[0], *bounds], attributes))
        last = parts[-1].outputs[0]
        last.name, last.type, last.shape = result.name, result.type, result.shape
        for index, part in enumerate(parts[:-1]):
            part.outputs[0].name = f"{result.name}.part{index}"
        model.graph.insert_before(node, parts)
        result.name = f"{result.name}.fused"
        result.replace_all_uses_with(last, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)


def inline_functions(model: ir.Model) -> ir.Model:
    """Makes functions a part of the graph, in place where they are of the graph's opset; returns the model."""
    opset = model.opset_imports.get("")
    if all(each.opset_imports.get("", opset) == opset for each in model.functions.values()):
        return common.InlinePass()(model).model
    return ir.from_proto(onnx.inliner.inline_local_functions(ir.to_proto(model), convert_version=True))
