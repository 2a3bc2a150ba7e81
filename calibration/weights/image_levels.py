"""Finds the levels of the images that a network's first convolutions read.

A byte has 256 levels. Whatever the preprocessing does with it, by a mean and a deviation of each colour, the values of
a colour lie evenly spaced. They are looked for in the values on a few samples, or on noise where the network takes
bytes. Where an image was resized to floats, there are none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from effedge.calibration.graph.onnx_file import constant
from effedge.calibration.graph.session import Tensors
from effedge.calibration.output_error.tables import nodes_in_front
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.ranges.thresholds import UINT8_MAX
from effedge.calibration.weights.equalize import channels, has_constant_weights, is_dense
from effedge.calibration.weights.patches import padding

# What may lie between a network's input and its first convolution: arithmetic with constants, and layout.
PREPROCESSING = {
    "Add", "BatchNormalization", "Cast", "Concat", "Div", "Gather", "Identity", "Mul", "Reshape", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze",
}  # fmt: skip
SAMPLES = 8
LEAST_LEVELS = 64  # of a colour on all samples: fewer may be a mask's, whose steps say nothing of other images
RESOLUTION = 2048  # steps of a colour's range: two values that are nearer are one level, rounded twice
TOLERANCE = 0.02  # steps between a value and its level, by rounding in float32


class Levels(NamedTuple):
    """The levels of each colour, [C] each: lowest, lowest + 1, ..., lowest + span, times step."""

    step: np.ndarray
    lowest: np.ndarray
    span: np.ndarray

    @property
    def are_alike(self) -> bool:
        """True if all colours have the same step."""
        return bool(np.ptp(self.step) <= TOLERANCE / UINT8_MAX * self.step.max())


def image_readers(model: ir.Model) -> list[ir.Node]:
    """Returns the convolutions that read an input of the model, or what preprocessing makes of it."""
    return [
        node
        for node in model.graph
        if has_constant_weights(node)
        and is_dense(node)
        and node.inputs[0] is not None
        and not node.inputs[0].is_initializer()
        and node.inputs[0].dtype == ir.DataType.FLOAT
        and channels(node.inputs[0]) is not None
        and all(each.op_type in PREPROCESSING for each in nodes_in_front([node.inputs[0]]))
        and pads_of(node) is not None
    ]


def pads_of(conv: ir.Node) -> list[int] | None:
    """Returns a convolution's pads at the top, left, bottom and right; None where they depend on sizes that are not
    known."""
    image, kernel = conv.inputs[0], constant(conv.inputs[1])
    assert image is not None and image.shape is not None and kernel is not None
    known = [side if isinstance(side, int) else 0 for side in image.shape[2:]]
    if conv.attributes.get_string("auto_pad", "NOTSET").startswith("SAME") and not all(known):
        return None
    before, after = padding(conv, kernel.shape[2:], known)
    return before + after


def find_levels(model: ir.Model, images: Iterable[ir.Value | None], samples: Samples) -> dict[str, Levels]:
    """Finds the levels of images [N,C,H,W] on a few samples; returns them by name, where there are some."""
    colours: dict[str, list[np.ndarray]] = {}  # by name, the values of each
    for image in images:
        count = None if image is None else channels(image)
        if image is not None and count is not None:
            colours[image.name or ""] = [np.zeros(0, np.float32)] * count
    if not colours:
        return {}
    tensors_of = Tensors(model, colours)
    random = np.random.default_rng(0)
    for _, feeds in samples.spread(min(SAMPLES, len(samples))):
        tensors = tensors_of({name: noise_of(array, random) for name, array in feeds.items()})
        for name, values in list(colours.items()):
            pixels = np.moveaxis(tensors[name], 1, 0).reshape(len(values), -1)
            joined = [np.union1d(seen, np.unique(colour)) for seen, colour in zip(values, pixels, strict=True)]
            if max(map(len, joined)) > RESOLUTION:
                del colours[name]
            else:
                colours[name] = joined
    found = {name: levels_of(values) for name, values in colours.items()}
    return {name: levels for name, levels in found.items() if levels is not None}


def noise_of(array: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Returns random bytes, which have all levels, in place of an image in bytes; other arrays as they are."""
    if array.dtype != np.uint8:
        return array
    return random.integers(0, UINT8_MAX + 1, array.shape, np.uint8)


def levels_of(colours: list[np.ndarray]) -> Levels | None:
    """Finds the levels of each colour, from its values in order; None if they are not evenly spaced, or too many or too
    few. A colour of one value has the others' step.

    >>> levels_of([np.arange(200) - 103.5, np.array([0.5])])
    Levels(step=array([1., 1.]), lowest=array([-103.5,    0.5]), span=array([199,   0]))
    """
    steps, lowest, spans = [], [], []
    for colour in colours:
        values = colour.astype(np.float64)
        if not len(values) or not np.isfinite(values).all():
            return None
        gaps = np.diff(values)
        gaps = gaps[gaps > np.ptp(values) / RESOLUTION]
        step = float(gaps.min()) if len(gaps) else 0.0
        if step:
            level = np.rint((values - values[0]) / step)
            if level[-1] > UINT8_MAX or len(gaps) + 1 < LEAST_LEVELS:
                return None
            step, first = np.polyfit(level, values, 1)
            if np.abs(first + step * level - values).max() > TOLERANCE * step:
                return None
        else:
            level, first = np.zeros(1), values[0]
        steps.append(step)
        lowest.append(first)
        spans.append(int(level[-1]))
    if not any(steps):
        return None
    others = float(np.median([step for step in steps if step]))
    each = np.array([step or others for step in steps])
    return Levels(each, np.array(lowest) / each, np.array(spans))
