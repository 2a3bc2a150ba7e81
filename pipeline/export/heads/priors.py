"""Computes the prior boxes (default boxes, anchors) that the box codes of SSDs and RetinaNets are relative to.

An exported network does not hold them, so each rule is that of the project that trained the model, for its published
models. A model that was trained with priors of its own has another rule, which its output does not show if the number
of boxes is the same.

Each rule takes (height, width) of the input, and returns the priors of each level, those of one cell behind each other,
cell by cell and row by row, as the projects arrange their outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Size = tuple[int, int]


@dataclass(frozen=True)
class Level:
    """The priors of a feature map.

    Attributes:
        rows, columns: of cells.
        boxes: float64 [rows * columns * priors of a cell, 4]: centre x, y, width, height in pixels of the input.
    """

    rows: int
    columns: int
    boxes: np.ndarray

    @property
    def per_cell(self) -> int:
        return len(self.boxes) // (self.rows * self.columns)


def make_level(grid: Size, step: tuple[float, float], offset: float, shapes: Sequence[tuple[float, float]]) -> Level:
    """Places priors at each cell of a feature map.

    Args:
        grid: rows and columns.
        step: vertical and horizontal distance of two cells, in pixels.
        offset: of a centre within its cell, in cells.
        shapes: width and height of each prior, in pixels.
    """
    rows, columns = grid
    y, x, shape = np.meshgrid(np.arange(rows), np.arange(columns), np.arange(len(shapes)), indexing="ij")
    centres = np.stack([(x.ravel() + offset) * step[1], (y.ravel() + offset) * step[0]], axis=1)
    return Level(rows, columns, np.concatenate([centres, np.array(shapes, np.float64)[shape.ravel()]], axis=1))


def grid_of(size: Size, stride: int) -> Size:
    """Returns the rows and columns of a feature map whose convolutions round up."""
    return -(-size[0] // stride), -(-size[1] // stride)


def ultraface_priors(size: Size) -> list[Level]:
    """Computes the priors of Ultra-Light-Fast-Generic-Face-Detector-1MB: `generate_priors` of vision/utils/box_utils.py
    with `min_boxes` of vision/ssd/config/fd_config.py."""
    sides = {8: (10, 16, 24), 16: (32, 48), 32: (64, 96), 64: (128, 192, 256)}
    return [
        make_level(
            (rows, columns),
            (size[0] / rows, size[1] / columns),
            0.5,
            [(min(side, size[1]), min(side, size[0])) for side in at_stride],
        )
        for stride, at_stride in sides.items()
        for rows, columns in [grid_of(size, stride)]
    ]


def default_shapes(
    scales: Sequence[float], ratios: Sequence[Sequence[int]], size: Size
) -> list[list[tuple[float, float]]]:
    """Computes the default boxes' widths and heights in pixels, by level: `DefaultBoxGenerator` of torchvision.

    "SSD: Single Shot MultiBox Detector" (https://arxiv.org/abs/1512.02325), section 2.2: a square of the level's scale,
    one of the geometric mean with the next level's, then both directions of each ratio; none larger than the image.

    Args:
        scales: relative to the image, of each level and one more.
        ratios: of each level.
    """
    levels = []
    for scale, larger, of_level in zip(scales[:-1], scales[1:], ratios, strict=True):
        sides = [(scale, scale), (math.sqrt(scale * larger),) * 2]
        for ratio in of_level:
            wide, narrow = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            sides += [(wide, narrow), (narrow, wide)]
        levels.append([(min(width, 1.0) * size[1], min(height, 1.0) * size[0]) for width, height in sides])
    return levels


def ssd300_priors(size: Size) -> list[Level]:
    """Computes the priors of torchvision's `ssd300_vgg16`, which is for 300 x 300 pixels; of another size: none."""
    if size != (300, 300):
        return []
    scales = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
    shapes = default_shapes(scales, ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)), size)
    steps = {38: 8, 19: 16, 10: 32, 5: 64, 3: 100, 1: 300}
    return [
        make_level((cells, cells), (step, step), 0.5, at_level)
        for (cells, step), at_level in zip(steps.items(), shapes, strict=True)
    ]


def ssdlite_priors(size: Size) -> list[Level]:
    """Computes the priors of torchvision's `ssdlite320_mobilenet_v3_large`, or of that model with another size."""
    strides = (16, 32, 64, 128, 256, 512)
    scales = [0.2 + 0.15 * level for level in range(6)] + [1.0]
    grids = [grid_of(size, stride) for stride in strides]
    return [
        make_level(grid, (size[0] / grid[0], size[1] / grid[1]), 0.5, shapes)
        for grid, shapes in zip(grids, default_shapes(scales, ((2, 3),) * 6, size), strict=True)
    ]


STRIDES = (8, 16, 32, 64, 128)
RATIOS = (0.5, 1.0, 2.0)  # height / width
OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))


def torchvision_anchors(size: Size) -> list[Level]:
    """Computes the anchors of torchvision's RetinaNets: `AnchorGenerator` with `_default_anchorgen` of retinanet.py.

    Sides are whole numbers, corners are rounded, and a level's step is the image's size by the number of its cells,
    rounded down.
    """
    levels = []
    for stride in STRIDES:
        grid = grid_of(size, stride)
        sides = [int(4 * stride * octave) for octave in OCTAVES]
        shapes = [
            (2 * float(np.round(side / math.sqrt(ratio) / 2)), 2 * float(np.round(side * math.sqrt(ratio) / 2)))
            for ratio in RATIOS
            for side in sides
        ]
        levels.append(make_level(grid, (size[0] // grid[0], size[1] // grid[1]), 0.0, shapes))
    return levels


def mmdet_anchors(size: Size) -> list[Level]:
    """Computes the anchors of MMDetection's RetinaNets: `AnchorGenerator` with octave_base_scale=4; ratio by ratio."""
    return octave_anchors(size, [(ratio, octave) for ratio in RATIOS for octave in OCTAVES])


def detectron2_anchors(size: Size) -> list[Level]:
    """Computes the anchors of Detectron2's RetinaNets: `DefaultAnchorGenerator` with offset 0; size by size."""
    return octave_anchors(size, [(ratio, octave) for octave in OCTAVES for ratio in RATIOS])


def octave_anchors(size: Size, kinds: Sequence[tuple[float, float]]) -> list[Level]:
    """Computes anchors of 4 strides times an octave, for each (ratio, octave), around the cells' top left corners."""
    shapes = [(4 * octave / math.sqrt(ratio), 4 * octave * math.sqrt(ratio)) for ratio, octave in kinds]  # in strides
    return [
        make_level(grid_of(size, stride), (stride, stride), 0.0, [(stride * w, stride * h) for w, h in shapes])
        for stride in STRIDES
    ]


PRIORS: dict[str, Callable[[Size], list[Level]]] = {
    "ultraface": ultraface_priors,
    "ssd300": ssd300_priors,
    "ssdlite": ssdlite_priors,
    "retinanet-torchvision": torchvision_anchors,
    "retinanet-mmdet": mmdet_anchors,
    "retinanet-detectron2": detectron2_anchors,
}


def priors_of(rule: str, size: Size) -> np.ndarray:
    """Returns all priors of a rule of PRIORS, float32 [A,4]: centre x, y, width, height in pixels."""
    return np.concatenate([level.boxes for level in PRIORS[rule](size)]).astype(np.float32)
