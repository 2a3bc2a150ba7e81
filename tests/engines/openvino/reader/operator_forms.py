"""Lists the forms of the ONNX operators that exporters of convolutional networks write, as models of one node.

A form is an operator with its attributes, the ranks and types of its inputs, and what is constant of them. Each is
written for every version of the operator between opset 11 and 21 that has it (https://onnx.ai/onnx/operators). `forms`
yields all of them; ONNX Runtime computes the expected outputs.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Sequence, Tuple, Union

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = (11, 21)
RANDOM = np.random.default_rng(0)
Shape = Tuple[int, ...]
Input = Union[Shape, np.ndarray, None]  # a shape: normal numbers at run time; None: left out


@dataclass(frozen=True)
class Constant:
    """An input that is an initializer."""

    value: Any


@dataclass(frozen=True)
class Form:
    """An operator at an opset.

    inputs: arrays that are fed, constants, or None for an optional input that is left out.
    """

    op: str
    opset: int
    inputs: Sequence[Any]
    attributes: Dict[str, Any] = field(default_factory=dict)
    outputs: int = 1

    @property
    def name(self) -> str:
        """Names the form, such as "Softmax-11(2x3x4; axis=-1)"."""
        parts = []
        for value in self.inputs:
            array = value.value if isinstance(value, Constant) else value
            text = "-" if array is None else f"{'x'.join(map(str, array.shape)) or 'scalar'}"
            kind = "" if array is None or array.dtype == np.float32 else f":{array.dtype}"
            shown = f"={array.ravel().tolist()}" if isinstance(value, Constant) and array.size <= 8 else ""
            parts.append(f"{text}{kind}{shown}")
        attributes = [f"{key}={value}" for key, value in self.attributes.items()]
        return f"{self.op}-{self.opset}({', '.join(parts)}; {', '.join(attributes)})"

    def feeds(self) -> Dict[str, np.ndarray]:
        return {f"x{index}": value for index, value in enumerate(self.inputs) if isinstance(value, np.ndarray)}

    def model(self) -> onnx.ModelProto:
        """Makes the model; what is fed is an input, and every output of the node one of the model's."""
        names = ["" if value is None else f"x{index}" for index, value in enumerate(self.inputs)]
        outputs = [f"y{index}" for index in range(self.outputs)]
        node = helper.make_node(self.op, names, outputs, name="node", **self.attributes)
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in self.feeds().items()
        ]
        constants = [
            numpy_helper.from_array(value.value, f"x{index}")
            for index, value in enumerate(self.inputs)
            if isinstance(value, Constant)
        ]
        graph = helper.make_graph([node], "form", inputs, [helper.make_empty_tensor_value_info(y) for y in outputs],
                                  constants)  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        inferred = onnx.shape_inference.infer_shapes(model)
        for output in inferred.graph.output:  # a shape that is not known is left to the runtimes
            if not output.type.tensor_type.elem_type:
                output.type.tensor_type.elem_type = TensorProto.FLOAT
        return inferred


