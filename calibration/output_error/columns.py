"""Finds the columns of an output, and those of like meaning among them, from the float model's own outputs.

The columns are the axis along which an output stacks unlike things: 85 of [N,3549,85], 84 of [N,84,8400], the channels
of a map [N,C,H,W]. All other axes together are its rows. Columns alike are those of one order of magnitude: the
standard deviations of box codes differ a few times from each other, and a thousand times from those of class scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]

LEAST_STEP = 0.7  # decades between the standard deviations of unlike columns
LEAST_SIGNIFICANCE = 6.5  # of that step, in standard errors; the largest of all in a thousand random columns is 5.5
NOISE = 0.1  # decades by which the standard deviations of like columns scatter, where there are few
PRIOR = 4  # the number of columns that this counts for
MOST_EXPLAINED = 0.7  # of the values' variance, by the columns alone: the rows of no output explain as much
MOST_COLUMNS = 8192  # that are divided, in half a second; COCO's classes and a box are 84
CONSTANT = 1e-6  # of the largest standard deviation: a column with a smaller one is as good as constant
CLOSE = 1e-6  # to 0 and 1, where rounding may pass them


class Statistics(NamedTuple):
    """The lowest and highest value, mean and standard deviation of each column, and the share of its values that are
    above 0, float64 [C]."""

    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    positive: np.ndarray

    @property
    def probable(self) -> np.ndarray:
        """bool [C]: the columns whose values are all within 0 to 1."""
        return (self.low >= -CLOSE) & (self.high <= 1 + CLOSE)


def columns_first(array: np.ndarray, axis: int) -> np.ndarray:
    """Returns a view of the array with its columns as the first axis: [C, ...rows]."""
    return np.moveaxis(array, axis, 0)


def statistics(arrays: Sequence[np.ndarray], axis: int) -> Statistics:
    """Computes the statistics of the columns over all rows of all arrays, which are finite."""
    views = [columns_first(array, axis) for array in arrays]
    rows = tuple(range(1, views[0].ndim))
    mean = np.mean([view.mean(axis=rows, dtype=np.float64) for view in views], axis=0)
    centre = mean.reshape(-1, *[1] * len(rows))
    variance = np.mean([np.square(view - centre).mean(axis=rows) for view in views], axis=0)
    low = np.min([view.min(axis=rows) for view in views], axis=0)
    high = np.max([view.max(axis=rows) for view in views], axis=0)
    positive = np.mean([(view > 0).mean(axis=rows) for view in views], axis=0)
    return Statistics(low, high, mean, np.sqrt(variance), positive)


def rows_of(shape: Shape, axis: int) -> Shape:
    return (*shape[:axis], *shape[axis + 1 :])


def column_axis(array: np.ndarray, others: Sequence[Shape]) -> int:
    """Returns the axis of an output's columns.

    Rows are many and columns few, so of [N,a,b] it is the shorter one, and of a map the channels. Two things say
    otherwise: an output beside it that has the same rows and another number of columns (300 boxes [N,300,4] beside
    [N,300,365] scores), or columns that explain nearly all of the values. Among a detector's levels, which have the
    same columns, all rows together are more than all columns.

    Args:
        array: of rank 2 or more, on one sample.
        others: the shapes of the model's other outputs.
    """
    shape = array.shape
    if array.ndim == 2:
        return 1
    candidates = [1, array.ndim - 1] if array.ndim < 5 else [array.ndim - 1, 1]
    one_map = array.ndim > 3 and shape[2] > 1  # not [N,R,1,4]
    if (array.ndim == 4 and one_map and shape[1] == shape[2] != shape[3]) or (array.ndim == 5 and shape[4] == shape[3]):
        candidates.reverse()  # a square map [N,H,W,C]; a volume [N,C,D,H,W]
    usual = candidates[0] if one_map else min(candidates, key=lambda axis: shape[axis])
    [unusual] = [axis for axis in candidates if axis != usual]

    def beside(axis: int) -> bool:
        return any(
            len(other) == len(shape) and rows_of(other, axis) == rows_of(shape, axis) and other[axis] != shape[axis]
            for other in others
        )

    if beside(usual) != beside(unusual):
        return usual if beside(usual) else unusual
    if beside(usual):
        alike_in_rank = [other for other in (shape, *others) if len(other) == len(shape)]
        return min(candidates, key=lambda axis: sum({other[axis] for other in alike_in_rank}))
    shares = [explained(array, axis) for axis in (usual, unusual)]
    return unusual if shares[1] > max(MOST_EXPLAINED, 2 * shares[0]) else usual


def explained(array: np.ndarray, axis: int) -> float:
    """Returns the share of the variance of the values, as magnitudes, that the position on the axis explains, less what
    as many positions explain by chance (the adjusted coefficient of determination)."""
    scale = float(np.median(np.abs(array))) or float(np.abs(array).mean()) or 1.0
    values = columns_first(np.arcsinh(array / scale), axis)
    count, total = len(values), float(values.var())
    if total == 0 or values.size == count:
        return 0.0
    share = float(values.mean(axis=tuple(range(1, values.ndim))).var()) / total
    return 1 - (1 - share) * (values.size - 1) / (values.size - count)


def alike(spread: np.ndarray) -> list[list[int]]:
    """Divides columns, by their standard deviations in their order, into groups of one order of magnitude.

    The columns are cut where the logarithm of their standard deviations makes a step that chance does not make, as
    between things that a model concatenates, and parts of one level are one group (of an output of three anchors side
    by side, the boxes of all). An embedding, whose features differ in size in no order, is one group, and so is a map
    that was made flat, of more than MOST_COLUMNS: the time of the search grows with their square.

    >>> alike(np.array([90.0, 80.0, 30.0, 40.0, 0.1, 0.02, 0.05]))
    [[0, 1, 2, 3], [4, 5, 6]]
    """
    levels = np.full(len(spread), np.nan)
    np.log10(spread, out=levels, where=spread > CONSTANT * spread.max(initial=0))
    varying = np.flatnonzero(np.isfinite(levels))
    if len(varying) == 0 or len(spread) > MOST_COLUMNS:
        return [list(range(len(spread)))]
    edges = [0, *(int(varying[cut]) for cut in steps(levels[varying])), len(spread)]
    parts = [list(range(start, stop)) for start, stop in zip(edges, edges[1:], strict=False)]
    groups: list[tuple[float, list[int]]] = []
    for level, part in sorted((float(np.nanmean(levels[part])), part) for part in parts):
        if groups and level - groups[-1][0] < LEAST_STEP:
            groups[-1][1].extend(part)
        else:
            groups.append((level, part))
    return sorted(sorted(columns) for _, columns in groups)


def steps(levels: np.ndarray) -> list[int]:
    """Returns the positions in front of which the levels make a step, by circular binary segmentation (Olshen et al.
    2004): the interval whose mean differs the most from that of all others, and so on within the parts."""
    count = len(levels)
    if count < 2:
        return []
    sums = np.concatenate([[0], np.cumsum(levels - levels.mean())])
    best, start, stop = 0.0, 0, count
    for first in range(count):
        inside = np.arange(1, count - first + 1 - (first == 0))
        gain = np.abs(sums[first + inside] - sums[first]) * np.sqrt(count / (inside * (count - inside)))
        if len(gain) and gain.max() > best:
            best, start = float(gain.max()), first
            stop = first + int(inside[gain.argmax()])
    if best == 0:
        return []
    inner, outer = levels[start:stop], np.concatenate([levels[:start], levels[stop:]])
    scatter = np.square(inner - inner.mean()).sum() + np.square(outer - outer.mean()).sum()
    noise = float(np.sqrt((scatter + PRIOR * NOISE**2) / (count - 2 + PRIOR)))
    if abs(inner.mean() - outer.mean()) < LEAST_STEP or best < LEAST_SIGNIFICANCE * noise:
        return []
    edges = [0, start, stop, count]
    within = [edge + cut for edge, end in zip(edges, edges[1:], strict=False) for cut in steps(levels[edge:end])]
    return sorted({*within, start, stop} - {0, count})
