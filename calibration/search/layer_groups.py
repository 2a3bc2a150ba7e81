"""Groups the INT8 layers of a model by the kernel that a backend has for them, or by the resolution that they read."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from effedge.calibration.graph.macs import macs
from effedge.calibration.graph.unquantize import int8_layers
from effedge.calibration.placement.layers import MATRIX_PRODUCTS, integer

IMAGE_CHANNELS = 4  # at most: a convolution on so few channels reads the image


def layer_groups(quantized: ir.Model) -> dict[str, list[str]]:
    """Returns the names of the INT8 layers by group, like 'depthwise convolutions on 64 x 64'; least arithmetic first.

    The model's tensors must carry shapes (onnx_file.prepare).
    """
    work = macs(quantized)
    groups: dict[str, list[str]] = {}
    for node in int8_layers(quantized):
        groups.setdefault(f"{layer_kind(node)}{output_size(node)}", []).append(node.name or "")
    cost = {name: sum(work[layer] for layer in layers) for name, layers in groups.items()}
    return dict(sorted(groups.items(), key=lambda item: cost[item[0]]))


def reading_groups(quantized: ir.Model) -> dict[str, list[str]]:
    """Returns the names of the INT8 layers that read maps of one size, like 'layers that read 256 x 256'; largest maps
    first.

    If such a group goes to 16 bit, the maps between two of its layers do too, and need not be rounded to 8 bit and
    back.
    """
    groups: dict[tuple[int, ...], list[str]] = {}
    for node in int8_layers(quantized):
        groups.setdefault(tuple(_dims(node.inputs[0])[2:]), []).append(node.name or "")
    ordered = sorted(groups.items(), key=lambda item: -int(np.prod(item[0])))
    return {f"layers that read {' x '.join(map(str, sides))}": layers for sides, layers in ordered if sides}


def layer_kind(node: ir.Node) -> str:
    """Returns the kind of a layer in words, in the plural."""
    if node.op_type in MATRIX_PRODUCTS:
        return "matrix products"
    data, weight = _dims(node.inputs[0]), _dims(node.inputs[1])
    if integer(node, "group", 1) > 1:
        return "depthwise convolutions" if weight[1:2] == [1] else "grouped convolutions"
    if data[1:2] and 0 < data[1] <= IMAGE_CHANNELS:
        return "convolutions on the image"
    if not weight[2:] or set(weight[2:]) != {1}:
        return "convolutions"
    # Where there is more to write than to read, the activation and the rounding of the output take most of the time, in
    # any precision; where there is less, reading does.
    return "widening 1x1 convolutions" if weight[0] > weight[1] else "1x1 convolutions"


def output_size(node: ir.Node) -> str:
    """Returns the size of the map that a layer writes, like ' on 64 x 64'; empty for a layer without a map."""
    sides = _dims(node.outputs[0])[2:]
    return f" on {' x '.join(map(str, sides))}" if sides else ""


def _dims(value: ir.Value | None) -> list[int]:
    """Returns the dimensions, 0 for an unknown dimension; empty for an unknown shape."""
    if value is None or value.shape is None:
        return []
    return [size if isinstance(size, int) else 0 for size in value.shape]
