"""Puts the levels of images onto INT8's whole numbers, so that nothing of them is rounded.

An image has 256 levels in each colour, as many as INT8 has numbers. But a network reads them minus a mean of each
colour, which spreads them over more than 256 steps and in between of them: INT8 then rounds every pixel. In D0 no other
tensor in INT8 lost as much. So a convolution reads the levels themselves, minus about 128:

    Conv(x) = Conv'(Pad(x) * factor + shift)

Factor and shift, of each colour, make the levels whole numbers in -128..127. The kernel of Conv' is divided by the
factor, and its bias takes back what the shift adds. Padding by zeros means the mean of each colour, so the zeros are
put around x in front of the shift. Where the shift is at most one level, the convolution pads by itself.

What the float model computes stays the same, up to rounding. An image without levels (image_levels.py) is quantized as
any other tensor. What was inserted stays in the model's metadata, and so in the INT8 model that is made of it: by it
another model is aligned in the same way (`align_images_as`), or the alignment is taken out again (`unalign_images`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnx_ir.tape import Tape

from effedge.calibration.graph.onnx_file import FreeNames, constant, insert_behind
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.ranges.thresholds import INT8_MAX, INT8_MIN, ONE_SIDED, UINT8_MAX
from effedge.calibration.weights.equalize import as_floats, multiply
from effedge.calibration.weights.image_levels import TOLERANCE, Levels, find_levels, image_readers, pads_of

# In the metadata: by the name of a convolution the `Alignment` of the image that it reads.
IMAGES_KEY = "effedge_image_levels"
OWN_PADDING = 1.0  # levels of the shift that a convolution may be wrong by at the image's edges


class Range(NamedTuple):
    """What INT8 holds of a tensor: threshold and lowest value, as ranges.thresholds.quantization_parameters takes
    them."""

    threshold: float
    low: float | None = None


class Alignment(NamedTuple):
    """Factor and shift of each colour; the convolution's pads, where the image gets them in front of the shift; and the
    step of the levels then."""

    factor: list[float]
    shift: list[float]
    pads: list[int]
    step: float


def align_images(model: ir.Model, samples: Samples, *, zero_points: bool = False) -> dict[str, Range]:
    """Aligns the image of every convolution of `model` in place, where it has levels.

    Args:
        zero_points: whether INT8 may have zero points: with them levels 0..255 need no shift.

    Returns:
        The ranges of the aligned tensors by their names.
    """
    ranges, alignments = dict[str, Range](), dict[str, Alignment]()
    readers = image_readers(model)
    found = find_levels(model, [conv.inputs[0] for conv in readers], samples)
    for conv in readers:
        image = conv.inputs[0]
        assert image is not None and image.name is not None
        levels = found.get(image.name)
        if levels is None:
            continue
        with_zero_point = range_of(levels) if zero_points else None
        if with_zero_point is not None:
            ranges[image.name] = with_zero_point
            continue
        alignment = alignment_of(levels, pads_of(conv) or [])
        aligned = align(model, conv, alignment)
        ranges[aligned.name or ""] = Range(alignment.step * INT8_MAX)
        alignments[conv.name or ""] = alignment
    model.metadata_props[IMAGES_KEY] = json.dumps(alignments)
    return ranges


def align_images_as(model: ir.Model, alignments: str) -> None:
    """Aligns the images of `model` in place as another model's were, from the IMAGES_KEY metadata of that."""
    convolutions = {node.name: node for node in model.graph}
    for name, alignment in json.loads(alignments).items():
        align(model, convolutions[name], Alignment(*alignment))


def range_of(levels: Levels) -> Range | None:
    """Returns the range with a zero point in which all levels are whole numbers; None if there is none."""
    first = np.rint(levels.lowest)
    low = min(0, int(first.min()))
    if (
        not levels.are_alike
        or np.abs(first - levels.lowest).max() > TOLERANCE
        or (first + levels.span).max() - low > UINT8_MAX
        or low < -ONE_SIDED * (UINT8_MAX + low)
    ):
        return None
    step = float(levels.step.mean())
    return Range((UINT8_MAX + low) * step, low * step)


