"""Computes the geometry of the page's charts; figures.html draws them as SVG.

A chart is as wide as a telephone, so that its letters are legible there; on a wide screen charts stand side by side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

WIDTH, HEIGHT = 360, 230  # of a chart, in pixels of the SVG
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 36  # margins around the axes
MOST_TICKS = 6
BINS = 40
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Range = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: its place in pixels, and its label."""

    place: float
    label: str


@dataclass(frozen=True)
class Curve:
    """A line of a chart; `number` is that of its engine, which decides its colour. `points` are SVG's."""

    name: str
    number: int
    points: str


@dataclass(frozen=True)
class Mark:
    """A point of a chart, or with `y` None a vertical line, with what it stands for."""

    name: str
    number: int
    x: float
    y: float | None = None


@dataclass(frozen=True)
class Chart:
    """A chart: axes with titles, and what is drawn in them. `bars` are (x, y, width, height) in pixels."""

    title: str
    x_title: str
    y_title: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    curves: list[Curve] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    bars: list[tuple[float, float, float, float]] = field(default_factory=list)
    number: int = 0  # of the engine that the bars are of


def line_chart(
    title: str,
    axes: tuple[str, str],
    curves: Mapping[tuple[int, str], tuple[np.ndarray, np.ndarray]],
    points: Mapping[tuple[int, str], tuple[float, float]],
    x_range: Range = (0.0, 1.0),
) -> Chart:
    """Makes a chart of curves over shares: y is from 0 to 1.

    Args:
        axes: the titles of x and y.
        curves: x and y by the number and the name of the engine; where y is NaN the curve ends.
        points: points that are marked, by the same.
    """
    drawn = []
    for (number, name), (xs, ys) in curves.items():
        known = np.isfinite(ys)
        places = [f"{x_place(x, x_range):.1f},{y_place(y):.1f}" for x, y in zip(xs[known], ys[known], strict=True)]
        drawn.append(Curve(name, number, " ".join(places)))
    marks = [Mark(name, number, x_place(x, x_range), y_place(y)) for (number, name), (x, y) in points.items()]
    ticks = [Tick(x_place(value, x_range), label) for value, label in round_values(x_range)]
    shares = [Tick(y_place(value), label) for value, label in round_values((0.0, 1.0))]
    return Chart(title, *axes, ticks, shares, drawn, marks)


def histogram(title: str, number: int, values: Sequence[float], lines: Mapping[str, float], x_range: Range) -> Chart:
    """Makes a histogram of latencies in ms, with vertical lines at percentiles. Values beyond the range are in the last
    bar."""
    counts, edges = np.histogram(np.clip(values, *x_range), BINS, x_range)
    most = int(counts.max())
    width = (WIDTH - LEFT - RIGHT) / BINS
    bars = [
        (x_place(edge, x_range), y_place(count / most), width, y_place(0) - y_place(count / most))
        for edge, count in zip(edges, counts.tolist(), strict=False)
        if count
    ]
    marks = [Mark(name, number, x_place(min(value, x_range[1]), x_range)) for name, value in lines.items()]
    ticks = [Tick(x_place(value, x_range), label) for value, label in round_values(x_range)]
    runs = [Tick(y_place(value / most), label) for value, label in round_values((0, most)) if value == int(value)]
    return Chart(title, "ms from an image in memory to the result", "runs", ticks, runs, [], marks, bars, number)


def x_place(value: float, x_range: Range) -> float:
    """Returns the x of a value, in pixels."""
    low, high = x_range
    return LEFT + (WIDTH - LEFT - RIGHT) * (float(value) - low) / (high - low)


def y_place(share: float) -> float:
    """Returns the y of a share of the axis, in pixels."""
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - float(share))


def round_values(span: Range) -> list[tuple[float, str]]:
    """Lists round values within a span, at most MOST_TICKS, with their labels.

    >>> round_values((0.0, 1.0))
    [(0.0, '0'), (0.2, '0.2'), (0.4, '0.4'), (0.6, '0.6'), (0.8, '0.8'), (1.0, '1')]
    >>> round_values((17.2, 23.9))
    [(18.0, '18'), (20.0, '20'), (22.0, '22')]
    """
    low, high = span
    rough = (high - low) / (MOST_TICKS - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(value, f"{value:g}") for value in (round(index * step, 12) for index in range(first, last + 1))]


@dataclass(frozen=True)
class LogBars:
    """Bars on a logarithmic axis of whole decades, in per cent of the width: so they are as wide as the page lets them
    be.

    ends: of the bars; 0 for a value that is not positive.
    ticks: the decades.
    """

    ends: list[float]
    ticks: list[Tick]


def log_bars(values: Sequence[float]) -> LogBars:
    """Places values on a logarithmic axis.

    >>> log_bars([0.02, 1.0]).ticks[0], round(log_bars([0.1, 1.0, 0.0]).ends[0])
    (Tick(place=0.0, label='0.01'), 50)
    """
    positive = [value for value in values if value > 0]
    if not positive:
        return LogBars([0.0 for _ in values], [])
    high = math.ceil(math.log10(max(positive)) - 1e-9)
    # A value at the axis' beginning would have no bar.
    low = min(math.ceil(math.log10(min(positive)) - 1e-9), high) - 1
    ends = [100 * (math.log10(value) - low) / (high - low) if value > 0 else 0.0 for value in values]
    step = math.ceil((high - low) / (MOST_TICKS - 1))
    decades = range(low, high + 1, step)
    return LogBars(ends, [Tick(100 * (each - low) / (high - low), power_of_ten(each)) for each in decades])


def power_of_ten(exponent: int) -> str:
    """Formats a power of ten shortly.

    >>> power_of_ten(-1), power_of_ten(-5)
    ('0.1', '10⁻⁵')
    """
    return f"{10.0**exponent:g}" if -2 <= exponent <= 2 else "10" + str(exponent).translate(SUPERSCRIPTS)
