"""Constrains layers of a network that is not strongly typed to FP32 or FP16, whatever the builder's flags allow.

A node of the ONNX may become several layers, most of them without the node's name or any. But TensorRT's parser adds
them node by node, and gives the tensors that a node writes their names in the ONNX: so the layers since the last such
tensor belong to the node that writes the next one. (True of all 761 layers of EfficientDet-D0 in TensorRT-RTX's parser,
whose metadata names the node. What it adds behind, such as the K of a TopK, is of integers, which are left alone.)

The precision of a layer without floating-point inputs, and the type of an output that is not floating-point, must not
be set, nor those of layers that compute a shape (setLayerPrecisions and setLayerOutputTypes of
samples/common/sampleEngines.cpp in github.com/NVIDIA/TensorRT, release/8.6; ILayer.set_output_type: the second output
of TopK is always int32).
"""

from collections import Counter
from typing import Any, Collection, Dict, Iterator, List, Mapping, Tuple

from effedge.engines.onnx_header import Header
from effedge.engines.tensorrt import api
from effedge.engines.tensorrt.float32_nodes import BEHIND, SUM, float32_nodes
from effedge.engines.tensorrt.log import parser_name

FIXED = ("CONSTANT", "QUANTIZE", "DEQUANTIZE", "SHAPE")


def keep_float32(trt: Any, network: Any, header: Header, on_dla: Collection[int] = ()) -> Dict[int, str]:
    """Constrains the layers of the nodes that float32_nodes.py names to FP32.

    Args:
        on_dla: positions of the layers that a DLA takes. Means and sums among them stay there, which has no FP32.

    Returns:
        The positions of the constrained layers in the network, with the reason.
    """
    reasons = float32_nodes(header)
    constrained: Dict[int, str] = {}
    for at, layer, tensor in layers_of_nodes(network, header):
        reason = reasons.get(tensor)
        if reason is None or (at in on_dla and reason == SUM):
            continue
        if constrain(trt, layer, trt.DataType.FLOAT):
            constrained[at] = reason
    return constrained


def keep_half(trt: Any, network: Any, header: Header) -> int:
    """Constrains the layers that the calibration keeps out of INT8 to FP16, for a network whose INT8 is by ranges.
    Returns their number."""
    kept = {node.outputs[0] for node in header.nodes if parser_name(node) in header.float_layers}
    layers = [layer for _, layer, tensor in layers_of_nodes(network, header) if tensor in kept]
    return sum(constrain(trt, layer, trt.DataType.HALF, outputs=False) for layer in layers)  # an output stays FP32


def layers_of_nodes(network: Any, header: Header) -> Iterator[Tuple[int, Any, str]]:
    """Yields each layer's position, the layer, and the first output of the node that it belongs to."""
    first_output = {name: node.outputs[0] for node in header.nodes for name in node.outputs if name}
    waiting: List[Tuple[int, Any]] = []
    for at in range(network.num_layers):
        layer = network.get_layer(at)
        waiting.append((at, layer))
        names = [layer.get_output(index).name for index in range(layer.num_outputs)]
        owner = next((first_output[name] for name in names if name in first_output), None)
        if owner is not None:
            for earlier, its_layer in waiting:
                yield earlier, its_layer, owner
            waiting = []


def constrain(trt: Any, layer: Any, kind: Any, outputs: bool = True) -> bool:
    """Sets the precision of a layer, and the type of its floating-point `outputs`, to `kind`. Returns False for a layer
    that must not be constrained."""
    inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
    inputs = [tensor for tensor in inputs if tensor is not None]
    if layer.type.name in FIXED or not inputs or inputs[0].is_shape_tensor:
        return False
    types = [layer.get_output(index).dtype for index in range(layer.num_outputs)]
    compares = trt.DataType.BOOL in types  # the precision of a comparison is that of its result
    if not compares and any(tensor.dtype == trt.DataType.FLOAT for tensor in inputs):
        api.set_layer_precision(layer, kind)
    elif trt.DataType.FLOAT not in types:
        return False
    for index, its_type in enumerate(types):
        if outputs and its_type == trt.DataType.FLOAT:
            api.set_output_type(layer, index, kind)
    return True


def describe(constrained: Mapping[int, str]) -> str:
    """Returns the reasons with their numbers of layers, like '58 behind the last layer, 16 sums over a map'."""
    counts = Counter({BEHIND: "behind the last layer", SUM: "sums over a map"}.get(reason, "out of range")
                     for reason in constrained.values())  # fmt: skip
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
