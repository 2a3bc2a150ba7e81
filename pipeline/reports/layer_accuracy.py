"""What each layer costs in INT8 in points of AP or top-1: effedge layer-accuracy INT8.onnx --data DATA

For each group of layers that share a scale, the float model with only this group in INT8 is measured on labelled
pictures (model_accuracy.py). Its drop is the float model's accuracy less that. The float model, simplified.onnx beside
INT8.onnx where --float names no other, and the whole of INT8 are measured first.

DATA is a COCO json, a Pascal VOC folder, a folder with a folder for each class, a .tsv of file<TAB>class, or the word
`digits` for the bundled validation data; --limit N takes N pictures, evenly spread.

What a group has in INT8 is what INT8.onnx has of it: the steps of its tensors, and its layers' rounded weights and
corrected biases. All other layers have the float model's own (calibration/search/isolate_group.py), so nothing of what they do counts.
A correction makes up for the layers before as well: by itself, where there is nothing to make up for, a group may cost
more than as a part of the whole, and the drops do not add up to that of the whole. (On the bundled B0 a group by itself
does about three times the damage that it does with a correction of its own, and less than 0.001 either way.)

What the figure can tell: on N pictures one picture is 100 / N points of top-1, and a drop of less than 5 pictures is
luck (5 lost and none won happen by chance in one of 32 groups). AP moves in steps too, of an object more or less. A
group may come out better than the float model, which is luck again: a drop that is no larger than the largest of these
tells nothing. That is printed behind the table. The column `gain` (calibration/sensitivity.py) has no such steps, and
ranks the groups whose drops are the same. Groups that INT8.onnx keeps in 16 bit have no INT8 there: `-`, not measured.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effedge.calibration.sensitivity import add_outputs, check_outputs, rows, table, with_drops, write
from effedge.deploy.common.cli import Parser, UserError
from effedge.engines.stage import progress_disabled

if TYPE_CHECKING:
    from effedge.pipeline.datasets.records import DataSet

LIMIT = 100
FLOAT = "simplified.onnx"
LUCK = 5  # pictures: all of so many changed for the worse in one of 2^5 cases, where both ways are as likely


def main() -> None:
    parser = Parser(prog="effedge layer-accuracy", description=__doc__)
    parser.add_argument("model", type=Path, metavar="INT8.onnx", help="such as build/d0-digits/int8.onnx")
    parser.add_argument("--data", required=True, metavar="DATA", help="annotated pictures (see above), or digits")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of the pictures, where it is not beside DATA"
    )
    parser.add_argument("--limit", type=int, default=LIMIT, metavar="N", help="how many pictures (%(default)s)")
    parser.add_argument(
        "--float", type=Path, metavar="FLOAT.onnx", help=f"its float model (default: {FLOAT} beside it)"
    )
    add_outputs(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
    given = parser.parse_args()
    check_outputs(given)
    if given.limit < 1:
        raise UserError(f"--limit {given.limit} leaves no pictures: expected 1 or more")
    plain = given.float or given.model.with_name(FLOAT)
    result = measure(given.model, plain, given.data, images=given.images, limit=given.limit, quiet=given.quiet)
    report, about = result.pop("report"), result
    found = with_drops(rows(report), about.pop("groups"), about["float"])
    print(table(found, report, given.worst))
    print(luck([row["drop"] for row in found if row["drop"] is not None], about))
    write(found, {"damage": report["damage"], **about}, given)


def measure(
    int8: Path, plain: Path, data: str, *, images: Path | None = None, limit: int = LIMIT, quiet: bool = False
) -> dict[str, Any]:
    """Measure the float model, the INT8 model, and each group of it alone in INT8; prints the first two.

    Args:
        plain: the float model that `int8` was made of.
        data: a path that `effedge.pipeline.datasets.read.read_data` reads, or `digits`.

    Returns:
        {"data", "pictures", "figure" ("AP" or "top-1"), "float", "int8" (points), "groups": of each row of the
        report's sensitivity the points, or None where INT8 has nothing of it; "report"}.

    Raises:
        UserError: no INT8 model with a report and a spec, another float model than its own, data that it cannot be held
            against.
    """
    from tqdm import tqdm

    from effedge.calibration.graph import onnx_file
    from effedge.calibration.graph.unquantize import int8_tensors
    from effedge.calibration.report import read_report
    from effedge.calibration.search.isolate_group import alone, evened_out
    from effedge.pipeline.evaluation.accuracy_limit import FIGURE, accuracy

    report = read_report(int8)[1]
    pictures = labelled(int8, data, images, limit, quiet)
    if not plain.is_file():
        raise UserError(f"no float model at '{plain}': give the one that '{int8}' was made of with --float")
    float_model, model = onnx_file.load(plain), onnx_file.load(int8)
    evened = evened_out(float_model, model, plain, int8)
    present = int8_tensors(model)
    groups = [present.intersection(row["tensors"]) for row in report["sensitivity"]]
    count = sum(map(bool, groups))

    points = partial(accuracy, data=pictures)
    figure = FIGURE[pictures.task]
    reference = round(points(float_model, quiet=quiet), 6)
    print(f"float: {reference:.2f} points of {figure} on {len(pictures.records)} pictures of '{data}'", flush=True)
    started = time.perf_counter()
    whole = round(points(model, quiet=quiet), 6)
    minutes = count * (time.perf_counter() - started) / 60
    print(f"INT8, the whole: {whole:.2f}, a drop of {reference - whole:.2f}", flush=True)
    print(f"{count} groups of layers, each by itself: about {max(1, round(minutes))} min", flush=True)
    bar = tqdm(groups, desc="sensitivity", unit="group", disable=progress_disabled(quiet))
    alone_in_int8 = [
        round(points(alone(evened, model, tensors), quiet=True), 6) if tensors else None for tensors in bar
    ]
    return {
        "data": data,
        "pictures": len(pictures.records),
        "figure": figure,
        "float": reference,
        "int8": whole,
        "groups": alone_in_int8,
        "report": report,
    }


def labelled(int8: Path, data: str, images: Path | None, limit: int, quiet: bool) -> DataSet:
    """At most `limit` pictures for the model, evenly spread.

    Raises:
        UserError: a model that does not say what its outputs mean, no data, or data for another task or classes.
    """
    from effedge.calibration.ranges.samples import spread
    from effedge.engines.onnx_header import read_header
    from effedge.pipeline.datasets.labelled import model_ids, read_for
    from effedge.pipeline.evaluation.evaluate import data_path

    spec = read_header(int8).spec
    if not spec:
        raise UserError(
            f"accuracy needs a model that says what its outputs mean, and '{int8}' does not: python -m "
            "effedge.calibration.sensitivity needs no labels"
        )
    found = read_for(spec["task"], data_path(data, spec, quiet), images, model=f"'{int8}'")
    model_ids(found, spec["labels"])
    return found._replace(records=spread(found.records, limit))


def luck(drops: list[float], about: dict[str, Any]) -> str:
    """What is too small to be told from chance, in a line."""
    better = [-drop for drop in drops if drop < 0]
    limits = [f"up to {max(better):.2f} points, by which {len(better)} groups are better than float"] if better else []
    if about["figure"] != "AP":
        limits.append(f"below {100 * LUCK / about['pictures']:.2f} ({LUCK} of {about['pictures']} pictures)")
    return f"a drop is luck {' or '.join(limits)}" if limits else "no group is better than float"
