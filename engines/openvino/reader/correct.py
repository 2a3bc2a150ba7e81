"""Corrects operators that OpenVINO reads otherwise than ONNX defines them, in OpenVINO's graph alone.

Each rule takes an ONNX node and the outputs that OpenVINO's reader made of it, and returns what these should be; None
where the reader is right. tests/engines/openvino/reader/test_operator_forms.py holds every operator's forms against
ONNX Runtime, so a fault of a later OpenVINO shows there; a fault that no rule knows is found in the build itself
(engines/comparison).
"""

from typing import Any, Callable, Dict, List, Optional

from effedge.engines.onnx_header import Header
from effedge.engines.openvino.graph import opset
from effedge.engines.openvino.reader.pools import average_pool, max_pool
from effedge.engines.openvino.reader.reading import Reading, values_by_name
from effedge.engines.openvino.reader.reductions import reduction
from effedge.engines.openvino.reader.resize import resize
from effedge.engines.openvino.reader.softmax import softmax
from effedge.engines.openvino.reader.transposed_convolution import transposed_convolution

Rule = Callable[[Reading], Optional[List[Any]]]
RULES: Dict[str, Rule] = {
    "AveragePool": average_pool,
    "ConvTranspose": transposed_convolution,
    "MaxPool": max_pool,
    "ReduceL1": reduction,
    "ReduceLogSum": reduction,
    "ReduceLogSumExp": reduction,
    "Resize": resize,
    "Softmax": softmax,
}


def correct_reading(ov: Any, model: Any, header: Header) -> List[str]:
    """Applies the rules to an OpenVINO model, in place; returns the ONNX nodes that were corrected, as "operator name".

    Args: the module openvino, the model as `Core.read_model` made it, and the header of its ONNX.
    """
    nodes = [node for node in header.nodes if node.op in RULES]
    values = values_by_name(model) if nodes else {}
    corrected = []
    for node in nodes:
        names = [name for name in node.outputs if name in values]
        if node.outputs[0] not in names:
            continue  # it was folded into a constant
        outputs, inputs = [values[name] for name in names], [values.get(name) for name in node.inputs]
        right = RULES[node.op](Reading(ov, opset(ov), header.opset, node, inputs, outputs))
        for name, output, replacement in zip(names, outputs, right or []):
            replacement.get_node().set_friendly_name(output.get_node().get_friendly_name())
            output.replace(replacement)
            values[name] = replacement
        if right:
            corrected.append(f"{node.op} '{node.name or node.outputs[0]}'")
    if corrected:
        model.validate_nodes_and_infer_types()
    return corrected
