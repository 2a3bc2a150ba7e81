"""Checks a data set before a training or a validation, in seconds instead of hours.

Data that nothing can be learnt from raises `problems.BrokenData`, with a line for each kind of mistake. Oddities that
may be intended are counted in notes, a line each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.unreadable import MOST_LISTED, find_unreadable
from effedge.pipeline.datasets.image_sizes import EDGE, read_size
from effedge.pipeline.datasets.labelled import read_for_task
from effedge.pipeline.datasets.problems import Problems
from effedge.pipeline.datasets.read import read_data
from effedge.pipeline.datasets.records import DataSet, Record
from effedge.pipeline.models.tables import is_detector

# LVIS (Gupta et al. 2019, section 3.3) calls a category rare if it is in ten training images or fewer.
RARE = 10
# A chosen limit: beyond it, a batch of a hundred objects seldom has one of the rarest class.
IMBALANCE = 100


class CheckedData(NamedTuple):
    """Data with the size of every image, int64 [n,2] (width, height), and notes on its oddities, a line each."""

    data: DataSet
    sizes: np.ndarray
    notes: list[str]


# What becomes of images that cannot be read: they are a mistake, left out with a note, or met by whoever opens them.
REFUSE, LEAVE_OUT, KEEP = "refuse", "leave out", "keep"


def check_data(data: str, images: Path | None, model: str | None = None, unreadable: str = REFUSE) -> CheckedData:
    """Reads and checks a data set, for `model` if that is not None.

    Args:
        unreadable: REFUSE or LEAVE_OUT: all images are decoded, as one that was cut short has a sound head; KEEP: only
            their heads are read.

    Raises:
        UserError: no such data, data of another task, nothing to learn in it; BrokenData for malformed annotations,
            missing files, files that are no images or cut short, boxes outside of their images.
    """
    problems = Problems()
    if model is None:
        dataset = read_data(Path(data), images, problems)
    else:
        task = "detection" if is_detector(model) else "classification"
        dataset = read_for_task(task, Path(data), images, problems, model=model)
    present = [record for record in dataset.records if record.path.is_file()]
    errors = {} if unreadable == KEEP else find_unreadable((record.path for record in present), "checking images")
    if unreadable == LEAVE_OUT and errors:
        dataset = left_out(dataset, errors)
    else:
        add_unreadable(errors, len(dataset.records), problems)
    sizes = [check_image(record, problems) for record in present if record.path not in errors]
    problems.refuse()
    if dataset.task == "detection" and all(record.ignored.all() for record in dataset.records):
        raise UserError(f"'{data}' has {len(dataset.records)} images without any object: nothing to learn or to find")
    if dataset.task == "classification" and len(dataset.labels) < 2:
        raise UserError(f"'{data}' has one class: expected two or more to tell apart")
    return CheckedData(dataset, np.array(sizes), [*dataset.notes, *notes_on(dataset, np.array(sizes))])


def add_unreadable(errors: Mapping[Path, str], count: int, problems: Problems) -> None:
    """Adds a problem for each of the first MOST_LISTED images that cannot be read, and one with the advice.

    Args:
        count: the number of all images.
    """
    for index, line in enumerate(errors.values()):
        problems.add(f"no image {min(index, MOST_LISTED - 1)}", line)
    if errors:
        advice = "replace them, or train without them by --skip-unreadable"
        problems.add("no images", f"{len(errors)} of {count} images cannot be read: {advice}")


def left_out(dataset: DataSet, errors: Mapping[Path, str]) -> DataSet:
    """Returns the data without the images that have an error, with the errors among its notes.

    Raises:
        UserError: no image is left.
    """
    records = [record for record in dataset.records if record.path not in errors]
    if not records:
        first = next(iter(errors.values()))
        raise UserError(f"none of the {len(dataset.records)} images can be read; the first: {first}")
    lines = list(errors.values())[:MOST_LISTED]
    count = f"{len(dataset.records) - len(records)} of {len(dataset.records)} images cannot be read and are left out"
    return dataset._replace(records=records, notes=[*dataset.notes, *lines, count])


def check_image(record: Record, problems: Problems) -> tuple[int, int]:
    """Reads an image's (width, height) from the head of its file; adds problems for no image and for boxes outside."""
    try:
        width, height = read_size(record.path).upright
    except Exception:
        for line in find_unreadable([record.path]).values():  # explains the file
            problems.add("no image", line)
            return 1, 1
        raise
    x0, y0, x1, y1 = record.boxes.T
    for index in np.flatnonzero((x1 <= 0) | (y1 <= 0) | (x0 >= width) | (y0 >= height)):
        box = [round(float(value), 1) for value in record.boxes[index]]
        problems.add(
            "outside",
            f"the box {box} (x0, y0, x1, y1) lies outside its image '{record.path}' of {width} x {height} pixels: "
            "check that the annotations are of these images, unscaled",
        )
    return width, height


