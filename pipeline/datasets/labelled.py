"""Reads labelled images for measuring a model: data of the model's task, with the model's class ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.messages import log
from effedge.deploy.image.unreadable import find_unreadable, log_unreadable
from effedge.pipeline.datasets.problems import Problems
from effedge.pipeline.datasets.read import read_data
from effedge.pipeline.datasets.records import DataSet, match_labels


def read_for_task(
    task: str, path: Path, images: Path | None = None, problems: Problems | None = None, *, model: str = "the model"
) -> DataSet:
    """Reads data for a task, as `effedge.pipeline.datasets.read.read_data`. Without `problems`, logs the data's notes.

    Args:
        model: the model's name in errors.

    Raises:
        UserError: no data, or data for another task.
    """
    data = read_data(path, images, problems)
    if data.task != task:
        raise UserError(f"'{path}' is for {data.task}, {model} is for {task}: give data for {task}")
    if problems is None:
        for note in data.notes:
            log.warning(f"note: {note}")
    return data


def model_class_ids(data: DataSet, labels: Sequence[str | None]) -> list[int | None]:
    """Maps the data's classes to the model's class ids, as `effedge.pipeline.datasets.records.match_labels`.

    Warns of classes that the model does not have, which count as not found.
    """
    matched = match_labels(data.labels, labels)
    unknown = [str(label) for label, class_id in zip(data.labels, matched, strict=True) if label and class_id is None]
    if unknown:
        some = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        log.warning(f"note: {len(unknown)} classes are unknown to the model and count as not found: {some}")
    return matched


def without_unreadable(data: DataSet) -> DataSet:
    """Returns the data without the images that cannot be read, and warns of them.

    Raises:
        UserError: none of the images can be read.
    """
    errors = find_unreadable(record.path for record in data.records)
    records = [record for record in data.records if record.path not in errors]
    if not records:
        first = next(iter(errors.values()), "there are none")
        raise UserError(f"none of the {len(data.records)} labelled images can be read; the first: {first}")
    log_unreadable(list(errors.values()), len(data.records), f"measured on the other {len(records)}", "warning")
    return data._replace(records=records)
