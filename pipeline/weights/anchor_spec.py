"""Reads a detector's anchors: from the boxes that effdet's checkpoints hold, from a configuration, or from the user.

The anchors are `shapes` as `effedge.pipeline.models.anchors.place_anchors` takes them: (width, height) in strides,
[A,2], or [levels,A,2] where the levels differ. The user's words are those that `describe` writes:

    base=4 scales=1,1.26,1.59 ratios=1x1,1.4x0.7,0.7x1.4

or the project file of zylo117's Yet-Another-EfficientDet-Pytorch, with its `anchors_scales` and `anchors_ratios`.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import read_text
from effedge.pipeline.models.anchors import ASPECTS, Aspects, anchor_shapes, level_sizes, place_anchors

EXAMPLE = "'base=4 scales=1,1.26,1.59 ratios=1x1,1.4x0.7,0.7x1.4', or zylo117's project file (.yml)"
HALF_PRECISION = 2.0**-10  # boxes of a model that was saved in float16 are rounded by less than this share
FINEST_STRIDE = 8
MOST_SCALES = 64  # in an octave
SAME_SHAPE = 2 * HALF_PRECISION  # shapes within this share of each other count as equal
OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Pow: pow,
}  # fmt: skip


class Grid(NamedTuple):
    """Anchors and the (height, width) of the input that they were made for."""

    size: tuple[int, int]
    shapes: np.ndarray


def recover(boxes: np.ndarray, per_cell: int, levels: int) -> Grid | None:
    """Recovers size and shapes from anchor boxes in effdet's order, yxyx in pixels, [A,4].

    Args:
        per_cell: anchors in a cell; `levels`: of the pyramid.

    Returns:
        The grid whose anchors, placed again, are `boxes`; None if there is none.
    """
    boxes = np.asarray(boxes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) % per_cell or len(boxes) < 2 * per_cell:
        return None
    cells = boxes.reshape(-1, per_cell, 4)
    y, x = (cells[:, :, 0] + cells[:, :, 2]).mean(1) / 2, (cells[:, :, 1] + cells[:, :, 3]).mean(1) / 2
    columns = int(np.argmax(y > 2 * y[0])) or len(y)  # the first cell of the second row
    rows = (int(np.argmax(np.diff(y) < -y[0])) + 1) // columns  # the first cell of the second level is higher again
    # The first centre is half a stride from the edge; float16 rounds it, and most strides are 8.
    strides = [(2 * y[0], 2 * x[0]), (FINEST_STRIDE, FINEST_STRIDE)]
    for size in [(round(rows * stride_y), round(columns * stride_x)) for stride_y, stride_x in strides]:
        sizes = level_sizes(size, levels)
        if min(size) < 1 or sum(height * width for height, width in sizes) != len(cells):
            continue
        first = np.cumsum([0, *(height * width for height, width in sizes[:-1])])
        # The level's first cell is the nearest to the origin, so its corners are the least rounded.
        sides = cells[first, :, 2:] - cells[first, :, :2]  # [levels,A,2], height and width
        unit = [[size[1] / width, size[0] / height] for height, width in sizes]
        grid = Grid(size, one_level_if_equal(sides[:, :, ::-1] / np.expand_dims(unit, 1)))
        placed = place_anchors(size, levels, grid.shapes)[:, [1, 0, 3, 2]]
        if np.abs(placed - boxes).max() <= HALF_PRECISION * np.abs(boxes).max():
            return grid
    return None


def one_level_if_equal(shapes: np.ndarray) -> np.ndarray:
    """Returns the shapes of one level, [A,2], if those of all levels [levels,A,2] are equal; else all."""
    return shapes[0] if np.allclose(shapes, shapes[0], rtol=SAME_SHAPE) else shapes


def equal_shapes(left: np.ndarray, right: np.ndarray) -> bool:
    """Compares shapes; those of float16 boxes count as equal to what was rounded."""
    return left.shape[-2] == right.shape[-2] and np.allclose(left, right, rtol=SAME_SHAPE)


def of_config(
    scale: object,
    aspects: object,
    scales: object,
    own_scale: float,
    levels: int,
    own_aspects: Aspects = ASPECTS,
) -> np.ndarray | None:
    """Makes the shapes of effdet's and zylo117's entries; each may be None, None if all are or an entry is unclear.

    Args:
        scale: effdet's `anchor_scale`, a number or one for each level.
        aspects: `aspect_ratios` or `anchors_ratios`: pairs, or numbers width / height.
        scales: effdet's `num_scales`, in an octave, or zylo117's `anchors_scales`, factors.
        own_scale: the model's anchor scale; `own_aspects`: its (width, height) factors.
    """
    if scale is None and aspects is None and scales is None:
        return None
    try:
        aspects, scales = (_evaluate(each) if isinstance(each, str) else each for each in (aspects, scales))
        if isinstance(scales, int) and not 0 < scales <= MOST_SCALES:
            return None
        factors = 2.0 ** (np.arange(scales) / scales) if isinstance(scales, int) else scales
        pairs = own_aspects if aspects is None else [_pair(aspect) for aspect in aspects]  # type: ignore[attr-defined]
        bases = own_scale if scale is None else scale
        if isinstance(bases, Sequence):
            shapes = np.stack([anchor_shapes(float(base), pairs, factors) for base in bases])  # type: ignore[arg-type]
            return one_level_if_equal(shapes) if len(shapes) == levels else None
        return anchor_shapes(float(bases), pairs, factors)  # type: ignore[arg-type]
    except (TypeError, ValueError, SyntaxError, ArithmeticError, RecursionError, MemoryError):  # the last: of ast.parse
        return None


def parse(text: str, own_scale: float, own_aspects: Aspects = ASPECTS) -> np.ndarray:
    """Makes the shapes of the user's words, or of a project file; what they leave out is the model's own.

    Raises:
        UserError: a word that is none of these, or a file without anchors.
    """
    if text.endswith((".yml", ".yaml")) or Path(text).is_file():
        lines = read_text(Path(text), "a project file of Yet-Another-EfficientDet-Pytorch")
        entries = re.findall(r"^anchors_(\w+):([^#\n]*)", lines, re.MULTILINE)
        words = {key: value.strip(" '\"") for key, value in entries}
        shapes = of_config(None, words.get("ratios"), words.get("scales"), own_scale, 0, own_aspects)
    else:
        words = dict(word.split("=", 1) for word in text.split() if "=" in word)
        unclear = [word for word in text.split() if word.split("=")[0] not in ("base", "scales", "ratios")]
        pairs = [f"({ratio.replace('x', ',')})" for ratio in words.get("ratios", "").split(",")]
        ratios = f"[{','.join(pairs)}]" if "ratios" in words else None
        scales = f"[{words['scales']}]" if "scales" in words else None
        base = _number(words["base"]) if "base" in words else None
        shapes = None if unclear or base == 0 else of_config(base, ratios, scales, own_scale, 0, own_aspects)
    if shapes is None or not (shapes > 0).all():
        raise UserError(f"anchors '{text}' (ANCHORS, --anchors) cannot be read: expected {EXAMPLE}")
    return shapes


def describe(shapes: np.ndarray) -> str:
    """Writes shapes in the words that `parse` reads, rounded; only their number where the levels differ.

    >>> describe(anchor_shapes(4.0))
    'base=4 scales=1,1.26,1.587 ratios=1x1,1.4x0.7,0.7x1.4'
    """
    if shapes.ndim == 3:
        return f"{shapes.shape[1]} a cell, of other sizes in each level"
    for aspects in [count for count in range(1, len(shapes) + 1) if len(shapes) % count == 0]:
        blocks = shapes.reshape(-1, aspects, 2)
        factors = blocks / blocks[0]
        if np.allclose(factors, factors[:, :1, :1], rtol=SAME_SHAPE):
            break
    square = next((width for width, height in blocks[0] if np.isclose(width, height)), np.sqrt(np.prod(blocks[0][0])))
    ratios = ",".join(f"{width / square:.4g}x{height / square:.4g}" for width, height in blocks[0])
    scales = ",".join(f"{factor:.4g}" for factor in factors[:, 0, 0])
    return f"base={square:.4g} scales={scales} ratios={ratios}"


def _pair(aspect: object) -> tuple[float, float]:
    """Returns (width, height) factors of a pair, or of a number width / height, as effdet reads both."""
    if isinstance(aspect, Sequence):
        width, height = aspect
        return float(width), float(height)
    root = float(aspect) ** 0.5  # type: ignore[arg-type]
    return root, 1 / root


def _number(text: str) -> float:
    """Reads a number; 0, which no base may be, for any other text."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def _evaluate(text: str) -> object:
    """Computes the arithmetic of zylo117's project files, such as "[2 ** 0, 2 ** (1.0 / 3.0)]"; runs nothing else."""

    def value(node: ast.expr) -> object:
        if isinstance(node, ast.List | ast.Tuple):
            return [value(each) for each in node.elts]
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return node.value
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            left, right = value(node.left), value(node.right)
            if isinstance(left, int | float) and isinstance(right, int | float) and max(abs(left), abs(right)) < 100:
                return OPERATORS[type(node.op)](left, right)
        raise ValueError(f"'{text}' is no arithmetic")

    return value(ast.parse(text, mode="eval").body)
