"""Implements the ONNX operators of CNNs in PyTorch, so that a graph can be differentiated.

Every function takes a node's inputs as tensors (None for an input that is left out) and its attributes as plain values,
with `num_outputs` beside them, and returns the first output, or all of them as a tuple. It raises NotImplementedError
for attributes that it does not support. Semantics: github.com/onnx/onnx, docs/Operators.md, opset 13 to 20.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Attributes = Mapping[str, Any]
Operator: TypeAlias = "Callable[[list[Any], Attributes], Tensor | tuple[Tensor, ...]]"
DTYPES = {1: torch.float32, 2: torch.uint8, 3: torch.int8, 6: torch.int32, 7: torch.int64, 9: torch.bool}
CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
TRANSPOSED = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}
MAX_POOLS = {3: F.max_pool1d, 4: F.max_pool2d, 5: F.max_pool3d}
AVERAGE_POOLS = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}


def padded(x: Tensor, pads: Sequence[int], value: float) -> Tensor:
    """Pads the spatial dimensions of x by ONNX's pads, all begins before all ends."""
    if not any(pads):
        return x
    half = len(pads) // 2
    backwards = [pads[i + side * half] for i in reversed(range(half)) for side in (0, 1)]
    return F.pad(x, backwards, value=value)


def pads_of(x: Tensor, attributes: Attributes) -> list[int]:
    """Returns the pads of a node; raises NotImplementedError for padding that is not explicit."""
    if attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise NotImplementedError(f"auto_pad {attributes['auto_pad']}")
    return list(attributes.get("pads", [0] * 2 * (x.ndim - 2)))


