"""Even out the channels of a tensor before it gets one INT8 scale for all of them.

In a network with squeeze-and-excite and swish one channel may reach 100 while its neighbours stay within 1: a single
scale then leaves the neighbours two or three of INT8's 255 steps. Where nothing nonlinear lies between, the channels
can be rescaled for free (Nagel et al. 2019, section 4.1, cross-layer equalization; Xiao et al. 2023 for the exponent):

    Conv(x) = sum_c W_c x_c = sum_c (W_c s_c) (x_c / s_c),   s_c = sqrt(max |x_c| / max |W_c|)

1. A convolution that makes x divides its output channels by s: kernel and bias.
2. Where x is a product with a gate [N,C,1,1] (squeeze-and-excite), the gate is divided: one product on C numbers.
3. Every convolution that reads x multiplies its input channels by s, a depthwise one its filters.
4. Add, max-pool, nearest resize and multiplication by a positive number pass a positive scale on, so the tensors on
   both of their sides form one group with one s: a residual chain is scaled as a whole.

A group with any other maker or reader (an activation, a pooled mean, an output) is left alone. The float model computes
the same as before, up to rounding.

What was done stays in the model's metadata, and so in the INT8 model that is made of it: with that `equalize_as` gives
the float model the channels of the INT8 one, without the samples.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape
from tqdm import tqdm

from effedge.calibration.graph.onnx_file import session
from effedge.calibration.ranges.samples import Samples
from effedge.engines.stage import progress_disabled

PASS_ON = ("Add", "MaxPool", "Resize", "Mul")
RUNS = 32
LARGEST_RATIO = 1e3  # between the scales of two channels: beyond it the smaller one is noise
# In the metadata: {"weights": of the model before, as `digest`, "scales": for each group its channels', [] where it was
# left alone}.
EQUALIZED = "effedge_equalized"


@dataclass
class Group:
    """Tensors that share one scale per channel, and the nodes at its borders."""

    tensors: list[ir.Value] = field(default_factory=list)
    makers: list[ir.Node] = field(default_factory=list)  # Conv, or Mul with a gate
    readers: list[ir.Node] = field(default_factory=list)  # Conv


def equalize(model: ir.Model, samples: Samples, *, quiet: bool = False) -> int:
    """Rescale every group of `model` in place; returns how many there were."""
    groups, weights = find_groups(model), digest(model)
    values = [group.tensors for group in groups]
    extremes = channel_extremes(model, [value for group in values for value in group], samples, quiet) if groups else {}
    scales = []
    for group in groups:  # one after the other, as a reader of one may be a maker of the next
        scale = channel_scales(group, extremes)
        if len(scale):
            rescale(model, group, scale)
        scales.append([float(str(each)) for each in scale.astype(np.float32)])  # so many digits as it has
    model.metadata_props[EQUALIZED] = json.dumps({"weights": weights, "scales": scales})
    return len(groups)


def equalize_as(model: ir.Model, done: str) -> bool:
    """Rescale `model` in place as another was, from the EQUALIZED metadata of that.

    Returns:
        False if it has other weights than that had, and stays as it is.
    """
    found = json.loads(done)
    if found["weights"] != digest(model):
        return False
    for group, scale in zip(find_groups(model), found["scales"], strict=True):
        if scale:
            rescale(model, group, np.array(scale))
    return True


def digest(model: ir.Model) -> str:
    """SHA-256 over a model's initializers."""
    whole = hashlib.sha256()
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            whole.update(name.encode() + b"\0" + value.const_value.tobytes())
    return whole.hexdigest()


def find_groups(model: ir.Model) -> list[Group]:
    """The groups that can be rescaled, each with at least one dense convolution among its readers."""
    groups: list[Group] = []
    seen: set[ir.Value] = set()
    for node in model.graph:
        source = node.inputs[0] if node.inputs else None
        if node.op_type != "Conv" or source is None or source in seen:
            continue
        group = closure(source)
        if group is None:
            continue
        seen.update(group.tensors)
        if any(is_dense(reader) for reader in group.readers):
            groups.append(group)
    return groups


def closure(start: ir.Value) -> Group | None:
    """Everything that has to share `start`'s scale, or None if something there cannot take one."""
    group, pending, seen = Group(), [start], {start}
    while pending:
        value = pending.pop()
        maker = value.producer()
        if maker is None or value.is_graph_output() or value.shape is None or len(value.shape) != 4:
            return None
        group.tensors.append(value)
        if has_constant_weights(maker) or gate_of(maker) is not None:
            group.makers.append(maker)
        elif passes_on(maker):
            pending += [one for one in activations(maker) if one not in seen]
        else:
            return None
        for reader, index in value.uses():
            if has_constant_weights(reader) and index == 0 and (is_dense(reader) or is_depthwise(reader)):
                group.readers.append(reader)
            elif passes_on(reader):
                pending += [one for one in (*reader.outputs, *activations(reader)) if one not in seen]
            else:
                return None
        seen.update(pending)
    return group


def has_constant_weights(node: ir.Node) -> bool:
    return node.op_type == "Conv" and all(v is not None and v.const_value is not None for v in node.inputs[1:])


def is_dense(conv: ir.Node) -> bool:
    return conv.attributes.get_int("group", 1) == 1


def is_depthwise(conv: ir.Node) -> bool:
    """One filter for each channel, and as many out as in."""
    kernel = conv.inputs[1]
    return kernel is not None and kernel.shape is not None and conv.attributes.get_int("group", 1) == kernel.shape[0]


def activations(node: ir.Node) -> list[ir.Value]:
    """The inputs of a node that passes scales on, without its constants."""
    return [value for value in node.inputs if value is not None and value.const_value is None]


