"""Evaluates the accuracy of an engine on annotated images.

    effedge evaluate ENGINE --data DATA [--images DIR] [--json FILE]

A detector gets COCO's average precision, a classifier top-1 and top-5. DATA is a COCO json, a Pascal VOC folder, a
folder with a folder for each class, a .tsv of file<TAB>class, or the word `digits` for the bundled validation data.
Classes are matched by name; the images go through the same code as on the device. Images that cannot be read are left
out and listed at the end, and the exit status is 1.
"""

# The readers, metrics and backends are imported in the functions, so that --help and mistakes answer at once.
from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypedDict, cast

import numpy as np

from effedge.deploy.common.cli import Parser, UserError
from effedge.deploy.common.contracts import Spec
from effedge.deploy.common.files import write_json
from effedge.deploy.common.messages import printable, track
from effedge.deploy.common.paths import json_file

if TYPE_CHECKING:
    from effedge.deploy.image.classification import Classification
    from effedge.deploy.image.detections import Detections
    from effedge.deploy.image.inputs import ImageLike
    from effedge.pipeline.datasets.records import DataSet
    from effedge.pipeline.evaluation.coco_metrics import ImageDetections

# A detector or classifier of effedge.deploy, or a function that answers as one does: images -> results in their order.
Result: TypeAlias = "Detections | Classification"
Model: TypeAlias = "Callable[[Iterable[ImageLike]], Iterator[Result]]"
# The same of paths; an image that cannot be read has its error for a result.
PathModel: TypeAlias = "Callable[[Iterable[Path]], Iterator[Result | UserError]]"

# Average precision integrates over all scores, so no candidate is left out; COCO takes the best 100 boxes of an image.
THRESHOLD, MAX_DETECTIONS = 0.0, 100
COLUMNS = 4

Figures = dict[str, "float | None"]  # 0..1 by name; None where the data has nothing to measure


class Scores(TypedDict, total=False):
    """The figures of an evaluation; `per_class` is AP by label, for detectors only."""

    figures: Figures
    per_class: Figures


class Evaluation(Scores, total=False):
    """An evaluation in JSON values; `engine` is for an engine's folder only, `images` the number of images that the
    figures are of, `unread` the errors of those that could not be read."""

    engine: str
    model: str
    task: str
    data: str
    images: int
    unread: list[str]
    seconds: float


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "engine", metavar="ENGINE", type=Path, help="an engine's folder, such as build/d0-digits/int8-cpu"
    )
    parser.add_argument("--data", metavar="DATA", required=True, help="annotated images (see above), or digits")
    parser.add_argument("--images", metavar="DIR", type=Path, help="folder of the images, if it is not beside DATA")
    parser.add_argument("--json", metavar="FILE", type=json_file, help="write all figures to this file")
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N images")
    parser.add_quiet()
    args = parser.parse_args()
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit} leaves no images: expected 1 or more")
    result = evaluate_engine(args.engine, args.data, images=args.images, limit=args.limit)
    print(table(result))
    if args.json is not None:
        write_json(args.json, result)
        print(f"json: {args.json}")
    if result["unread"]:
        from effedge.deploy.predict import EXIT_PARTLY_DONE

        sys.stdout.flush()
        log_evaluated(result)
        sys.exit(EXIT_PARTLY_DONE)


def log_evaluated(result: Evaluation) -> None:
    """Warns of the images that an evaluation could not read."""
    from effedge.deploy.image.unreadable import log_unreadable

    log_unreadable(result["unread"], result["images"] + len(result["unread"]), "the figures are of the others")


def evaluate_engine(folder: Path, data: str, *, images: Path | None = None, limit: int | None = None) -> Evaluation:
    """Evaluates an engine folder on annotated images.

    Args:
        data: a path that `effedge.pipeline.datasets.read.read_data` reads, or `digits`.
        images: the folder of the images, if it is not beside the data.
        limit: the number of images to take, from the first on; None: all.

    Raises:
        UserError: no such engine or data, data for another task or of classes that the model does not have, or none of
            the images can be read.
    """
    from effedge.deploy.runtime.classifier import Classifier
    from effedge.deploy.runtime.detector import Detector
    from effedge.deploy.runtime.manifest import parse_manifest

    spec = parse_manifest(folder)["spec"]
    detector = spec.get("task") == "detection"
    model = Detector(folder, THRESHOLD, max_detections=MAX_DETECTIONS) if detector else Classifier(folder)
    return {"engine": str(folder), **evaluate(of_paths(model.stream), spec, data, images=images, limit=limit)}


def of_paths(model: Model) -> PathModel:
    """Makes a model of paths, which goes on after an image that cannot be read."""

    def results(paths: Iterable[Path]) -> Iterator[Result | UserError]:
        from effedge.deploy.image.files import open_image

        outcomes = deque[UserError | None]()  # of the images that the model has taken and not answered yet

        def readable() -> Iterator[np.ndarray]:
            for path in paths:
                try:
                    image = open_image(path)
                except UserError as error:
                    outcomes.append(error)
                else:
                    outcomes.append(None)
                    yield image

        for result in model(readable()):
            while (error := outcomes.popleft()) is not None:
                yield error
            yield result
        yield from (error for error in outcomes if error is not None)

    return results