def conv(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    ones = [1] * (x.ndim - 2)
    return CONVOLUTIONS[x.ndim](
        padded(x, pads_of(x, attributes), 0.0),
        weight,
        bias,
        stride=attributes.get("strides", ones),
        dilation=attributes.get("dilations", ones),
        groups=attributes.get("group", 1),
    )


def conv_transpose(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    ones, pads = [1] * (x.ndim - 2), pads_of(x, attributes)
    half = len(pads) // 2
    if pads[:half] != pads[half:] or "output_shape" in attributes:
        raise NotImplementedError("a padding that is not the same on both sides")
    return TRANSPOSED[x.ndim](
        x,
        weight,
        bias,
        stride=attributes.get("strides", ones),
        padding=pads[:half],
        output_padding=attributes.get("output_padding", [0] * half),
        groups=attributes.get("group", 1),
        dilation=attributes.get("dilations", ones),
    )


def max_pool(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, ones = inputs[0], [1] * (inputs[0].ndim - 2)
    return MAX_POOLS[x.ndim](
        padded(x, pads_of(x, attributes), -torch.inf),
        attributes["kernel_shape"],
        stride=attributes.get("strides", ones),
        dilation=attributes.get("dilations", ones),
        ceil_mode=bool(attributes.get("ceil_mode", 0)),
    )


def average_pool(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, pads = inputs[0], pads_of(inputs[0], attributes)
    half = len(pads) // 2
    include_pad = bool(attributes.get("count_include_pad", 0))
    if pads[:half] != pads[half:] and not include_pad:
        raise NotImplementedError("a padding that is not the same on both sides and not counted")
    return AVERAGE_POOLS[x.ndim](
        padded(x, pads, 0.0) if include_pad else x,
        attributes["kernel_shape"],
        stride=attributes.get("strides", [1] * half),
        padding=[0] * half if include_pad else pads[:half],
        ceil_mode=bool(attributes.get("ceil_mode", 0)),
        count_include_pad=False,
    )


def resize(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, _, scales, sizes = (*inputs, None, None, None)[:4]
    mode = attributes.get("mode", "nearest")
    coordinates = attributes.get("coordinate_transformation_mode", "half_pixel")
    by_floor = mode == "nearest" and (coordinates, attributes.get("nearest_mode")) == ("asymmetric", "floor")
    bilinear = mode == "linear" and x.ndim == 4 and coordinates in ("half_pixel", "pytorch_half_pixel")
    if not by_floor and (not bilinear or attributes.get("antialias", 0) or attributes.get("exclude_outside", 0)):
        raise NotImplementedError("other than nearest, asymmetric, floor; or linear, half_pixel")
    if "axes" in attributes:
        raise NotImplementedError("axes")
    options: dict[str, Any] = {"mode": "bilinear", "align_corners": False} if bilinear else {"mode": "nearest"}
    if sizes is not None:
        whole, wanted = sizes.tolist(), {"size": sizes.tolist()[2:]}
    else:
        whole = [int(size * scale) for size, scale in zip(x.shape, scales.tolist(), strict=True)]
        wanted = {"scale_factor": scales.tolist()[2:]}
    ratios = [size / before for size, before in zip(whole, x.shape, strict=True)]
    if ratios[:2] != [1, 1] or (by_floor and any(ratio % 1 for ratio in ratios)):
        raise NotImplementedError(f"the scales {ratios}, of images and channels 1 or, for nearest, no whole numbers")
    if coordinates == "pytorch_half_pixel" and 1 in whole[2:]:
        raise NotImplementedError("pytorch_half_pixel to a side of 1")
    return F.interpolate(x, **wanted, **options)


def cast(inputs: list[Any], attributes: Attributes) -> Tensor:
    if attributes["to"] not in DTYPES:
        raise NotImplementedError(f"the type {attributes['to']} of ONNX")
    return inputs[0].to(DTYPES[attributes["to"]])


def reduction(reduce: Callable[..., Tensor]) -> Operator:
    """Makes an operator of PyTorch's function that reduces some axes."""

    def operator(inputs: list[Any], attributes: Attributes) -> Tensor:
        axes = inputs[1].tolist() if len(inputs) > 1 and inputs[1] is not None else attributes.get("axes")
        axes = list(range(inputs[0].ndim)) if axes is None else axes
        return reduce(inputs[0], axes, keepdim=bool(attributes.get("keepdims", 1)))

    return operator


def gemm(inputs: list[Any], attributes: Attributes) -> Tensor:
    a, b, c = (*inputs, None)[:3]
    a = a.T if attributes.get("transA", 0) else a
    b = b.T if attributes.get("transB", 0) else b
    product = attributes.get("alpha", 1.0) * (a @ b)
    return product if c is None else product + attributes.get("beta", 1.0) * c


def reshape(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, shape = inputs[0], inputs[1].tolist()
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)])


def flatten(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, axis = inputs[0], attributes.get("axis", 1)
    return x.reshape(int(torch.tensor(x.shape[:axis]).prod()), -1)


def clip(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, low, high = (*inputs, None, None)[:3]
    return torch.clamp(x, low, high)


def squeeze(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, axes = (*inputs, None)[:2]
    return x.squeeze() if axes is None else x.squeeze(tuple(axes.tolist()))


def unsqueeze(inputs: list[Any], attributes: Attributes) -> Tensor:
    x = inputs[0]
    for axis in sorted(inputs[1].tolist()):
        x = x.unsqueeze(axis)
    return x


def gather(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, indices = inputs
    axis = attributes.get("axis", 0) % x.ndim
    picked = torch.where(indices < 0, indices + x.shape[axis], indices)
    return x.index_select(axis, picked.reshape(-1)).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def gather_elements(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, indices = inputs
    axis = attributes.get("axis", 0)
    return x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices))


def divide(inputs: list[Any], attributes: Attributes) -> Tensor:
    return torch.div(*inputs, rounding_mode=None if inputs[0].is_floating_point() else "trunc")


def top_k(inputs: list[Any], attributes: Attributes) -> tuple[Tensor, ...]:
    x, count = inputs
    return torch.topk(x, int(count), attributes.get("axis", -1), largest=bool(attributes.get("largest", 1)))


def split(inputs: list[Any], attributes: Attributes) -> tuple[Tensor, ...]:
    x, sizes = (*inputs, None)[:2]
    axis = attributes.get("axis", 0)
    equal = math.ceil(x.shape[axis] / attributes["num_outputs"])
    return torch.split(x, equal if sizes is None else sizes.tolist(), axis)


def pad(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, pads, value, axes = (*inputs, None, None)[:4]
    if attributes.get("mode", "constant") != "constant" or axes is not None:
        raise NotImplementedError("other than constants on all axes")
    return padded(x, pads.tolist(), 0.0 if value is None else float(value))


def depth_to_space(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, block = inputs[0], attributes["blocksize"]
    if attributes.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    n, channels, height, width = x.shape
    blocks = x.reshape(n, block, block, channels // block**2, height, width)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, -1, height * block, width * block)


def space_to_depth(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, block = inputs[0], attributes["blocksize"]
    n, channels, height, width = x.shape
    blocks = x.reshape(n, channels, height // block, block, width // block, block)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, -1, height // block, width // block)


def onnx_slice(inputs: list[Any], attributes: Attributes) -> Tensor:
    x, starts, ends, axes, steps = (*inputs, None, None)[:5]
    along = range(len(starts)) if axes is None else axes.tolist()
    for i, axis in enumerate(along):
        step = 1 if steps is None else int(steps[i])
        if step < 1:
            raise NotImplementedError("a step backwards")
        index = [slice(None)] * x.ndim
        index[axis] = slice(int(starts[i]), int(ends[i]), step)
        x = x[tuple(index)]
    return x


OPERATORS: dict[str, Operator] = {
    "Add": lambda inputs, _: inputs[0] + inputs[1],
    "AveragePool": average_pool,
    "Cast": cast,
    "Clip": clip,
    "Concat": lambda inputs, attributes: torch.cat(inputs, attributes["axis"]),
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DepthToSpace": depth_to_space,
    "Div": divide,
    "Elu": lambda inputs, attributes: F.elu(inputs[0], attributes.get("alpha", 1.0)),
    "Exp": lambda inputs, _: torch.exp(inputs[0]),
    "Flatten": flatten,
    "Gather": gather,
    "GatherElements": gather_elements,
    "Gemm": gemm,
    "GlobalAveragePool": lambda inputs, _: inputs[0].mean(list(range(2, inputs[0].ndim)), keepdim=True),
    "HardSigmoid": lambda inputs, attributes: torch.clamp(
        attributes.get("alpha", 0.2) * inputs[0] + attributes.get("beta", 0.5), 0, 1
    ),
    "HardSwish": lambda inputs, _: F.hardswish(inputs[0]),
    "Identity": lambda inputs, _: inputs[0],
    "LeakyRelu": lambda inputs, attributes: F.leaky_relu(inputs[0], attributes.get("alpha", 0.01)),
    "MatMul": lambda inputs, _: inputs[0] @ inputs[1],
    "Max": lambda inputs, _: functools.reduce(torch.maximum, inputs),
    "MaxPool": max_pool,
    "Min": lambda inputs, _: functools.reduce(torch.minimum, inputs),
    "Mish": lambda inputs, _: F.mish(inputs[0]),
    "Mul": lambda inputs, _: inputs[0] * inputs[1],
    "Pad": pad,
    "Pow": lambda inputs, _: inputs[0] ** inputs[1],
    "PRelu": lambda inputs, _: torch.where(inputs[0] < 0, inputs[0] * inputs[1], inputs[0]),
    "ReduceMax": reduction(torch.amax),
    "ReduceMean": reduction(torch.mean),
    "ReduceSum": reduction(torch.sum),
    "Relu": lambda inputs, _: F.relu(inputs[0]),
    "Reshape": reshape,
    "Resize": resize,
    "Sigmoid": lambda inputs, _: torch.sigmoid(inputs[0]),
    "Slice": onnx_slice,
    "Softmax": lambda inputs, attributes: torch.softmax(inputs[0], attributes.get("axis", -1)),
    "Softplus": lambda inputs, _: F.softplus(inputs[0]),
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Sqrt": lambda inputs, _: torch.sqrt(inputs[0]),
    "Squeeze": squeeze,
    "Sub": lambda inputs, _: inputs[0] - inputs[1],
    "Tanh": lambda inputs, _: torch.tanh(inputs[0]),
    "Tile": lambda inputs, _: inputs[0].repeat(inputs[1].tolist()),
    "TopK": top_k,
    "Transpose": lambda inputs, attributes: inputs[0].permute(attributes.get("perm", [*range(inputs[0].ndim)][::-1])),
    "Unsqueeze": unsqueeze,
}
