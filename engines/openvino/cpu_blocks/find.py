"""Finds the first blocks of an EfficientNet in an OpenVINO model, for deploy/native/cpu_blocks/blocks.py to compute.

A block is an inverted residual with squeeze-and-excite, as pipeline/models/mbconv.py has it:

    [1x1 convolution, swish;] depthwise convolution, swish; times sigmoid(1x1(swish(1x1(mean)))); 1x1 convolution
    [+ input]

The stem, a 3x3 convolution with stride 2 and swish on the image minus its mean, counts as the first block's expansion.
Calibration may have padded and shifted its image (calibration/weights/align_images.py), which is taken back here. Batch
normalization has been folded before. Quantizers between the operations are left out: the C++ blocks compute with
the weights as they were rounded to 8 bits, but in a higher precision.
"""

import contextlib
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from effedge.deploy.native.cpu_blocks.description import EXPANSION, FIELDS, KERNELS, LEAST_WIDTH, NONE, STEM, STRIDES
from effedge.engines.openvino.graph import constant_value, fold_constants, per_channel, sizes_behind_batch
from effedge.engines.openvino.normalize_before_transpose import CHANNELS_FIRST
from effedge.engines.openvino.swish import swish_input

CONVOLUTION, DEPTHWISE = "Convolution", "GroupConvolution"
BEFORE_STEM = ("Transpose", "Subtract", "Pad", "Add")  # in this order


class Mismatch(Exception):
    """The operations form no such block."""


class Block(NamedTuple):
    """A block of an OpenVINO model.

    Attributes:
        layout: the fields of blocks.cpp's Layout, but `feature`.
        weights: flat, in the order in which blocks.cpp reads them.
        output: the name of the operation that gives the block's output.
        products, depthwise: the names of its convolutions; `depthwise` has the depthwise one.
    """

    layout: Dict[str, int]
    weights: np.ndarray
    output: str
    products: List[str]
    depthwise: List[str]


class FirstBlocks(NamedTuple):
    """The blocks that begin a model, the means of the image's colours, and the model without quantizers."""

    means: np.ndarray
    blocks: List[Block]
    model: Any


class BiasedConvolution(NamedTuple):
    """A convolution, `node`, with weights [out,in,h,w], bias [out], and padding at the top, left, bottom and right;
    `end` gives its result with the bias."""

    weights: np.ndarray
    bias: np.ndarray
    padding: List[int]
    node: Any
    end: Any

    @property
    def strides(self) -> List[int]:
        return [int(stride) for stride in self.node.get_attributes()["strides"]]

    @property
    def is_pointwise(self) -> bool:
        return self.weights.shape[2:] == (1, 1) and self.strides == [1, 1] and not any(self.padding)

    def padded_by_less_than(self, size: int) -> bool:
        return all(0 <= number < size for number in self.padding)

    @property
    def matrix(self) -> np.ndarray:
        """A pointwise convolution's weights as [in,out]."""
        return self.weights.reshape(self.weights.shape[:2]).T

    @property
    def name(self) -> str:
        return str(self.node.get_friendly_name())


class Stem(NamedTuple):
    """The convolution that reads the image minus the means of its colours, and the image's [C,H,W]."""

    convolution: BiasedConvolution
    means: np.ndarray
    sizes: Tuple[int, int, int]


def find_blocks(model: Any) -> Optional[FirstBlocks]:
    """Finds the blocks that begin an OpenVINO model whose only input is an image, uint8 [N,H,W,3]; None without any."""
    plain = model.clone()
    fold_constants(plain)
    remove_quantizers(plain)
    try:
        stem = find_stem(plain)
        block, output = read_block(stem.convolution.node, None, stem)
    except Mismatch:
        return None
    blocks = [block]
    while True:
        following = next_block(output)
        if following is None:
            return FirstBlocks(stem.means, blocks, plain)
        block, output = following
        blocks.append(block)


