"""The precision of each layer of a TensorRT engine, from the best source that there is.

TensorRT's engine inspector where the plan can be loaded, with the kernel that it chose (inspector.py); the plan's text
for TensorRT-RTX, which chooses kernels only where a plan is loaded (plan_text.py); else what the typed network says.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, List, Tuple

from effedge.engines.gpu import first_gpu
from effedge.engines.manifest import UNKNOWN, Layer
from effedge.engines.onnx_header import Header
from effedge.engines.targets import TYPED, Target
from effedge.engines.tensorrt import api
from effedge.engines.tensorrt.inspector import inspected_layers
from effedge.engines.tensorrt.plan_text import convolution_precisions

PRECISION = {"FLOAT": "f32", "HALF": "f16", "BF16": "bf16", "INT8": "int8", "INT32": "i32", "INT64": "i64"}
# Not work of their own: weights, and the borders between precisions, which are fused into the layers beside them.
NOT_COUNTED = ("CONSTANT", "QUANTIZE", "DEQUANTIZE")


def built_layers(
    trt: Any, log: Any, network: Any, plan: Path, header: Header, target: Target
) -> Tuple[List[Layer], str]:
    """Each layer with its precision, and where that was read (see Built.source)."""
    if target.backend == "tensorrt_rtx":
        layers, executed = typed_layers(network), convolution_precisions(plan)
        for index, one in enumerate(layers):
            if one.is_convolution and one.name in executed:
                layers[index] = replace(one, precision="+".join(sorted(executed[one.name])))
        return layers, "plan" if executed else "network"
    told = typed_layers(network) if target.precision_by == TYPED else []
    information = api.inspect(trt, log, plan.read_bytes()) if first_gpu() else None
    inspected = inspected_layers(information, header) if information else []
    if not inspected:
        return told, "network" if told else "unknown"
    seen = {one.name for one in inspected if one.is_convolution and one.precision != UNKNOWN}
    kinds = {one.name: one.precision for one in told if one.is_convolution}
    hidden = [node.name for node in header.convolutions if node.name not in seen]  # fused into what says no types
    layers = [one for one in inspected if not one.is_convolution or one.name in seen]
    return [Layer(name, "convolution", kinds.get(name, UNKNOWN)) for name in hidden] + layers, "inspector"


def typed_layers(network: Any) -> List[Layer]:
    """A strongly typed network's layers: a convolution's precision is its data's before DequantizeLinear, else its own.

    This is what the builder was told, and, the network being strongly typed, may not depart from.
    """
    all_layers = [network.get_layer(index) for index in range(network.num_layers)]
    producer = {one.get_output(k).name: one.type.name for one in all_layers for k in range(one.num_outputs)}
    layers = []
    for one in all_layers:
        if one.type.name in NOT_COUNTED:
            continue
        dtype = one.get_output(0).dtype.name
        precision = PRECISION.get(dtype, dtype.lower())
        if one.type.name == "CONVOLUTION" and producer.get(one.get_input(0).name) == "DEQUANTIZE":
            precision = "int8"
        layers.append(Layer(one.name, one.type.name.lower(), precision))
    return layers
