"""Reads the facts of an ONNX file that a builder needs: spec, opset, inputs, nodes, Q/DQ pairs and FP16 weights.

The reader decodes the protobuf wire format itself (protobuf.dev/programming-guides/encoding, field numbers of
onnx.proto3), because an engine for a Jetson is built on the Jetson, where there is no onnx package. Weights are
skipped, not read: the file is mapped into memory, so a model of hundreds of MB takes milliseconds.
"""

import json
import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Set, Tuple, Union

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import BATCH_KEY, CALIBRATION_KEY, SPEC_KEY, Spec

PAIRS = ("QuantizeLinear", "DequantizeLinear")
LAYER_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # input 0 is data, input 1 a weight
# TensorProto.DataType
FLOAT32, UINT8, INT32, FLOAT16, FP8 = 1, 2, 6, 10, 17  # FP8: E4M3FN, the only one that TensorRT takes
OTHER_FP8 = (18, 19, 20)
SMALL = 1024  # values
DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16", 17: "fp8",
}  # fmt: skip
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
Dims = Optional[Tuple[Union[int, str], ...]]  # a dynamic dimension is its name, "" without one; None: of any rank


@dataclass(frozen=True)
class Node:
    """A node, with the names of its input and output tensors, its attributes that are an integer or a text, and, as
    `lists`, those that are integers. A negative integer is 2^64 too large, as in the file."""

    op: str
    name: str
    inputs: Tuple[str, ...]
    outputs: Tuple[str, ...]
    attributes: Mapping[str, Union[int, str]] = field(default_factory=dict, compare=False)  # else it has no hash
    lists: Mapping[str, Tuple[int, ...]] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Header:
    """The graph without its weights.

    Attributes:
        spec: effedge's description of the model (labels, input size, ...), from the file's metadata; empty where the
            file has none.
        batch: (min, opt, max) of a dynamic batch, or of a model with a spec; None where the file does not say.
        inputs, outputs: name -> (element type, dims).
        initializers: name -> element type.
        external: the files beside the ONNX that hold its weights.
        shifted: the QuantizeLinear and DequantizeLinear whose zero point is not 0.
        float_layers: layer -> the calibration's reason for a higher precision than INT8 or FP16.
        tensors: name -> (element type, dims) of every tensor whose type the file states, initializers too.
        float32_nodes: node -> the calibration's reason for FP32.
        constants: name -> values of each small float32 initializer that is no layer's weight or bias.
    """

    opset: int
    spec: Spec
    batch: Optional[Tuple[int, int, int]]
    nodes: List[Node]
    inputs: Dict[str, Tuple[int, Dims]]
    outputs: Dict[str, Tuple[int, Dims]]
    initializers: Dict[str, int]
    external: Tuple[str, ...]
    shifted: Tuple[str, ...] = ()
    float_layers: Mapping[str, str] = field(default_factory=dict)
    tensors: Mapping[str, Tuple[int, Dims]] = field(default_factory=dict)
    float32_nodes: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Tuple[float, ...]] = field(default_factory=dict)

    @property
    def convolutions(self) -> List[Node]:
        return [node for node in self.nodes if node.op == "Conv"]

    @property
    def quantized_convolutions(self) -> List[Node]:
        """Convolutions whose data and weights both come out of a DequantizeLinear: those requested in INT8 or FP8."""
        return [node for node in self.quantized_layers if node.op == "Conv"]

    @property
    def quantized_layers(self) -> List[Node]:
        """`quantized_convolutions`, and the matrix products and transposed convolutions of which the same holds."""
        dequantized = {name for node in self.nodes if node.op == "DequantizeLinear" for name in node.outputs}
        return [node for node in self.nodes if node.op in LAYER_OPERATORS and dequantized.issuperset(node.inputs[:2])]

    @property
    def pair_types(self) -> Set[int]:
        """The types of the numbers between the Q/DQ pairs and of the weights behind them, as far as the file says."""
        pairs = [node for node in self.nodes if node.op in PAIRS]
        constants = {name for node in pairs for name in (*node.inputs[:1], *node.inputs[2:3])}
        stated = {int(node.attributes.get("output_dtype", 0)) for node in pairs} - {0}
        return stated.union(self.initializers[name] for name in constants.intersection(self.initializers))

    @property
    def is_fp8(self) -> bool:
        """True if the Q/DQ pairs, or some of them, are FP8."""
        return FP8 in self.pair_types

    @property
    def has_fp16_scales(self) -> bool:
        """True if the Q/DQ pairs have FP16 scales, so that FP16 is around the INT8 or FP8."""
        return any(
            node.op == "QuantizeLinear" and self.initializers.get(node.inputs[1]) == FLOAT16 for node in self.nodes
        )

    @property
    def fp16_convolutions(self) -> List[Node]:
        """Convolutions with FP16 weights."""
        return [node for node in self.fp16_layers if node.op == "Conv"]

    @property
    def fp16_layers(self) -> List[Node]:
        """Convolutions, transposed convolutions and matrix products with FP16 weights."""
        return [
            node
            for node in self.nodes
            if node.op in LAYER_OPERATORS and self.initializers.get(node.inputs[1]) == FLOAT16
        ]


