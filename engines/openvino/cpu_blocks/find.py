"""The first blocks of an EfficientNet, found in an OpenVINO model for deploy/native/cpu_blocks/blocks.py to compute.

A block is an inverted residual with squeeze-and-excitation, as pipeline/models/mbconv.py has it:

    [1x1 convolution, swish;] depthwise convolution, swish; times sigmoid(1x1(swish(1x1(mean)))); 1x1 convolution
    [+ input]

and the stem, a 3x3 convolution with stride 2 and swish on the picture less its mean, counts as the first block's
expansion. Batch normalization is folded by then. Quantizers on the way are left out: the front computes with the
weights as they were rounded to 8 bits, but in more.
"""

import contextlib
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from effedge.deploy.native.cpu_blocks.blocks import EXPANSION, FIELDS, KERNELS, LEAST_WIDTH, NONE, STEM, STRIDES
from effedge.engines.openvino.graph import constant, fold_constants, of_channels, sample_sizes
from effedge.engines.openvino.normalize_before_transpose import CHANNELS_FIRST
from effedge.engines.openvino.swish import swish_input

CONVOLUTION, DEPTHWISE = "Convolution", "GroupConvolution"


class Mismatch(Exception):
    """What is there is no such block."""


class Block(NamedTuple):
    """A block: its layout (but for `feature`), its weights in front.cpp's order, the name of the operation that gives
    its output, and those of its convolutions: the depthwise one, and the others."""

    layout: Dict[str, int]
    weights: np.ndarray
    output: str
    products: List[str]
    depthwise: List[str]


class Found(NamedTuple):
    """The blocks that begin a model, the means of the picture's colours, and the model without quantizers."""

    means: np.ndarray
    blocks: List[Block]
    model: Any


class Affine(NamedTuple):
    """A convolution: weights [out,in,h,w], bias [out], its operation and the one that gives the result with bias."""

    weights: np.ndarray
    bias: np.ndarray
    node: Any
    end: Any

    @property
    def strides(self) -> List[int]:
        return [int(stride) for stride in self.node.get_attributes()["strides"]]

    @property
    def padding(self) -> List[int]:
        """Top, left, bottom and right."""
        attributes = self.node.get_attributes()
        return [int(number) for name in ("pads_begin", "pads_end") for number in attributes[name]]

    @property
    def is_pointwise(self) -> bool:
        return self.weights.shape[2:] == (1, 1) and self.strides == [1, 1] and not any(self.padding)

    def padded_by_less_than(self, size: int) -> bool:
        return all(0 <= number < size for number in self.padding)

    @property
    def matrix(self) -> np.ndarray:
        """[in,out] of one that is pointwise."""
        return self.weights.reshape(self.weights.shape[:2]).T

    @property
    def name(self) -> str:
        return str(self.node.get_friendly_name())


def find_blocks(model: Any) -> Optional[Found]:
    """The blocks that begin an OpenVINO model whose one input is a picture, uint8 [N,H,W,3]; None if there are none."""
    plain = model.clone()
    fold_constants(plain)
    leave_out_quantizers(plain)
    try:
        means, stem = beginning(plain)
        block, output = read_block(stem, None)
    except Mismatch:
        return None
    blocks = [block]
    while True:
        following = next_block(output)
        if following is None:
            return Found(means, blocks, plain)
        block, output = following
        blocks.append(block)


def leave_out_quantizers(model: Any) -> None:
    """What reads a FakeQuantize, but of weights, reads what is in front of it."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize" and constant(node.input_value(0).get_node()) is None:
            node.output(0).replace(node.input_value(0))


def next_block(before: Any) -> Optional[Tuple[Block, Any]]:
    """The block that reads an operation's output, which a pyramid may read too; None if there is none."""
    for reader in readers_of(before):
        with contextlib.suppress(Mismatch):
            return read_block(reader, before)
    return None


def beginning(model: Any) -> Tuple[np.ndarray, Any]:
    """The means of the colours, and the stem's convolution."""
    parameters = model.get_parameters()
    expect(len(parameters) == 1)
    node = parameters[0]
    sizes = sample_sizes(node.output(0).get_partial_shape())
    expect(sizes is not None and len(sizes) == 3 and sizes[2] == 3)
    expect(node.get_output_element_type(0).to_dtype() == np.uint8)
    means = np.zeros(3, np.float32)
    passed: List[str] = []
    while node.get_type_name() != CONVOLUTION:
        node = one_of(node, "Convert", "Transpose", "Subtract", CONVOLUTION)
        if node.get_type_name() == "Transpose":
            expect(values_of(node, 1).tolist() == CHANNELS_FIRST)
        if node.get_type_name() == "Subtract":
            expect("Subtract" not in passed and "Transpose" in passed)
            means = required(of_channels(values_of(node, 1), 3))
        passed.append(node.get_type_name())
    expect(passed.count("Transpose") == 1)
    return means, node


