"""Latency against accuracy: every measured model, the Pareto front, and the limit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from effedge.deploy.common.plot import figure_at
from effedge.pipeline.reports.choose.pareto import Candidate, front


def plot(
    candidates: Sequence[Candidate],
    series: Sequence[Sequence[str]],
    taken: Candidate,
    limit: float,
    unit: str,
    title: str,
    path: Path,
) -> None:
    """Draw it, latency on a logarithmic scale; UserError as `effedge.deploy.common.plot.figure_at`."""
    with figure_at(path, 8, 5) as figure:
        axes = figure.subplots()
        axes.set_xscale("log")
        best = front(candidates)
        axes.plot(
            [one.milliseconds for one in best], [one.accuracy for one in best], color="tab:gray", label="Pareto front"
        )
        for models in series:
            mine = [one for one in candidates if one.model in models]
            label = " to ".join(dict.fromkeys((mine[0].model, mine[-1].model)))
            axes.scatter([one.milliseconds for one in mine], [one.accuracy for one in mine], label=label, zorder=3)
        for one in candidates:
            axes.annotate(
                one.model, (one.milliseconds, one.accuracy), xytext=(6, -10), textcoords="offset points", fontsize=9
            )
        axes.scatter(
            [taken.milliseconds], [taken.accuracy], s=180, facecolors="none", edgecolors="tab:red", linewidths=2,
            label=f"take {taken.model}", zorder=4,
        )  # fmt: skip
        axes.axvline(limit, color="black", linestyle="--", label=f"limit {limit:g} ms")
        marks = ticks(min(limit, *(one.milliseconds for one in candidates)),
                      max(limit, *(one.milliseconds for one in candidates)))  # fmt: skip
        axes.set_xticks(marks, [f"{mark:g}" for mark in marks])
        axes.minorticks_off()
        axes.margins(x=0.12)
        axes.set_xlabel("ms a picture, from its pixels to what was found in it")
        axes.set_ylabel(unit)
        axes.set_title(title, fontsize=10)
        axes.legend(loc="lower right")


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten around a span.

    >>> ticks(7, 40)
    [5.0, 10.0, 20.0, 50.0]
    """
    steps = [digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5)]
    first = max(index for index, step in enumerate(steps) if step <= low)
    last = min(index for index, step in enumerate(steps) if step >= high)
    return steps[first : last + 1]
