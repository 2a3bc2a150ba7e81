"""Groups the nodes of an ONNX file into the kernels that TensorRT's documentation says it fuses.

Source: NVIDIA's TensorRT documentation, "Types of Fusions"; "Explicit Quantization": "Q/DQ Layer-Placement
Recommendations" and "Q/DQ Interaction with Layer Fusion". The nodes of a kernel are

1. a convolution or matrix product, its bias, one residual add, its activation and the QuantizeLinear behind them;
   NVIDIA/TensorRT#3385 shows it for a swish;
2. element-wise operations of one shape.

DequantizeLinear, and a Cast to float32, run with each kernel that reads their result. QuantizeLinear runs with the
kernel that writes its input, if that is read in no other type; otherwise it is a kernel of its own. An operator that
moves or selects values runs on INT8 or FP8 if all readers of its result do. A reshape moves nothing.
"""

from dataclasses import dataclass
from typing import Container, Dict, Iterator, List, Mapping, Sequence, Set, Tuple

from effedge.engines.onnx_header import DTYPES, FLOAT16, FLOAT32, LAYER_OPERATORS, Dims, Header, Node
from effedge.engines.tensorrt.float32_nodes import moves_values

ACTIVATIONS = ("Clip", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Sigmoid", "Tanh")
ELEMENTWISE = (
    *ACTIVATIONS, "Abs", "Add", "Cast", "Div", "Equal", "Erf", "Exp", "Gelu", "Greater", "Less", "Log", "Max", "Min",
    "Mish", "Mul", "Neg", "Pow", "QuantizeLinear", "Reciprocal", "Softplus", "Sqrt", "Sub", "Sum", "Where",
)  # fmt: skip
VIEWS = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
KINDS = {
    "Concat": "copies", "Slice": "copies", "Split": "copies", "Transpose": "copies", "MaxPool": "pooling",
    "AveragePool": "pooling", "GlobalAveragePool": "means", "ReduceMean": "means", "Resize": "resizes",
}  # fmt: skip
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int32": 4, "int64": 8, "float64": 8, "int16": 2, "uint16": 2}


@dataclass(frozen=True)
class Kernel:
    """Nodes that run as one. `tensors`: what it reads and writes, weights too, as (type, bytes)."""

    kind: str
    nodes: Tuple[str, ...]
    tensors: Tuple[Tuple[str, int], ...]

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.tensors)


@dataclass(eq=False)
class Operation:
    """A node that computes with activations: the tensors that it reads, its weights, and the tensors that it writes."""

    node: Node
    inputs: List[str]
    weights: Tuple[str, ...]
    outputs: List[str]


