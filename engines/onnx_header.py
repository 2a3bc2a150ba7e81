"""Reads the facts of an ONNX file that a builder needs: spec, opset, inputs, nodes, Q/DQ pairs and FP16 weights.

The reader decodes protobuf itself (deploy/common/protobuf.py, field numbers of onnx.proto3), because an engine for a
Jetson is built on the Jetson, where there is no onnx package. Weights are skipped, not read: the file is mapped into
memory, so a model of hundreds of MB takes milliseconds. The file may come from anywhere: what the builders rely on is
checked.
"""

import math
import mmap
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Set, Tuple, Union

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import BATCH_KEY, CALIBRATION_KEY, SPEC_KEY, Spec
from effedge.deploy.common.paths import inside
from effedge.deploy.common.protobuf import Data
from effedge.deploy.common.strict_json import parse_json
from effedge.deploy.runtime.manifest_fields import wrong_field
from effedge.deploy.runtime.onnx_external import external_files
from effedge.engines.onnx_format.messages import Message

PAIRS = ("QuantizeLinear", "DequantizeLinear")
LAYER_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # input 0 is data, input 1 a weight
# Whose outputs are in an order, or of a number, that the values of their inputs decide.
SELECTING_OPERATORS = ("TopK", "NonMaxSuppression", "NonZero", "Compress", "Unique")
# TensorProto.DataType
FLOAT32, UINT8, INT32, FLOAT16, FP8 = 1, 2, 6, 10, 17  # FP8: E4M3FN, the only one that TensorRT takes
OTHER_FP8 = (18, 19, 20)
SMALL = 1024  # values
DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16", 17: "fp8",
}  # fmt: skip
# Numbers of inputs that the readers of a header rely on: a Q/DQ pair's are data, scale and zero point.
LEAST_INPUTS = {
    **dict.fromkeys((*PAIRS, *LAYER_OPERATORS), 2),
    **dict.fromkeys(("Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"), 1),
}
MOST_ELEMENTS = 1 << 31  # of an input; a tensor of float32 would have 8 GiB
MOST_DIMS = 64
CHANNELS = (1, 3, 4)  # of an input of images: grey, RGB, RGB with another map
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
    def selected_outputs(self) -> Set[str]:
        """The outputs that depend on a selection by values, whose rows may have another order and number after
        rounding."""
        tensors: Set[str] = set()
        for node in self.nodes:
            if node.op in SELECTING_OPERATORS or not tensors.isdisjoint(node.inputs):
                tensors.update(node.outputs)
        return tensors.intersection(self.outputs)

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


def image_sides(dims: Optional[Sequence[Union[int, str]]]) -> Optional[slice]:
    """Returns where an input's shape has its height and width; None: it is no input of images.

    >>> image_sides((1, 3, 480, 640)), image_sides((1, 480, 640, 3)), image_sides((1, 1000))
    (slice(2, 4, None), slice(1, 3, None), None)
    """
    if dims is None or len(dims) != 4:
        return None
    return slice(2, 4) if dims[1] in CHANNELS else slice(1, 3) if dims[3] in CHANNELS else None


def onnx_files(path: Path) -> Dict[str, Path]:
    """Lists an ONNX model's files, as a stage's inputs: the model itself as "onnx", the files of its weights by name.

    Raises UserError as `read_header`, and if a file is missing, or would lie outside the model's folder.
    """
    files = {"onnx": path}
    for name in read_header(path).external:
        file = inside(path.parent, name, f"'{path}'")
        role = file.relative_to(path.parent).as_posix()
        if role == "onnx":
            raise UserError(f"'{path}' keeps its weights in a file named 'onnx': give it a name with a suffix")
        if not file.is_file():
            raise UserError(f"'{path}' keeps its weights in '{file}', which is missing: put it beside the ONNX file")
        files[role] = file
    return files