def read_block(first: Any, before: Optional[Any]) -> Tuple[Block, Any]:
    """The block that begins with a convolution, and the operation that gives its output. `before` is what it reads,
    None for the stem. Mismatch if it is none."""
    layout: Dict[str, int] = dict.fromkeys(FIELDS, 0)
    weights: List[np.ndarray] = []
    in_sizes = map_sizes(first.input_value(0))
    products: List[Affine] = []
    node = first
    if before is not None and first.get_type_name() == DEPTHWISE:
        layout["entry"] = NONE
    else:
        entry = affine(first)
        products.append(entry)
        if before is None:
            layout["entry"] = STEM
            layout["entry_top"], layout["entry_left"] = entry.padding[:2]
            expect(entry.weights.shape[1:] == (3, 3, 3) and entry.strides == [2, 2] and entry.padded_by_less_than(3))
        else:
            layout["entry"] = EXPANSION
            expect(entry.is_pointwise)
        weights += [entry.weights.transpose(2, 3, 1, 0), entry.bias]
        node = one_of(swish(entry.end), DEPTHWISE)
    channels, height, width = map_sizes(node.input_value(0))
    depthwise = affine(node)
    kernel, stride = depthwise.weights.shape[-1], depthwise.strides[0]
    expect(depthwise.weights.shape == (channels, 1, 1, kernel, kernel) and kernel in KERNELS)
    expect(depthwise.strides == [stride, stride] and stride in STRIDES and depthwise.padded_by_less_than(kernel))
    weights += [depthwise.weights.reshape(channels, -1).T, depthwise.bias]
    layout["top"], layout["left"] = depthwise.padding[:2]
    gated, gates, factors = squeeze_excite(swish(depthwise.end))
    weights += [array for gate in gates for array in (gate.matrix, gate.bias)] + [factors]
    projection = affine(one_of(gated, CONVOLUTION))
    products += [*gates, projection]
    expect(projection.is_pointwise)
    weights += [projection.matrix, projection.bias]
    output = projection.end
    adds = [one for one in readers_of(output) if one.get_type_name() == "Add"]
    out_channels, out_height, out_width = map_sizes(output.output(0))
    if before is not None and len(readers_of(output)) == 1 and adds and before.output(0) in adds[0].input_values():
        expect(in_sizes == (out_channels, out_height, out_width))
        layout["residual"], output = 1, adds[0]
    expect(width >= LEAST_WIDTH)
    layout.update(
        in_channels=in_sizes[0], in_height=in_sizes[1], in_width=in_sizes[2], height=height, width=width,
        channels=channels, kernel=kernel, stride=stride, out_height=out_height, out_width=out_width,
        out_channels=out_channels, squeezed=len(gates[0].bias),
    )  # fmt: skip
    names = [[one.name for one in products], [depthwise.name]]
    flat = np.concatenate([array.reshape(-1) for array in weights])
    return Block(layout, flat, output.get_friendly_name(), *names), output


def squeeze_excite(activated: Any) -> Tuple[Any, List[Affine], np.ndarray]:
    """The product with the gates, the two convolutions that give them, and a factor of each."""
    expect(sorted(one.get_type_name() for one in readers_of(activated)) == ["Multiply", "ReduceMean"])
    mean = one_of(activated, "ReduceMean")
    expect(sorted(values_of(mean, 1).reshape(-1).astype(int) % 4) == [2, 3])
    reduce = affine(one_of(mean, CONVOLUTION))
    expand = affine(one_of(swish(reduce.end), CONVOLUTION))
    expect(reduce.is_pointwise and expand.is_pointwise)
    gate = one_of(expand.end, "Sigmoid")
    product = one_of(gate, "Multiply")
    factor = np.ones(len(expand.bias), np.float32)
    if activated.output(0) not in product.input_values():  # equalization leaves a factor of each gate
        values = [constant(one.get_node()) for one in product.input_values() if one != gate.output(0)]
        expect(len(values) == 1 and values[0] is not None)
        factor = required(of_channels(np.asarray(values[0]), len(expand.bias)))
        product = one_of(product, "Multiply")
        expect(activated.output(0) in product.input_values())
    return product, [reduce, expand], factor


def affine(node: Any) -> Affine:
    """A convolution and the Add of its bias behind it, if it has one."""
    expect(node.get_type_name() in (CONVOLUTION, DEPTHWISE))
    expect(all(int(one) == 1 for one in node.get_attributes()["dilations"]))
    expect(node.get_output_element_type(0).to_dtype() == np.float32)
    out_channels = map_sizes(node.output(0))[0]
    end, bias = node, np.zeros(out_channels, np.float32)  # OpenVINO reads a bias of zeros as none
    readers = readers_of(node)
    if len(readers) == 1 and readers[0].get_type_name() == "Add":
        value = constant(readers[0].input_value(1).get_node())
        if value is not None:
            end, bias = readers[0], required(of_channels(value, out_channels))
    return Affine(values_of(node, 1), bias, node, end)


def swish(node: Any) -> Any:
    """The operation that ends x * sigmoid(x), where x is the node's output, which nothing else reads."""
    readers = readers_of(node)
    ends = [one for one in readers if swish_input(one) == node.output(0)]
    expect(len(ends) == 1)
    expect(len(readers) == (1 if ends[0].get_type_name() == "Swish" else 2))  # the other one is its sigmoid
    return ends[0]


def readers_of(node: Any) -> List[Any]:
    """The operations that read its output's numbers, and not only its shape."""
    readers = [port.get_node() for port in node.output(0).get_target_inputs()]
    return [one for one in readers if one.get_type_name() != "ShapeOf"]


def one_of(node: Any, *types: str) -> Any:
    """The one reader of the node that is of these types."""
    found = [one for one in readers_of(node) if one.get_type_name() in types]
    expect(len(found) == 1)
    return found[0]


def values_of(node: Any, index: int) -> np.ndarray:
    """A constant input, as float32."""
    return required(constant(node.input_value(index).get_node()))


def map_sizes(port: Any) -> Tuple[int, int, int]:
    """(channels, height, width) of [N,C,H,W]."""
    sizes = sample_sizes(port.get_partial_shape())
    if sizes is None or len(sizes) != 3:
        raise Mismatch
    return sizes[0], sizes[1], sizes[2]


def required(value: Optional[np.ndarray]) -> np.ndarray:
    if value is None:
        raise Mismatch
    return value


def expect(fits: bool) -> None:
    if not fits:
        raise Mismatch