def floats(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return RANDOM.uniform(0.2, 2, shape).astype(np.float32)


def constant(value: Any, dtype: type = np.int64) -> Constant:
    return Constant(np.asarray(value, dtype))


def weight(*shape: int) -> Constant:
    return Constant((RANDOM.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))


def versions(op: str, first: int = OPSETS[0], last: int = OPSETS[1]) -> List[int]:
    """Lists the opsets, each the last with its version of the operator, from `first` to `last`."""
    since = {}
    for opset in range(first, last + 1):
        since[onnx.defs.get_schema(op, opset, "").since_version] = opset
    return sorted(since.values())


def each(op: str, inputs: Sequence[Any], first: int = OPSETS[0], last: int = OPSETS[1], outputs: int = 1,
         **attributes: Any) -> Iterator[Form]:  # fmt: skip
    """Yields a form at each version of the operator."""
    for opset in versions(op, first, last):
        yield Form(op, opset, inputs, attributes, outputs)


def grid(**choices: Sequence[Any]) -> Iterator[Dict[str, Any]]:
    """Yields each combination; an attribute whose choice is None is left out."""
    for values in itertools.product(*choices.values()):
        yield {key: value for key, value in zip(choices, values) if value is not None}


def pools() -> Iterator[Form]:
    sizes = {1: (11,), 2: (10, 13), 3: (6, 7, 8)}
    for op in ("AveragePool", "MaxPool"):
        for rank, size in sizes.items():
            x = floats(2, 3, *size)
            for a in grid(kernel=(2, 3), stride=(1, 2, 3), pad=(0, 1, (0, 1), (1, 0)), ceil_mode=(None, 1),
                          include=(None, 1) if op == "AveragePool" else (None,), dilation=(None, 2)):  # fmt: skip
                begin, end = a["pad"] if isinstance(a["pad"], tuple) else (a["pad"],) * 2
                if max(begin, end) >= a["kernel"] or rank == 3 and a["stride"] == 1:
                    continue
                attributes = dict(kernel_shape=[a["kernel"]] * rank, strides=[a["stride"]] * rank,
                                  pads=[begin] * rank + [end] * rank)  # fmt: skip
                if "ceil_mode" in a:
                    attributes["ceil_mode"] = 1
                if "include" in a:
                    attributes["count_include_pad"] = 1
                first = 11
                if "dilation" in a:
                    attributes["dilations"] = [a["dilation"]] * rank
                    first = 19 if op == "AveragePool" else 11
                yield from each(op, [x], first=first, **attributes)
        for auto_pad in ("SAME_UPPER", "SAME_LOWER", "VALID"):
            for kernel, stride in ((2, 1), (3, 2), (2, 3)):
                for include in (0, 1) if op == "AveragePool" else (0,):
                    more = {"count_include_pad": 1} if include else {}
                    yield from each(op, [floats(1, 2, 10, 11)], kernel_shape=[kernel] * 2, strides=[stride] * 2,
                                    auto_pad=auto_pad, **more)  # fmt: skip
        yield from each(op, [floats(1, 2, 10, 11)], kernel_shape=[3, 2])
        yield from each(op, [floats(1, 2, 10, 11)], kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 0, 1])
    for pads, ceil_mode in itertools.product(([0] * 4, [1] * 4), (0, 1)):
        yield from each("MaxPool", [floats(1, 2, 9, 8)], outputs=2, kernel_shape=[3, 3], strides=[2, 2], pads=pads,
                        ceil_mode=ceil_mode)  # fmt: skip
    for kind in (np.int8, np.uint8):
        x = RANDOM.integers(0, 100, (1, 2, 8, 8)).astype(kind)
        yield from each("MaxPool", [x], first=12, kernel_shape=[2, 2], pads=[1, 1, 1, 1])
    for op in ("GlobalAveragePool", "GlobalMaxPool"):
        for size in sizes.values():
            yield from each(op, [floats(2, 3, *size)])
    for p, pads in itertools.product((1, 2, 3), ([0] * 4, [1, 0, 1, 1])):
        yield from each("LpPool", [floats(1, 2, 8, 9)], kernel_shape=[2, 2], strides=[2, 1], p=p, pads=pads)
    yield from each("GlobalLpPool", [floats(1, 2, 5, 6)], p=2)


