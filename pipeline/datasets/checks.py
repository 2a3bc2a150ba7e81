"""Is this data fit to train or validate this model? Known in seconds, before hours are spent.

What nothing can be learnt from is refused: `problems.BrokenData`, a line for each kind of mistake. What may be meant
is counted, in notes: a line each.
"""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.files import open_image, orientation
from effedge.engines.stage import progress_disabled
from effedge.pipeline.datasets.labelled import read_for
from effedge.pipeline.datasets.problems import Problems
from effedge.pipeline.datasets.read import read_data
from effedge.pipeline.datasets.records import DataSet, Record
from effedge.pipeline.models.zoo import is_detector

SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
EDGE = 1.0  # pixels; rounding alone puts boxes as far over the edge
# LVIS (Gupta et al. 2019, section 3.3) calls a category rare if it is in ten training pictures or fewer.
RARE = 10
# A judgement: beyond it, a batch of a hundred objects seldom has one of the rarest class.
IMBALANCE = 100


class Checked(NamedTuple):
    """Data with the size of every picture, int64 [n,2] (width, height), and what is odd about it, in a line each."""

    data: DataSet
    sizes: np.ndarray
    notes: list[str]


def check_data(data: str, images: Path | None, quiet: bool, model: str | None = None) -> Checked:
    """Read and check a data set, for `model` if one is given.

    Raises:
        UserError: no such data, data of another task, nothing to learn in it; BrokenData for malformed annotations,
            missing files, files that are no pictures, boxes outside of their pictures.
    """
    problems = Problems()
    if model is None:
        found = read_data(Path(data), images, problems)
    else:
        task = "detection" if is_detector(model) else "classification"
        found = read_for(task, Path(data), images, problems, model=model)
    sizes = [
        check_picture(record, problems)
        for record in tqdm(found.records, desc="checking pictures", unit="picture", disable=progress_disabled(quiet))
        if record.path.is_file()
    ]
    problems.refuse()
    if found.task == "detection" and all(record.ignored.all() for record in found.records):
        raise UserError(f"'{data}' has {len(found.records)} pictures without any object: nothing to learn or to find")
    if found.task == "classification" and len(found.labels) < 2:
        raise UserError(f"'{data}' has one class: expected two or more to tell apart")
    return Checked(found, np.array(sizes), [*found.notes, *notes_on(found, np.array(sizes))])


def check_picture(record: Record, problems: Problems) -> tuple[int, int]:
    """(width, height), from the file's head alone; notes a file that is no picture and boxes outside of it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(record.path) as image:
                width, height = image.size[::-1] if orientation(image) in SIDEWAYS else image.size
    except Exception:
        try:
            open_image(record.path)  # it has the words for whatever it is
            raise
        except UserError as error:
            problems.add("no picture", str(error))
            return 1, 1
    x0, y0, x1, y1 = record.boxes.T
    for index in np.flatnonzero((x1 <= 0) | (y1 <= 0) | (x0 >= width) | (y0 >= height)):
        box = [round(float(value), 1) for value in record.boxes[index]]
        problems.add(
            "outside",
            f"the box {box} (x0, y0, x1, y1) lies outside its picture '{record.path}' of {width} x {height} pixels: "
            "check that the annotations are of these pictures, unscaled",
        )
    return width, height


def learnt(data: DataSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All objects that are to be learnt: boxes float32 [n,4], class ids int64 [n], and which picture each is in [n]."""
    kept = [~record.ignored if len(record.boxes) else np.ones(len(record.class_ids), bool) for record in data.records]
    boxes = [record.boxes[~record.ignored] for record in data.records]
    class_ids = [record.class_ids[mask] for record, mask in zip(data.records, kept, strict=True)]
    picture = np.repeat(np.arange(len(class_ids)), [len(ids) for ids in class_ids])
    return np.concatenate(boxes), np.concatenate(class_ids), picture


def notes_on(data: DataSet, sizes: np.ndarray) -> list[str]:
    """What may be meant or not: a line each."""
    notes = []
    again = len(data.records) - len({record.path for record in data.records})
    if again:
        notes.append(f"{again} pictures are listed twice")
    boxes, class_ids, picture = learnt(data)
    if data.task == "detection":
        beyond = np.maximum(-boxes[:, :2], boxes[:, 2:] - sizes[picture]).max(axis=1)
        if over := int((beyond > EDGE).sum()):
            worst = float(beyond.max())
            notes.append(f"{over} boxes reach over their picture's edge, by up to {worst:.0f} pixels, and are clipped")
        objects = Counter(zip(picture.tolist(), class_ids.tolist(), map(bytes, boxes), strict=True))
        if double := sum(objects.values()) - len(objects):
            notes.append(f"{double} objects are there twice: same picture, same class, same box")
    return notes + notes_on_classes(data, class_ids, picture)


def notes_on_classes(data: DataSet, class_ids: np.ndarray, picture: np.ndarray) -> list[str]:
    """What class ids [n] of objects in pictures [n] say about the balance of the classes."""
    notes = []
    things = "objects" if data.task == "detection" else "pictures"
    counts = np.bincount(class_ids, minlength=len(data.labels))
    names = [label or str(index) for index, label in enumerate(data.labels)]
    if len(absent := np.flatnonzero(counts == 0)):
        notes.append(f"{len(absent)} classes have no {things}, the first is {names[absent[0]]}: they cannot be learnt")
    seen = np.array([len(np.unique(picture[class_ids == index])) for index in range(len(names))])
    if len(rare := np.flatnonzero((counts > 0) & (seen <= RARE))):
        notes.append(f"{len(rare)} classes are in {RARE} pictures or fewer, the first is {names[rare[0]]}")
    present = np.flatnonzero(counts)
    most, least = present[counts[present].argmax()], present[counts[present].argmin()]
    if counts[most] > IMBALANCE * counts[least]:
        ratio = counts[most] / counts[least]
        notes.append(f"the classes are out of balance: {ratio:.0f} {things} of {names[most]} for one of {names[least]}")
    return notes
