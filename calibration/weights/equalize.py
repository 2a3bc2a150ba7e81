"""Equalizes the channels of a tensor before it gets one INT8 scale for all of them.

In a network with squeeze-and-excite and swish one channel may reach 100 while its neighbours stay within 1: a single
scale then leaves the neighbours two or three of INT8's 255 steps. Where nothing nonlinear lies between, the channels
can be rescaled for free (Nagel et al. 2019, section 4.1, cross-layer equalization):

    Conv(x) = sum_c W_c x_c = sum_c (W_c s_c) (x_c / s_c),   s_c ~ max |x_c|

With this s all channels have the same range, which makes the rounding noise of x least at the layer's output. The
spread of x goes into the weights: they have a scale for each channel out, and their rounding makes up for its own
errors (rounding.py). A smaller exponent, such as a half (Xiao et al. 2023), leaves some of the spread in x: D0 lost 0.5
AP with a half and 0.3 with 1.

1. A convolution that makes x divides its output channels by s: kernel and bias.
2. Where x is a product with a gate [N,C,1,1] (squeeze-and-excite), the gate is divided: one product on C numbers.
3. Every convolution that reads x multiplies its input channels by s, a depthwise convolution its filters.
4. Add, max-pool, nearest resize and multiplication by a positive number pass a positive scale on, so the tensors on
   both of their sides form one group with one s: a residual chain is scaled as a whole. All have the same channels: an
   Add that broadcasts over channels passes no scale per channel on.

A group with any other producer or reader (an activation function, a pooled mean, a grouped convolution, an output) is
left as it is. The float model computes the same as before, up to rounding.

The factors stay in the model's metadata, and so in the INT8 model that is made of it: with them `equalize_as` gives the
float model the channels of the INT8 model, without the samples.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from effedge.calibration.graph.onnx_file import FreeNames
from effedge.calibration.graph.session import session, side_by_side, threads_in
from effedge.calibration.ranges.samples import Samples
from effedge.deploy.common.files import sha256_of_bytes
from effedge.deploy.common.messages import track

PASS_ON = ("Add", "MaxPool", "Resize", "Mul")
SCALED = ".scaled"  # ends the names of weights that were
SAMPLES = 32
LARGEST_RATIO = 1e3  # between the scales of two channels: beyond it the smaller one is noise
# In the metadata: {"weights": the `weights_digest` of the model before, "scales": for each group its channels', []
# where the group was left as it is}.
EQUALIZATION_KEY = "effedge_equalized"


@dataclass
class EqualizedGroup:
    """Tensors that share one scale per channel, and the nodes at its borders."""

    tensors: list[ir.Value] = field(default_factory=list)
    producers: list[ir.Node] = field(default_factory=list)  # Conv, or Mul with a gate
    readers: list[ir.Node] = field(default_factory=list)  # Conv


def equalize(model: ir.Model, samples: Samples) -> int:
    """Rescales every group of `model` in place; returns the number of groups."""
    groups, digest = find_groups(model), weights_digest(model)
    values = [value for group in groups for value in group.tensors]
    extremes = channel_extremes(model, values, samples) if groups else {}
    scales = []
    for group in groups:  # one after the other, as a reader of one may be a producer of the next
        scale = channel_scales(group, extremes)
        if len(scale):
            rescale(model, group, scale)
        scales.append(as_floats(scale))
    model.metadata_props[EQUALIZATION_KEY] = json.dumps({"weights": digest, "scales": scales})
    return len(groups)


def as_floats(values: np.ndarray) -> list[float]:
    """Returns the numbers with the digits of a float32, for the metadata."""
    return [float(str(each)) for each in values.astype(np.float32)]


def equalize_as(model: ir.Model, equalization: str) -> bool:
    """Rescales `model` in place as another model was, from the EQUALIZATION_KEY metadata of that.

    Returns:
        False if the two models' weights differed before that; then `model` stays as it is.
    """
    content = json.loads(equalization)
    if content["weights"] != weights_digest(model):
        return False
    for group, scale in zip(find_groups(model), content["scales"], strict=True):
        if scale:
            rescale(model, group, np.array(scale))
    return True


def weights_digest(model: ir.Model) -> str:
    """Computes the SHA-256 over a model's initializers that are numbers."""
    return sha256_of_bytes(
        name.encode() + b"\0" + value.const_value.tobytes()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.dtype != ir.DataType.STRING
    )