def evaluate(
    model: PathModel,
    spec: Spec,
    data: str,
    *,
    images: Path | None = None,
    limit: int | None = None,
) -> Evaluation:
    """Evaluates a model with this spec; arguments and errors as for `evaluate_engine`."""
    from effedge.pipeline.datasets.labelled import model_class_ids, read_for_task

    dataset = read_for_task(spec["task"], data_path(data, spec), images, model=spec["model"])
    dataset = dataset._replace(records=dataset.records[:limit])
    ids = model_class_ids(dataset, spec["labels"])
    started = time.perf_counter()
    paths = [record.path for record in dataset.records]
    outcomes = list(track(model(paths), total=len(paths), unit="image"))
    seconds = time.perf_counter() - started
    unread = [str(outcome) for outcome in outcomes if isinstance(outcome, UserError)]
    if len(unread) == len(paths):
        raise UserError(f"none of the {len(paths)} images of '{data}' can be read; the first: {unread[0]}")
    read = [(record, outcome) for record, outcome in zip(dataset.records, outcomes, strict=True)
            if not isinstance(outcome, UserError)]  # fmt: skip
    dataset = dataset._replace(records=[record for record, _ in read])
    return {
        "model": spec["model"],
        "task": dataset.task,
        "data": data,
        "images": len(read),
        "unread": unread,
        "seconds": round(seconds, 2),
        **scores_of(dataset, ids, [result for _, result in read]),
    }


def data_path(data: str, spec: Spec) -> Path:
    """Returns the path `data`, or for the word `digits` that of the bundled validation data for the task of `spec`.

    The digits are drawn into the cache on first use.
    """
    if data != "digits":
        return Path(data)
    from effedge.pipeline.datasets.digits_cache import digits_data

    return digits_data(spec)


def scores_of(data: DataSet, model_class_ids: Sequence[int | None], results: Sequence[Result]) -> Scores:
    """Compares a model's results on the data's images, in their order, with the annotations.

    Args:
        model_class_ids: the model's class id for each class of the data; None for a class that the model does not have.
    """
    if data.task == "detection":
        return detection_scores(data, model_class_ids, cast("Sequence[Detections]", results))
    return classification_scores(data, model_class_ids, cast("Sequence[Classification]", results))


def detection_scores(data: DataSet, model_class_ids: Sequence[int | None], results: Sequence[Detections]) -> Scores:
    """Computes COCO's figures; detections of a class that the data does not have are left out."""
    from effedge.pipeline.evaluation.coco_metrics import coco_metrics

    metrics = coco_metrics(data, with_data_ids(model_class_ids, results))
    return {"figures": metrics.figures, "per_class": metrics.per_class}


def with_data_ids(model_class_ids: Sequence[int | None], results: Sequence[Detections]) -> list[ImageDetections]:
    """Converts detections to the data's class ids; those of a class that the data does not have are left out."""
    from effedge.pipeline.evaluation.coco_metrics import ImageDetections

    data_ids = ids_of_data(model_class_ids)
    detections = []
    for result in results:
        class_ids = np.array([data_ids.get(class_id, -1) for class_id in result.classes.tolist()], np.int64)
        in_data = class_ids >= 0
        detections.append(ImageDetections(result.boxes[in_data], result.scores[in_data], class_ids[in_data]))
    return detections


def ids_of_data(model_class_ids: Sequence[int | None]) -> dict[int, int]:
    """Returns the data's class id for each class of the model that the data has."""
    return {model_id: data_id for data_id, model_id in enumerate(model_class_ids) if model_id is not None}


def classification_scores(
    data: DataSet, model_class_ids: Sequence[int | None], results: Sequence[Classification]
) -> Scores:
    """Computes the share of images whose class is the best of the model's, or among the five best."""
    ranks = []
    for record, best in zip(data.records, results, strict=True):
        annotated = model_class_ids[int(record.class_ids[0])]
        ranks.append(next((rank for rank, score in enumerate(best) if score.class_id == annotated), len(best)))
    return {"figures": {f"top-{k}": float(np.mean([rank < k for rank in ranks])) for k in (1, 5)}}


def table(result: Evaluation) -> str:
    """Formats the figures as aligned lines of text, the classes in columns."""
    rate = result["images"] / max(result["seconds"], 1e-9)
    lines = [f"{result['model']} on {result['data']}: {result['images']} images, {rate:.1f} a second"]
    lines += [f"  {name:<10}{as_text(value)}" for name, value in result["figures"].items()]
    classes = result.get("per_class", {})
    if classes:
        labels = [printable(label) for label in classes]
        width = max(map(len, labels)) + 2
        cells = [f"{label:<{width}}{as_text(value)}" for label, value in zip(labels, classes.values(), strict=True)]
        lines.append("AP by class")
        lines += ["  " + "   ".join(cells[start : start + COLUMNS]) for start in range(0, len(cells), COLUMNS)]
    return "\n".join(lines)


def as_text(value: float | None) -> str:
    """Formats a figure with four digits; a dash where the data has nothing to measure."""
    return "     -" if value is None else f"{value:.4f}"
