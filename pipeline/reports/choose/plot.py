"""Draws latency against accuracy: every measured model, the Pareto front, and the limit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from effedge.deploy.common.plot import figure_at
from effedge.pipeline.reports.choose.pareto import Candidate, pareto_front


def plot(
    candidates: Sequence[Candidate],
    series: Sequence[Sequence[str]],
    picked: Candidate,
    limit: float,
    unit: str,
    title: str,
    path: Path,
) -> None:
    """Draws the models, latency on a logarithmic scale; UserError as `effedge.deploy.common.plot.figure_at`."""
    with figure_at(path, 8, 5) as figure:
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.plot(*coordinates(pareto_front(candidates)), color="tab:gray", label="Pareto front")
        for models in series:
            members = [candidate for candidate in candidates if candidate.model in models]
            label = " to ".join(dict.fromkeys((members[0].model, members[-1].model)))
            axes.scatter(*coordinates(members), label=label, zorder=3)
        for model, accuracy, milliseconds in candidates:
            axes.annotate(model, (milliseconds, accuracy), xytext=(6, -10), textcoords="offset points", fontsize=9)
        axes.scatter(
            [picked.milliseconds], [picked.accuracy], s=180, facecolors="none", edgecolors="tab:red", linewidths=2,
            label=f"take {picked.model}", zorder=4,
        )  # fmt: skip
        axes.axvline(limit, color="black", linestyle="--", label=f"limit {limit:g} ms")
        latencies = [limit, *(candidate.milliseconds for candidate in candidates)]
        marks = ticks(min(latencies), max(latencies))
        axes.set_xticks(marks, [f"{mark:g}" for mark in marks])
        axes.minorticks_off()
        axes.margins(x=0.12)
        axes.set_xlabel("ms an image, from its pixels to its detections or classes")
        axes.set_ylabel(unit)
        axes.set_title(title, fontsize=10)
        axes.legend(loc="lower right")


def coordinates(candidates: Sequence[Candidate]) -> tuple[list[float], list[float]]:
    """Returns the candidates' milliseconds and accuracies."""
    return [candidate.milliseconds for candidate in candidates], [candidate.accuracy for candidate in candidates]


def ticks(low: float, high: float) -> list[float]:
    """Lists 1, 2 and 5 times the powers of ten around a span.

    >>> ticks(7, 40)
    [5.0, 10.0, 20.0, 50.0]
    """
    steps = [digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5)]
    first = max(index for index, step in enumerate(steps) if step <= low)
    last = min(index for index, step in enumerate(steps) if step >= high)
    return steps[first : last + 1]
