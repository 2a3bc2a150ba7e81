"""Measures classifiers for a report: top-1 and top-5, and the confusions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from effedge.deploy.image.classification import Classification
from effedge.pipeline.datasets.records import DataSet
from effedge.pipeline.evaluation.evaluate import Figures, classification_scores, ids_of_data


@dataclass(frozen=True)
class ClassifierMeasurement:
    """The measurement of a classifier.

    figures: top-1 and top-5, 0 to 1.
    per_class: top-1 by class id; None for a class without images.
    confusion: images by their class (row) and that of the result (column); the last column is of classes that the data
        does not have, the last row stays empty. int64 [classes + 1, classes + 1].
    right: bool [images].
    """

    figures: Figures
    per_class: list[float | None]
    confusion: np.ndarray
    right: np.ndarray


def measure_classifier(
    data: DataSet, class_ids: Sequence[int | None], results: Sequence[Classification]
) -> ClassifierMeasurement:
    """Compares the results for the data's images with their classes.

    Args:
        class_ids: the model's class id for each class of the data.
    """
    figures = classification_scores(data, class_ids, results)["figures"]
    classes = len(data.labels)
    data_ids = ids_of_data(class_ids)
    truth = image_classes(data)
    best = np.array([data_ids.get(int(result.classes[0]), classes) for result in results])
    confusion = np.zeros((classes + 1, classes + 1), np.int64)
    np.add.at(confusion, (truth, best), 1)
    images = confusion.sum(1)[:classes]
    hits = confusion.diagonal()[:classes]
    per_class = [int(hit) / int(count) if count else None for hit, count in zip(hits, images, strict=True)]
    return ClassifierMeasurement(figures, per_class, confusion, truth == best)


def image_classes(data: DataSet) -> np.ndarray:
    """Returns the class id of each image, int64 [images]."""
    return np.array([int(record.class_ids[0]) for record in data.records])
