"""Corrects pools with ceil_mode, in OpenVINO's graph.

OpenVINO counts the border behind the padding as elements of an AveragePool's mean where count_include_pad is set, and
gives a MaxPool windows that begin behind the input, which ONNX (by its definition of the output's size since
opset 22, and in ONNX Runtime and PyTorch always) leaves out. Both become pools without ceil_mode:

    AveragePool(x)  ->  AveragePool(Pad(x)), whose own padding is the border, and does not count
    MaxPool(x)      ->  MaxPool(x) with as much padding at the end as the last window needs
"""

from typing import Any, List, NamedTuple, Optional, Sequence

import numpy as np

from effedge.engines.openvino.reader.reading import Reading, static_sizes


class Windows(NamedTuple):
    """The windows of a pool: a number for each axis."""

    sizes: Sequence[int]
    kernel: Sequence[int]
    strides: Sequence[int]
    begin: Sequence[int]
    end: Sequence[int]
    dilations: Sequence[int]


def average_pool(reading: Reading) -> Optional[List[Any]]:
    """Returns the corrected output of an AveragePool; None where it has no ceil_mode or no counted padding, or its size
    is dynamic."""
    pool = reading.outputs[0].get_node()
    if pool.get_type_name() != "AvgPool":
        return None
    attributes = pool.get_attributes()
    begin, end = attributes["pads_begin"], attributes["pads_end"]
    sizes = static_sizes(pool.input_value(0))
    explicit = attributes["auto_pad"] in ("explicit", "notset")
    if attributes["exclude-pad"] or attributes["rounding_type"] == "floor" or not any((*begin, *end)):
        return None
    if sizes is None or not explicit:
        return None
    dilations = attributes.get("dilations", [1] * len(sizes))
    kernel, strides = attributes["kernel"], attributes["strides"]
    needed = end_padding(Windows(sizes, kernel, strides, begin, end, dilations))
    ops = reading.ops
    padded = ops.pad(
        pool.input_value(0),
        ops.constant(np.array([0, 0, *begin])),
        ops.constant(np.array([0, 0, *end])),
        "constant",
        ops.constant(np.zeros((), pool.get_output_element_type(0).to_dtype())),
    )
    border = [max(0, size - padding) for size, padding in zip(needed, end)]
    arguments = [strides, [0] * len(sizes), border, kernel, True, "floor", "explicit"]
    if set(dilations) == {1}:
        return [ops.avg_pool(padded, *arguments).output(0)]
    return [reading.ov.opset16.avg_pool(padded, *arguments, dilations).output(0)]


def max_pool(reading: Reading) -> Optional[List[Any]]:
    """Returns the corrected outputs of a MaxPool; None where it has no ceil_mode, or its size is dynamic."""
    pool = reading.outputs[0].get_node()
    if pool.get_type_name() != "MaxPool":
        return None
    attributes = pool.get_attributes()
    sizes = static_sizes(pool.input_value(0))
    if attributes["rounding_type"] == "floor" or attributes["auto_pad"] not in ("explicit", "notset") or sizes is None:
        return None
    kernel, strides, begin, dilations = (attributes[key] for key in ("kernel", "strides", "pads_begin", "dilations"))
    end = end_padding(Windows(sizes, kernel, strides, begin, attributes["pads_end"], dilations))
    right = reading.ops.max_pool(
        pool.input_value(0), strides, dilations, begin, [max(0, size) for size in end], kernel, "floor", "explicit",
        attributes["index_element_type"], attributes["axis"],
    )  # fmt: skip
    return [right.output(output.get_index()) for output in reading.outputs]


def end_padding(windows: Windows) -> List[int]:
    """Returns, for each axis, the padding at the end with which the last window of a pool with ceil_mode ends; negative
    where that window ends before the input.

    >>> end_padding(Windows([9, 8], [3, 3], [2, 2], [1, 1], [1, 1], [1, 1]))  # they begin at -1, 1, 3, 5 and 7
    [1, 2]
    """
    result = []
    for size, width, stride, before, after, dilation in zip(*windows):
        reach = (width - 1) * dilation + 1
        count = -(-(size + before + after - reach) // stride) + 1
        if (count - 1) * stride >= size + before:
            count -= 1
        result.append((count - 1) * stride + reach - size - before)
    return result
