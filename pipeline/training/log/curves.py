"""Draws a training's journal as curves: losses, validation figures and learning rate by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effedge.deploy.common.plot import figure_at
from effedge.pipeline.training.log.journal import read_journal

MANY_TICKS = 3  # the ratio of the ends of an axis, above which the labels of all of its ticks would overlap
NOT_LOSSES = ("step", "rate", "images_per_second")
WINDOW = 50  # steps that a curve averages over, a twentieth of a run at most


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Computes the mean of each value and those before it, of `window` values at most.

    >>> smooth(np.array([1.0, 3.0, 5.0]), 2).tolist()
    [1.0, 2.0, 4.0]
    """
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def different_losses(steps: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
    """Returns the losses by name, step by step; of those with the same values only the last: a classifier's one term is
    all of its loss.

    >>> list(different_losses([{"step": 1, "class": 0.5, "box": 0.2, "loss": 0.7, "rate": 0.1}]))
    ['class', 'box', 'loss']
    >>> list(different_losses([{"step": 1, "class": 0.5, "loss": 0.5, "rate": 0.1}]))
    ['loss']
    """
    losses: dict[str, np.ndarray] = {}
    for name in [name for name in (steps[0] if steps else {}) if name not in NOT_LOSSES]:
        values = np.array([entry[name] for entry in steps])
        losses = {each: others for each, others in losses.items() if not np.array_equal(values, others)}
        losses[name] = values
    return losses


def draw_curves(journal: Path, path: Path, title: str) -> None:
    """Draws the curves of a journal to `path`; UserError as `effedge.deploy.common.plot.figure_at`."""
    entries = read_journal(journal)
    steps = [entry for entry in entries if "rate" in entry]
    validations = [entry for entry in entries if "validation" in entry]
    at = np.array([entry["step"] for entry in steps])
    window = max(1, min(WINDOW, len(steps) // 20))
    with figure_at(path, 8, 9 if validations else 6) as figure:
        panels = figure.subplots(3 if validations else 2, sharex=True)
        drawn = different_losses(steps)
        for name, losses in drawn.items():
            [line] = panels[0].plot(at, smooth(losses, window), label=name)
            if window > 1:
                panels[0].plot(at, losses, color=line.get_color(), alpha=0.2, linewidth=0.5)
        mean = f", mean of {window} steps" if window > 1 else ""
        panels[0].set(ylabel=f"loss{mean} (logarithmic)", title=title, yscale="log")
        set_loss_ticks(panels[0], np.concatenate([*drawn.values(), []]))
        if drawn:
            panels[0].legend()
        panels[1].plot(at, [entry["rate"] for entry in steps])
        panels[1].set(ylabel="learning rate")
        if validations:
            for name in list(validations[0]["validation"])[:2]:  # AP and AP50, or top-1 and top-5
                figures = [entry["validation"].get(name) for entry in validations]
                panels[2].plot([entry["step"] for entry in validations], figures, marker=".", label=name)
            panels[2].set(ylabel="validation, 0 to 1")
            panels[2].legend()
        panels[-1].set_xlabel("step")
        for panel in panels:
            panel.grid(alpha=0.3)


def set_loss_ticks(axis: Any, losses: np.ndarray) -> None:
    """Labels a logarithmic axis of losses with plain numbers, as many as there is room for."""
    from matplotlib.ticker import LogLocator

    axis.yaxis.set_major_formatter("{x:.3g}")  # 2.3 rather than 2.3 x 10^0
    axis.yaxis.set_minor_formatter("{x:.3g}")
    if len(losses) and losses.max() > MANY_TICKS * losses.min() > 0:
        axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
