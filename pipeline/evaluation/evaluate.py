"""How right an engine is: effedge evaluate ENGINE --data FILE [--images DIR] [--json FILE]

Detectors: COCO's average precision. Classifiers: top-1 and top-5. DATA is a COCO json, a Pascal VOC folder, a folder
with a folder for each class, a .tsv of file<TAB>class, or the word `digits` for the bundled validation data. Classes
are matched by name; the pictures go through the same code as on the device.
"""

# The readers, metrics and backends are imported in the functions, so that --help and mistakes answer at once.
from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from effedge.deploy.common.cli import Parser, UserError
from effedge.deploy.common.files import whole_file
from effedge.engines.stage import progress_disabled

if TYPE_CHECKING:
    from effedge.deploy.runtime.classifier import ClassScore
    from effedge.deploy.runtime.detector import Detections
    from effedge.pipeline.datasets.records import DataSet

# Every candidate counts: average precision goes over all scores, and COCO takes the best 100 boxes of a picture.
THRESHOLD, MAX_DETECTIONS = 0.0, 100
COLUMNS = 4


def main() -> None:
    parser = Parser(prog="effedge evaluate", description=__doc__)
    parser.add_argument(
        "engine", metavar="ENGINE", type=Path, help="an engine's folder, such as build/d0-digits/int8-cpu"
    )
    parser.add_argument("--data", metavar="DATA", required=True, help="annotated pictures (see above), or digits")
    parser.add_argument(
        "--images", metavar="DIR", type=Path, help="folder of the pictures, where it is not beside DATA"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures to this file")
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N pictures")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args()
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit} leaves no pictures: expected 1 or more")
    result = evaluate_engine(args.engine, args.data, images=args.images, limit=args.limit, quiet=args.quiet)
    print(table(result))
    if args.json is not None:
        with whole_file(args.json) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")
        print(f"json: {args.json}")


def evaluate_engine(
    folder: Path, data: str, *, images: Path | None = None, limit: int | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Evaluate an engine folder on annotated pictures.

    Args:
        data: a path that `effedge.pipeline.datasets.read.read_data` reads, or `digits`.
        limit: take only the first so many pictures.

    Returns:
        {"model", "task", "data", "pictures", "seconds", "figures": {name: 0..1 or None}, "per_class": {label: AP}
        (detectors)}, all JSON values.

    Raises:
        UserError: no such engine or data, or data that this engine cannot be held against.
    """
    from effedge.deploy.runtime.classifier import Classifier
    from effedge.deploy.runtime.detector import Detector
    from effedge.deploy.runtime.manifest import parse_manifest

    spec = parse_manifest(folder)["spec"]
    detector = spec.get("task") == "detection"
    model: Any = Detector(folder, THRESHOLD, max_detections=MAX_DETECTIONS) if detector else Classifier(folder)
    return {"engine": str(folder)} | evaluate(model, spec, data, images=images, limit=limit, quiet=quiet)


def evaluate(
    model: Callable[[Iterable[Path]], Iterator[Any]],
    spec: dict[str, Any],
    data: str,
    *,
    images: Path | None = None,
    limit: int | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Evaluate a deploy.Detector or deploy.Classifier, or what behaves like one; `evaluate_engine` says the rest."""
    from effedge.pipeline.datasets.labelled import model_ids, read_for

    found = read_for(spec["task"], data_path(data, spec, quiet), images, model=spec["model"])
    found = found._replace(records=found.records[:limit])
    ids = model_ids(found, spec["labels"])
    started = time.perf_counter()
    paths = [record.path for record in found.records]
    results = list(tqdm(model(paths), total=len(paths), unit="picture", disable=progress_disabled(quiet)))
    seconds = time.perf_counter() - started
    scores = detection_scores if found.task == "detection" else classification_scores
    return {
        "model": spec["model"],
        "task": found.task,
        "data": data,
        "pictures": len(paths),
        "seconds": round(seconds, 2),
        **scores(found, ids, results),
    }


def data_path(data: str, spec: dict[str, Any], quiet: bool) -> Path:
    """`data`, or for the word `digits` the bundled validation data for the task of `spec`, drawn on first use into the
    cache."""
    if data != "digits":
        return Path(data)
    from effedge.pipeline.datasets.digits_cache import digits_folder

    folder = digits_folder(spec["task"], "val", size=spec["input"]["size"][0], quiet=quiet)
    return folder / "instances.json" if spec["task"] == "detection" else folder


def detection_scores(data: DataSet, model_ids: Sequence[int | None], results: Sequence[Detections]) -> dict[str, Any]:
    """COCO's figures of what was found in each picture. What is of a class that the data does not have is left out."""
    from effedge.pipeline.evaluation.coco_metrics import Found, coco_metrics

    data_ids = {model_id: data_id for data_id, model_id in enumerate(model_ids) if model_id is not None}
    found = []
    for result in results:
        class_ids = np.array([data_ids.get(class_id, -1) for class_id in result.class_ids.tolist()], np.int64)
        kept = class_ids >= 0
        found.append(Found(result.boxes[kept], result.scores[kept], class_ids[kept]))
    metrics = coco_metrics(data, found)
    return {"figures": metrics.figures, "per_class": metrics.per_class}


def classification_scores(
    data: DataSet, model_ids: Sequence[int | None], results: Sequence[Sequence[ClassScore]]
) -> dict[str, Any]:
    """The share of pictures whose class is the best, or among the five best."""
    ranks = []
    for record, best in zip(data.records, results, strict=True):
        wanted = model_ids[int(record.class_ids[0])]
        ranks.append(next((rank for rank, score in enumerate(best) if score.class_id == wanted), len(best)))
    return {"figures": {f"top-{k}": float(np.mean([rank < k for rank in ranks])) for k in (1, 5)}}


def table(result: dict[str, Any]) -> str:
    """The figures as aligned lines of text; classes in columns."""
    rate = result["pictures"] / max(result["seconds"], 1e-9)
    lines = [f"{result['model']} on {result['data']}: {result['pictures']} pictures, {rate:.1f} a second"]
    lines += [f"  {name:<10}{as_text(value)}" for name, value in result["figures"].items()]
    classes = result.get("per_class", {})
    if classes:
        width = max(map(len, classes)) + 2
        cells = [f"{label:<{width}}{as_text(value)}" for label, value in classes.items()]
        lines.append("AP by class")
        lines += ["  " + "   ".join(cells[start : start + COLUMNS]) for start in range(0, len(cells), COLUMNS)]
    return "\n".join(lines)


def as_text(value: float | None) -> str:
    """A figure with four digits; a dash where the data has nothing to measure."""
    return "     -" if value is None else f"{value:.4f}"