def convolutions() -> Iterator[Form]:
    sizes = {1: (11,), 2: (10, 9), 3: (6, 5, 7)}
    for rank, size in sizes.items():
        for a in grid(kernel=(1, 3), stride=(1, 2), pad=(0, 1, (0, 2)), dilation=(1, 2), group=(1, 2, 4)):
            begin, end = a["pad"] if isinstance(a["pad"], tuple) else (a["pad"],) * 2
            attributes = dict(strides=[a["stride"]] * rank, pads=[begin] * rank + [end] * rank,
                              dilations=[a["dilation"]] * rank, group=a["group"])  # fmt: skip
            yield from each("Conv", [floats(1, 4, *size), weight(8, 4 // a["group"], *[a["kernel"]] * rank), weight(8)],
                            **attributes)  # fmt: skip
            if rank < 3 or a["dilation"] == 1:
                yield from each(
                    "ConvTranspose",
                    [floats(1, 4, *size), weight(4, 6 // min(a["group"], 2), *[a["kernel"]] * rank)],
                    **{**attributes, "group": min(a["group"], 2)},
                )
    for auto_pad, stride, kernel, dilation, group in itertools.product(
        ("SAME_UPPER", "SAME_LOWER", "VALID"), (1, 2, 3), (2, 3), (1, 2), (1, 2)
    ):
        common = dict(auto_pad=auto_pad, strides=[stride] * 2, dilations=[dilation] * 2, group=group)
        yield from each("Conv", [floats(1, 4, 10, 9), weight(6, 4 // group, kernel, kernel)], **common)
        yield from each("ConvTranspose", [floats(1, 4, 5, 6), weight(4, 6 // group, kernel, kernel)], **common)
    for stride, kernel, group, extra, bias in itertools.product((2, 3), (2, 3, 4), (1, 2, 4), (0, 1), (False, True)):
        inputs = [floats(2, 4, 5, 6), weight(4, 8 // group, kernel, kernel), *([weight(8)] if bias else [])]
        yield from each("ConvTranspose", inputs, strides=[stride] * 2, group=group, output_padding=[extra] * 2,
                        pads=[1, 0, 0, 1])  # fmt: skip
        for auto_pad in (None, "SAME_UPPER", "SAME_LOWER", "NOTSET"):
            shape = [5 * stride + extra, 6 * stride]
            more = {} if auto_pad is None else {"auto_pad": auto_pad}
            yield from each("ConvTranspose", inputs, strides=[stride] * 2, group=group, output_shape=shape, **more)
    yield from each("ConvTranspose", [floats(1, 4, 5), weight(4, 2, 3)], strides=[2], output_shape=[10], group=2)
    yield from each("ConvTranspose", [floats(1, 4, 3, 4, 5), weight(4, 2, 3, 3, 3)], strides=[2] * 3,
                    output_shape=[6, 8, 10], group=2)  # fmt: skip
    yield from each("Conv", [floats(1, 4, 8, 8), weight(6, 4, 3, 3)], kernel_shape=[3, 3])  # no pads, no bias
    yield from each("Conv", [floats(1, 4, 8, 8), floats(6, 4, 3, 3)], pads=[1] * 4)  # weights at run time
    yield from each("ConvTranspose", [floats(1, 4, 5, 5), floats(4, 6, 3, 3)], strides=[2, 2], pads=[1] * 4)
    yield from each("DeformConv", [floats(1, 4, 6, 6), weight(6, 4, 3, 3), floats(1, 18, 4, 4)], first=19)
    yield from each("DeformConv", [floats(1, 4, 6, 6), weight(6, 2, 3, 3), floats(1, 36, 6, 6), None,
                                   floats(1, 18, 6, 6)], first=19, pads=[1] * 4, offset_group=2, group=2)  # fmt: skip


def resizes() -> Iterator[Form]:
    sizes: Tuple[Tuple[int, int], ...] = ((12, 20), (16, 7), (5, 31))
    transforms = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
    x = floats(1, 2, 9, 13)
    empty = constant([], np.float32)
    for mode, transform, size in itertools.product(("nearest", "linear", "cubic"), transforms, sizes):
        first = 19 if transform == "half_pixel_symmetric" else 11
        rounding = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil") if mode == "nearest" else (None,)
        for nearest in rounding:
            more = {"nearest_mode": nearest} if nearest else {}
            common: Dict[str, Any] = dict(mode=mode, coordinate_transformation_mode=transform, first=first, **more)
            yield from each("Resize", [x, empty, empty, constant([1, 2, *size])], **common)
            scales = constant([1, 1, size[0] / 9, size[1] / 13], np.float32)
            yield from each("Resize", [x, empty, scales], **common)
    for mode, size, transform in itertools.product(("linear", "cubic"), sizes, transforms[:4]):
        yield from each("Resize", [x, None, None, constant([1, 2, *size])], first=18, mode=mode, antialias=1,
                        coordinate_transformation_mode=transform)  # fmt: skip
    for factor in (2, 3):
        yield from each("Resize", [x, empty, constant([1, 1, factor, factor], np.float32)])
    for a in grid(cubic_coeff_a=(-0.5, None), exclude_outside=(1, None)):
        yield from each("Resize", [x, empty, empty, constant([1, 2, 20, 7])], mode="cubic", **a)
    for axes, policy in itertools.product(([2, 3], [3, 2], [-1], [1, 2, 3]), (None, "not_larger", "not_smaller")):
        size = [8, 20, 30][: len(axes)]
        more = {"keep_aspect_ratio_policy": policy} if policy else {}
        yield from each("Resize", [x, None, None, constant(size)], first=18, axes=axes, mode="linear", **more)
        yield from each("Resize", [x, None, constant([0.5, 2, 1.5][: len(axes)], np.float32)], first=18, axes=axes)
    for rank in (3, 5):
        many = floats(*(1, 2, 5, 6, 7)[:rank])
        scales = constant([1, 1, 2, 2, 2][:rank], np.float32)
        for mode in ("nearest", "linear"):
            yield from each("Resize", [many, empty, scales], mode=mode)
    roi = constant([0, 0, 0.1, 0.2, 1, 1, 0.8, 0.9], np.float32)
    yield from each("Resize", [x, roi, empty, constant([1, 2, 6, 6])], mode="linear",
                    coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=0.5)  # fmt: skip
    for mode, padding, corners in itertools.product(
        ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection"), (0, 1)
    ):
        grid_at = RANDOM.uniform(-1.3, 1.3, (1, 6, 5, 2)).astype(np.float32)
        yield from each("GridSample", [x, grid_at], first=16, last=19, mode=mode, padding_mode=padding,
                        align_corners=corners)  # fmt: skip
    for mode, blocks in itertools.product(("DCR", "CRD"), (2, 3)):
        yield from each("DepthToSpace", [floats(2, 36, 3, 4)], blocksize=blocks, mode=mode)
    yield from each("SpaceToDepth", [floats(2, 3, 6, 12)], blocksize=3)
    boxes = constant([[0, 0, 6, 7], [1.5, 2, 8, 5.5]], np.float32)
    for mode, ratio in itertools.product(("avg", "max"), (0, 2)):
        yield from each("RoiAlign", [x, boxes, constant([0, 0])], mode=mode, output_height=3, output_width=2,
                        sampling_ratio=ratio, spatial_scale=0.5)  # fmt: skip


REDUCTIONS = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
              "ReduceProd", "ReduceSum", "ReduceSumSquare")  # fmt: skip


def reductions() -> Iterator[Form]:
    x = positive(2, 3, 4, 5)
    for op, axes, keepdims in itertools.product(REDUCTIONS, (None, [1], [-1], [2, 3], [1, -1], [0]), (None, 0, 1)):
        as_input = 13 if op == "ReduceSum" else 18
        more = {} if keepdims is None else {"keepdims": keepdims}
        yield from each(op, [x], last=as_input - 1, **({} if axes is None else {"axes": axes}), **more)
        yield from each(op, [x] if axes is None else [x, constant(axes)], first=as_input, **more)
    for op in REDUCTIONS:
        as_input = 13 if op == "ReduceSum" else 18
        yield from each(op, [x, constant([])], first=as_input, noop_with_empty_axes=1)
        yield from each(op, [x], first=as_input, noop_with_empty_axes=1)
        yield from each(op, [positive(7)], first=as_input, keepdims=0)
    for op, kind in itertools.product(("ReduceMax", "ReduceSum", "ReduceMin", "ReduceProd"), (np.int32, np.int64)):
        integers = RANDOM.integers(-3, 4, (2, 3, 4)).astype(kind)
        yield from each(op, [integers, constant([1])], first=13 if op == "ReduceSum" else 18, keepdims=0)
    for op, axis, keepdims, last in itertools.product(("ArgMax", "ArgMin"), (None, 0, 1, -1), (0, 1), (0, 1)):
        ties = RANDOM.integers(0, 3, (3, 4, 5)).astype(np.float32)
        more = {} if axis is None else {"axis": axis}
        yield from each(op, [ties], first=12 if last else 11, keepdims=keepdims, **more,
                        **({"select_last_index": 1} if last else {}))  # fmt: skip
    for axis, exclusive, reverse in itertools.product((0, -1, 1), (0, 1), (0, 1)):
        yield from each("CumSum", [floats(2, 3, 4), constant(axis)], exclusive=exclusive, reverse=reverse)
    for axis, largest, ordered in itertools.product((-1, 1), (0, 1), (1,)):
        yield from each("TopK", [floats(2, 9, 8), constant([3])], outputs=2, axis=axis, largest=largest, sorted=ordered)
        ties = RANDOM.integers(0, 3, (2, 9, 8)).astype(np.float32)
        yield from each("TopK", [ties, constant([5])], outputs=2, axis=axis, largest=largest)


def activations() -> Iterator[Form]:
    x = floats(2, 3, 4, 5)
    plain = ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSwish", "Identity", "LeakyRelu", "Mish", "Neg",
             "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tanh", "Atan", "Elu",
             "Celu", "HardSigmoid", "ThresholdedRelu", "Cosh", "Sinh", "Gelu", "Shrink", "IsNaN", "IsInf", "Not",
             "Tan", "Asinh")  # fmt: skip
    since = {"HardSwish": 14, "Mish": 18, "Gelu": 20, "Celu": 12}
    for op in plain:
        value = x > 0 if op == "Not" else np.where(x > 2, np.inf, x).astype(np.float32) if op == "IsInf" else x
        yield from each(op, [value], first=since.get(op, 11))
    yield from each("Round", [np.float32([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.49, 4.51]])])
    for op in ("Log", "Sqrt", "Reciprocal"):
        yield from each(op, [positive(2, 3, 4)])
    for op in ("Acos", "Asin", "Atanh", "Acosh"):
        yield from each(op, [positive(2, 3) / 2.5 + (1 if op == "Acosh" else 0)])
    yield from each("LeakyRelu", [x], alpha=0.3)
    yield from each("Elu", [x], alpha=0.7)
    yield from each("Celu", [x], first=12, alpha=0.7)
    yield from each("Selu", [x], alpha=1.5, gamma=1.1)
    yield from each("HardSigmoid", [x], alpha=1 / 6, beta=0.5)
    yield from each("HardSigmoid", [x], alpha=0.4, beta=0.1)
    yield from each("ThresholdedRelu", [x], alpha=0.5)
    yield from each("Shrink", [x], lambd=0.4, bias=0.2)
    yield from each("Gelu", [x], first=20, approximate="tanh")
    yield from each("IsInf", [np.float32([1, np.inf, -np.inf])], detect_negative=0)
    for shape in ((3, 1, 1), (1,), (1, 3, 1, 1), (3, 4, 5), (5,)):
        yield from each("PRelu", [x, weight(*shape)])
    for rank, axis in itertools.product((1, 2, 3, 4, 5), (None, 0, 1, 2, 3, -1, -2)):
        if axis is not None and not -rank <= axis < rank:
            continue
        value = floats(*(3, 4, 2, 5, 2)[:rank])
        for op in ("Softmax", "LogSoftmax", "Hardmax"):
            if axis is None and rank == 1:
                continue
            yield from each(op, [value], **({} if axis is None else {"axis": axis}))
    for low, high in itertools.product((None, -0.5), (None, 0.7)):
        inputs = [None if end is None else constant(end, np.float32) for end in (low, high)]
        while inputs and inputs[-1] is None:
            inputs.pop()
        yield from each("Clip", [x, *inputs])
    yield from each("Clip", [RANDOM.integers(-9, 9, (3, 4)).astype(np.int32), constant(-3, np.int32),
                             constant(5, np.int32)], first=12)  # fmt: skip


def normalizations() -> Iterator[Form]:
    for size in ((6,), (6, 7), (3, 4, 5)):
        x = floats(2, 4, *size)
        positive_ = [Constant(positive(4)) for _ in range(2)]
        yield from each("BatchNormalization", [x, positive_[0], weight(4), weight(4), positive_[1]], epsilon=1e-3)
        yield from each("InstanceNormalization", [x, weight(4), weight(4)], epsilon=1e-3)
        for groups in (1, 2, 4):
            yield from each("GroupNormalization", [x, weight(4), weight(4)], first=21, num_groups=groups)
    yield from each("BatchNormalization", [floats(3, 4), Constant(positive(4)), weight(4), weight(4),
                                           Constant(positive(4))])  # fmt: skip
    for axis, bias in itertools.product((None, -1, 1, -2, 2), (True, False)):
        x = floats(2, 3, 4, 5)
        shape = x.shape[-1 if axis is None else axis :]
        more = {} if axis is None else {"axis": axis}
        yield from each(
            "LayerNormalization", [x, weight(*shape), *([weight(*shape)] if bias else [])], first=17, **more
        )
    for size, alpha, bias in ((3, None, None), (5, 0.01, 2.0), (2, 0.1, 1.0)):
        more = {"alpha": alpha, "bias": bias} if alpha else {}
        yield from each("LRN", [floats(1, 7, 4, 5)], size=size, **more)
    for axis, p in itertools.product((None, 1, 2), (1, 2)):
        yield from each("LpNormalization", [floats(2, 3, 4)], p=p, **({} if axis is None else {"axis": axis}))
    yield from each("MeanVarianceNormalization", [floats(2, 3, 4, 5)])
    yield from each("MeanVarianceNormalization", [floats(2, 3, 4, 5)], axes=[2, 3])


BROADCASTS: Tuple[Tuple[Shape, Shape], ...] = (
    ((2, 3, 4, 5), (2, 3, 4, 5)), ((2, 3, 4, 5), (3, 1, 1)), ((2, 3, 4, 5), (1, 3, 1, 1)), ((2, 3, 4, 5), (5,)),
    ((2, 3, 4, 5), ()), ((2, 1, 4, 1), (1, 3, 1, 5)), ((4, 5), (2, 3, 4, 5)), ((2, 3, 1, 1), (2, 3, 4, 5)),
)  # fmt: skip


def arithmetic() -> Iterator[Form]:
    for op, (a, b), fixed in itertools.product(("Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum"), BROADCASTS,
                                              (False, True)):  # fmt: skip
        second = positive(*b)
        yield from each(op, [floats(*a), Constant(second) if fixed else second])
    for op in ("Max", "Min", "Sum", "Mean"):
        yield from each(op, [floats(2, 3)])
        yield from each(op, [floats(2, 3), floats(3), floats(2, 1)])
    for (a, b), op in itertools.product(BROADCASTS, ("Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual")):
        ties = [RANDOM.integers(0, 3, shape).astype(np.float32) for shape in (a, b)]
        yield from each(op, ties, first=12 if op.endswith("OrEqual") else 11)
    for op, (a, b) in itertools.product(("And", "Or", "Xor"), BROADCASTS):
        yield from each(op, [RANDOM.integers(0, 2, shape).astype(bool) for shape in (a, b)])
    for op, kind in itertools.product(("Add", "Sub", "Mul", "Div", "Max", "Min"), (np.int32, np.int64, np.float64)):
        values = [RANDOM.integers(-9, 9, (2, 3)).astype(kind), RANDOM.integers(1, 4, (3,)).astype(kind)]
        yield from each(op, values, first=12 if op in ("Max", "Min") else 11)
    yield from each("Div", [np.int64([[-7, 7, -8, 8]]), np.int64([[2, -2, 3, -3]])])
    for fmod in (0, 1):
        yield from each("Mod", [floats(2, 3) * 5, positive(3) + 1], fmod=1)
        yield from each("Mod", [RANDOM.integers(-9, 9, (2, 6)).astype(np.int64), np.int64([3, 4, -3, 5, -2, 7])],
                        fmod=fmod)  # fmt: skip
    for exponent in (2.0, 0.5, -1.0, 3.0):
        yield from each("Pow", [positive(2, 3), constant(exponent, np.float32)])
    yield from each("Pow", [positive(2, 3), constant(2, np.int64)], first=12)
    yield from each("Where", [floats(2, 3, 4) > 0, floats(3, 4), floats(2, 1, 1)])
    yield from each("Where", [floats(4) > 0, floats(2, 3, 4), constant(0, np.float32)])
    for kinds in itertools.permutations(
        (np.float32, np.int32, np.int64, np.bool_, np.uint8, np.float64, np.float16), 2
    ):
        value = (np.abs(floats(3, 4)) * 3).astype(kinds[0])
        yield from each("Cast", [value], to=helper.np_dtype_to_tensor_dtype(np.dtype(kinds[1])))
    for to in (TensorProto.INT32, TensorProto.INT64, TensorProto.INT8):
        yield from each("Cast", [floats(3, 4) * 5], to=to)


def products() -> Iterator[Form]:
    pairs: Tuple[Tuple[Shape, Shape], ...] = (
        ((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)),
        ((1, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (3, 4, 5)), ((2, 3, 4), (4,)),
    )  # fmt: skip
    for (a, b), fixed in itertools.product(pairs, (False, True)):
        yield from each("MatMul", [floats(*a), Constant(floats(*b)) if fixed else floats(*b)])
    for a, b in pairs[:3]:
        yield from each("MatMul", [Constant(floats(*a)), floats(*b)])
    for trans_a, trans_b, alpha, beta, bias in itertools.product((0, 1), (0, 1), (None, 0.5), (None, 0.3),
                                                                 (None, (5,), (3, 5), (3, 1), (1, 5), ())):  # fmt: skip
        a, b = ((4, 3) if trans_a else (3, 4)), ((5, 4) if trans_b else (4, 5))
        more = {key: value for key, value in (("alpha", alpha), ("beta", beta)) if value is not None}
        inputs = [floats(*a), Constant(floats(*b)), *([] if bias is None else [Constant(floats(*bias))])]
        yield from each("Gemm", inputs, transA=trans_a, transB=trans_b, **more)
    for equation, shapes in (("bij,bjk->bik", ((2, 3, 4), (2, 4, 5))), ("bchw,cd->bdhw", ((2, 3, 4, 5), (3, 6))),
                             ("bhqd,bhkd->bhqk", ((1, 2, 3, 4), (1, 2, 5, 4))), ("ii->i", ((4, 4),)),
                             ("ij->ji", ((3, 4),)), ("bij->b", ((2, 3, 4),)), ("i,j->ij", ((3,), (4,)))):  # fmt: skip
        yield from each("Einsum", [floats(*shape) for shape in shapes], first=12, equation=equation)


def movements() -> Iterator[Form]:
    x = floats(2, 3, 4, 5)
    for perm in (None, (0, 2, 3, 1), (3, 1, 0, 2)):
        yield from each("Transpose", [x], **({} if perm is None else {"perm": perm}))
    for axis in (None, 0, 1, 2, 4, -1, -2):
        yield from each("Flatten", [x], **({} if axis is None else {"axis": axis}))
        if axis is not None and axis < 4:
            yield from each("Concat", [x, x[:, :], Constant(x)], axis=axis)
            yield from each("Concat", [x], axis=axis)
    for shape in ((2, -1), (0, 0, -1), (6, 20), (-1,), (0, -1, 1, 5)):
        yield from each("Reshape", [x, constant(shape)])
    yield from each("Reshape", [floats(0, 3, 4), constant([3, 0, 4])], first=14, allowzero=1)
    for axes in ([0], [-1], [1, 3], [-1, 0]):
        yield from each("Unsqueeze", [x], last=12, axes=axes)
        yield from each("Unsqueeze", [x, constant(axes)], first=13)
        shape = list(x.shape)
        for axis in sorted(axis % (4 + len(axes)) for axis in axes):
            shape.insert(axis, 1)
        wide = x.reshape(shape)
        yield from each("Squeeze", [wide], last=12, axes=axes)
        yield from each("Squeeze", [wide, constant(axes)], first=13)
        yield from each("Squeeze", [wide])
    for axis, parts in itertools.product((0, 1, -1), (None, "uneven")):
        size = 6
        value = np.moveaxis(floats(size, 3, 4), 0, axis)
        if parts is None:
            yield from each("Split", [value], last=17, outputs=2, axis=axis)
            yield from each("Split", [value], first=18, outputs=2, axis=axis, num_outputs=2)
            yield from each("Split", [value], first=18, outputs=4, axis=axis, num_outputs=4)  # the last is smaller
        else:
            yield from each("Split", [value], last=12, outputs=3, axis=axis, split=[1, 2, 3])
            yield from each("Split", [value, constant([1, 2, 3])], first=13, outputs=3, axis=axis)
    for starts, ends, axes, steps in (([1], [3], [2], None), ([-3], [99], [3], [2]), ([0, 1], [2, -1], [0, 3], [1, 2]),
                                      ([3], [-99], [2], [-1]), ([-1], [-5], [-1], [-2]), ([1, 0], [2, 2], None, None),
                                      ([4], [0], [3], [-3]), ([2], [1], [3], None)):  # fmt: skip
        inputs = [constant(starts), constant(ends), *([] if axes is None else [constant(axes)]),
                  *([] if steps is None else [constant(steps)])]  # fmt: skip
        yield from each("Slice", [x, *inputs])
    for mode, pads in itertools.product(
        ("constant", "reflect", "edge"), ([0, 0, 1, 2, 0, 0, 2, 1], [0, 0, 0, 1] + [0] * 4)
    ):
        yield from each("Pad", [x, constant(pads)], mode=mode)
        if mode == "constant":
            yield from each("Pad", [x, constant(pads), constant(1.5, np.float32)])
            yield from each("Pad", [x, constant([-1 if pad == 1 else pad for pad in pads])])
        yield from each("Pad", [x, constant([1, 2, 2, 1]), None, constant([2, -1])], first=18, mode=mode)
    yield from each("Pad", [x, constant([0, 0, 1, 2, 0, 0, 2, 1])], first=19, mode="wrap")
    for axis, index in itertools.product((None, 0, 1, -1), (1, [0, 1], [[1, 0], [-1, 1]], [-1])):
        yield from each("Gather", [x, constant(index)], **({} if axis is None else {"axis": axis}))
        yield from each("Gather", [x, np.asarray(index, np.int32)], **({} if axis is None else {"axis": axis}))
    for axis in (0, 2, -1):
        indices = RANDOM.integers(-2, 2, (2, 3, 4, 5))
        yield from each("GatherElements", [x, indices], axis=axis)
        yield from each("ScatterElements", [x, indices[:, :2], floats(2, 2, 4, 5)], axis=axis)
    yield from each("ScatterElements", [x, constant(np.zeros((2, 1, 4, 5))), floats(2, 1, 4, 5)], first=16, axis=1,
                    reduction="add")  # fmt: skip
    yield from each("GatherND", [x, constant([[0, 1], [1, -1]])])
    yield from each("GatherND", [x, constant([[[1]], [[0]]])], first=12, batch_dims=1)
    yield from each("ScatterND", [x, constant([[0, 1], [1, 2]]), floats(2, 4, 5)])
    yield from each("ScatterND", [x, constant([[0, 1], [0, 1]]), floats(2, 4, 5)], first=16, reduction="add")
    for shape in ((2, 3, 4, 5), (2, 1, 1, 1, 1), (1,), (7, 1, 1, 4, 5)):
        yield from each("Expand", [floats(1, 4, 5) if len(shape) > 1 else x, constant(shape)])
    yield from each("Tile", [x, constant([1, 2, 1, 3])])
    for depth, axis in itertools.product((5,), (-1, 0, 1)):
        yield from each("OneHot", [constant([[0, 3], [-1, 2]]), constant(depth), constant([0.5, 2], np.float32)],
                        axis=axis) if False else each("OneHot", [np.int64([[0, 3], [-1, 2]]), constant(depth),
                        constant([0.5, 2], np.float32)], axis=axis)  # fmt: skip
    for k in (0, 1, -1):
        for upper in (0, 1):
            yield from each("Trilu", [x, constant(k)], first=14, upper=upper)
    for starts in ((None, None), (1, None), (1, -1)):
        more = {key: value for key, value in zip(("start", "end"), starts) if value is not None}
        yield from each("Shape", [x], first=15 if more else 11, **more)
    yield from each("Size", [x])
    yield from each("NonZero", [(x > 0).astype(np.float32)])
    yield from each("ReverseSequence", [floats(4, 3, 2), constant([1, 4, 2])], batch_axis=1, time_axis=0)
    yield from each("EyeLike", [floats(3, 4)], k=1)
    yield from each("ConstantOfShape", [constant([2, 3])], value=numpy_helper.from_array(np.float32([1.5])))
    boxes = RANDOM.uniform(0, 10, (1, 20, 4)).astype(np.float32)
    boxes[..., 2:] += boxes[..., :2]
    for center, limits in itertools.product((0, 1), ((5, 0.5, 0.2), (3, 0.3, 0.0))):
        yield from each("NonMaxSuppression", [boxes, RANDOM.uniform(size=(1, 2, 20)).astype(np.float32),
                        constant([limits[0]]), constant([limits[1]], np.float32), constant([limits[2]], np.float32)],
                        center_point_box=center)  # fmt: skip


def quantizations() -> Iterator[Form]:
    x = floats(2, 3, 4, 5)
    for kind, zero in ((np.int8, 0), (np.int8, -7), (np.uint8, 0), (np.uint8, 128)):
        pair = [constant(0.02, np.float32), constant(zero, kind)]
        yield from each("QuantizeLinear", [x, *pair])
        integers = RANDOM.integers(0, 100, (2, 3, 4, 5)).astype(kind)
        yield from each("DequantizeLinear", [integers, *pair])
        scales = [Constant(positive(3) / 50), constant([zero] * 3, kind)]
        yield from each("DequantizeLinear", [Constant(integers), *scales], first=13, axis=1) if False else each(
            "DequantizeLinear", [integers, *scales], first=13, axis=1)  # fmt: skip
        yield from each("QuantizeLinear", [x, *scales], first=13, axis=1)
        yield from each(
            "QuantizeLinear", [x, Constant(positive(5) / 50), constant([zero] * 5, kind)], first=13, axis=-1
        )
    yield from each("QuantizeLinear", [x, constant(0.02, np.float32)])
    yield from each("DynamicQuantizeLinear", [x], outputs=3)


def recurrences() -> Iterator[Form]:
    for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        for direction in ("forward", "reverse", "bidirectional"):
            count = 2 if direction == "bidirectional" else 1
            inputs = [floats(5, 1, 3), weight(count, gates * 4, 3), weight(count, gates * 4, 4)]
            more = {"linear_before_reset": 1} if op == "GRU" else {}
            yield from each(op, inputs, outputs=2, hidden_size=4, direction=direction)
            yield from each(op, [*inputs, weight(count, 2 * gates * 4)], outputs=2, hidden_size=4, direction=direction,
                            **more)  # fmt: skip


FAMILIES = (
    pools, convolutions, resizes, reductions, activations, normalizations, arithmetic, products, movements,
    quantizations, recurrences,
)  # fmt: skip


def forms() -> Iterator[Form]:
    """Yields every form, always the same."""
    for family in FAMILIES:
        yield from family()