def passes_on(node: ir.Node) -> bool:
    """True if a positive scale per channel on all activations comes out as the same scale."""
    if node.op_type not in PASS_ON:
        return False
    given = [value.const_value for value in node.inputs if value is not None and value.const_value is not None]
    constants = [tensor.numpy() for tensor in given]
    if node.op_type == "Add":
        return not constants
    if node.op_type == "Mul":
        return len(constants) == 1 and constants[0].size == 1 and float(constants[0].reshape(())) > 0
    return node.op_type != "Resize" or node.attributes.get_string("mode", "nearest") == "nearest"


def gate_of(node: ir.Node) -> int | None:
    """The index of the gate [N,C,1,1] among a product's inputs, or None if it is no such product."""
    if node.op_type != "Mul":
        return None
    shapes = [() if value is None or value.shape is None else tuple(value.shape) for value in node.inputs]
    computed = [value is not None and value.const_value is None for value in node.inputs]
    small = [index for index, shape in enumerate(shapes) if shape[2:] == (1, 1) and computed[index]]
    return small[0] if len(small) == 1 else None


def channel_extremes(
    model: ir.Model, values: list[ir.Value], samples: Samples, quiet: bool
) -> dict[ir.Value, np.ndarray]:
    """The largest magnitude of every channel of [N,C,H,W] tensors over some RUNS samples, float32 [C]."""
    probe = model.clone()
    named = {value.name: value for node in probe.graph for value in node.outputs}
    outputs = []
    for value in reversed(values):  # the last first: see ranges.collect_amax
        size = ir.node("Abs", [named[value.name]])
        size.outputs[0].name = f"{value.name}__abs"
        end = ir.Value(name=f"{value.name}__extreme", type=ir.TensorType(ir.DataType.FLOAT))
        # A global max-pool is the one reduction over pixels that is written the same in every opset.
        probe.graph.extend([size, ir.node("GlobalMaxPool", [size.outputs[0]], outputs=[end])])
        outputs.append(end)
    probe.graph.outputs[:] = outputs
    running = session(probe)
    found = [np.zeros(1, np.float32)] * len(values)
    chosen = samples.spread(min(RUNS, len(samples)))
    for _, feeds in tqdm(chosen, desc="channels", unit="run", disable=progress_disabled(quiet)):
        for index, array in enumerate(running.run(None, feeds)):
            found[index] = np.maximum(found[index], array.max(axis=(0, 2, 3)))
    return dict(zip(reversed(values), found, strict=True))


def channel_scales(group: Group, extremes: dict[ir.Value, np.ndarray]) -> np.ndarray:
    """s of each channel of the group, [C]; empty where no channel has values and weights."""
    activation = np.max([extremes[value] for value in group.tensors], axis=0).astype(np.float64)
    weight = np.max([input_magnitudes(reader) for reader in group.readers], axis=0)
    usable = (activation > 0) & (weight > 0)
    if not usable.any():
        return np.zeros(0)
    scale = np.ones(len(activation))
    scale[usable] = np.sqrt(activation[usable] / weight[usable])
    scale[usable] = np.maximum(scale[usable], scale[usable].max() / LARGEST_RATIO)
    scale[~usable] = scale[usable].max()
    return scale


def rescale(model: ir.Model, group: Group, scale: np.ndarray) -> None:
    """Apply s [C] to the group's makers and readers."""
    for maker in dict.fromkeys(group.makers):
        index = gate_of(maker)
        if index is None:
            multiply(model, maker, 1, 1 / scale.reshape(-1, 1, 1, 1))
            if len(maker.inputs) > 2:
                multiply(model, maker, 2, 1 / scale)
        else:
            divide_gate(model, maker, index, scale)
    for reader in dict.fromkeys(group.readers):
        multiply(model, reader, 1, scale.reshape((1, -1, 1, 1) if is_dense(reader) else (-1, 1, 1, 1)))


def input_magnitudes(conv: ir.Node) -> np.ndarray:
    """The largest magnitude of the weights that meet each input channel, [C]."""
    kernel = np.abs(conv.inputs[1].const_value.numpy())  # type: ignore[union-attr]
    return kernel.max(axis=(0, 2, 3)) if is_dense(conv) else kernel.max(axis=(1, 2, 3))


def multiply(model: ir.Model, conv: ir.Node, index: int, factor: np.ndarray) -> None:
    """Give the convolution its own copy of an input, times `factor`: kernels may be shared between levels."""
    old = conv.inputs[index]
    assert old is not None and old.const_value is not None
    name = f"{old.name}.of.{conv.outputs[0].name}" if ".of." not in (old.name or "") else old.name
    array = (old.const_value.numpy().astype(np.float64) * factor).astype(np.float32)
    conv.replace_input_with(index, Tape(model.graph).initializer(ir.tensor(array, name=f"{name}.scaled")))


def divide_gate(model: ir.Model, product: ir.Node, index: int, scale: np.ndarray) -> None:
    """Put a product by 1 / scale between the gate and the node that it gates."""
    gate = product.inputs[index]
    assert gate is not None
    inverse = (1 / scale).astype(np.float32).reshape(1, -1, 1, 1)
    factor = Tape(model.graph).initializer(ir.tensor(inverse, name=f"{product.outputs[0].name}.gate_scale"))
    divided = ir.node("Mul", [gate, factor])
    divided.outputs[0].name = f"{product.outputs[0].name}.gate"
    divided.outputs[0].type, divided.outputs[0].shape = gate.type, gate.shape
    model.graph.insert_before(product, divided)
    product.replace_input_with(index, divided.outputs[0])
