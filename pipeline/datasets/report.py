"""What a data set is made of and what is wrong with it: effedge check-data DATA [--model MODEL]

Counts classes, refuses what nothing can be learnt from (a line for each kind of mistake, exit status 2), counts what
may be meant, and for a detector says how well its anchors fit the objects. DATA is what `effedge train --data` takes.
A training prints the same at its start.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from effedge.deploy.common.cli import Parser
from effedge.pipeline.datasets.anchor_fit import GAIN, Anchors, balanced, best_overlaps, smallest_area, suggest
from effedge.pipeline.datasets.checks import Checked, check_data, learnt
from effedge.pipeline.datasets.problems import line_by_line
from effedge.pipeline.models.zoo import EFFICIENTDETS, input_size, is_detector
from effedge.pipeline.training.matching import MATCH_IOU

ROWS = 20  # classes in the table; the rarest ones where there are more


def report(checked: Checked, model: str | None = None, size: int | None = None) -> list[str]:
    """The lines of a report on data that has passed the checks; with the anchors of `model` at `size` if it has any."""
    data = checked.data
    boxes, class_ids, picture = learnt(data)
    columns: dict[str, list[str]] = {"class": [label or str(index) for index, label in enumerate(data.labels)]}
    counts = np.bincount(class_ids, minlength=len(data.labels))
    if data.task == "detection":
        empty = len(data.records) - len(np.unique(picture))
        head = f"{len(data.records)} pictures ({empty} without objects), {len(boxes)} objects"
        columns["objects"] = [str(count) for count in counts]
    else:
        head = f"{len(data.records)} pictures"
    columns["pictures"] = [str(len(np.unique(picture[class_ids == index]))) for index in range(len(data.labels))]
    notes, advice = list(checked.notes), []
    if model is not None and is_detector(model):
        anchors = Anchors(input_size(model, size), EFFICIENTDETS[model].levels, EFFICIENTDETS[model].anchor_scale)
        scaled = boxes * (anchors.size / checked.sizes.max(axis=1))[picture, None]  # as the letterbox does
        fits = best_overlaps(scaled, anchors)
        by_class = [fits[class_ids == index] for index in range(len(data.labels))]
        columns["mean best IoU"] = [f"{fit.mean():.2f}" if len(fit) else "-" for fit in by_class]
        columns[f"at least {MATCH_IOU}"] = [f"{(fit >= MATCH_IOU).mean():.1%}" if len(fit) else "-" for fit in by_class]
        advice = anchor_lines(model, scaled, class_ids, anchors)
        notes += small_objects(scaled, fits, anchors)
    lines = [f"data: {head}, {len(data.labels)} classes", *table(columns, counts), *advice]
    return lines + [f"warning: {note}" for note in notes]


def table(columns: dict[str, list[str]], counts: np.ndarray) -> list[str]:
    """Aligned lines, a row for each class, or for the rarest ROWS of them."""
    rows = np.arange(len(counts)) if len(counts) <= ROWS else np.sort(np.argsort(counts, kind="stable")[:ROWS])
    widths = {name: max(len(name), *(len(cells[row]) for row in rows)) for name, cells in columns.items()}
    first = next(iter(columns))

    def line(cells: dict[str, str]) -> str:
        return "  " + "  ".join(f"{cells[n]:<{w}}" if n == first else f"{cells[n]:>{w}}" for n, w in widths.items())

    more = [f"  and {len(counts) - ROWS} classes with more"] if len(counts) > ROWS else []
    body = [line({name: cells[row] for name, cells in columns.items()}) for row in rows]
    return [line({name: name for name in columns}), *body, *more]


def anchor_lines(model: str, boxes: np.ndarray, class_ids: np.ndarray, anchors: Anchors) -> list[str]:
    """How the anchors fit boxes [n,4] of classes [n], and which would fit better by GAIN or more."""

    def fit_of(candidate: Anchors) -> tuple[float, str]:
        fits = best_overlaps(boxes, candidate)
        mean, share = balanced(fits, class_ids), balanced(fits >= MATCH_IOU, class_ids)
        return mean, f"mean best IoU {mean:.2f}, {share:.1%} of the objects at {MATCH_IOU} or more"

    mean, now = fit_of(anchors)
    lines = [f"anchors of {model} at {anchors.size}, each class counting alike: {now}"]
    better = suggest(boxes, class_ids, anchors)
    better_mean, then = fit_of(better)
    if better_mean < mean + GAIN:
        return [*lines, "  no other scale or aspect ratios would fit much better"]
    ratios = " ".join(f"({w:g}, {h:g})" for w, h in better.aspects)
    return [
        *lines,
        f"  better: scale {better.scale:g} instead of {anchors.scale:g}, (width, height) factors {ratios}: {then}",
        "  (anchor_scale in pipeline/models/zoo.py, ASPECTS in pipeline/models/anchors.py)",
    ]


def small_objects(boxes: np.ndarray, fits: np.ndarray, anchors: Anchors) -> list[str]:
    """A note on objects that no anchor matches because all are larger."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    small = (fits < MATCH_IOU) & (areas < smallest_area(anchors))
    if not small.any():
        return []
    side = float(np.sqrt(np.median(areas[small])))
    return [f"{small.sum()} objects ({small.mean():.1%}) are too small for the anchors, {side:.0f} pixels a side at "
            f"{anchors.size}: a larger --size, or pictures cut into tiles, would make them larger"]  # fmt: skip


def main() -> None:
    parser = Parser(prog="effedge check-data", description=__doc__)
    parser.add_argument("data", metavar="DATA", help="a COCO json, a Pascal VOC folder, class folders or a .tsv")
    parser.add_argument("--images", metavar="DIR", type=Path, help="folder of the pictures, if not beside DATA")
    parser.add_argument("--model", metavar="MODEL", help="check that it is for this model, and how its anchors fit")
    parser.add_argument("--size", type=int, help="side of the model's input in pixels (default: the model's)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args()
    if args.model is not None:
        input_size(args.model, args.size)
    with line_by_line():
        checked = check_data(args.data, args.images, args.quiet, args.model)
    print("\n".join(report(checked, args.model, args.size)))
