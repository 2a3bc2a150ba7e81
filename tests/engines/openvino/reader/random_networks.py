"""Draws small convolutional networks from a grammar, as ONNX models.

    network = [statement] * n over a pool of tensors; a statement reads one or two of them, and adds its outputs

A statement is an operator or a short pattern, such as squeeze-and-excite, with drawn attributes; its second operand is
another tensor of the pool, so that branches part and join. A statement that ONNX's shape inference refuses, or whose
outputs are too large, is left out. The same seed makes the same network.
"""

import itertools
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from effedge.engines.comparison.reference import open_session

OPSETS = range(11, 22)
MOST_NUMBERS = 20_000  # of a tensor
STATEMENTS = (4, 16)  # of which some do not fit
FLOAT = TensorProto.FLOAT


class Redraw(Exception):
    """A statement does not fit its operands."""


class Network:
    """A network while it is drawn.

    Attributes:
        pool: the float tensors that a statement may read, with their shapes.
    """

    def __init__(self, seed: Sequence[int]) -> None:
        self.random = np.random.default_rng(seed)
        self.opset = int(self.random.choice(OPSETS))
        self.nodes: List[onnx.NodeProto] = []
        self.initializers: List[onnx.TensorProto] = []
        self.count = 0
        shape = (self.pick(1, 1, 2), self.pick(1, 3, 4, 8), self.pick(5, 8, 9, 12), self.pick(6, 8, 11))
        self.input = shape
        self.pool: Dict[str, Tuple[int, ...]] = {"x": shape}
        self.others: Dict[str, Tuple[int, Tuple[int, ...]]] = {}  # outputs that are no floats

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.random.integers(len(choices)))]

    def tensor(self, rank: int = 0) -> str:
        """Picks a tensor, a late one more often; of a rank, unless that is 0."""
        names = [name for name, shape in self.pool.items() if not rank or len(shape) == rank]
        if not names:
            raise Redraw
        return names[-1 - min(int(self.random.geometric(0.5)) - 1, len(names) - 1)]

    def constant(self, value: Any, kind: Any = np.float32) -> str:
        self.count += 1
        self.initializers.append(numpy_helper.from_array(np.asarray(value, kind), f"c{self.count}"))
        return f"c{self.count}"

    def weight(self, *shape: int) -> str:
        return self.constant(self.random.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:]))))

    def add(self, op: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> str:
        """Adds a node, and its outputs to the pool; returns the first."""
        self.count += 1
        names = [f"t{self.count}_{index}" for index in range(outputs)]
        node = helper.make_node(op, list(inputs), names, name=f"{op}_{self.count}", **attributes)
        for name, (element, shape) in self.infer(node).items():
            if any(size < 1 for size in shape) or np.prod(shape) > MOST_NUMBERS:
                raise Redraw
            if element == FLOAT:
                self.pool[name] = shape
            else:
                self.others[name] = (element, shape)
        self.nodes.append(node)
        return names[0]

    def infer(self, node: onnx.NodeProto) -> Dict[str, Tuple[int, Tuple[int, ...]]]:
        """Infers the types and shapes of a node's outputs. Raises Redraw where there are none."""
        constants = [each for each in self.initializers if each.name in node.input]
        inputs = [helper.make_tensor_value_info(name, FLOAT, self.pool[name])
                  for name in dict.fromkeys(node.input) if name in self.pool]  # fmt: skip
        outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
        graph = helper.make_graph([node], "one", inputs, outputs, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        try:
            inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        except onnx.shape_inference.InferenceError as error:
            raise Redraw from error
        result = {}
        for output in inferred.graph.output:
            kind = output.type.tensor_type
            if not kind.HasField("shape") or any(not size.HasField("dim_value") for size in kind.shape.dim):
                raise Redraw
            result[output.name] = kind.elem_type, tuple(size.dim_value for size in kind.shape.dim)
        return result

    def axes(self, op: str, value: str, axes: Sequence[int], since: int, **attributes: Any) -> str:
        """Adds a node whose axes are an attribute before the opset `since`, and an input from it on."""
        if self.opset < since:
            return self.add(op, [value], axes=list(axes), **attributes)
        return self.add(op, [value, self.constant(axes, np.int64)], **attributes)

    def model(self) -> onnx.ModelProto:
        """Makes the model; what nothing reads is an output."""
        read = {name for node in self.nodes for name in node.input}
        outputs = [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in self.pool.items()
                   if name not in read and name != "x"]  # fmt: skip
        outputs += [helper.make_tensor_value_info(name, element, shape)
                    for name, (element, shape) in self.others.items() if name not in read]  # fmt: skip
        graph = helper.make_graph(self.nodes, "random", [helper.make_tensor_value_info("x", FLOAT, self.input)],
                                  outputs, self.initializers)  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def padding(network: Network, kernel: int) -> Dict[str, Any]:
    kind = network.pick("none", "same", "explicit", "explicit", "explicit")
    if kind == "none":
        return {}
    if kind == "same":
        return {"auto_pad": network.pick("SAME_UPPER", "SAME_LOWER", "VALID")}
    return {"pads": [int(network.random.integers(0, kernel)) for _ in range(4)]}


def convolution(network: Network) -> None:
    value = network.tensor(4)
    channels = network.pool[value][1]
    group = network.pick(1, 1, channels, 2)
    kernel, out = network.pick(1, 1, 2, 3, 5), group * network.pick(1, 2, 4)
    if channels % group or out > 64:
        raise Redraw
    dilation = network.pick(1, 1, 1, 2)
    pads = padding(network, kernel)
    if dilation > 1 and "auto_pad" in pads:
        raise Redraw  # ONNX Runtime has no dilation with SAME padding
    inputs = [value, network.weight(out, channels // group, kernel, kernel)]
    inputs += [network.weight(out)] if network.pick(0, 1) else []
    network.add("Conv", inputs, group=group, strides=[network.pick(1, 1, 2)] * 2, dilations=[dilation] * 2, **pads)


def transposed_convolution(network: Network) -> None:
    value = network.tensor(4)
    _, channels, height, width = network.pool[value]
    group, kernel, stride = network.pick(1, 1, 2, channels), network.pick(1, 2, 3, 4), network.pick(1, 2, 3)
    if channels % group:
        raise Redraw
    inputs = [value, network.weight(channels, network.pick(1, 2, 4), kernel, kernel)]
    form = network.pick("pads", "same", "shape")
    more: Dict[str, Any] = {"auto_pad": network.pick("SAME_UPPER", "SAME_LOWER")}
    if form == "pads":
        more = {"pads": [network.pick(0, 1) for _ in range(4)], "output_padding": [network.pick(0, stride - 1)] * 2}
    elif form == "shape":
        more = {"output_shape": [height * stride + network.pick(0, stride - 1), width * stride]}
        more.update(network.pick({}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}))
    network.add("ConvTranspose", inputs, group=group, strides=[stride] * 2, **more)


def pool(network: Network) -> None:
    value, op, kernel = network.tensor(4), network.pick("AveragePool", "MaxPool"), network.pick(2, 3)
    more = padding(network, kernel)
    if "auto_pad" not in more and network.pick(0, 1):
        more["ceil_mode"] = 1
    if op == "AveragePool" and network.pick(0, 1):
        more["count_include_pad"] = 1
    network.add(op, [value], kernel_shape=[kernel] * 2, strides=[network.pick(1, 2, 3)] * 2, **more)


def activation(network: Network) -> None:
    op = network.pick("Relu", "Sigmoid", "Tanh", "HardSigmoid", "LeakyRelu", "Elu", "Softplus", "Clip", "PRelu", "Abs",
                      "HardSwish", "Mish", "Gelu", "Erf", "Neg", "Softmax", "LogSoftmax", "Swish")  # fmt: skip
    if network.opset < {"HardSwish": 14, "Mish": 18, "Gelu": 20}.get(op, 0):
        raise Redraw
    value = network.tensor()
    rank = len(network.pool[value])
    if op == "Swish":
        network.add("Mul", [value, network.add("Sigmoid", [value])])
    elif op == "Clip":
        network.add(op, [value, network.constant(network.pick(0, -1)), network.constant(network.pick(6, 1))])
    elif op == "PRelu":
        network.add(op, [value, network.weight(*([network.pool[value][1], 1, 1] if rank == 4 else [1]))])
    elif op.endswith("Softmax"):
        network.add(op, [value], axis=int(network.random.integers(-rank, rank)))
    else:
        network.add(op, [value])


def normalization(network: Network) -> None:
    value, op = network.tensor(4), network.pick("BatchNormalization", "InstanceNormalization", "LRN")
    channels = network.pool[value][1]
    if op == "LRN":
        network.add(op, [value], size=network.pick(3, 5))
        return
    inputs = [value, network.constant(network.random.uniform(0.5, 2, channels)), network.weight(channels)]
    if op == "BatchNormalization":
        inputs += [network.weight(channels), network.constant(network.random.uniform(0.5, 2, channels))]
    network.add(op, inputs)


def arithmetic(network: Network) -> None:
    value, op = network.tensor(), network.pick("Add", "Sub", "Mul", "Max", "Min", "Div")
    shape = network.pool[value]
    if op == "Div" or network.pick(0, 0, 1):
        broadcast = [size if network.pick(0, 1) else 1 for size in shape][network.pick(0, 1) :]
        operand = network.constant(network.random.uniform(0.5, 2, broadcast))
        network.add(op, [value, operand] if network.pick(0, 1, 1) or op == "Div" else [operand, value])
        return
    network.add(op, [value, network.tensor()])


def concatenation(network: Network) -> None:
    first, second = network.tensor(), network.tensor()
    rank = len(network.pool[first])
    network.add(
        "Concat", [first, second, *([first] if network.pick(0, 0, 1) else [])], axis=network.pick(1, 1, -1) % rank
    )


def resize(network: Network) -> None:
    value, mode = network.tensor(4), network.pick("nearest", "linear", "cubic")
    n, c, height, width = network.pool[value]
    size = [network.pick(height, 2 * height, 7, 4), network.pick(width, 2 * width, 10, 5)]
    empty = network.constant(np.zeros(0))
    transform = network.pick("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
    more: Dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": transform}
    if mode == "nearest":
        more["nearest_mode"] = network.pick("floor", "round_prefer_floor", "ceil", "round_prefer_ceil")
    elif network.opset >= 18 and network.pick(0, 1):
        more["antialias"] = 1
    if network.pick(0, 1):
        network.add("Resize", [value, empty, empty, network.constant([n, c, *size], np.int64)], **more)
    else:
        network.add("Resize", [value, empty, network.constant([1, 1, size[0] / height, size[1] / width])], **more)


def reduction(network: Network) -> None:
    value = network.tensor()
    op = network.pick("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceLogSumExp",
                      "ReduceSumSquare", "GlobalAveragePool", "GlobalMaxPool", "ArgMax")  # fmt: skip
    rank = len(network.pool[value])
    if op.startswith("Global"):
        network.add(op, [network.tensor(4)])
        return
    axes = sorted({int(network.random.integers(0, rank)) for _ in range(network.pick(1, 2))})
    axes = [axis - rank if network.pick(0, 1) else axis for axis in axes]
    if op == "ArgMax":
        network.add(op, [value], axis=axes[0], keepdims=network.pick(0, 1))
    else:
        network.axes(op, value, axes, 13 if op == "ReduceSum" else 18, keepdims=network.pick(0, 1))


def squeeze_excite(network: Network) -> None:
    value = network.tensor(4)
    channels = network.pool[value][1]
    squeezed = network.add("GlobalAveragePool", [value])
    narrow = network.add("Relu", [network.add("Conv", [squeezed, network.weight(2, channels, 1, 1)])])
    gate = network.add(
        network.pick("Sigmoid", "HardSigmoid"), [network.add("Conv", [narrow, network.weight(channels, 2, 1, 1)])]
    )
    network.add("Mul", [value, gate])


def movement(network: Network) -> None:
    kind = network.pick("pad", "slice", "transpose", "flatten", "reshape", "shuffle", "split", "depth", "squeeze")
    value = network.tensor(4)
    n, channels, height, width = network.pool[value]
    if kind == "pad":
        pads = [0, 0, network.pick(0, 1, 2), network.pick(0, 1), 0, 0, network.pick(0, 1), network.pick(0, 1, 2)]
        network.add("Pad", [value, network.constant(pads, np.int64)], mode=network.pick("constant", "reflect", "edge"))
    elif kind == "slice":
        axis, step = network.pick(1, 2, 3), network.pick(1, 1, 2, -1)
        starts, ends = ([network.pick(0, 1)], [network.pick(99, -1)]) if step > 0 else ([-1], [-99])
        network.add("Slice", [value, *(network.constant(each, np.int64) for each in (starts, ends, [axis], [step]))])
    elif kind == "transpose":
        network.add("Transpose", [value], perm=network.pick([0, 2, 3, 1], [0, 1, 3, 2], [0, 3, 1, 2]))
    elif kind == "flatten":
        network.add("Flatten", [value], axis=network.pick(1, 2, -1))
    elif kind == "reshape":
        network.add(
            "Reshape", [value, network.constant(network.pick([0, -1], [0, 0, -1], [n, channels, 1, -1]), np.int64)]
        )
    elif kind == "shuffle":
        if channels % 2:
            raise Redraw
        parts = network.add("Reshape", [value, network.constant([n, 2, channels // 2, height, width], np.int64)])
        parts = network.add("Transpose", [parts], perm=[0, 2, 1, 3, 4])
        network.add("Reshape", [parts, network.constant([n, channels, height, width], np.int64)])
    elif kind == "split":
        if channels < 2:
            raise Redraw
        sizes = [1, channels - 1]
        if network.opset < 13:
            network.add("Split", [value], 2, axis=1, split=sizes)
        else:
            network.add("Split", [value, network.constant(sizes, np.int64)], 2, axis=1)
    elif kind == "depth":
        if network.pick(0, 1):
            network.add("DepthToSpace", [value], blocksize=2, mode=network.pick("DCR", "CRD"))
        else:
            network.add("SpaceToDepth", [value], blocksize=2)
    else:
        network.axes(
            "Squeeze", network.axes("Unsqueeze", value, [network.pick(0, 2, -1)], 13), [0] if n == 1 else [2], 13
        )


def product(network: Network) -> None:
    value = network.tensor()
    shape = network.pool[value]
    if len(shape) == 2 and network.pick(0, 1):
        out, transposed = network.pick(1, 5, 8), network.pick(0, 1)
        weight = network.weight(*((out, shape[1]) if transposed else (shape[1], out)))
        network.add("Gemm", [value, weight, network.weight(out)], transB=transposed, alpha=network.pick(1.0, 0.5))
    elif len(shape) == 4 and network.pick(0, 1):
        network.add("MatMul", [value, network.add("Transpose", [value], perm=[0, 1, 3, 2])])
    else:
        network.add("MatMul", [value, network.weight(shape[-1], network.pick(1, 4, 7))])


GRAMMAR: Sequence[Tuple[Callable[[Network], None], int]] = (
    (convolution, 6), (transposed_convolution, 2), (pool, 3), (activation, 5), (normalization, 2), (arithmetic, 4),
    (concatenation, 2), (resize, 2), (reduction, 2), (squeeze_excite, 1), (movement, 3), (product, 1),
)  # fmt: skip


def random_network(seed: int) -> onnx.ModelProto:
    """Draws a network that ONNX Runtime runs."""
    for attempt in itertools.count():
        network = Network([seed, attempt])
        rules = [rule for rule, weight in GRAMMAR for _ in range(weight)]
        for _ in range(int(network.random.integers(*STATEMENTS))):
            try_statement(network, network.pick(*rules))
        if network.nodes and runs(network.model(), network.input):
            return network.model()
    raise AssertionError


def try_statement(network: Network, rule: Callable[[Network], None]) -> None:
    """Adds a statement, or nothing if it does not fit."""
    pool, others = dict(network.pool), dict(network.others)
    nodes, initializers = len(network.nodes), len(network.initializers)
    try:
        rule(network)
    except Redraw:
        network.pool, network.others = pool, others
        del network.nodes[nodes:], network.initializers[initializers:]


def runs(model: onnx.ModelProto, shape: Sequence[int]) -> bool:
    """Tells if ONNX Runtime runs the model: it has fewer forms than ONNX."""
    try:
        open_session(model.SerializeToString()).run(None, {"x": np.ones(shape, np.float32)})
    except Exception:  # its errors have no common class but Exception
        return False
    return True
