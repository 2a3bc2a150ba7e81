"""Puts together what the page says of accuracy: tables, curves, the best threshold, confusions, changed images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from effedge.pipeline.datasets.records import DataSet
from effedge.pipeline.evaluation.evaluate import Figures, with_data_ids
from effedge.pipeline.reports.report import detection as detectors
from effedge.pipeline.reports.report.changes import ChangedImage, changed_classes, changed_detections
from effedge.pipeline.reports.report.classification import image_classes, measure_classifier
from effedge.pipeline.reports.report.engines import ReportedEngine
from effedge.pipeline.reports.report.figures import Chart, line_chart

MOST_CLASSES = 20  # of a confusion matrix that is shown whole, and of a table in the order of the classes
MOST_CONFUSIONS = 20  # of pairs of classes, where it is not
BACKGROUND, NOT_FOUND, ANY = "background", "not found", "any class"
OTHER = "a class that the data does not have"
RECALLS = np.linspace(0, 1, 101)  # COCO's


@dataclass(frozen=True)
class Row:
    """A row of a table: a figure of each engine, 0 to 1, and its difference to the first engine's. `count` are the
    objects or images that it is of."""

    name: str
    count: int | None
    values: list[float | None]

    @property
    def changes(self) -> list[float | None]:
        return [difference(value, self.values[0]) for value in self.values]


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix: counts, and each count's share of its row, 0 to 1."""

    rows: list[str]
    columns: list[str]
    counts: list[list[int]]
    shares: list[list[float]]


@dataclass(frozen=True)
class Operating:
    """Precision, recall and F1 at a threshold."""

    threshold: float
    precision: float | None
    recall: float
    f1: float


@dataclass
class Accuracy:
    """The accuracy of the engines that ran, the reference first.

    numbers: of these engines, among all of the report.
    figures: each engine's figures; the first is the one that counts.
    best, shared: of detectors, at each engine's own best threshold, and at the reference's.
    balance: of classifiers, the images that only the reference has right, and those that only the engine has.
    changed: the number of images with other results than the reference's.
    """

    numbers: list[int]
    names: list[str]
    figures: list[Figures]
    overall: list[Row]
    classes: list[Row]
    confusions: list[Confusion]  # of each engine; none where there are more than MOST_CLASSES classes
    pairs: list[tuple[str, str, list[int]]]  # then, of classes: how often each engine takes the first for the second
    changed: int
    images: list[ChangedImage]
    charts: list[Chart] = field(default_factory=list)
    best: list[Operating] = field(default_factory=list)
    shared: list[Operating] = field(default_factory=list)
    balance: list[tuple[int, int]] = field(default_factory=list)
    ignored: int = 0


def measure_accuracy(engines: Sequence[ReportedEngine], data: DataSet) -> Accuracy | None:
    """Measures the engines that ran on the data; None if none did.

    Raises:
        UserError: the data has nothing to measure.
    """
    ran = [(number, engine) for number, engine in enumerate(engines) if engine.results is not None]
    if not ran:
        return None
    return detector_accuracy(ran, data) if data.task == "detection" else classifier_accuracy(ran, data)


def detector_accuracy(ran: Sequence[tuple[int, ReportedEngine]], data: DataSet) -> Accuracy:
    """Measures detectors."""
    detections = [with_data_ids(engine.class_ids, engine.results or []) for _, engine in ran]
    measured = [detectors.measure_detector(data, each) for each in detections]
    names, labels = [engine.name for _, engine in ran], data_labels(data, ran[0][1])
    shared = measured[0].points.best
    threshold = float(detectors.THRESHOLDS[shared])
    sizes = {f"AP {name}": count for name, count in detectors.objects_by_size(data).items()}
    counts = detectors.objects_by_class(data)
    matrices = [detectors.confusion_matrix(data, each, threshold) for each in detections]
    rows, columns, is_long = [*labels, BACKGROUND], [*labels, NOT_FOUND], len(labels) > MOST_CLASSES
    changed, images = changed_detections(data, names, detections, threshold, labels)
    return Accuracy(
        numbers=[number for number, _ in ran],
        names=names,
        figures=[each.metrics.figures for each in measured],
        overall=[
            Row(
                "AP 50:95" if name == "AP" else name, sizes.get(name), [each.metrics.figures[name] for each in measured]
            )
            for name in measured[0].metrics.figures
        ],
        classes=by_change(
            [
                Row(label, counts[index], [each.metrics.per_class.get(str(data.labels[index])) for each in measured])
                for index, label in enumerate(labels)
                if counts[index]
            ]
        ),
        confusions=[] if is_long else [confusion(each, rows, columns) for each in matrices],
        pairs=[*misses(matrices), *confused_pairs([each[:-1, :-1] for each in matrices], labels, labels)]
        if is_long
        else [],
        changed=changed,
        images=images,
        charts=detector_charts(ran, measured),
        best=[operating(each.points, each.points.best) for each in measured],
        shared=[operating(each.points, shared) for each in measured],
        ignored=sum(int(record.ignored.sum()) for record in data.records),
    )