def remove_quantizers(model: Any) -> None:
    """Connects the readers of each FakeQuantize, except those of weights, to its input."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize" and constant_value(node.input_value(0).get_node()) is None:
            node.output(0).replace(node.input_value(0))


def next_block(before: Any) -> Optional[Tuple[Block, Any]]:
    """Reads the block behind an operation, whose output a pyramid may read too; None if there is no block."""
    for reader in readers_of(before):
        with contextlib.suppress(Mismatch):
            return read_block(reader, before)
    return None


def find_stem(model: Any) -> Stem:
    """Finds the stem on an image, without what aligned its levels. Raises Mismatch without a stem."""
    parameters = model.get_parameters()
    expect(len(parameters) == 1)
    node = parameters[0]
    height, width, colours = map_sizes(node.output(0))
    expect(colours == 3)
    expect(node.get_output_element_type(0).to_dtype() == np.uint8)
    means, shift, pads = np.zeros(3, np.float32), np.zeros(3, np.float32), [0, 0, 0, 0]
    passed = 0
    while node.get_type_name() != CONVOLUTION:
        node = reader_of_type(node, "Convert", *BEFORE_STEM, CONVOLUTION)
        kind = node.get_type_name()
        if kind in BEFORE_STEM:
            expect(BEFORE_STEM.index(kind) >= passed and (passed > 0 or kind == "Transpose"))
            passed = BEFORE_STEM.index(kind) + 1
        if kind == "Transpose":
            expect(constant_input(node, 1).tolist() == CHANNELS_FIRST)
        elif kind == "Subtract":
            means = required(per_channel(constant_input(node, 1), 3))
        elif kind == "Pad":
            pads = zero_pads(node)
        elif kind == "Add":
            shift = required(per_channel(constant_input(node, 1), 3))
    expect(passed > 0)
    convolution = read_convolution(node)
    expect(not any(convolution.padding) or float(np.abs(shift).max()) <= 1)  # it pads by the mean within a level
    bias = convolution.bias + (convolution.weights * shift.reshape(1, 3, 1, 1)).sum(axis=(1, 2, 3))
    padding = [own + before for own, before in zip(convolution.padding, pads)]
    return Stem(convolution._replace(bias=bias, padding=padding), means, (colours, height, width))


def zero_pads(pad: Any) -> List[int]:
    """Returns the pads of [N,C,H,W] by zeros at the top, left, bottom and right."""
    expect(pad.get_attributes()["pad_mode"] == "constant")
    begin, end = (constant_input(pad, index).astype(int).tolist() for index in (1, 2))
    expect(begin[:2] == end[:2] == [0, 0] and min(begin + end) >= 0)
    expect(pad.get_input_size() < 4 or not constant_input(pad, 3).any())
    return [*begin[2:], *end[2:]]


def read_block(first: Any, before: Optional[Any], stem: Optional[Stem] = None) -> Tuple[Block, Any]:
    """Reads the block that begins with the convolution `first`; returns it and the operation that gives its output.

    `before` is the operation whose output the block reads; None for that of the stem. Raises Mismatch if there is no
    block.
    """
    layout: Dict[str, int] = dict.fromkeys(FIELDS, 0)
    weights: List[np.ndarray] = []
    in_sizes = map_sizes(first.input_value(0)) if stem is None else stem.sizes
    products: List[BiasedConvolution] = []
    node = first
    if stem is None and first.get_type_name() == DEPTHWISE:
        layout["entry"] = NONE
    else:
        entry = read_convolution(first) if stem is None else stem.convolution
        products.append(entry)
        if stem is not None:
            layout["entry"] = STEM
            layout["entry_top"], layout["entry_left"] = entry.padding[:2]
            expect(entry.weights.shape[1:] == (3, 3, 3) and entry.strides == [2, 2] and entry.padded_by_less_than(3))
        else:
            layout["entry"] = EXPANSION
            expect(entry.is_pointwise)
        weights += [entry.weights.transpose(2, 3, 1, 0), entry.bias]
        node = reader_of_type(swish_behind(entry.end), DEPTHWISE)
    channels, height, width = map_sizes(node.input_value(0))
    depthwise = read_convolution(node)
    kernel, stride = depthwise.weights.shape[-1], depthwise.strides[0]
    expect(depthwise.weights.shape == (channels, 1, 1, kernel, kernel) and kernel in KERNELS)
    expect(depthwise.strides == [stride, stride] and stride in STRIDES and depthwise.padded_by_less_than(kernel))
    weights += [depthwise.weights.reshape(channels, -1).T, depthwise.bias]
    layout["top"], layout["left"] = depthwise.padding[:2]
    gated, gates, factors = read_squeeze_excite(swish_behind(depthwise.end))
    weights += [array for gate in gates for array in (gate.matrix, gate.bias)] + [factors]
    projection = read_convolution(reader_of_type(gated, CONVOLUTION))
    products += [*gates, projection]
    expect(projection.is_pointwise)
    weights += [projection.matrix, projection.bias]
    output = projection.end
    adds = [reader for reader in readers_of(output) if reader.get_type_name() == "Add"]
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
    flat = np.concatenate([array.reshape(-1) for array in weights])
    names = [convolution.name for convolution in products]
    return Block(layout, flat, output.get_friendly_name(), names, [depthwise.name]), output


def read_squeeze_excite(activated: Any) -> Tuple[Any, List[BiasedConvolution], np.ndarray]:
    """Returns the product of the map with its gates, the two convolutions that compute the gates, and a factor of each
    gate."""
    expect(sorted(reader.get_type_name() for reader in readers_of(activated)) == ["Multiply", "ReduceMean"])
    mean = reader_of_type(activated, "ReduceMean")
    expect(sorted(constant_input(mean, 1).reshape(-1).astype(int) % 4) == [2, 3])
    reduce = read_convolution(reader_of_type(mean, CONVOLUTION))
    expand = read_convolution(reader_of_type(swish_behind(reduce.end), CONVOLUTION))
    expect(reduce.is_pointwise and expand.is_pointwise)
    gate = reader_of_type(expand.end, "Sigmoid")
    product = reader_of_type(gate, "Multiply")
    factor = np.ones(len(expand.bias), np.float32)
    if activated.output(0) not in product.input_values():  # channel equalization leaves a factor of each gate
        values = [constant_value(value.get_node()) for value in product.input_values() if value != gate.output(0)]
        expect(len(values) == 1 and values[0] is not None)
        factor = required(per_channel(np.asarray(values[0]), len(expand.bias)))
        product = reader_of_type(product, "Multiply")
        expect(activated.output(0) in product.input_values())
    return product, [reduce, expand], factor


def read_convolution(node: Any) -> BiasedConvolution:
    """Reads a convolution and the Add of its bias behind it, if it has one."""
    expect(node.get_type_name() in (CONVOLUTION, DEPTHWISE))
    expect(all(int(dilation) == 1 for dilation in node.get_attributes()["dilations"]))
    expect(node.get_output_element_type(0).to_dtype() == np.float32)
    out_channels = map_sizes(node.output(0))[0]
    end, bias = node, np.zeros(out_channels, np.float32)  # OpenVINO's reader drops a bias of zeros
    readers = readers_of(node)
    if len(readers) == 1 and readers[0].get_type_name() == "Add":
        value = constant_value(readers[0].input_value(1).get_node())
        if value is not None:
            end, bias = readers[0], required(per_channel(value, out_channels))
    attributes = node.get_attributes()
    padding = [int(number) for name in ("pads_begin", "pads_end") for number in attributes[name]]
    return BiasedConvolution(constant_input(node, 1), bias, padding, node, end)


def swish_behind(node: Any) -> Any:
    """Returns the operation that ends x * sigmoid(x), where x is the node's output, which no other operation reads."""
    readers = readers_of(node)
    ends = [reader for reader in readers if swish_input(reader) == node.output(0)]
    expect(len(ends) == 1)
    expect(len(readers) == (1 if ends[0].get_type_name() == "Swish" else 2))  # the other reader is the Sigmoid
    return ends[0]