def find_groups(model: ir.Model) -> list[EqualizedGroup]:
    """Returns the groups that can be rescaled, each with at least one dense convolution among its readers."""
    groups: list[EqualizedGroup] = []
    seen: set[ir.Value] = set()
    for node in model.graph:
        source = node.inputs[0] if node.inputs else None
        if node.op_type != "Conv" or source is None or source in seen:
            continue
        group = group_of(source)
        if group is None:
            continue
        seen.update(group.tensors)
        if any(is_dense(reader) for reader in group.readers):
            groups.append(group)
    return groups


def group_of(start: ir.Value) -> EqualizedGroup | None:
    """Returns all tensors and nodes that have to share `start`'s scale, or None if one of them cannot take a scale."""
    group, pending, seen = EqualizedGroup(), [start], {start}
    while pending:
        value = pending.pop()
        producer = value.producer()
        if producer is None or value.is_graph_output() or channels(value) is None or channels(value) != channels(start):
            return None
        group.tensors.append(value)
        if has_constant_weights(producer) or gate_index(producer) is not None:
            group.producers.append(producer)
        elif passes_on(producer):
            pending += [other for other in activations(producer) if other not in seen]
        else:
            return None
        for reader, index in value.uses():
            if has_constant_weights(reader) and index == 0 and (is_dense(reader) or is_depthwise(reader)):
                group.readers.append(reader)
            elif passes_on(reader):
                pending += [other for other in (*reader.outputs, *activations(reader)) if other not in seen]
            else:
                return None
        seen.update(pending)
    return group


def channels(value: ir.Value) -> int | None:
    """Returns C of a tensor [N,C,H,W]; None for another rank, and where C is not known."""
    size = value.shape[1] if value.shape is not None and len(value.shape) == 4 else None
    return size if isinstance(size, int) else None


def has_constant_weights(node: ir.Node) -> bool:
    """Returns True for a convolution in float32 whose kernel and bias are constants."""
    weights = node.inputs[1:]
    return node.op_type == "Conv" and all(
        value is not None and value.const_value is not None and value.dtype == ir.DataType.FLOAT for value in weights
    )


def is_dense(conv: ir.Node) -> bool:
    """Returns True for a convolution without groups."""
    return conv.attributes.get_int("group", 1) == 1


def is_depthwise(conv: ir.Node) -> bool:
    """Returns True for a convolution with one filter for each channel, and as many channels out as in."""
    kernel = conv.inputs[1]  # [O, channels of each group, H, W]
    shape = None if kernel is None else kernel.shape
    return shape is not None and shape[1] == 1 and conv.attributes.get_int("group", 1) == shape[0]


def activations(node: ir.Node) -> list[ir.Value]:
    """Returns the inputs of a node that passes scales on, without its constants."""
    return [value for value in node.inputs if value is not None and value.const_value is None]


def passes_on(node: ir.Node) -> bool:
    """Returns True if a positive scale per channel on all activations comes out as the same scale."""
    if node.op_type not in PASS_ON or len(node.outputs) != 1:  # a max-pool may give indices too
        return False
    tensors = [value.const_value for value in node.inputs if value is not None and value.const_value is not None]
    constants = [tensor.numpy() for tensor in tensors]
    if node.op_type == "Add":
        return not constants
    if node.op_type == "Mul":
        return len(constants) == 1 and constants[0].size == 1 and float(constants[0].reshape(())) > 0
    return node.op_type != "Resize" or node.attributes.get_string("mode", "nearest") == "nearest"


def gate_index(node: ir.Node) -> int | None:
    """Returns the index of the gate [N,C,1,1] among a product's inputs, or None if the node is no such product."""
    if node.op_type != "Mul":
        return None
    shapes = [() if value is None or value.shape is None else tuple(value.shape) for value in node.inputs]
    computed = [value is not None and value.const_value is None for value in node.inputs]
    small = [index for index, shape in enumerate(shapes) if shape[2:] == (1, 1) and computed[index]]
    return small[0] if len(small) == 1 else None


