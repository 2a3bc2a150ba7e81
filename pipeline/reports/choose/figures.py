"""Provides the accuracy of the models: published figures, each with its source, or the user's own from a file.

A series is a family that one rule scales up: no dimension of a member is smaller than that of the member before, so it
takes longer on any device.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import NamedTuple

from effedge.deploy.common.cli import UserError, choose
from effedge.deploy.common.files import read_json, read_text
from effedge.pipeline.models.tables import MODELS, is_detector

DETECTION, CLASSIFICATION = TASKS = ("detection", "classification")
UNITS = {DETECTION: "AP", CLASSIFICATION: "top-1"}  # of the published figures
SERIES = {
    DETECTION: (
        ("det-lite0", "det-lite1", "det-lite2", "det-lite3", "det-lite4"),
        ("d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d7x"),
    ),
    CLASSIFICATION: (
        ("lite0", "lite1", "lite2", "lite3", "lite4"),
        ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"),
    ),
}

# google/automl at 6a54c87, efficientdet/README.md: the column "AP val", and of the lite models "mAP (float)".
AUTOML = "google/automl, efficientdet/README.md, AP on COCO val2017"
AUTOML_LITE = "google/automl, efficientdet/README.md, mAP (float) on COCO"
# The same figures as the row "AutoAugment" of tensorflow/tpu's models/official/efficientnet/README.md.
PAPER = "Tan and Le 2019 (arXiv 1905.11946v5), table 2, top-1 on ImageNet"
TPU_LITE = "tensorflow/tpu, models/official/efficientnet/lite/README.md, FP32 top-1 on ImageNet"


class Figure(NamedTuple):
    """The accuracy of a float model, in per cent."""

    model: str
    accuracy: float
    source: str


PUBLISHED = {
    row.model: row
    for row in (
        Figure("det-lite0", 26.41, AUTOML_LITE),
        Figure("det-lite1", 31.50, AUTOML_LITE),
        Figure("det-lite2", 35.06, AUTOML_LITE),
        Figure("det-lite3", 38.77, AUTOML_LITE),
        Figure("det-lite4", 43.18, AUTOML_LITE),
        Figure("d0", 34.3, AUTOML),
        Figure("d1", 40.2, AUTOML),
        Figure("d2", 43.5, AUTOML),
        Figure("d3", 46.8, AUTOML),
        Figure("d4", 49.3, AUTOML),
        Figure("d5", 51.2, AUTOML),
        Figure("d6", 52.1, AUTOML),
        Figure("d7", 53.4, AUTOML),
        Figure("d7x", 54.4, AUTOML),
        Figure("lite0", 75.1, TPU_LITE),
        Figure("lite1", 76.7, TPU_LITE),
        Figure("lite2", 77.6, TPU_LITE),
        Figure("lite3", 79.8, TPU_LITE),
        Figure("lite4", 81.5, TPU_LITE),
        Figure("b0", 77.1, PAPER),
        Figure("b1", 79.1, PAPER),
        Figure("b2", 80.1, PAPER),
        Figure("b3", 81.6, PAPER),
        Figure("b4", 82.9, PAPER),
        Figure("b5", 83.6, PAPER),
        Figure("b6", 84.0, PAPER),
        Figure("b7", 84.3, PAPER),
    )
}


def task_of(model: str) -> str:
    return DETECTION if is_detector(model) else CLASSIFICATION


def published(task: str) -> list[Figure]:
    """Lists the published figures of a task's models."""
    return [row for row in PUBLISHED.values() if task_of(row.model) == task]


def series_of(figures: list[Figure]) -> list[list[str]]:
    """Groups the models of the figures by series, smallest first; a model of no series (B8, L2) is its own series."""
    models = {row.model for row in figures}
    groups = [[model for model in series if model in models] for task in SERIES.values() for series in task]
    grouped = {model for group in groups for model in group}
    return [group for group in groups if group] + [[row.model] for row in figures if row.model not in grouped]


def read_figures(path: Path) -> list[Figure]:
    """Reads the user's figures: a JSON object {model: accuracy}, or a CSV with a model and its accuracy a line.

    Raises:
        UserError: no such file, an unknown model, a value that is no number, no line at all, detectors and classifiers
            together.
    """
    pairs = read_csv(path) if path.suffix.lower() == ".csv" else read_object(path)
    figures: list[Figure] = []
    for model, number in pairs:
        if not is_detector(model):  # which MODELS does not list with its other necks
            choose(f"model in '{path}'", model, MODELS)
        if any(row.model == model for row in figures):
            raise UserError(f"'{path}' has {model} twice: expected one accuracy for each model")
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise UserError(f"'{path}' says {json.dumps(number)} of {model}: expected its accuracy, such as 38.5")
        figures.append(Figure(model, float(number), str(path)))
    if not figures:
        raise UserError(f"'{path}' has no figures: expected lines such as d0,38.5 (CSV), or {{\"d0\": 38.5}} (JSON)")
    tasks = {task_of(row.model): row.model for row in figures}
    if len(tasks) > 1:
        raise UserError(
            f"'{path}' has both detectors ({tasks[DETECTION]}) and classifiers ({tasks[CLASSIFICATION]}): "
            "give one file for each"
        )
    return figures


def read_object(path: Path) -> list[tuple[str, object]]:
    content = read_json(path, 'expected {"d0": 38.5, ...}, or a .csv')
    if not isinstance(content, dict):
        raise UserError(f"'{path}' holds no JSON object: expected {{\"d0\": 38.5, ...}}, or a .csv")
    return list(content.items())


def read_csv(path: Path) -> list[tuple[str, object]]:
    """Reads lines of two cells; a first line whose second cell is no number is a heading."""
    rows = csv.reader(read_text(path, "lines such as d0,38.5").splitlines())
    try:
        lines = [[cell.strip() for cell in line] for line in rows if any(cell.strip() for cell in line)]
    except csv.Error as error:
        raise UserError(f"'{path}' is no CSV ({error}): expected lines such as d0,38.5") from error
    pairs: list[tuple[str, object]] = []
    for index, line in enumerate(lines):
        if len(line) != 2:
            raise UserError(
                f"'{path}' has the line '{','.join(line)}': expected a model and its accuracy, such as d0,38.5"
            )
        try:
            pairs.append((line[0], float(line[1])))
        except ValueError:
            if index:
                raise UserError(
                    f"'{path}' says '{line[1]}' of {line[0]}: expected its accuracy, such as 38.5"
                ) from None
    return pairs
