"""Finds the images whose results differ most between a reference and other engines, and draws them as small JPEGs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from effedge.deploy.image.classification import Classification
from effedge.deploy.image.detections import Detections
from effedge.deploy.image.files import open_image
from effedge.pipeline.datasets.records import DataSet, Record
from effedge.pipeline.evaluation.coco_metrics import ImageDetections
from effedge.pipeline.reports.report.detection import above, match_objects, matches, overlaps

MOST_IMAGES = 6
SIDE = 420  # pixels of the longer side of an image on the page
QUALITY = 80
CLASSES = 3  # of a classifier's image that are named
MOST_LINES = 5  # of what changed, for each image and engine


@dataclass(frozen=True)
class Panel:
    """An engine's view of an image: the JPEG as a data URI ("" where the reference's stands for all), and lines of
    text."""

    engine: str
    uri: str
    lines: list[str]


@dataclass(frozen=True)
class ChangedImage:
    """An image whose results changed, with a panel for each engine, the reference first."""

    name: str
    panels: list[Panel]


@dataclass(frozen=True)
class Change:
    """A detection whose score differs: `index` is that in the reference (`lost`), or in the other engine."""

    index: int
    lost: bool
    before: float
    after: float


def detection_changes(reference: ImageDetections, other: ImageDetections, threshold: float) -> list[Change]:
    """Lists the detections that only one of the engines reports, with the scores of both: of the class, at the place.

    Detections are paired whatever their scores are, so a detection just above the threshold here and just below it
    there is a small change.
    """
    pairs = matches(overlaps(reference.boxes, other.boxes), reference.class_ids[:, None] == other.class_ids[None])
    same = [(a, b) for a, b in pairs if reference.class_ids[a] == other.class_ids[b]]
    to_other, to_reference = dict(same), {b: a for a, b in same}
    changes = []
    for index, score in enumerate(reference.scores.tolist()):
        after = float(other.scores[to_other[index]]) if index in to_other else 0.0
        if score >= threshold > after:
            changes.append(Change(index, True, score, after))
    for index, score in enumerate(other.scores.tolist()):
        before = float(reference.scores[to_reference[index]]) if index in to_reference else 0.0
        if score >= threshold > before:
            changes.append(Change(index, False, before, score))
    return sorted(changes, key=lambda change: -abs(change.after - change.before))


def changed_detections(
    data: DataSet, names: Sequence[str], detections: Sequence[Sequence[ImageDetections]], threshold: float,
    labels: Sequence[str],
) -> tuple[int, list[ChangedImage]]:  # fmt: skip
    """Returns the number of images with other detections, and the images that changed most, drawn.

    Args:
        names: of the engines, the reference first.
        detections: of each engine, in each image.
        threshold: the lowest score of a detection that counts and is drawn.
        labels: by the data's class id.
    """
    totals = np.zeros(len(data.records))
    for others in detections[1:]:
        for index, (reference, other) in enumerate(zip(detections[0], others, strict=True)):
            changes = detection_changes(reference, other, threshold)
            totals[index] += sum(abs(change.after - change.before) for change in changes)
    drawn = []
    for index in most_changed(totals):
        record, of_image = data.records[index], [each[index] for each in detections]
        image, scale = small_image(record.path)
        panels = []
        for name, found in zip(names, of_image, strict=True):
            changes = detection_changes(of_image[0], found, threshold)
            lines = [describe(change, record, of_image[0] if change.lost else found, labels) for change in changes]
            shown = above(found, threshold)
            head = f"{len(shown.scores)} detections, {right_count(record, shown)} right"
            panels.append(Panel(name, drawn_uri(image, scale, shown, labels), [head, *shortened(lines)]))
        drawn.append(ChangedImage(record.path.name, panels))
    return int((totals > 0).sum()), drawn


def changed_classes(
    data: DataSet, class_ids: Sequence[int | None], names: Sequence[str], results: Sequence[Sequence[Classification]]
) -> tuple[int, list[ChangedImage]]:
    """Returns the number of images with another best class, and the images that changed most.

    Args:
        class_ids: the reference's class id for each class of the data.
        names, results: of each engine, the reference first.
    """
    totals = np.zeros(len(data.records))
    for others in results[1:]:
        for index, (reference, other) in enumerate(zip(results[0], others, strict=True)):
            if reference[0].label != other[0].label:
                totals[index] += reference[0].score + other[0].score
    drawn = []
    for index in most_changed(totals):
        record = data.records[index]
        true_id = class_ids[int(record.class_ids[0])]
        true_label = next((label for id_, label, _ in results[0][index] if id_ == true_id), None)
        uri = jpeg_uri(small_image(record.path)[0])
        panels = [
            Panel(
                name,
                "" if number else uri,
                [
                    f"{label} {score:.2f}{' (right)' * (label == true_label)}"
                    for _, label, score in of_engine[index][:CLASSES]
                ],
            )
            for number, (name, of_engine) in enumerate(zip(names, results, strict=True))
        ]
        drawn.append(ChangedImage("/".join(record.path.parts[-2:]), panels))
    return int((totals > 0).sum()), drawn


def most_changed(totals: np.ndarray) -> list[int]:
    """Returns the indices of the largest totals above 0, largest first."""
    order = np.argsort(-totals, kind="stable")[:MOST_IMAGES]
    return [int(index) for index in order if totals[index] > 0]


def describe(change: Change, record: Record, image: ImageDetections, labels: Sequence[str]) -> str:
    """Says what became of a detection, and if it is right: on an object of its class."""
    one = ImageDetections(*(values[[change.index]] for values in image))
    right = "right" if right_count(record, one) else "wrong"
    verb = "lost" if change.lost else "new"
    return f"{verb}: {labels[int(one.class_ids[0])]} ({right}), {change.before:.3f} → {change.after:.3f}"


def right_count(record: Record, image: ImageDetections) -> int:
    """Counts the detections that are paired with an object of their class."""
    pairs, _ = match_objects(record, image)
    return sum(int(image.class_ids[row] == record.class_ids[column]) for row, column in pairs)


def shortened(lines: list[str]) -> list[str]:
    """Cuts a list of lines, and says by how many."""
    more = len(lines) - MOST_LINES
    return lines if more <= 0 else [*lines[:MOST_LINES], f"and {more} more"]


def small_image(path: Path) -> tuple[Image.Image, np.ndarray]:
    """Reads an image, scaled down to fit SIDE, and the factors of a box's four sides, float32 [4]."""
    image = Image.fromarray(open_image(path))
    width, height = image.size
    image.thumbnail((SIDE, SIDE))
    return image, np.array([image.width / width, image.height / height] * 2, np.float32)


def drawn_uri(image: Image.Image, scale: np.ndarray, shown: ImageDetections, labels: Sequence[str]) -> str:
    """Draws detections, whose boxes are in pixels of the whole image, onto the image that was scaled down."""
    named = [labels[class_id] for class_id in shown.class_ids.tolist()]
    return jpeg_uri(Detections(shown.boxes * scale, shown.scores, shown.class_ids, named).draw(image))


def jpeg_uri(image: Image.Image) -> str:
    """Encodes an image as the data URI of a JPEG."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
