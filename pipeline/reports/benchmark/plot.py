"""Draws a benchmark as bars: the contenders' medians, with the span of the middle four fifths of their latencies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from effedge.deploy.common.plot import figure_at
from effedge.pipeline.reports.benchmark.race import Row


def plot(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draws the bars to `path`; UserError as `effedge.deploy.common.plot.figure_at`."""
    with figure_at(path, 9, 1.2 + 0.4 * len(rows)) as figure:
        axes = figure.subplots()
        names, medians = [row.name for row in rows], [row.median for row in rows]
        spans = np.abs(np.array([np.percentile(row.latencies, [10, 90]) for row in rows]).T - medians)
        colours = ["tab:blue" if name.startswith("effedge") else "tab:gray" for name in names]
        bars = axes.barh(names, medians, xerr=spans, color=colours, capsize=3)
        axes.bar_label(bars, [f"{median:.1f}" for median in medians], padding=18)
        axes.invert_yaxis()
        axes.set_xlabel("ms an image, median and 10th to 90th percentile")
        axes.set_title(title)
        axes.margins(x=0.12)
