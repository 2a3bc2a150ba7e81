"""The accuracy of FP32, FP16 and INT8, beside what NNCF and ONNX Runtime's quantizer make of the same float ONNX.

    effedge accuracy --peers PEERS/bin/python --bccd-weights FILE --json accuracy.json

Builds CPU engines of each row at each precision, where that is not done already, and evaluates them, all on the same
pictures, through the device's own pre- and post-processing. A Markdown table goes to stdout, progress to stderr. Rows
whose pictures or weights are missing are left out with a note: those in the folder that the environment variable
EFFEDGE_DATA names (imagenet500/ with labels.tsv; bccd/ with train.json, val.json and test.json).

The peers are optional and live in an environment of their own (nncf, openvino, onnxruntime, onnx, numpy); what they are
told is in pipeline/reports/accuracy/peers.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.deploy.common.files import whole_file
from effedge.pipeline.reports.accuracy.cases import CASES, Found, find
from effedge.pipeline.reports.accuracy.measure import measure
from effedge.pipeline.reports.accuracy.table import Row, markdown


def main() -> None:
    parser = Parser(prog="effedge accuracy", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="ROW", help=f"{', '.join(CASES)} (default: all)")
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="the Python of the peers' environment")
    parser.add_argument("--bccd-weights", type=Path, metavar="FILE", help="a det-lite0 trained on bccd/train.json")
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder of all artefacts (%(default)s)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures to this file")
    parser.add_argument("--limit", metavar="N", type=int, help="evaluate on the first N pictures only")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args()
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit} leaves no pictures: expected 1 or more")
    names = [choose("row", name, CASES) for name in args.cases] or list(CASES)
    data = os.environ.get("EFFEDGE_DATA")
    cases = find_all(names, Path(data) if data else None, args.bccd_weights, args.out / "lists")
    if not cases:
        raise UserError("no row has its pictures and weights: the notes above say what is missing")
    rows: list[Row] = []
    for name, found in cases.items():
        # The builders' lines go to stderr with the rest of the progress.
        with contextlib.redirect_stdout(sys.stderr):
            rows += measure(
                CASES[name], found, out=args.out, peers=args.peers, limit=args.limit, quiet=args.quiet
            )  # fmt: skip
        if args.json is not None:  # after each, as the next takes minutes
            with whole_file(args.json) as temporary:
                temporary.write_text(json.dumps(rows, indent=1) + "\n")
    print(markdown(rows))


def find_all(names: Sequence[str], data: Path | None, bccd_weights: Path | None, lists: Path) -> dict[str, Found]:
    """The cases that can be measured here; a note on stderr for each that cannot. Arguments as `cases.find`."""
    cases = {}
    for name in names:
        try:
            cases[name] = find(CASES[name], data, bccd_weights, lists)
        except UserError as missing:
            print(f"note: {name} is left out: {missing}", file=sys.stderr)
    return cases
