"""Corrects Resize with antialias or exclude_outside, in OpenVINO's graph.

OpenVINO drops both attributes. A linear or cubic Resize is a matrix product along each axis, whose matrix follows from
ONNX's definition (onnx.reference.ops.op_resize): the weight of the input at i for the output at o is f((i - x(o)) / s),
divided by the sum over all i, where x(o) is the coordinate of o in the input, f the triangle or Keys' cubic, and s is 1
or, with antialias, how many times smaller the output is.

    Resize(x)  ->  MatMul(MatMul(rows, x), transposed columns)
"""

from typing import Any, List, Optional, Tuple

import numpy as np

from effedge.engines.openvino.graph import constant_value
from effedge.engines.openvino.reader.reading import Reading

MODES = ("linear", "linear_onnx", "cubic")


def resize(reading: Reading) -> Optional[List[Any]]:
    """Returns the corrected output of a Resize; None where it has neither attribute, resizes other axes than the last
    two, keeps the aspect ratio, or a size is dynamic."""
    operation = reading.outputs[0].get_node()
    antialias, exclude = (bool(reading.integer(name, 0)) for name in ("antialias", "exclude_outside"))
    if operation.get_type_name() != "Interpolate" or not (antialias or exclude):
        return None
    value, attributes = operation.input_value(0), operation.get_attributes()
    before, after = value.get_partial_shape(), operation.get_output_partial_shape(0)
    policy = reading.node.attributes.get("keep_aspect_ratio_policy", "stretch")
    if attributes["mode"] not in MODES or policy != "stretch" or before.rank.is_dynamic or len(before) < 3:
        return None
    if any(before[axis] != after[axis] for axis in range(len(before) - 2)):
        return None
    ops, rank = reading.ops, len(before)
    scales = scales_of(operation, rank)
    for axis in (rank - 2, rank - 1):
        if before[axis].is_dynamic or after[axis].is_dynamic:
            return None
        sizes = before[axis].get_length(), after[axis].get_length()
        scale = sizes[1] / sizes[0] if scales is None or scales[axis] is None else scales[axis]
        if sizes[0] == sizes[1] and scale == 1:
            continue
        matrix = resize_matrix(sizes, scale, attributes, antialias=antialias, exclude_outside=exclude)
        weights = ops.constant(matrix.astype(np.float32))
        # The columns are the last axis, and their matrix is on the right.
        value = (
            ops.matmul(weights, value, False, False) if axis == rank - 2 else ops.matmul(value, weights, False, True)
        )
        value = value.output(0)
    return [value]


def scales_of(operation: Any, rank: int) -> Optional[List[Any]]:
    """Returns the scale of each axis, None where it is not given; None where the sizes are."""
    if operation.get_attributes()["shape_calculation_mode"] != "scales":
        return None
    given = constant_value(operation.input_value(1).get_node())
    axes = constant_value(operation.input_value(2).get_node()) if operation.get_input_size() > 2 else np.arange(rank)
    if given is None or axes is None:
        return None
    scales: List[Any] = [None] * rank
    for axis, scale in zip(axes, given):
        scales[int(axis)] = float(scale)
    return scales


def resize_matrix(
    sizes: Tuple[int, int], scale: float, attributes: Any, *, antialias: bool, exclude_outside: bool
) -> np.ndarray:
    """Computes the matrix [output,input] of an axis, float64.

    Args:
        sizes: of the input and the output.
        attributes: of the Interpolate, for its mode, transform of coordinates, and cubic coefficient.
        exclude_outside: weights beyond the ends are left out, and else are the first and last value's.
    """
    size, output = sizes
    at, transform = np.arange(output), attributes["coordinate_transformation_mode"]
    if transform == "align_corners":
        coordinates: np.ndarray = at * (size - 1) / max(output - 1, 1)
    elif transform == "asymmetric":
        coordinates = at / scale
    elif transform == "pytorch_half_pixel" and output == 1:
        coordinates = np.zeros(1)
    else:
        coordinates = (at + 0.5) / scale - 0.5
    stretch = max(1.0, 1 / scale) if antialias else 1.0
    cubic = attributes["mode"] == "cubic"
    margin = int(np.ceil((2 if cubic else 1) * stretch)) + 1  # beyond which no weight reaches from an end
    index = np.arange(-margin, size + margin)
    distance = np.abs(index[None] - coordinates[:, None]) / stretch
    weights = keys_cubic(distance, attributes["cube_coeff"]) if cubic else np.maximum(0, 1 - distance)
    inside = weights[:, margin : margin + size].copy()
    if not exclude_outside:
        inside[:, 0] += weights[:, :margin].sum(1)
        inside[:, -1] += weights[:, margin + size :].sum(1)
    return np.asarray(inside / inside.sum(1, keepdims=True))


def keys_cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Computes Keys' cubic convolution kernel ("Cubic convolution interpolation for digital image processing", 1981,
    eq. 4)."""
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    far = a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))
