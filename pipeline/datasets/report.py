"""Reports a data set's classes, its mistakes, and how well a detector's anchors fit its objects.

    effedge check-data DATA [--model MODEL]

Data that nothing can be learnt from ends the command with exit status 2 and a line for each kind of mistake. Oddities
that may be intended are counted. DATA is what `effedge train --data` takes. A training prints the same report at its
start.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from effedge.deploy.common.cli import Parser
from effedge.deploy.common.messages import printable
from effedge.pipeline.datasets.anchor_fit import (
    GAIN,
    Anchors,
    best_overlaps,
    class_balanced_mean,
    smallest_area,
    suggest_anchors,
)
from effedge.pipeline.datasets.checks import CheckedData, check_data, learnable_objects
from effedge.pipeline.datasets.problems import line_by_line
from effedge.pipeline.models.names import check_model
from effedge.pipeline.models.tables import EFFICIENTDETS, SIZE_HELP, Size, input_size, is_detector, parse_size
from effedge.pipeline.training.matching import MATCH_IOU

ROWS = 20  # classes in the table; the rarest ones where there are more


def report(checked: CheckedData, model: str | None = None, size: Size | None = None) -> list[str]:
    """Reports on data that has passed the checks, and on the anchors of `model` at `size` if it has any; in lines."""
    data = checked.data
    boxes, class_ids, image_indices = learnable_objects(data)
    columns: dict[str, list[str]] = {"class": [label or str(index) for index, label in enumerate(data.labels)]}
    counts = np.bincount(class_ids, minlength=len(data.labels))
    if data.task == "detection":
        empty = len(data.records) - len(np.unique(image_indices))
        head = f"{len(data.records)} images ({empty} without objects), {len(boxes)} objects"
        columns["objects"] = [str(count) for count in counts]
    else:
        head = f"{len(data.records)} images"
    columns["images"] = [str(len(np.unique(image_indices[class_ids == index]))) for index in range(len(data.labels))]
    notes, advice = list(checked.notes), []
    if model is not None and is_detector(model):
        row = EFFICIENTDETS[model]
        anchors = Anchors(input_size(model, size), row.levels, row.anchor_scale, row.aspects)
        letterbox = (np.array(anchors.size[::-1]) / checked.sizes).min(axis=1)  # sizes are (width, height)
        scaled = boxes * letterbox[image_indices, None]
        fits = best_overlaps(scaled, anchors)
        by_class = [fits[class_ids == index] for index in range(len(data.labels))]
        columns["mean best IoU"] = [f"{fit.mean():.2f}" if len(fit) else "-" for fit in by_class]
        columns[f"at least {MATCH_IOU}"] = [f"{(fit >= MATCH_IOU).mean():.1%}" if len(fit) else "-" for fit in by_class]
        advice = anchor_lines(model, scaled, class_ids, anchors)
        notes += small_objects(scaled, fits, anchors)
    lines = [f"data: {head}, {len(data.labels)} classes", *table(columns, counts), *advice]
    return lines + [f"warning: {note}" for note in notes]


def table(columns: dict[str, list[str]], counts: np.ndarray) -> list[str]:
    """Formats aligned lines, a row for each class, or for the rarest ROWS of them."""
    rows = np.arange(len(counts)) if len(counts) <= ROWS else np.sort(np.argsort(counts, kind="stable")[:ROWS])
    widths = {name: max(len(name), *(len(cells[row]) for row in rows)) for name, cells in columns.items()}
    first = next(iter(columns))

    def line(cells: dict[str, str]) -> str:
        return "  " + "  ".join(f"{cells[n]:<{w}}" if n == first else f"{cells[n]:>{w}}" for n, w in widths.items())

    more = [f"  and {len(counts) - ROWS} classes with more"] if len(counts) > ROWS else []
    body = [line({name: cells[row] for name, cells in columns.items()}) for row in rows]
    return [line({name: name for name in columns}), *body, *more]


def anchor_lines(model: str, boxes: np.ndarray, class_ids: np.ndarray, anchors: Anchors) -> list[str]:
    """Describes how the anchors fit boxes [n,4] of classes [n], and anchors that fit better by GAIN or more."""

    def measure(candidate: Anchors) -> tuple[float, str]:
        fits = best_overlaps(boxes, candidate)
        mean, share = class_balanced_mean(fits, class_ids), class_balanced_mean(fits >= MATCH_IOU, class_ids)
        return mean, f"mean best IoU {mean:.2f}, {share:.1%} of the objects at {MATCH_IOU} or more"

    mean, current = measure(anchors)
    lines = [f"anchors of {model} at {anchors.size}, each class counting alike: {current}"]
    better = suggest_anchors(boxes, class_ids, anchors)
    better_mean, improved = measure(better)
    if better_mean < mean + GAIN:
        return [*lines, "  no other scale or aspect ratios would fit much better"]
    ratios = " ".join(f"({w:g}, {h:g})" for w, h in better.aspects)
    return [
        *lines,
        f"  better: scale {better.scale:g} instead of {anchors.scale:g}, (width, height) factors {ratios}: {improved}",
        "  (anchor_scale and aspects of its row in pipeline/models/tables.py)",
    ]


def small_objects(boxes: np.ndarray, fits: np.ndarray, anchors: Anchors) -> list[str]:
    """Notes objects that no anchor matches because all anchors are larger."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    small = (fits < MATCH_IOU) & (areas < smallest_area(anchors))
    if not small.any():
        return []
    side = float(np.sqrt(np.median(areas[small])))
    return [f"{small.sum()} objects ({small.mean():.1%}) are too small for the anchors, {side:.0f} pixels a side at "
            f"{anchors.size}: a larger --size, or images cut into tiles, would make them larger"]  # fmt: skip


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("data", metavar="DATA", help="a COCO json, a Pascal VOC folder, class folders or a .tsv")
    parser.add_argument("--images", metavar="DIR", type=Path, help="folder of the images, if not beside DATA")
    parser.add_argument("--model", metavar="MODEL", help="check that it is for this model, and how its anchors fit")
    parser.add_argument("--size", type=parse_size, help=f"{SIZE_HELP} (default: the model's)")
    parser.add_quiet()
    arguments = parser.parse_args()
    if arguments.model is not None:
        input_size(check_model(arguments.model), arguments.size)
    with line_by_line():
        checked = check_data(arguments.data, arguments.images, arguments.model)
    print("\n".join(map(printable, report(checked, arguments.model, arguments.size))))