def classifier_accuracy(ran: Sequence[tuple[int, ReportedEngine]], data: DataSet) -> Accuracy:
    """Measures classifiers."""
    measured = [measure_classifier(data, engine.class_ids, engine.results or []) for _, engine in ran]
    names, labels = [engine.name for _, engine in ran], data_labels(data, ran[0][1])
    counts = np.bincount(image_classes(data), minlength=len(labels)).tolist()
    rows, columns, is_long = [*labels, ""], [*labels, OTHER], len(labels) > MOST_CLASSES
    changed, images = changed_classes(data, ran[0][1].class_ids, names, [engine.results or [] for _, engine in ran])
    first = measured[0].right
    return Accuracy(
        numbers=[number for number, _ in ran],
        names=names,
        figures=[each.figures for each in measured],
        overall=[Row(name, None, [each.figures[name] for each in measured]) for name in measured[0].figures],
        classes=by_change(
            [
                Row(label, counts[index], [each.per_class[index] for each in measured])
                for index, label in enumerate(labels)
                if counts[index]
            ]
        ),
        confusions=[] if is_long else [confusion(each.confusion, rows, columns) for each in measured],
        pairs=confused_pairs([each.confusion for each in measured], rows, columns) if is_long else [],
        changed=changed,
        images=images,
        balance=[(int((first & ~each.right).sum()), int((~first & each.right).sum())) for each in measured],
    )


def data_labels(data: DataSet, engine: ReportedEngine) -> list[str]:
    """Returns the names of the data's classes; where the data has only numbers, the model's names for them."""
    names = engine.manifest["spec"]["labels"]
    labels = []
    for index, label in enumerate(data.labels):
        class_id = engine.class_ids[index]
        known = names[class_id] if class_id is not None else None
        labels.append(label if label is not None else known if known is not None else str(index))
    return labels


def detector_charts(
    ran: Sequence[tuple[int, ReportedEngine]], measured: Sequence[detectors.DetectorMeasurement]
) -> list[Chart]:
    """Makes the charts of precision over recall, and of F1 over the threshold."""
    keys = [(number, engine.name) for number, engine in ran]
    charts = [
        line_chart(
            f"Precision by recall, IoU {iou:.2f}",
            ("recall", "precision"),
            {key: (RECALLS, each.curves[iou]) for key, each in zip(keys, measured, strict=True)},
            {},
        )
        for iou in measured[0].curves
    ]
    best = {
        key: (float(detectors.THRESHOLDS[each.points.best]), float(each.points.f1[each.points.best]))
        for key, each in zip(keys, measured, strict=True)
    }
    curves = {key: (detectors.THRESHOLDS, each.points.f1) for key, each in zip(keys, measured, strict=True)}
    return [*charts, line_chart("F1 by threshold", ("threshold", "F1"), curves, best)]


def operating(points: detectors.OperatingPoints, index: int) -> Operating:
    """Reads precision, recall and F1 at the threshold of this index."""
    precision = float(points.precision[index])
    return Operating(
        float(detectors.THRESHOLDS[index]),
        None if np.isnan(precision) else precision,
        float(points.recall[index]),
        float(points.f1[index]),
    )


def confusion(counts: np.ndarray, rows: list[str], columns: list[str]) -> Confusion:
    """Makes the matrix for the page of counts; without a row that has no name, and a column OTHER of zeros."""
    kept_rows = [index for index, name in enumerate(rows) if name]
    kept_columns = [index for index, name in enumerate(columns) if name != OTHER or counts[:, index].any()]
    shown = counts[np.ix_(kept_rows, kept_columns)]
    shares = shown / np.maximum(shown.sum(1, keepdims=True), 1)
    names = [rows[index] for index in kept_rows], [columns[index] for index in kept_columns]
    return Confusion(*names, shown.tolist(), shares.tolist())


def confused_pairs(
    matrices: Sequence[np.ndarray], rows: list[str], columns: list[str]
) -> list[tuple[str, str, list[int]]]:
    """Lists the pairs of different classes that the engines confuse most, by the sum of their counts."""
    apart = np.sum(matrices, 0)
    np.fill_diagonal(apart, 0)
    order = np.argsort(-apart, axis=None, kind="stable")[:MOST_CONFUSIONS]
    places = [divmod(int(place), len(columns)) for place in order]
    return [
        (rows[row], columns[column], [int(matrix[row, column]) for matrix in matrices])
        for row, column in places
        if apart[row, column]
    ]


def misses(matrices: Sequence[np.ndarray]) -> list[tuple[str, str, list[int]]]:
    """Counts what detectors do not find, and what they find where nothing is, over all classes."""
    return [
        (ANY, NOT_FOUND, [int(matrix[:-1, -1].sum()) for matrix in matrices]),
        (BACKGROUND, ANY, [int(matrix[-1, :-1].sum()) for matrix in matrices]),
    ]


def by_change(rows: list[Row]) -> list[Row]:
    """Sorts the rows of many classes by their largest change; those of few stay in the order of the classes."""
    if len(rows) <= MOST_CLASSES:
        return rows
    return sorted(rows, key=lambda row: -max(abs(change or 0) for change in row.changes))


def difference(value: float | None, reference: float | None) -> float | None:
    """Subtracts the reference; None where one of them is not known."""
    return None if value is None or reference is None else value - reference