def channel_extremes(model: ir.Model, values: list[ir.Value], samples: Samples) -> dict[ir.Value, np.ndarray]:
    """Returns the largest magnitude of every channel of [N,C,H,W] tensors over at most SAMPLES samples, float32 [C]."""
    probe = model.clone()
    named = {value.name: value for node in probe.graph for value in node.outputs}
    outputs = []
    for value in reversed(values):  # the last first: see ranges.collect.collect_amax
        size = ir.node("Abs", [named[value.name]])
        size.outputs[0].name = f"{value.name}__abs"
        end = ir.Value(name=f"{value.name}__extreme", type=ir.TensorType(ir.DataType.FLOAT))
        # A global max-pool is the one reduction over pixels that is written the same in every opset.
        probe.graph.extend([size, ir.node("GlobalMaxPool", [size.outputs[0]], outputs=[end])])
        outputs.append(end)
    probe.graph.outputs[:] = outputs
    running = session(probe)
    extremes = [np.zeros(1, np.float32)] * len(values)
    selected = samples.spread(min(SAMPLES, len(samples)))
    runs = side_by_side(lambda sample: running.run(None, sample[1]), selected, threads_in(running))
    for arrays in track(runs, total=len(selected), desc="channels", unit="run"):
        for index, array in enumerate(arrays):
            extremes[index] = np.maximum(extremes[index], array.max(axis=(0, 2, 3)))
    return dict(zip(reversed(values), extremes, strict=True))


def channel_scales(group: EqualizedGroup, extremes: dict[ir.Value, np.ndarray]) -> np.ndarray:
    """Computes s of each channel of the group, [C], 1 on average.

    Returns:
        No numbers where no channel has values, or one that is not finite, which the ranges will name (collect.py).
    """
    largest = np.max([extremes[value] for value in group.tensors], axis=0).astype(np.float64)
    used = largest > 0
    if not used.any() or not np.isfinite(largest).all():
        return np.zeros(0)
    ranges = np.maximum(largest[used], largest.max() / LARGEST_RATIO)
    scale = np.ones(len(largest))
    # Divided by the mean, so that the tensor keeps its magnitude and layers in 16 bit stay within FP16's range.
    scale[used] = ranges / np.exp(np.log(ranges).mean())
    return scale


def rescale(model: ir.Model, group: EqualizedGroup, scale: np.ndarray) -> None:
    """Applies s [C] to the group's producers and readers."""
    for producer in dict.fromkeys(group.producers):
        index = gate_index(producer)
        if index is None:
            multiply(model, producer, 1, 1 / scale.reshape(-1, 1, 1, 1))
            if len(producer.inputs) > 2:
                multiply(model, producer, 2, 1 / scale)
        else:
            divide_gate(model, producer, index, scale)
    for reader in dict.fromkeys(group.readers):
        multiply(model, reader, 1, scale.reshape((1, -1, 1, 1) if is_dense(reader) else (-1, 1, 1, 1)))


def multiply(model: ir.Model, conv: ir.Node, index: int, factor: np.ndarray) -> None:
    """Gives the convolution its own copy of an input, times `factor`: kernels may be shared between levels."""
    old = conv.inputs[index]
    assert old is not None and old.const_value is not None
    name = FreeNames.for_tensors(model.graph)(f"{(old.name or '').removesuffix(SCALED)}{SCALED}")
    array = (old.const_value.numpy().astype(np.float64) * factor).astype(np.float32)
    conv.replace_input_with(index, Tape(model.graph).initializer(ir.tensor(array, name=name)))


def divide_gate(model: ir.Model, product: ir.Node, index: int, scale: np.ndarray) -> None:
    """Inserts a product with 1 / scale between the gate and the node that it gates."""
    gate = product.inputs[index]
    assert gate is not None
    inverse = (1 / scale).astype(np.float32).reshape(1, -1, 1, 1)
    free_name = FreeNames.for_tensors(model.graph)
    name = free_name(f"{product.outputs[0].name}.gate_scale")
    factor = Tape(model.graph).initializer(ir.tensor(inverse, name=name))
    divided = ir.node("Mul", [gate, factor])
    divided.outputs[0].name = free_name(f"{product.outputs[0].name}.gate")
    divided.outputs[0].type = gate.type
    divided.outputs[0].shape = None if gate.shape is None else ir.Shape([gate.shape[0], len(scale), 1, 1])
    model.graph.insert_before(product, divided)
    product.replace_input_with(index, divided.outputs[0])
