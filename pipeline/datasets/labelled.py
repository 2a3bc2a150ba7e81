"""Labelled pictures to hold a model against: data of the model's task, and which of its classes the model knows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from effedge.deploy.common.cli import UserError
from effedge.pipeline.datasets.problems import Problems
from effedge.pipeline.datasets.read import read_data
from effedge.pipeline.datasets.records import DataSet, match_labels


def read_for(
    task: str, path: Path, images: Path | None = None, problems: Problems | None = None, *, model: str = "the model"
) -> DataSet:
    """Data for a task; `effedge.pipeline.datasets.read.read_data` says the rest.

    Args:
        model: what errors call the model of this task.

    Raises:
        UserError: no data, or for another task.
    """
    data = read_data(path, images, problems)
    if data.task != task:
        raise UserError(f"'{path}' is for {data.task}, {model} is for {task}: give data for {task}")
    return data


def model_ids(data: DataSet, labels: Sequence[str | None]) -> list[int | None]:
    """As `effedge.pipeline.datasets.records.match_labels`; says which classes the model does not have, which count as not found."""
    matched = match_labels(data.labels, labels)
    unknown = [str(label) for label, found in zip(data.labels, matched, strict=True) if label and found is None]
    if unknown:
        some = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        print(f"note: {len(unknown)} classes are unknown to the model and count as not found: {some}", file=sys.stderr)
    return matched
