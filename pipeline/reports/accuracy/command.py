"""Measures the accuracy of FP32, FP16 and INT8, beside other quantizers' INT8 of the same float ONNX.

    effedge accuracy --peers PEERS/bin/python --bccd-weights FILE --json accuracy.json

Builds CPU engines of every row at every precision, where that is not done already, and evaluates all of them on the
same images, through the device's own pre- and post-processing. A Markdown table goes to stdout, progress to stderr.
Rows whose images or weights are missing are left out with a note. Their images are in the folder that the environment
variable EFFEDGE_DATA names (imagenet500/ with labels.tsv; bccd/ with train.json, val.json and test.json).

The other quantizers (NNCF, ONNX Runtime, ModelOpt) are optional and have Python environments of their own; --peers
gives an environment's Python, and may be repeated. Their settings are in pipeline/reports/accuracy/peers.py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.deploy.common.files import write_json
from effedge.deploy.common.messages import log, messages_to_stderr
from effedge.pipeline.reports.accuracy.cases import CASES, LocatedCase, locate
from effedge.pipeline.reports.accuracy.measure import find_peers, measure
from effedge.pipeline.reports.accuracy.table import Row, markdown


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="ROW", help=f"{', '.join(CASES)} (default: all)")
    peers_help = "a Python with nncf, onnxruntime or nvidia-modelopt; may be repeated"
    parser.add_argument("--peers", type=Path, action="append", default=[], metavar="PYTHON", help=peers_help)
    parser.add_argument("--bccd-weights", type=Path, metavar="FILE", help="a det-lite0 trained on bccd/train.json")
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder of all artefacts (%(default)s)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures to this file")
    parser.add_argument("--limit", metavar="N", type=int, help="evaluate on the first N images only")
    parser.add_quiet()
    arguments = parser.parse_args()
    if arguments.limit is not None and arguments.limit < 1:
        raise UserError(f"--limit {arguments.limit} leaves no images: expected 1 or more")
    names = [choose("row", name, CASES) for name in arguments.cases] or list(CASES)
    data = os.environ.get("EFFEDGE_DATA")
    cases = locate_all(names, Path(data) if data else None, arguments.bccd_weights, arguments.out / "lists")
    if not cases:
        raise UserError("no row has its images and weights: the notes above say what is missing")
    peers = find_peers(arguments.peers)
    rows: list[Row] = []
    for name, located in cases.items():
        # The builders' lines go to stderr with the rest of the progress.
        with messages_to_stderr():
            rows += measure(CASES[name], located, out=arguments.out, peers=peers, limit=arguments.limit)
        if arguments.json is not None:  # after every case, as the next takes minutes
            write_json(arguments.json, rows)
    print(markdown(rows))


def locate_all(
    names: Sequence[str], data: Path | None, bccd_weights: Path | None, lists: Path
) -> dict[str, LocatedCase]:
    """Locates the cases that can be measured here; warns of each that cannot. Arguments as `cases.locate`."""
    cases = {}
    for name in names:
        try:
            cases[name] = locate(CASES[name], data, bccd_weights, lists)
        except UserError as missing:
            log.warning(f"note: {name} is left out: {missing}")
    return cases
