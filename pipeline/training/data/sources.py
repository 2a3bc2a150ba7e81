"""Reads and checks the training data that `--data` names: drawn digits, or annotated images from the disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import sha256_of_bytes
from effedge.pipeline.datasets import digits
from effedge.pipeline.datasets.checks import REFUSE, CheckedData, check_data
from effedge.pipeline.datasets.records import annotations_digest
from effedge.pipeline.models.anchors import make_anchors
from effedge.pipeline.models.tables import EFFICIENTDETS, Size, is_detector
from effedge.pipeline.training.data.augment import Augmentation
from effedge.pipeline.training.data.batches import (
    Batch,
    collate_classification,
    collate_detection,
    digit_crops,
    digit_images,
    record_crops,
    record_images,
    with_matches,
)
from effedge.pipeline.weights.class_names import numbered_labels
from effedge.pipeline.weights.published import preprocessing

DIGITS = "digits"


class TrainingData(NamedTuple):
    """Samples by index, and the function that makes a batch of them.

    labels: by class id.
    epoch_length: number of images in an epoch; None where every sample is drawn anew.
    digest: hash of the annotations and the file names, by which a resumed run recognizes them.
    checked: the data as read and checked; None for the drawn digits.
    """

    labels: list[str | None]
    draw: Callable[[int], object]
    collate: Callable[[Any], Batch]
    epoch_length: int | None
    digest: str
    checked: CheckedData | None = None


class Sampling(NamedTuple):
    """How samples are made of the data.

    seed: of all that is drawn.
    augmentation: of images from the disk; drawn digits vary in their own ways.
    matching: of a detector's anchors (`effedge.pipeline.training.matching.MATCHINGS`).
    """

    seed: int = 0
    augmentation: Augmentation = Augmentation()
    matching: str = "iou"


def training_data(
    model: str, data: str, images: Path | None, size: Size, sampling: Sampling, unreadable: str = REFUSE
) -> TrainingData:  # fmt: skip
    """Reads and checks the training data of a model.

    Args:
        data: `digits`, or a path that `effedge.pipeline.datasets.read.read_data` reads.
        images: the folder of its images, where that is not the usual place.
        size: of the input.
        unreadable: as of `effedge.pipeline.datasets.checks.check_data`.

    Raises:
        UserError: as `effedge.pipeline.datasets.checks.check_data`; drawn crops, which are square, for a wide input.
    """
    checked = None
    look, (seed, augmentation, matching) = preprocessing(model, ""), sampling
    if data == DIGITS:
        labels: list[str | None] = list(digits.LABELS)
        if not is_detector(model) and size.height != size.width:
            raise UserError(f"the digits' crops are square, and SIZE (--size) is {size}: expected a side in pixels")
        draw_crop, draw_image = digit_crops(size.height, seed), digit_images(size, seed, look.fill)
        epoch_length, digest = None, DIGITS
    else:
        checked = check_data(data, images, model, unreadable)
        dataset, records = checked.data, checked.data.records
        labels = dataset.labels if any(dataset.labels) else numbered_labels(len(dataset.labels))
        draw_crop = record_crops(records, size, seed, augmentation, look)
        draw_image = record_images(records, size, seed, augmentation, look.fill)
        paths = [str(record.path).encode() for record in records]
        epoch_length, digest = len(records), sha256_of_bytes([annotations_digest(dataset).encode(), *paths])
    if not is_detector(model):
        return TrainingData(labels, draw_crop, collate_classification, epoch_length, digest, checked)
    row = EFFICIENTDETS[model]
    anchors = make_anchors(size, row.levels, row.anchor_scale, row.aspects)
    draw = with_matches(draw_image, anchors, matching)
    return TrainingData(labels, draw, collate_detection, epoch_length, digest, checked)
