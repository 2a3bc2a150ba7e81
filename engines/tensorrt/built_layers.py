"""Determines the precision of each layer of a TensorRT engine, from the best source that is available.

The best source is TensorRT's engine inspector, which also knows the chosen kernel, where the plan can be loaded
(inspector.py). For TensorRT-RTX, which chooses kernels only where a plan is loaded, it is the plan's text
(plan_text.py). Otherwise it is the typed network.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, List, Tuple

from effedge.deploy.runtime.tensorrt.log import TensorRTLogger
from effedge.engines.build_request import BuildRequest
from effedge.engines.gpu import first_gpu
from effedge.engines.manifest import UNKNOWN, Layer
from effedge.engines.tensorrt import api
from effedge.engines.tensorrt.inspector import inspected_layers
from effedge.engines.tensorrt.plan_text import convolution_precisions

PRECISION = {
    "FLOAT": "f32", "HALF": "f16", "BF16": "bf16", "INT8": "int8", "FP8": "fp8", "INT32": "i32", "INT64": "i64",
}  # fmt: skip
# Layers without work of their own: weights, and the borders between precisions, which are fused into their neighbours.
NOT_COUNTED = ("CONSTANT", "QUANTIZE", "DEQUANTIZE")


def built_layers(
    trt: Any, logger: TensorRTLogger, network: Any, plan: Path, request: BuildRequest
) -> Tuple[List[Layer], str]:
    """Lists the layers with their precisions, and says where these were read (see BuiltEngine.source)."""
    header, target = request.header, request.target
    if target.backend == "tensorrt_rtx":
        layers, executed = typed_layers(network), convolution_precisions(plan)
        for index, layer in enumerate(layers):
            if layer.is_convolution and layer.name in executed:
                layers[index] = replace(layer, precision="+".join(sorted(executed[layer.name])))
        return layers, "plan" if executed else "network"
    typed = typed_layers(network) if api.is_typed(trt, target, request.build_options.dla) else []
    information = api.inspect(trt, logger, plan.read_bytes()) if first_gpu() else None
    inspected = inspected_layers(information, header) if information else []
    if not inspected:
        return typed, "network" if typed else "unknown"
    seen = {layer.name for layer in inspected if layer.is_convolution and layer.precision != UNKNOWN}
    typed_precisions = {layer.name: layer.precision for layer in typed if layer.is_convolution}
    layers = [layer for layer in inspected if not layer.is_convolution or layer.name in seen]
    # A convolution that is fused into a layer without types has the typed network's precision.
    hidden = [node.name for node in header.convolutions if node.name not in seen]
    hidden_layers = [Layer(name, "convolution", typed_precisions.get(name, UNKNOWN)) for name in hidden]
    return hidden_layers + layers, "inspector"


def typed_layers(network: Any) -> List[Layer]:
    """Lists a strongly typed network's layers. A convolution's precision is that of its data in front of
    DequantizeLinear, or else its own type.

    These are the precisions that the builder was told, and from which, the network being strongly typed, it may not
    depart.
    """
    all_layers = [network.get_layer(index) for index in range(network.num_layers)]
    # The borders of a loop or a condition have no output, or one that is not there.
    all_layers = [layer for layer in all_layers if layer.num_outputs and layer.get_output(0) is not None]
    outputs = [(layer, layer.get_output(index)) for layer in all_layers for index in range(layer.num_outputs)]
    # Of the tensors that DequantizeLinear writes, the type that it reads.
    dequantized = {
        output.name: layer.get_input(0).dtype.name
        for layer, output in outputs
        if output is not None and layer.type.name == "DEQUANTIZE"
    }
    layers = []
    for layer in all_layers:
        if layer.type.name in NOT_COUNTED:
            continue
        dtype = layer.get_output(0).dtype.name
        if layer.type.name == "CONVOLUTION":
            dtype = dequantized.get(layer.get_input(0).name, dtype)
        precision = PRECISION.get(dtype, dtype.lower())
        layers.append(Layer(layer.name, layer.type.name.lower(), precision))
    return layers