def onnx_files(path: Path) -> Dict[str, Path]:
    """Lists an ONNX model's files, as a stage's inputs: the model itself as "onnx", the files of its weights by name.

    Raises UserError as `read_header`, and if a file is missing.
    """
    files = {"onnx": path}
    for name in read_header(path).external:
        files[name] = path.parent / name
        if not files[name].is_file():
            raise UserError(
                f"'{path}' keeps its weights in '{files[name]}', which is missing: put it beside the ONNX file"
            )
    return files


def read_header(path: Path) -> Header:
    """Reads `path`. Raises UserError if the file is missing or no whole ONNX model."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read_model(data)
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror or error}; give the path of an ONNX model") from error
    except (ValueError, IndexError, struct.error) as error:  # an empty file, or one that ends within a field
        raise UserError(f"'{path}' is no whole ONNX model ({error}); export it again") from error


Span = Tuple[int, int]  # start and end of a length-delimited field in the file


def _varint(data: mmap.mmap, at: int) -> Tuple[int, int]:
    """Reads a number; returns it and the position of the next byte."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(f"a number of more than 64 bits at byte {at}")


def _fields(data: mmap.mmap, span: Span) -> Iterator[Tuple[int, Any]]:
    """Yields (field number, value) of a message: an int, or the Span of a number of fixed size, a string, bytes or a
    nested message."""
    at, end = span
    while at < end:
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            yield number, value
        elif wire == BYTES:
            length, at = _varint(data, at)
            if at + length > end:
                raise ValueError(f"field {number} ends beyond byte {end}")
            yield number, (at, at + length)
            at += length
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
            yield number, (at, at + size)
            at += size
        else:
            raise ValueError(f"wire type {wire} at byte {at}")


def _text(data: mmap.mmap, span: Span) -> str:
    return data[span[0] : span[1]].decode()


def _read_model(data: mmap.mmap) -> Header:
    """Reads a ModelProto: 7 graph, 8 opset_import, 14 metadata_props."""
    opset, graph, metadata = 0, (0, 0), {}
    for number, value in _fields(data, (0, len(data))):
        if number == 7:
            graph = value
        elif number == 8:  # OperatorSetId: 1 domain, 2 version
            entry = dict(_fields(data, value))
            if 1 not in entry or _text(data, entry[1]) in ("", "ai.onnx"):
                opset = entry.get(2, 0)
        elif number == 14:  # StringStringEntry
            entry = dict(_fields(data, value))
            metadata[_text(data, entry[1])] = _text(data, entry[2]) if 2 in entry else ""
    if graph == (0, 0):
        raise ValueError("it has no graph")
    nodes: List[Node] = []
    inputs: Dict[str, Tuple[int, Dims]] = {}
    outputs: Dict[str, Tuple[int, Dims]] = {}
    initializers: Dict[str, int] = {}
    spans: Dict[str, Span] = {}  # of the initializers
    tensors: Dict[str, Tuple[int, Dims]] = {}
    external: Set[str] = set()
    for number, value in _fields(data, graph):
        if number == 1:
            nodes.append(_read_node(data, value))
        elif number == 5:  # TensorProto: 1 dims, 2 data_type, 8 name, 13 external_data, of StringStringEntry
            fields = list(_fields(data, value))
            tensor = dict(fields)
            name = _text(data, tensor[8])
            initializers[name] = tensor.get(2, 0)
            spans[name] = value
            tensors[name] = (initializers[name], _read_integers(data, [size for key, size in fields if key == 1]))
            for entry in (dict(_fields(data, span)) for key, span in fields if key == 13):
                if _text(data, entry[1]) == "location":
                    external.add(_text(data, entry[2]))
        elif number in (11, 12, 13):  # input, output, value_info
            name, element, dims = _read_value_info(data, value)
            tensors.setdefault(name, (element, dims))
            if number != 13:
                (inputs if number == 11 else outputs)[name] = (element, dims)
    if not nodes:
        raise ValueError("it has no nodes")
    spec = json.loads(metadata.get(SPEC_KEY, "{}"))
    batch = spec["input"]["batch"] if spec else json.loads(metadata.get(BATCH_KEY, "null"))
    inputs = {name: kind for name, kind in inputs.items() if name not in initializers}  # as before ONNX's IR 4
    limits = tuple(batch) if batch else None
    shifted = tuple(
        node.name
        for node in nodes
        if node.op in PAIRS
        and node.inputs[2:]
        and node.inputs[2] in spans
        and _has_nonzero(data, spans[node.inputs[2]])
    )
    report = json.loads(metadata.get(CALIBRATION_KEY, "{}"))
    kept, float32_nodes = report.get("float_layers", {}), report.get("float32_nodes", {})
    weights = {name for node in nodes if node.op in LAYER_OPERATORS for name in node.inputs}
    small = [name for name, span in spans.items() if name not in weights and span[1] - span[0] < 4 * SMALL]
    constants = {name: _floats(data, spans[name]) for name in small if initializers[name] == FLOAT32}
    files = tuple(sorted(external))
    return Header(
        opset, spec, limits, nodes, inputs, outputs, initializers, files, shifted, kept, tensors, float32_nodes,
        constants,
    )  # fmt: skip