def read_header(path: Path) -> Header:
    """Reads `path`. Raises UserError if the file is missing or no whole ONNX model."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _read_model(data)
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror or error}; give the path of an ONNX model") from error
    except (ValueError, IndexError, OverflowError, struct.error) as error:  # an empty file, or one that is damaged
        raise UserError(f"'{path}' is no whole ONNX model ({error}); export it again") from error
    return replace(header, external=tuple(sorted(external_files(path))))


def _read_model(data: Data) -> Header:
    """Reads a ModelProto: 7 graph, 8 opset_import (1 domain, 2 version), 14 metadata_props (1 key, 2 value); but
    `external`."""
    model = Message(data, (0, len(data)))
    if 7 not in model:
        raise ValueError("it has no graph")
    domains = [(entry.text(1), entry.number(2)) for entry in model.messages(8)]
    opset = next((version for domain, version in reversed(domains) if domain in ("", "ai.onnx")), 0)
    metadata = {entry.text(1): entry.text(2) for entry in model.messages(14)}
    graph = model.message(7)
    nodes = [_read_node(node) for node in graph.messages(1)]
    if not nodes:
        raise ValueError("it has no nodes")
    # TensorProto: 1 dims, 2 data_type, 8 name
    constants = {tensor.text(8): tensor for tensor in graph.messages(5)}
    initializers = {name: tensor.number(2) for name, tensor in constants.items()}
    tensors: Dict[str, Tuple[int, Dims]] = {
        name: (initializers[name], tensor.numbers(1)) for name, tensor in constants.items()
    }
    inputs, outputs, others = (dict(map(_read_value_info, graph.messages(number))) for number in (11, 12, 13))
    inputs = {name: kind for name, kind in inputs.items() if name not in initializers}  # as before ONNX's IR 4
    for name, kind in {**others, **outputs, **inputs}.items():
        tensors.setdefault(name, kind)
    for name, (_, dims) in inputs.items():
        if math.prod(size for size in dims or () if isinstance(size, int)) > MOST_ELEMENTS:
            raise ValueError(f"its input '{name:.80}' has the shape {dims}")
    spec, batch, report = _read_metadata(metadata)
    weights = {name for node in nodes if node.op in LAYER_OPERATORS for name in node.inputs}
    return Header(
        opset, spec, batch, nodes, inputs, outputs, initializers,
        external=(),
        shifted=tuple(
            node.name
            for node in nodes
            if node.op in PAIRS and node.inputs[2:] and _has_nonzero(constants.get(node.inputs[2]))
        ),
        float_layers=report["float_layers"],
        tensors=tensors,
        float32_nodes=report["float32_nodes"],
        constants={
            # 4 float_data, 9 raw_data; neither where the values are in another file
            name: tensor.floats(4, 9)
            for name, tensor in constants.items()
            if name not in weights and initializers[name] == FLOAT32 and tensor.size < 4 * SMALL
        },
    )  # fmt: skip


def _read_metadata(
    metadata: Mapping[str, str],
) -> Tuple[Spec, Optional[Tuple[int, int, int]], Dict[str, Dict[str, str]]]:
    """Reads the spec, the batch, and the reasons of the calibration's report; checks what they may hold."""
    values = {key: parse_json(metadata.get(key, "{}")) for key in (SPEC_KEY, CALIBRATION_KEY)}
    for key, value in values.items():
        if not isinstance(value, dict):
            raise ValueError(f"its metadata '{key}' is no object")
    spec, report = values[SPEC_KEY], values[CALIBRATION_KEY]
    batch = parse_json(metadata.get(BATCH_KEY, "null"))
    if spec:
        missing = [name for name in ("model", "weights", "task", "labels", "input") if name not in spec]
        batch = None if missing or not isinstance(spec["input"], dict) else spec["input"].get("batch")
        if batch is None:
            raise ValueError(f"its metadata '{SPEC_KEY}' lacks '{next(iter(missing), 'input.batch')}'")
    manifest = {"spec": spec, "batch": batch, "backend": {}, "engine": "", "files": {}}
    wrong = wrong_field(manifest)
    if wrong is not None:
        raise ValueError(f"its metadata has a wrong '{wrong}'")
    reasons = {key: report.get(key, {}) for key in ("float_layers", "float32_nodes")}
    for key, value in reasons.items():
        if not isinstance(value, dict) or not all(isinstance(reason, str) for reason in value.values()):
            raise ValueError(f"its metadata '{CALIBRATION_KEY}' has a wrong '{key}'")
    return spec, tuple(batch) if batch else None, reasons


def _has_nonzero(tensor: Optional[Message]) -> bool:
    """Tells if an integer tensor has a value other than 0, that is, a byte other than 0.

    TensorProto: 5 int32_data, packed or one by one, 9 raw_data.
    """
    if tensor is None:
        return False
    return any(tensor.numbers(5)) or any(any(tensor.data[start:end]) for start, end in tensor.spans(9))


def _read_node(node: Message) -> Node:
    """Reads a NodeProto: 1 input, 2 output, 3 name, 4 op_type, 5 attribute (AttributeProto: 1 name, 3 i, 4 s, 8
    ints)."""
    attributes: Dict[str, Union[int, str]] = {}
    lists: Dict[str, Tuple[int, ...]] = {}
    for attribute in node.messages(5):
        name, text = attribute.text(1), attribute.span(4)
        if 8 in attribute:
            lists[name] = attribute.numbers(8)
        if 3 in attribute:
            attributes[name] = attribute.number(3)
        elif text is not None:
            attributes[name] = node.data[slice(*text)].decode(errors="replace")
    op, name, inputs = node.text(4), node.text(3), tuple(node.texts(1))
    if len(inputs) < LEAST_INPUTS.get(op, 0) or not node.spans(2):
        raise ValueError(f"its {op} '{name:.80}' has {len(inputs)} inputs, {len(node.spans(2))} outputs")
    return Node(op, name, inputs, tuple(node.texts(2)), attributes, lists)


def _read_value_info(info: Message) -> Tuple[str, Tuple[int, Dims]]:
    """Reads a ValueInfoProto: 1 name, 2 type > 1 tensor_type > (1 elem_type, 2 shape > 1 dim > (1 value | 2 name)).

    The dims are None where there is no shape; the element type is also 0 where the type is no tensor's.
    """
    tensor = info.message(2).message(1)
    name, element = info.text(1), tensor.number(1)
    if 2 not in tensor:
        return name, (element, None)
    dims: List[Union[int, str]] = []
    for dim in tensor.message(2).messages(1):
        size = dim.number(1)
        # Some exporters write a dynamic dimension as 0 or -1, which the wire format holds as 2^64 - 1.
        dims.append(size if 0 < size < 1 << 63 else dim.text(2))
    if len(dims) > MOST_DIMS:
        raise ValueError(f"its tensor '{name:.80}' has {len(dims)} dimensions")
    return name, (element, tuple(dims))
