"""Names each layer after its weight, so that every later report speaks of layers as the checkpoint does.

    node_Conv_2095, which reads model.backbone.blocks.0.0.conv_dw.weight  ->  backbone.blocks.0.0.conv_dw

The rules, for a Conv, Gemm or MatMul:

1. If the weight is no initializer `model.<name>.weight`, the layer keeps its name. The prefix `model.` is that of the
   exported module (`effedge.pipeline.models.engine_graph`); checkpoints do not have it.
2. If no other layer reads the weight, the layer is called `<name>`.
3. If several layers read it, they are called `<name>.p3`, `<name>.p4`, ... in the order of the graph: the heads share
   their convolutions over the pyramid levels, the finest first.
"""

from __future__ import annotations

import onnx_ir as ir

from effedge.pipeline.models.anchors import FINEST_LEVEL

LAYERS = ("Conv", "Gemm", "MatMul")
PREFIX, SUFFIX = "model.", ".weight"


def weight_name(node: ir.Node) -> str | None:
    """Returns the checkpoint's name of the weight that `node` reads, without ".weight"; None for any other node."""
    weight = node.inputs[1] if node.op_type in LAYERS else None
    name = weight.name if weight is not None and weight.is_initializer() else None
    if name is None or not (name.startswith(PREFIX) and name.endswith(SUFFIX)):
        return None
    return name[len(PREFIX) : -len(SUFFIX)]


def name_layers(model: ir.Model) -> int:
    """Applies the rules to the whole graph; returns the number of layers that were renamed."""
    readers: dict[str, list[ir.Node]] = {}
    for node in model.graph:
        name = weight_name(node)
        if name is not None:
            readers.setdefault(name, []).append(node)
    for name, nodes in readers.items():
        for level, node in enumerate(nodes, FINEST_LEVEL):
            node.name = name if len(nodes) == 1 else f"{name}.p{level}"
    return sum(map(len, readers.values()))
