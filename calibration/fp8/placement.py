"""Decides which layers are FP8: those that INT8's rules allow (placement/) and that TensorRT has good FP8 kernels for.

Sources: the limitations in the release notes of TensorRT 10.13 (groups, kernels of more than 32 elements); the support
matrix of TensorRT-RTX (alignment); the plans that TensorRT-RTX 1.7.1 builds for compute capabilities 8.9 and 12.0,
where a 7x7 convolution is computed in FP16, and a depthwise one with four channels for each; ModelOpt 0.47, which
leaves out convolutions of 16 channels or fewer as slower than in FP16 (onnx/quantization/graph_utils.py).

The shortcut of a residual add stays in FP16, other than in INT8: rounded to 3 bits at each block, the sum that runs
through a stage loses with every block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from effedge.calibration.placement import Plan, make_plan
from effedge.calibration.placement.layers import Layer, convolution_kind

LARGEST_KERNEL = 32  # elements: 5x5 is within, 7x7 is not
ALIGNMENT = 16  # channels: the 128 bits that a thread loads
FEWEST_CHANNELS = 17


def with_groups(layer: Layer) -> str | None:
    """Keeps convolutions with groups in FP16: TensorRT has no optimized FP8 kernel for them."""
    kind = convolution_kind(layer)
    return None if kind is None else f"it is a {kind} convolution, for which TensorRT has no good FP8 kernel"


def with_large_kernel(layer: Layer) -> str | None:
    """Keeps convolutions with a large kernel in FP16, which TensorRT computes in FP16 behind the rounding."""
    elements = int(np.prod(_weight(layer).shape[2:]))
    return None if elements <= LARGEST_KERNEL else f"its kernel of {elements} elements is beyond FP8's {LARGEST_KERNEL}"


def with_few_channels(layer: Layer) -> str | None:
    """Keeps layers in FP16 whose channels, in or out, FP8's kernels would have to pad.

    Among them is the first convolution: 3 bits of mantissa are too few for an image, of whose 256 levels they keep 79.
    """
    channels = _weight(layer).shape[:2]
    if min(channels) < FEWEST_CHANNELS or any(count % ALIGNMENT for count in channels):
        return f"its {channels[0]} and {channels[1]} channels are no larger multiples of {ALIGNMENT}, which FP8 needs"
    return None


RULES = (with_groups, with_large_kernel, with_few_channels)


def _weight(layer: Layer) -> np.ndarray:
    weight = layer.weight_array
    assert weight is not None  # the rules of INT8 saw to it
    return weight


def make_fp8_plan(model: ir.Model, unusable: Mapping[str, str] | None = None) -> Plan:
    """Returns the plan for FP8, as make_plan for INT8: the layers, their data inputs, and the groups with one scale."""
    plan = make_plan(model, unusable)
    reasons = {layer.name: next((reason for rule in RULES if (reason := rule(layer))), None) for layer in plan.layers}
    layers = [layer for layer in plan.layers if reasons[layer.name] is None]
    kept = {name: reason for name, reason in reasons.items() if reason is not None}
    read = {layer.data.name for layer in layers}
    groups = [names for group in plan.groups if (names := [name for name in group if name in read])]
    float_layers = {**plan.float_layers, **kept}
    order = [node.name or "" for node in model.graph if node.name in float_layers]
    return dataclasses.replace(
        plan,
        layers=layers,
        float_layers={name: float_layers[name] for name in order},
        reads=[(layer.node, 0) for layer in layers],
        groups=groups,
    )