class Graph:
    """The operations of a network, in the file's order, and the tensors between them.

    Attributes:
        tensors: name -> (element type, dims).
        readers: the operations that read each tensor.
        writer: the operation that writes each tensor.
        results: the tensors that the network returns.
        unknown_shapes: tensors whose shape the file does not state.
    """

    def __init__(self, header: Header, quantized: bool, half: bool) -> None:
        """Reads the nodes of `header`.

        Args:
            quantized: with the Q/DQ pairs; otherwise as if the file had none.
            half: float32 counts as float16.
        """
        self.header, self.quantized, self.half = header, quantized, half
        self.constants: Dict[str, Tuple[str, ...]] = {name: (name,) for name in header.initializers}
        self.behind: Dict[str, str] = {}  # tensor -> the tensor whose bytes are read in its place
        self.quantizers: Dict[Tuple[str, str], str] = {}  # (tensor, scale) -> the quantized tensor
        self.tensors = dict(header.tensors)
        self.operations = [operation for node in header.nodes for operation in self.operation(node)]
        self.results = {self.source(name) for name in header.outputs}
        self.readers: Dict[str, List[Operation]] = {}
        for operation in self.operations:
            for name in operation.inputs:
                self.readers.setdefault(name, []).append(operation)
        self.unknown_shapes = [name for name in [*self.readers, *self.results] if self.tensor(name)[1] is None]
        for operation in reversed(list(self.operations)):
            if moves_values(operation.node) and len(operation.outputs) == 1:
                self.quantize_before(operation)
        self.writer = {name: operation for operation in self.operations for name in operation.outputs}

    def operation(self, node: Node) -> Iterator[Operation]:
        """Yields the node's operation; none if it is a constant, moves nothing, or runs within other kernels."""
        names = [name for name in node.inputs if name]
        if all(name in self.constants for name in names):  # of INT8 or FP8 weights the kernel reads weights and scales
            dequantized = tuple(names[: 1 + self.quantized])
            parts = dequantized if node.op == "DequantizeLinear" else (node.outputs[0],)
            self.constants.update({name: parts for name in node.outputs})
            return
        inputs = tuple(dict.fromkeys(self.source(name) for name in names if name not in self.constants))
        left_out = node.op == "QuantizeLinear" and not self.quantized
        if node.op in VIEWS or node.op == "DequantizeLinear" or self.widens(node) or left_out:
            self.behind[node.outputs[0]] = inputs[0]
        elif node.op == "QuantizeLinear" and (inputs[0], names[1]) in self.quantizers:
            self.behind[node.outputs[0]] = self.quantizers[inputs[0], names[1]]
        else:
            if node.op == "QuantizeLinear":
                self.quantizers[inputs[0], names[1]] = node.outputs[0]
            weights = tuple(part for name in names for part in self.constants.get(name, ()))
            yield Operation(node, list(inputs), weights, [name for name in node.outputs if name])

    def source(self, name: str) -> str:
        """Returns the tensor whose bytes are read for `name`."""
        while name in self.behind:
            name = self.behind[name]
        return name

    def tensor(self, name: str) -> Tuple[int, Dims]:
        """Returns a tensor's element type and dims as far as the file states them."""
        return self.tensors.get(name, (0, None))

    def widens(self, node: Node) -> bool:
        """Tells if a node is a Cast from float16 to float32."""
        kinds = (self.tensor(node.inputs[0])[0], self.tensor(node.outputs[0])[0])
        return node.op == "Cast" and kinds == (FLOAT16, FLOAT32)

    def quantize_before(self, moving: Operation) -> None:
        """Moves the QuantizeLinear behind an operation that moves values in front of it, if nothing else reads its
        result. All tensors that such an operation joins have one scale."""
        [result] = moving.outputs
        readers = self.readers.get(result, [])
        if len(readers) != 1 or readers[0].node.op != "QuantizeLinear" or result in self.results:
            return
        [behind] = readers
        self.operations.remove(behind)
        self.readers[result] = []
        moving.outputs = behind.outputs
        for index, name in enumerate(moving.inputs):
            self.readers[name].remove(moving)
            before = next((reader for reader in self.readers[name] if reader.node.op == "QuantizeLinear"), None)
            if before is None:
                quantized = f"{name}, quantized"
                self.tensors[quantized] = (self.tensor(behind.outputs[0])[0], self.tensor(name)[1])
                before = Operation(behind.node, [name], behind.weights, [quantized])
                self.operations.insert(self.operations.index(moving), before)
                self.readers[name].append(before)
            moving.inputs[index] = before.outputs[0]
            self.readers.setdefault(before.outputs[0], []).append(moving)

    def shape(self, name: str) -> Tuple[int, ...]:
        """Returns a tensor's shape; a dynamic dimension counts as 1."""
        return tuple(size if isinstance(size, int) else 1 for size in self.tensor(name)[1] or ())

    def size(self, name: str) -> Tuple[str, int]:
        """Returns a tensor's type and bytes."""
        kind = DTYPES.get(self.tensor(name)[0], "unknown")
        if (kind == "float32" and self.half) or (kind in ("int8", "fp8") and not self.quantized):
            kind = "float16"
        count = 1
        for size in self.shape(name):
            count *= size
        return kind, count * BYTES.get(kind, 1)

    def kernels(self) -> List[Kernel]:
        """Fuses the operations into kernels."""
        groups: Dict[Operation, List[Operation]] = {}
        for operation in self.operations:
            if operation.node.op in LAYER_OPERATORS and operation not in groups:
                members = self.fused_with_layer(operation, groups)
                groups.update({member: members for member in members})
        for operation in self.operations:
            if operation in groups:
                continue
            members = self.group_to_join(operation, groups)
            members.append(operation)
            groups[operation] = members
        unique = {id(members): members for members in groups.values()}
        return [self.kernel(members) for members in unique.values()]

    def fused_with_layer(self, layer: Operation, groups: Container[Operation]) -> List[Operation]:
        """Returns a layer with the operations behind it that run within its kernel (rule 1)."""
        members = [layer]
        can_add, can_activate = layer.node.op == "Conv", True
        while True:
            [result] = members[-1].outputs[:1]
            readers = [reader for reader in self.readers.get(result, []) if reader not in groups]
            operators = sorted(reader.node.op for reader in readers)
            if result in self.results or len(readers) != len(self.readers.get(result, [])) or not readers:
                return members
            if operators == ["QuantizeLinear"]:
                return [*members, readers[0]]
            if can_activate and operators == ["Mul", "Sigmoid"]:  # swish
                sigmoid, product = sorted(readers, key=lambda reader: reader.node.op, reverse=True)
                if self.readers.get(sigmoid.outputs[0]) != [product]:
                    return members
                members += [sigmoid, product]
                can_add = can_activate = False
            elif len(readers) == 1 and can_activate and operators[0] in ACTIVATIONS:
                members += readers
                can_add = can_activate = False
            elif len(readers) == 1 and can_activate and operators[0] in ("Add", "Cast", "Mul"):
                if not self.fits(readers[0], result, can_add):
                    return members
                can_add = can_add and len(readers[0].inputs) == 1
                members += readers
            else:
                return members

    def fits(self, operation: Operation, result: str, can_add: bool) -> bool:
        """Tells if an Add, Mul or Cast of a layer's result runs within the layer's kernel: with a constant, or a
        residual add."""
        residual = operation.node.op == "Add" and can_add
        others = [name for name in operation.inputs if name != result]
        return not others or (residual and all(self.shape(name) == self.shape(result) for name in others))

    def group_to_join(self, operation: Operation, groups: Mapping[Operation, List[Operation]]) -> List[Operation]:
        """Returns the kernel of element-wise operations that an operation joins (rule 2), or a new list."""
        if operation.node.op not in ELEMENTWISE:
            return []
        for name in operation.inputs:
            writer = self.writer.get(name)
            members = groups.get(writer, []) if writer is not None else []
            if not members or any(member.node.op not in ELEMENTWISE for member in members):
                continue
            alone = all(reader.node.op == "QuantizeLinear" for reader in self.readers[name])
            if operation.node.op == "QuantizeLinear" and (not alone or name in self.results):
                continue
            if any(member.node.op == "QuantizeLinear" for member in members):
                continue
            if self.shape(operation.outputs[0]) == self.shape(name) and not self.waits_for(operation, members):
                return members
        return []

    def waits_for(self, operation: Operation, members: Sequence[Operation]) -> bool:
        """Tells if an operation reads, through others, what `members` write: then they cannot be one kernel."""
        waiting = [self.writer[name] for name in operation.inputs if name in self.writer]
        waiting = [writer for writer in waiting if writer not in members]
        seen: Set[Operation] = set(waiting)
        while waiting:
            for name in waiting.pop().inputs:
                writer = self.writer.get(name)
                if writer in members:
                    return True
                if writer is not None and writer not in seen:
                    seen.add(writer)
                    waiting.append(writer)
        return False

    def kernel(self, members: Sequence[Operation]) -> Kernel:
        """Counts what a kernel reads and writes."""
        written = [name for member in members for name in member.outputs]
        read = dict.fromkeys(name for member in members for name in member.inputs if name not in written)
        weights = dict.fromkeys(name for member in members for name in member.weights)
        leaving = [
            name
            for name in written
            if name in self.results or any(reader not in members for reader in self.readers.get(name, []))
        ]
        tensors = tuple(self.size(name) for name in (*read, *weights, *leaving))
        return Kernel(self.kind(members[0]), tuple(member.node.name for member in members), tensors)

    def kind(self, first: Operation) -> str:
        """Names the kind of a kernel by its first operation."""
        node = first.node
        if node.op == "Conv":
            return "depthwise convolutions" if is_depthwise(node, self.header) else "convolutions"
        if node.op in LAYER_OPERATORS:
            return "matrix products" if node.op in ("Gemm", "MatMul") else "transposed convolutions"
        return KINDS.get(node.op, "element-wise" if node.op in ELEMENTWISE else "others")


def is_depthwise(node: Node, header: Header) -> bool:
    """Tells if a convolution has groups of one channel each."""
    if node.attributes.get("group", 1) in (0, 1):
        return False
    writer = next((other for other in header.nodes if node.inputs[1] in other.outputs), None)  # DequantizeLinear
    weight = node.inputs[1] if writer is None else writer.inputs[0]
    _, dims = header.tensors.get(weight, (0, None))
    return dims is None or dims[1] == 1
