"""Measures the accuracy of FP32, FP16 and INT8, beside other quantizers' INT8 of the same float ONNX.

    effedge accuracy --peers PEERS/bin/python --json accuracy.json
    effedge accuracy --onnx yolox.onnx --head yolox --calibration IMAGES --validation val.json --peers PEERS/bin/python

Builds CPU engines of every row at every precision, where that is not done already, and evaluates all of them on the
same images, through the device's own pre- and post-processing. A Markdown table goes to stdout, progress to stderr.
The second line makes a row of a model of one's own: --onnx, or --model with --weights, on labelled images.

Rows whose images or weights are missing are left out with a note. Their images are in the folder that the environment
variable EFFEDGE_DATA names (imagenet500/ with labels.tsv; bccd/ with train.json, val.json and test.json).

The other quantizers (NNCF, ONNX Runtime, ModelOpt) are optional and have Python environments of their own; --peers
gives an environment's Python, and may be repeated. One that fails on a model is a dash and a note. Their settings are
in pipeline/reports/accuracy/peers.py.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.deploy.common.files import write_json_so_far
from effedge.deploy.common.messages import log, messages_to_stderr
from effedge.deploy.common.paths import add_build_folder, json_file
from effedge.pipeline.datasets.read import read_data
from effedge.pipeline.export.heads.table import HEADS_HELP
from effedge.pipeline.models.tables import SIZE_HELP, parse_size
from effedge.pipeline.reports.accuracy.cases import CASES, LocatedCase, locate
from effedge.pipeline.reports.accuracy.measure import find_peers, measure
from effedge.pipeline.reports.accuracy.table import Row, markdown
from effedge.pipeline.request import Checkpoint, OnnxFile

OWN = ("onnx", "head", "size", "labels", "model", "weights", "calibration", "validation")


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="ROW", help=f"{', '.join(CASES)} (default: all)")
    peers_help = "a Python with nncf, onnxruntime or nvidia-modelopt; may be repeated"
    parser.add_argument("--peers", type=Path, action="append", default=[], metavar="PYTHON", help=peers_help)
    add_build_folder(parser)
    parser.add_argument("--json", metavar="FILE", type=json_file, help="write all figures to this file")
    parser.add_argument("--limit", metavar="N", type=int, help="evaluate on the first N images only")
    add_own_row(parser)
    parser.add_quiet()
    arguments = parser.parse_args()
    if arguments.limit is not None and arguments.limit < 1:
        raise UserError(f"--limit {arguments.limit} leaves no images: expected 1 or more")
    own = read_own_row(arguments, parser)
    names = [choose("row", name, CASES) for name in arguments.cases] or ([] if own else list(CASES))
    data = os.environ.get("EFFEDGE_DATA")
    cases = [*locate_all(names, Path(data) if data else None, arguments.out / "lists"), *own]
    if not cases:
        raise UserError("no row has its images and weights: the notes above say what is missing")
    peers = find_peers(arguments.peers)
    rows: list[Row] = []
    for case in cases:
        # The builders' lines go to stderr with the rest of the progress.
        with messages_to_stderr():
            rows += measure(case, out=arguments.out, peers=peers, limit=arguments.limit)
        write_json_so_far(arguments.json, rows, whole=False)  # after every case, as the next takes minutes
    print(markdown(rows))
    write_json_so_far(arguments.json, rows, whole=True)


def add_own_row(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a row of the user's own."""
    own = parser.add_argument_group("a row of your own")
    own.add_argument("--onnx", type=Path, metavar="FILE", help="an ONNX file of any exporter, with --head")
    own.add_argument("--head", help=f"of the ONNX file: {HEADS_HELP}")
    own.add_argument("--size", type=parse_size, help="of an ONNX file whose own is dynamic: " + SIZE_HELP)
    own.add_argument("--labels", type=Path, help="a text file with a class name a line")
    own.add_argument("--model", help="or a model of effedge, with --weights")
    own.add_argument("--weights", help="its checkpoint, or a word such as coco")
    own.add_argument("--calibration", type=Path, help="a folder of images or a COCO json")
    own.add_argument("--validation", type=Path, help="labelled images: a COCO json, VOC, class folders or a table")


def read_own_row(arguments: argparse.Namespace, parser: Parser) -> list[LocatedCase]:
    """Reads what `add_own_row` added: a list of one row, or of none; ends with one line for half a row."""
    given = {name: getattr(arguments, name) for name in OWN if getattr(arguments, name) is not None}
    if not given:
        return []
    if ("onnx" in given) == ("model" in given):
        parser.error("a row of your own is either --onnx FILE or --model NAME: " + words(given))
    odd = ("weights",) if "onnx" in given else ("head", "size", "labels")
    for name in odd:
        if name in given:
            parser.error(f"--{name} is not for {'--onnx' if 'onnx' in given else '--model'}: leave it out")
    for name in ("calibration", "validation", *(("weights",) if "model" in given else ())):
        if name not in given:
            parser.error(f"a row of your own needs --{name}: {words(given)}")
    if "onnx" in given:
        source: Checkpoint | OnnxFile = OnnxFile(
            arguments.onnx, head=arguments.head, labels=arguments.labels, size=arguments.size
        )
    else:
        source = Checkpoint(arguments.model, arguments.weights)
    name = arguments.onnx.stem if "onnx" in given else arguments.model
    read_data(arguments.validation)  # before the engines, which take minutes
    return [LocatedCase(name, source, arguments.calibration, {arguments.validation.name: str(arguments.validation)})]


def words(given: Mapping[str, object]) -> str:
    """Formats the options that were given."""
    return " ".join(f"--{name} '{value}'" for name, value in given.items()) + " was given"


def locate_all(names: Sequence[str], data: Path | None, lists: Path) -> list[LocatedCase]:
    """Locates the cases that can be measured here; warns of each that cannot. Arguments as `cases.locate`."""
    cases = []
    for name in names:
        try:
            cases.append(locate(CASES[name], data, lists))
        except UserError as missing:
            log.warning(f"note: {name} is left out: {missing}")
    return cases
