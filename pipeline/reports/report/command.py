"""Writes a report on engines as one HTML file, which needs no network and no scripts to be read.

    effedge report ENGINE [ENGINE ...] --data DATA [--out report.html]

It has the model card, the precision as built, the accuracy by class and size with its change between the engines,
curves of precision and recall, the best threshold, confusions, the images that changed most, the sensitivity of layers,
latencies, and what the engines were made from. The FP32 engine, or else the first one, is the reference.

DATA is as for effedge evaluate. An engine that cannot run on this machine is reported by its manifest alone. Images
that cannot be read are left out and listed at the end, and the exit status is 1.

--layers N measures the N worst groups of layers that are in INT8, as effedge layer-accuracy does: an evaluation on at
most 100 images for each of them.
"""

# The readers, metrics and templates are imported in the functions, so that --help and mistakes answer at once.
from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from effedge.deploy.common.cli import Parser, UserError
from effedge.deploy.common.files import atomic_file, check_output_path
from effedge.deploy.common.paths import output_file

if TYPE_CHECKING:
    from effedge.pipeline.datasets.records import DataSet
    from effedge.pipeline.reports.report.engines import ReportedEngine


CLASSES_NAMED = 5
NEVER_RUN = (
    "Throughput, the latency of each step, and the board's clocks and temperatures: effedge latency ENGINE has them."
)


def parse_args() -> Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "engines", metavar="ENGINE", nargs="+", type=Path, help="an engine's folder, such as build/d0-digits/int8-cpu"
    )
    parser.add_argument("--data", metavar="DATA", required=True, help="annotated images, or digits")
    parser.add_argument("--images", metavar="DIR", type=Path, help="folder of the images, if it is not beside DATA")
    parser.add_argument("--limit", metavar="N", type=int, help="only N images, evenly spread")
    parser.add_argument(
        "--layers",
        metavar="N",
        type=int,
        default=0,
        help="measure what each of the N worst groups of layers in INT8 costs",
    )
    parser.add_argument("--out", metavar="FILE", type=output_file, default=Path("report.html"), help="(%(default)s)")
    parser.add_quiet()
    arguments = parser.parse_args()
    if arguments.limit is not None and arguments.limit < 1:
        raise UserError(f"--limit {arguments.limit} leaves no images: expected 1 or more")
    if arguments.layers < 0:
        raise UserError(f"--layers {arguments.layers}: expected 0 or more groups of layers")
    return arguments


def main() -> None:
    arguments = parse_args()
    check_output_path(arguments.out)
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise UserError(f"a report needs the package jinja2: pip install jinja2 ({error})") from error
    unread = make_report(arguments)
    print(f"report: {arguments.out}")
    if unread:
        from effedge.deploy.predict import EXIT_PARTLY_DONE

        sys.stdout.flush()
        sys.exit(EXIT_PARTLY_DONE)


def make_report(arguments: Namespace) -> int:
    """Runs the engines and writes the page; returns the number of images that could not be read."""
    from effedge.pipeline.reports.report.accuracy import measure_accuracy
    from effedge.pipeline.reports.report.engines import read_engines, run_on
    from effedge.pipeline.reports.report.latency import measure_latencies
    from effedge.pipeline.reports.report.layers import layer_table
    from effedge.pipeline.reports.report.page import write_page

    engines = read_engines(arguments.engines)
    whole, data = read_labelled(engines, arguments)
    layers = layer_table(engines, data, arguments.layers)
    run_on(engines, data)
    accuracy = measure_accuracy(engines, data)
    measure_latencies(engines, [record.path for record in data.records])
    page = write_page(engines, data, accuracy, layers, arguments.data, left_out(engines, whole, data, arguments))
    with atomic_file(arguments.out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return min(len(whole.records), arguments.limit or len(whole.records)) - len(data.records)


def read_labelled(engines: Sequence[ReportedEngine], arguments: Namespace) -> tuple[DataSet, DataSet]:
    """Reads the labelled images: all of them, and those of the report.

    Raises:
        UserError: no data, data for another task, or none of the images can be read.
    """
    from effedge.calibration.ranges.samples import spread
    from effedge.pipeline.datasets.labelled import read_for_task, without_unreadable
    from effedge.pipeline.evaluation.evaluate import data_path

    spec = engines[0].manifest["spec"]
    whole = read_for_task(spec["task"], data_path(arguments.data, spec), arguments.images, model=spec["model"])
    taken = whole._replace(records=spread(whole.records, arguments.limit or len(whole.records)))
    return whole, without_unreadable(taken)


def left_out(engines: Sequence[ReportedEngine], whole: DataSet, data: DataSet, arguments: Namespace) -> list[str]:
    """Lists what was not run, and why."""
    lines = [f"{engine.name} does not run here: {engine.reason}" for engine in engines if engine.reason]
    count, taken = len(whole.records), min(len(whole.records), arguments.limit or len(whole.records))
    if taken < count:
        lines.append(f"{count - taken} of the {count} images (--limit {arguments.limit}).")
    if taken > len(data.records):
        lines.append(f"{taken - len(data.records)} images that cannot be read.")
    for engine in engines:
        unknown = [
            str(name) for name, known in zip(data.labels, engine.class_ids, strict=True) if name and known is None
        ]
        if unknown:
            names = ", ".join(unknown[:CLASSES_NAMED]) + (", …" if len(unknown) > CLASSES_NAMED else "")
            lines.append(f"{engine.name} does not know {len(unknown)} classes, which count as not found: {names}")
    return [*lines, NEVER_RUN]
