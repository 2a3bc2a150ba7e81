"""What `--data` means: drawn digits, or annotated pictures from the disk, checked before the first step."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from deploy.cli import UserError
from deploy.images import open_image, orientation
from engines.stage import progress_disabled
from pipeline import digits
from pipeline.augment import Variety
from pipeline.class_names import numbered_labels
from pipeline.data.read import read_data
from pipeline.data.records import DataSet, Record
from pipeline.published import preprocessing
from pipeline.samples import (
    collate_classification,
    collate_detection,
    digit_crops,
    digit_pictures,
    matched,
    record_crops,
    record_pictures,
)
from pipeline.zoo import EFFICIENTDETS, is_detector

DIGITS = "digits"
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


class TrainingData(NamedTuple):
    """Samples by index and how they become a batch.

    labels: by class id.
    pictures: in an epoch; None where each sample is drawn anew.
    digest: of the annotations, to know them again.
    """

    labels: list[str | None]
    draw: Callable[[int], Any]
    collate: Callable[[Any], Any]
    pictures: int | None
    digest: str


def training_data(
    model: str,
    data: str,
    images: Path | None,
    size: int,
    seed: int,
    variety: Variety,
    quiet: bool = False,
) -> TrainingData:
    """Read and check what a model is to learn from.

    Args:
        data: `digits`, or a path that `pipeline.data.read.read_data` reads.
        images: the folder of its pictures, where that is not the usual place.
        size: side of the input in pixels.
        variety: how far pictures may be changed and mean the same. Drawn digits vary in their own ways.

    Raises:
        UserError: no such data, data of another task, no objects, a picture that is none, a box outside its picture.
    """
    if data == DIGITS:
        labels: list[str | None] = list(digits.LABELS)
        crops, pictures = digit_crops(size, seed), digit_pictures(size, seed, preprocessing(model, "").fill)
        count, digest = None, DIGITS
    else:
        found = read_for(model, data, images, quiet)
        look, records = preprocessing(model, ""), found.records
        labels = found.labels if any(found.labels) else numbered_labels(len(found.labels))
        crops = record_crops(records, size, seed, variety, look)
        pictures = record_pictures(records, size, seed, variety, look.fill)
        count, digest = len(records), digest_of(found)
    if not is_detector(model):
        return TrainingData(labels, crops, collate_classification, count, digest)
    row = EFFICIENTDETS[model]
    draw = matched(pictures, size, row.levels, row.anchor_scale)
    return TrainingData(labels, draw, collate_detection, count, digest)


def read_for(model: str, data: str, images: Path | None, quiet: bool) -> DataSet:
    """Data that this model can learn from or be held against; UserError as `training_data` says."""
    found = read_data(Path(data), images)
    task = "detection" if is_detector(model) else "classification"
    if found.task != task:
        raise UserError(f"'{data}' is for {found.task}, {model} is for {task}: give data for {task}")
    if task == "detection" and all(record.ignored.all() for record in found.records):
        raise UserError(f"'{data}' has {len(found.records)} pictures without any object: nothing to learn or to find")
    if task == "classification" and len(found.labels) < 2:
        raise UserError(f"'{data}' has one class: expected two or more to tell apart")
    for record in tqdm(found.records, desc="checking pictures", unit="picture", disable=progress_disabled(quiet)):
        check_picture(record)
    return found


def check_picture(record: Record) -> None:
    """UserError if the file is no picture, or a box lies outside of it: better now than hours into a training.

    Only the file's head is read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(record.path) as image:
                width, height = image.size[::-1] if orientation(image) in SIDEWAYS else image.size
    except Exception:  # whatever it is, open_image has the words for it
        open_image(record.path)
        raise
    x0, y0, x1, y1 = record.boxes.T
    outside = np.flatnonzero((x1 <= 0) | (y1 <= 0) | (x0 >= width) | (y0 >= height))
    if len(outside):
        box = [round(float(value), 1) for value in record.boxes[outside[0]]]
        raise UserError(
            f"the box {box} (x0, y0, x1, y1) lies outside its picture '{record.path}' of {width} x {height} pixels: "
            "check that the annotations are of these pictures, unscaled"
        )


def digest_of(data: DataSet) -> str:
    """A hash of labels, file names and annotations; not of the pixels."""
    digest = hashlib.sha256(repr(data.labels).encode())
    for record in data.records:
        digest.update(str(record.path).encode() + record.boxes.tobytes())
        digest.update(record.class_ids.tobytes() + record.ignored.tobytes())
    return digest.hexdigest()