def readers_of(node: Any) -> List[Any]:
    """Lists the operations that read the numbers of a node's output, and not only its shape."""
    readers = [port.get_node() for port in node.output(0).get_target_inputs()]
    return [reader for reader in readers if reader.get_type_name() != "ShapeOf"]


def reader_of_type(node: Any, *types: str) -> Any:
    """Returns the node's only reader of these types."""
    readers = [reader for reader in readers_of(node) if reader.get_type_name() in types]
    expect(len(readers) == 1)
    return readers[0]


def constant_input(node: Any, index: int) -> np.ndarray:
    """Returns an input that is a constant, as float32."""
    return required(constant_value(node.input_value(index).get_node()))


def map_sizes(port: Any) -> Tuple[int, int, int]:
    """Returns the sizes behind the batch: (channels, height, width) of [N,C,H,W]."""
    sizes = sizes_behind_batch(port.get_partial_shape())
    if sizes is None or len(sizes) != 3:
        raise Mismatch
    return sizes[0], sizes[1], sizes[2]


def required(value: Optional[np.ndarray]) -> np.ndarray:
    """Returns the value; raises Mismatch for None."""
    if value is None:
        raise Mismatch
    return value


def expect(condition: bool) -> None:
    """Raises Mismatch unless the condition holds."""
    if not condition:
        raise Mismatch
