"""Decides which nodes of a network compute in FP16 and which stay in FP32.

It is one rule for both kinds of targets: the FP16 conversion (calibration/fp16) writes it into the tensor types that a
strongly typed network is built from; for TensorRT 8 layer_precision.py constrains the layers of the FP32 nodes, because
the FP16 flag alone lets TensorRT compute any layer in FP16, even indices that are floats on the way (NVIDIA/TensorRT
#2996 and #2680).

In FP16 are the layers with weights, the nodes that lead to them, and the nodes behind them that only move or select
values. In FP32 are

1. the nodes behind the last layers: a detector's scores and box decoding. Above 1024 neighbouring FP16 numbers are 1 px
   apart, and FP16 scores tie by the dozen, which makes their order a matter of luck;
2. means and sums over a map, as of squeeze-and-excite: the sum of a 256 x 256 map passes FP16's 65504;
3. nodes with a constant that FP16 cannot hold, and nodes that the calibration found to go beyond its range.
"""

from typing import Dict, Optional, Sequence, Set

import numpy as np

from effedge.engines.onnx_header import LAYER_OPERATORS, PAIRS, Header, Node

LARGEST = 65504.0  # of FP16
KEPT_BITS = 10  # FP16 has 11 significant bits; a constant that loses more than one of them stays in FP32
SUMS = ("GlobalAveragePool", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2")
# Operators of which every output value is one of the input's values.
MOVES = (
    "Concat", "DepthToSpace", "Flatten", "Identity", "MaxPool", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze",
    "Transpose", "Unsqueeze",
)  # fmt: skip
# Operators that select values, besides those that move them. They are exact in FP16, and the casts behind them are
# smaller: the best score of an anchor instead of all of its classes.
SELECTS = ("ReduceMax", "ReduceMin", "Gather", "GatherElements", "GatherND")
SUM = "it sums over a map"
BEHIND = "it is behind the last layer"
TOO_SMALL = "is too small for it"  # a constant, for FP16


def half_nodes(nodes: Sequence[Node]) -> Set[int]:
    """Returns the positions of the layers with weights, of the nodes that lead to them, and of the nodes that move or
    select their results.

    Args:
        nodes: in topological order.
    """
    writers = {name: at for at, node in enumerate(nodes) if node.op != "Constant" for name in node.outputs}
    inside: Set[int] = set()
    for at in reversed(range(len(nodes))):
        if nodes[at].op in LAYER_OPERATORS:
            inside.add(at)
        if at in inside:
            inside.update(writers[name] for name in nodes[at].inputs if name in writers)
    for at, node in enumerate(nodes):
        if moves_values(node) or node.op in SELECTS:
            data = node.inputs if node.op == "Concat" else node.inputs[:1]
            sources = [writers[name] for name in data if name in writers]
            if sources and inside.issuperset(sources):
                inside.add(at)
    return inside


def moves_values(node: Node) -> bool:
    """Tells if every output value of a node is one of its input's values, whatever their type."""
    nearest = node.op == "Resize" and node.attributes.get("mode", "nearest") == "nearest"
    return node.op in MOVES or nearest


def float32_nodes(header: Header) -> Dict[str, str]:
    """Returns the first output of each node that stays in FP32, with the reason; Q/DQ pairs and constants do not
    count."""
    half = half_nodes(header.nodes)
    unfit = {name for name, values in header.constants.items() if not fits_half(values)}
    reasons: Dict[str, str] = {}
    for at, node in enumerate(header.nodes):
        if node.op == "Constant" or node.op in PAIRS or not node.outputs:
            continue
        constants = [] if node.op in LAYER_OPERATORS else [name for name in node.inputs if name in unfit]
        if at not in half:
            reasons[node.outputs[0]] = BEHIND
        elif node.op in SUMS:
            reasons[node.outputs[0]] = SUM
        elif constants:
            reasons[node.outputs[0]] = f"FP16 cannot hold its constant '{constants[0]}'"
        elif node.name in header.float32_nodes:
            reasons[node.outputs[0]] = header.float32_nodes[node.name]
        elif node.op in ("Dropout", "Identity") and node.inputs[0] in reasons:
            reasons[node.outputs[0]] = reasons[node.inputs[0]]  # TensorRT's parser makes one layer of both
    return reasons


def fits_half(values: Sequence[float]) -> bool:
    """Tells if FP16 holds float32 values."""
    return constant_problem(np.asarray(values, np.float32)) is None


def constant_problem(array: np.ndarray) -> Optional[str]:
    """Returns the reason why FP16 cannot hold the float32 array, or None.

    None may be beyond 65504, and the largest keeps 10 bits. Values far below it may lose bits, as they matter little
    beside it.
    """
    amax = float(np.abs(array).max(initial=0.0))
    if not amax <= LARGEST:
        return "goes beyond 65504"
    with np.errstate(over="ignore"):
        error = float(np.abs(array - array.astype(np.float16).astype(np.float32)).max(initial=0.0))
    return TOO_SMALL if error > amax * 2.0**-KEPT_BITS else None
