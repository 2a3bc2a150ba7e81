"""Measures the cost of each group of layers in INT8, in points of AP or top-1.

    effedge layer-accuracy INT8.onnx --data DATA

For each group of layers that share a scale, the float model with only this group in INT8 is measured on labelled images
(pipeline/evaluation/accuracy_limit.py). The group's drop is its distance to the float model's accuracy. The float model
and INT8.onnx are measured first; the float model is simplified.onnx beside INT8.onnx, unless --float names another.

DATA is a COCO json, a Pascal VOC folder, a folder with a folder for each class, a .tsv of file<TAB>class, or the word
`digits` for the bundled validation data; --limit N takes N images, evenly spread.

An isolated group has the scales of its tensors, and the weights and biases, of INT8.onnx. All other layers have the
float model's own (calibration/search/isolate_group.py), so their error does not count, and the drops do not add up to
the drop of INT8.onnx.

The resolution of the figures: on N images one image is 100 / N points of top-1, and a drop of less than 5 images is
chance (5 lost and none won happen by chance in one of 32 groups). AP changes in steps too, of an object more or less. A
group may come out better than the float model, which is chance again: a drop that is no larger than the largest of
these gains has no meaning. A line behind the table states both limits. The column `gain` (calibration/sensitivity.py)
has no such steps, and ranks groups of equal drop. Groups that INT8.onnx has in 16 bit are not measured: `-`.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effedge.calibration.report import read_report
from effedge.calibration.sensitivity import (
    add_drops,
    add_outputs,
    check_outputs,
    format_table,
    rank_groups,
    write_outputs,
)
from effedge.deploy.common.cli import Parser, UserError
from effedge.deploy.common.messages import log, track

if TYPE_CHECKING:
    from effedge.pipeline.datasets.records import DataSet

LIMIT = 100
FLOAT = "simplified.onnx"
CHANCE = 5  # images: all 5 of 5 changed images get worse in one of 2^5 cases, where better and worse are as likely


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("model", type=Path, metavar="INT8.onnx", help="such as build/d0-digits/int8.onnx")
    parser.add_argument("--data", required=True, metavar="DATA", help="annotated images (see above), or digits")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the images, where it is not beside DATA")
    parser.add_argument("--limit", type=int, default=LIMIT, metavar="N", help="number of images (%(default)s)")
    parser.add_argument(
        "--float", type=Path, metavar="FLOAT.onnx", help=f"its float model (default: {FLOAT} beside it)"
    )
    add_outputs(parser)
    parser.add_quiet()
    arguments = parser.parse_args()
    check_outputs(arguments)
    if arguments.limit < 1:
        raise UserError(f"--limit {arguments.limit} leaves no images: expected 1 or more")
    float_path = arguments.float or arguments.model.with_name(FLOAT)
    report = read_report(arguments.model)[1]
    data = read_labelled_images(arguments.model, arguments.data, arguments.images, arguments.limit)
    header = {"data": arguments.data, **measure(arguments.model, float_path, data)}
    rows = add_drops(rank_groups(report), header.pop("groups"), header["float"])
    print(format_table(rows, report, arguments.worst))
    print(describe_chance([row["drop"] for row in rows if row["drop"] is not None], header))
    write_outputs(rows, {"output_error": report["output_error"], **header}, arguments)


def measure(int8: Path, float_path: Path, data: DataSet, *, worst: int | None = None) -> dict[str, Any]:
    """Measures the float model, the INT8 model, and each of its groups isolated in INT8.

    Args:
        float_path: the float model that `int8` was made of.
        data: labelled images for the task and of the classes of the model.
        worst: measures only so many groups in INT8, those with the largest gains; None: all.

    Returns:
        "images" (their number), "figure" ("AP" or "top-1"), "float" and "int8" (points), and "groups" (points for each
        row of the report's sensitivity, None where the row was not measured or has no INT8 tensor).

    Raises:
        UserError: no INT8 model with a report, or another float model than its own.
    """

    from effedge.calibration.graph import onnx_file
    from effedge.calibration.graph.unquantize import int8_tensors
    from effedge.calibration.search.isolate_group import equalized, isolate_group
    from effedge.pipeline.evaluation.accuracy_limit import FIGURE, accuracy

    report = read_report(int8)[1]
    if not float_path.is_file():
        raise UserError(f"no float model at '{float_path}': give the one that '{int8}' was made of with --float")
    float_model, model = onnx_file.load(float_path), onnx_file.load(int8)
    onnx_file.check_float32_scales(model, int8)
    equalized_model = equalized(float_model, model, float_path, int8)
    in_int8 = int8_tensors(model)
    groups = [in_int8.intersection(row["tensors"]) for row in report["sensitivity"]]
    measured = [index for index, tensors in enumerate(groups) if tensors][:worst]
    count = len(measured)

    points = partial(accuracy, data=data)
    figure = FIGURE[data.task]
    float_points = round(points(float_model), 6)
    log.info(f"float: {float_points:.2f} points of {figure} on {len(data.records)} images")
    started = time.perf_counter()
    int8_points = round(points(model), 6)
    minutes = count * (time.perf_counter() - started) / 60
    log.info(f"INT8: {int8_points:.2f}, a drop of {float_points - int8_points:.2f}")
    log.info(f"{count} groups of layers, isolated one after the other: about {max(1, round(minutes))} min")
    group_points: list[float | None] = [None] * len(groups)
    for index in track(measured, desc="sensitivity", unit="group"):
        group_points[index] = round(points(isolate_group(equalized_model, model, groups[index])), 6)
    return {
        "images": len(data.records),
        "figure": figure,
        "float": float_points,
        "int8": int8_points,
        "groups": group_points,
    }


def read_labelled_images(int8: Path, data: str, images: Path | None, limit: int) -> DataSet:
    """Reads at most `limit` labelled images for the model, evenly spread.

    Raises:
        UserError: a model without a spec, no data, or data for another task or other classes.
    """
    from effedge.calibration.ranges.samples import spread
    from effedge.engines.onnx_header import read_header
    from effedge.pipeline.datasets.labelled import model_class_ids, read_for_task, without_unreadable
    from effedge.pipeline.evaluation.evaluate import data_path

    spec = read_header(int8).spec
    if not spec:
        raise UserError(
            f"accuracy needs a model that says what its outputs mean, and '{int8}' does not: effedge sensitivity needs "
            "no labels"
        )
    dataset = read_for_task(spec["task"], data_path(data, spec), images, model=f"'{int8}'")
    model_class_ids(dataset, spec["labels"])
    return without_unreadable(dataset._replace(records=spread(dataset.records, limit)))


def describe_chance(drops: list[float], header: dict[str, Any]) -> str:
    """States in a line which drops are too small to be told from chance."""
    better = [-drop for drop in drops if drop < 0]
    limits = [f"up to {max(better):.2f} points, by which {len(better)} groups are better than float"] if better else []
    if header["figure"] != "AP":
        limits.append(f"below {100 * CHANCE / header['images']:.2f} ({CHANCE} of {header['images']} images)")
    return f"a drop is chance {' or '.join(limits)}" if limits else "no group is better than float"
