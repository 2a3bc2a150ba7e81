"""What `--data` means: drawn digits, or annotated pictures from the disk, checked before the first step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from effedge.pipeline.datasets import digits
from effedge.pipeline.datasets.checks import Checked, check_data
from effedge.pipeline.datasets.records import DataSet
from effedge.pipeline.models.zoo import EFFICIENTDETS, is_detector
from effedge.pipeline.training.data.augment import Variety
from effedge.pipeline.training.data.batches import (
    collate_classification,
    collate_detection,
    digit_crops,
    digit_pictures,
    matched,
    record_crops,
    record_pictures,
)
from effedge.pipeline.weights.class_names import numbered_labels
from effedge.pipeline.weights.published import preprocessing

DIGITS = "digits"


class TrainingData(NamedTuple):
    """Samples by index and how they become a batch.

    labels: by class id.
    pictures: in an epoch; None where each sample is drawn anew.
    digest: of the annotations, to know them again.
    checked: the data as read and checked; None for the drawn digits.
    """

    labels: list[str | None]
    draw: Callable[[int], Any]
    collate: Callable[[Any], Any]
    pictures: int | None
    digest: str
    checked: Checked | None = None


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
        data: `digits`, or a path that `effedge.pipeline.datasets.read.read_data` reads.
        images: the folder of its pictures, where that is not the usual place.
        size: side of the input in pixels.
        variety: how far pictures may be changed and mean the same. Drawn digits vary in their own ways.

    Raises:
        UserError: as `effedge.pipeline.datasets.checks.check_data`.
    """
    checked = None
    if data == DIGITS:
        labels: list[str | None] = list(digits.LABELS)
        crops, pictures = digit_crops(size, seed), digit_pictures(size, seed, preprocessing(model, "").fill)
        count, digest = None, DIGITS
    else:
        checked = check_data(data, images, quiet, model)
        look, found, records = preprocessing(model, ""), checked.data, checked.data.records
        labels = found.labels if any(found.labels) else numbered_labels(len(found.labels))
        crops = record_crops(records, size, seed, variety, look)
        pictures = record_pictures(records, size, seed, variety, look.fill)
        count, digest = len(records), digest_of(found)
    if not is_detector(model):
        return TrainingData(labels, crops, collate_classification, count, digest, checked)
    row = EFFICIENTDETS[model]
    draw = matched(pictures, size, row.levels, row.anchor_scale)
    return TrainingData(labels, draw, collate_detection, count, digest, checked)


def digest_of(data: DataSet) -> str:
    """A hash of labels, file names and annotations; not of the pixels."""
    digest = hashlib.sha256(repr(data.labels).encode())
    for record in data.records:
        digest.update(str(record.path).encode() + record.boxes.tobytes())
        digest.update(record.class_ids.tobytes() + record.ignored.tobytes())
    return digest.hexdigest()