def learnable_objects(data: DataSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Collects the objects to learn: boxes float32 [n,4], class ids int64 [n], indices of their images int64 [n]."""
    kept = [~record.ignored if len(record.boxes) else np.ones(len(record.class_ids), bool) for record in data.records]
    boxes = [record.boxes[~record.ignored] for record in data.records]
    class_ids = [record.class_ids[mask] for record, mask in zip(data.records, kept, strict=True)]
    image_indices = np.repeat(np.arange(len(class_ids)), [len(ids) for ids in class_ids])
    return np.concatenate(boxes), np.concatenate(class_ids), image_indices


def notes_on(data: DataSet, sizes: np.ndarray) -> list[str]:
    """Counts oddities that may be intended, a line each."""
    notes = []
    repeated = len(data.records) - len({record.path for record in data.records})
    if repeated:
        notes.append(f"{repeated} images are listed twice")
    boxes, class_ids, image_indices = learnable_objects(data)
    if data.task == "detection":
        beyond = np.maximum(-boxes[:, :2], boxes[:, 2:] - sizes[image_indices]).max(axis=1)
        if over := int((beyond > EDGE).sum()):
            worst = float(beyond.max())
            notes.append(f"{over} boxes reach over their image's edge, by up to {worst:.0f} pixels, and are clipped")
        objects = Counter(zip(image_indices.tolist(), class_ids.tolist(), map(bytes, boxes), strict=True))
        if double := sum(objects.values()) - len(objects):
            notes.append(f"{double} objects are there twice: same image, same class, same box")
    return notes + notes_on_classes(data, class_ids, image_indices)


def notes_on_classes(data: DataSet, class_ids: np.ndarray, image_indices: np.ndarray) -> list[str]:
    """Notes absent, rare and imbalanced classes, by class ids [n] of objects and indices [n] of their images."""
    notes = []
    things = "objects" if data.task == "detection" else "images"
    counts = np.bincount(class_ids, minlength=len(data.labels))
    names = [label or str(index) for index, label in enumerate(data.labels)]
    if len(absent := np.flatnonzero(counts == 0)):
        notes.append(f"{len(absent)} classes have no {things}, the first is {names[absent[0]]}: they cannot be learnt")
    image_counts = np.array([len(np.unique(image_indices[class_ids == index])) for index in range(len(names))])
    if len(rare := np.flatnonzero((counts > 0) & (image_counts <= RARE))):
        notes.append(f"{len(rare)} classes are in {RARE} images or fewer, the first is {names[rare[0]]}")
    present = np.flatnonzero(counts)
    most, least = present[counts[present].argmax()], present[counts[present].argmin()]
    if counts[most] > IMBALANCE * counts[least]:
        ratio = counts[most] / counts[least]
        notes.append(f"the classes are out of balance: {ratio:.0f} {things} of {names[most]} for one of {names[least]}")
    return notes