def _floats(data: mmap.mmap, tensor: Span) -> Tuple[float, ...]:
    """Reads the values of a float32 TensorProto: 4 float_data, packed or one by one, 9 raw_data; none where they are in
    another file."""
    spans = [value for number, value in _fields(data, tensor) if number in (4, 9)]
    return tuple(value for start, end in spans for (value,) in struct.iter_unpack("<f", data[start:end]))


def _read_integers(data: mmap.mmap, values: List[Union[int, Span]]) -> Tuple[int, ...]:
    """Reads a repeated integer field, packed into one span or one value after the other."""
    numbers: List[int] = []
    for value in values:
        if isinstance(value, int):
            numbers.append(value)
            continue
        at, end = value
        while at < end:
            number, at = _varint(data, at)
            numbers.append(number)
    return tuple(numbers)


def _has_nonzero(data: mmap.mmap, tensor: Span) -> bool:
    """Tells if an integer tensor has a value other than 0, that is, a byte other than 0.

    TensorProto: 5 int32_data, packed or one by one, 9 raw_data.
    """
    values = [value for number, value in _fields(data, tensor) if number in (5, 9)]
    return any(value if isinstance(value, int) else any(data[slice(*value)]) for value in values)


def _read_node(data: mmap.mmap, span: Span) -> Node:
    """Reads a NodeProto: 1 input, 2 output, 3 name, 4 op_type, 5 attribute (AttributeProto: 1 name, 3 i, 4 s, 8
    ints)."""
    texts: Dict[int, List[str]] = {1: [], 2: [], 3: [""], 4: [""]}
    attributes: Dict[str, Union[int, str]] = {}
    lists: Dict[str, Tuple[int, ...]] = {}
    for number, value in _fields(data, span):
        if number in texts:
            texts[number].append(_text(data, value))
        elif number == 5:
            entries = list(_fields(data, value))
            attribute = {key: content for key, content in entries if key in (1, 3, 4)}
            if any(key == 8 for key, _ in entries):
                integers = [content for key, content in entries if key == 8]
                lists[_text(data, attribute[1])] = _read_integers(data, integers)
            if 3 in attribute or 4 in attribute:
                content = attribute[3] if 3 in attribute else data[slice(*attribute[4])].decode(errors="replace")
                attributes[_text(data, attribute[1])] = content
    return Node(texts[4][-1], texts[3][-1], tuple(texts[1]), tuple(texts[2]), attributes, lists)


def _read_value_info(data: mmap.mmap, span: Span) -> Tuple[str, int, Dims]:
    """Reads a ValueInfoProto: 1 name, 2 type > 1 tensor_type > (1 elem_type, 2 shape > 1 dim > (1 value | 2 name)).

    The dims are None where there is no shape; the element type is also 0 where the type is no tensor's.
    """
    info = dict(_fields(data, span))
    tensor = dict(_fields(data, dict(_fields(data, info.get(2, (0, 0)))).get(1, (0, 0))))
    if 2 not in tensor:
        return _text(data, info[1]), tensor.get(1, 0), None
    dims: List[Union[int, str]] = []
    for _, dim in _fields(data, tensor[2]):
        entry = dict(_fields(data, dim))
        size = entry.get(1, 0)
        # Some exporters write a dynamic dimension as 0 or -1, which the wire format holds as 2^64 - 1.
        dims.append(size if 0 < size < 1 << 63 else _text(data, entry.get(2, (0, 0))))
    return _text(data, info[1]), tensor.get(1, 0), tuple(dims)