def alignment_of(levels: Levels, pads: Sequence[int]) -> Alignment:
    """Returns the alignment that puts the levels into -128..127: where they lie, if they are there within OWN_PADDING,
    else in the middle.

    Args:
        pads: of the convolution.
    """
    room = UINT8_MAX - levels.span
    nearest = np.clip(np.rint(levels.lowest), INT8_MIN, INT8_MIN + room)
    first = np.where(np.abs(nearest - levels.lowest) <= OWN_PADDING, nearest, INT8_MIN + room // 2)
    shift = np.where(np.abs(first - levels.lowest) > TOLERANCE, first - levels.lowest, 0)
    step = float(levels.step.mean()) if levels.are_alike else 1.0
    factor = np.ones(len(shift)) if levels.are_alike else 1 / levels.step
    moved = any(pads) and np.abs(shift).max() > OWN_PADDING
    return Alignment(as_floats(factor), as_floats(shift * step), list(pads) if moved else [], step)


def align(model: ir.Model, conv: ir.Node, alignment: Alignment) -> ir.Value:
    """Inserts an alignment in front of a convolution, whose weights it changes; returns what the convolution reads."""
    free_name = FreeNames.for_tensors(model.graph)
    image = conv.inputs[0]
    assert image is not None
    factor, shift, pads = of_channels(alignment.factor), of_channels(alignment.shift), alignment.pads
    aligned = image

    def insert(operator: str, name: str, operand: np.ndarray, shape: ir.Shape | None) -> None:
        nonlocal aligned
        name = free_name(f"{image.name}.{name}")
        constant_operand = Tape(model.graph).initializer(ir.tensor(operand, name=free_name(f"{name}.operand")))
        output = ir.Value(name=name, type=image.type, shape=shape)
        insert_behind(model.graph, aligned, ir.node(operator, [aligned, constant_operand], outputs=[output], name=name))
        aligned = output

    if pads:
        insert("Pad", "padded", np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64), padded_shape(image, pads))
        conv.attributes.pop("auto_pad", None)
        conv.attributes["pads"] = ir.AttrInt64s("pads", [0] * len(pads))
    if (factor != 1).any():
        insert("Mul", "in_levels", factor, aligned.shape)
        multiply(model, conv, 1, 1 / factor)
    if shift.any():
        insert("Add", "aligned", shift, aligned.shape)
        take_back(model, conv, shift)
    conv.replace_input_with(0, aligned)
    return aligned


def unalign_images(model: ir.Model, alignments: str) -> dict[str, tuple[str, float]]:
    """Takes the alignments of the IMAGES_KEY metadata out of a float model again, in place.

    Returns:
        By the name of what a convolution read, the name of the image that it reads, and its largest magnitude.
    """
    convolutions = {node.name: node for node in model.graph}
    images = {}
    for name, values in json.loads(alignments).items():
        alignment, conv = Alignment(*values), convolutions[name]
        factor, shift = of_channels(alignment.factor), of_channels(alignment.shift)
        aligned = image = conv.inputs[0]
        for inserted in (shift.any(), (factor != 1).any(), alignment.pads):
            producer = None if image is None else image.producer()
            image = producer.inputs[0] if inserted and producer is not None else image
        assert aligned is not None and image is not None
        conv.replace_input_with(0, image)
        take_back(model, conv, -shift)
        multiply(model, conv, 1, factor)
        if alignment.pads:
            conv.attributes["pads"] = ir.AttrInt64s("pads", alignment.pads)
        ends = (np.array([INT8_MIN, INT8_MAX]) * alignment.step - shift.reshape(-1, 1)) / factor.reshape(-1, 1)
        images[aligned.name or ""] = image.name or "", float(np.abs(ends).max())
    common.RemoveUnusedNodesPass()(model)
    return images


def of_channels(numbers: Sequence[float]) -> np.ndarray:
    """Returns a number for each channel of [N,C,H,W], in float32."""
    return np.array(numbers, np.float32).reshape(1, -1, 1, 1)


def padded_shape(image: ir.Value, pads: Iterable[int]) -> ir.Shape | None:
    """Returns the shape of an image [N,C,H,W] with pads at the top, left, bottom and right."""
    if image.shape is None:
        return None
    top, left, bottom, right = pads
    sides = zip(image.shape[2:], (top + bottom, left + right), strict=True)
    return ir.Shape([*image.shape[:2], *(side + pad if isinstance(side, int) else None for side, pad in sides)])


def take_back(model: ir.Model, conv: ir.Node, shift: np.ndarray) -> None:
    """Gives the convolution a bias that takes back what a shift [1,C,1,1] of its input adds."""
    kernel, bias = (constant(value) for value in (*conv.inputs, None)[1:3])
    assert kernel is not None
    added = (kernel.astype(np.float64) * shift).sum(axis=(1, 2, 3))
    array = ((0 if bias is None else bias) - added).astype(np.float32)
    name = FreeNames.for_tensors(model.graph)(f"{conv.name}.bias_of_levels")
    conv.resize_inputs(3)
    conv.replace_input_with(2, Tape(model.graph).initializer(ir.tensor(array, name=name)))
