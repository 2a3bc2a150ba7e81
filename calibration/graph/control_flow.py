"""Wraps nodes that hold graphs of their own (If, Loop, Scan) into functions of the model, and unwraps them again.

A graph within a node reads tensors of the graph around it without naming them among the node's inputs. A pass over the
outer graph would miss these reads. A function of the model (ONNX IR specification, "Functions") reads nothing but its
inputs: behind `wrap_control_flow` the model's graph is flat, and a call like any other node stands for the control
flow, which passes leave as it is. ONNX Runtime runs the calls; `unwrap_control_flow` restores the nodes for others.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

DOMAIN = "effedge.control_flow"
GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def holds_graphs(node: ir.Node) -> bool:
    """Returns True for a node with a graph of its own."""
    return any(attribute.type in GRAPHS for attribute in node.attributes.values())


def wrap_control_flow(model: ir.Model) -> None:
    """Replaces each node with graphs of its own by a call of a function that holds it (in place)."""
    for node in list(model.graph):
        if holds_graphs(node):
            _wrap(model, node)


def unwrap_control_flow(model: ir.Model) -> ir.Model:
    """Returns a copy with the nodes in place of the calls, under the same names; the model itself where it has none."""
    if DOMAIN not in model.opset_imports:
        return model
    names = [node.name for node in model.graph]
    flat = common.InlinePass()(model.clone()).model
    flat.opset_imports.pop(DOMAIN, None)
    for name, node in zip(names, flat.graph, strict=True):
        node.name = name
    return flat


def _wrap(model: ir.Model, node: ir.Node) -> None:
    """Moves `node` into a function of its own.

    The function's inputs are the tensors of the outer graph that the node reads, and those that its graphs read.
    """
    inner = list(_nodes_within(node))
    written = {value for each in inner for value in each.outputs}
    graphs = list(_graphs_within(node))
    written |= {value for graph in graphs for value in (*graph.inputs, *graph.initializers.values())}
    results = [value for graph in graphs for value in graph.outputs]
    read = [*node.inputs, *(value for each in inner for value in each.inputs), *results]
    outer = dict.fromkeys(value for value in read if value is not None and value not in written)
    inputs = {value: ir.Value(name=value.name, type=value.type, shape=value.shape) for value in outer}
    outputs = [ir.Value(name=value.name, type=value.type, shape=value.shape) for value in node.outputs]
    call = ir.node(f"{node.op_type}_{node.name}", list(outer), domain=DOMAIN, outputs=outputs, name=node.name)
    for reader in (node, *inner):
        for index, value in enumerate(reader.inputs):
            if value is not None and value in inputs:
                reader.replace_input_with(index, inputs[value])
    for graph in graphs:
        graph.outputs[:] = [inputs.get(value, value) for value in graph.outputs]
    model.graph.insert_before(node, call)
    ir.convenience.replace_all_uses_with(node.outputs, outputs, replace_graph_outputs=True)
    model.graph.remove(node)
    body = ir.Graph(list(inputs.values()), list(node.outputs), nodes=[node], opset_imports=dict(model.opset_imports))
    function = ir.Function(DOMAIN, call.op_type, "", graph=body, attributes=[])
    model.functions[function.identifier()] = function
    model.opset_imports[DOMAIN] = 1


def _graphs_within(node: ir.Node) -> list[ir.Graph]:
    """Returns the graphs of a node, and those of the nodes within them."""
    graphs: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type in GRAPHS:
            own = [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else list(attribute.as_graphs())
            graphs += own
            graphs += [deeper for graph in own for within in graph for deeper in _graphs_within(within)]
    return graphs


def _nodes_within(node: ir.Node) -> list[ir.Node]:
    """Returns the nodes of all graphs of a node."""
    return [within for graph in _graphs_within(node) for within in graph]
