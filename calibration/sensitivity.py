"""What each layer costs in INT8, worst first: effedge sensitivity INT8.onnx [--json FILE] [--plot FILE]

It is read from the report that calibration left in the INT8 ONNX. A row is a group of layers whose inputs share one
scale. Its gain is its share of the damage to the outputs (calibration/search/output_error.py), by what the group does in INT8 alone.
Layers that a placement rule keeps in 16 bit, such as squeeze-and-excite, were never tried. effedge layer-accuracy measures, on labelled pictures, what each group costs in points of AP or top-1.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effedge.calibration.report import read_report
from effedge.deploy.common.cli import Parser, UserError
from effedge.deploy.common.files import whole_file
from effedge.deploy.common.plot import check_drawable, figure_at

WORST = 20
INT8 = "INT8"
WIDTH = 60  # of the layers' names, in the table


def main() -> None:
    parser = Parser(prog="effedge sensitivity", description=__doc__)
    parser.add_argument("model", type=Path, metavar="INT8.onnx", help="such as build/d0-digits/int8.onnx")
    add_outputs(parser)
    given = parser.parse_args()
    check_outputs(given)
    report = read_report(given.model)[1]
    found = rows(report)
    print(table(found, report, given.worst))
    write(found, {"damage": report["damage"]}, given)


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """The options for what is shown of the rows, and where."""
    parser.add_argument("--worst", type=int, default=WORST, metavar="N", help="rows of table and plot (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the worst as bars (needs matplotlib)")


def check_outputs(given: argparse.Namespace) -> None:
    """UserError for what `add_outputs` took, as far as that can be known before the work."""
    if given.worst < 1:
        raise UserError(f"--worst {given.worst}: expected 1 or more")
    if given.plot is not None:
        check_drawable(given.plot)


def write(found: list[dict[str, Any]], about: dict[str, Any], given: argparse.Namespace) -> None:
    """Write the JSON and the plot that `add_outputs` took; `about` is what the JSON says before its rows."""
    if given.json is not None:
        with whole_file(given.json) as temporary:
            temporary.write_text(json.dumps({**about, "rows": found}, indent=1) + "\n")
        print(f"json: {given.json}")
    if given.plot is not None:
        if not measured(found):
            raise UserError(f"there is nothing to draw in '{given.plot}': no group's gain was measured (see above)")
        plot(found[: given.worst], given.plot)
        print(f"plot: {given.plot}")


def rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The report's groups, worst first: {"rank", "layers", "gain", "macs" (a share of 1), "kept"}.

    "kept" is INT8, or the reason why the group is in 16 bit.
    """
    result = []
    for rank, row in enumerate(report["sensitivity"], 1):
        kept = INT8
        if not set(row["tensors"]) & set(report["thresholds"]):
            reasons = [report["float_layers"][name] for name in row["layers"] if name in report["float_layers"]]
            kept = f"16 bit: {reasons[0]}" if reasons else "16 bit: so are the layers beside it"
        result.append({"rank": rank, **{key: row[key] for key in ("layers", "gain", "macs")}, "kept": kept})
    return result


def with_drops(found: list[dict[str, Any]], points: Sequence[float | None], reference: float) -> list[dict[str, Any]]:
    """The rows with what each group costs by itself, {"accuracy", "drop"} in points, worst first; of two that cost the
    same, as many do, the one with more gain.

    Args:
        found: of `rows`. `points`: their accuracy, None of a group that was not measured, which comes last.
        reference: the float model's.
    """
    result = [
        {**row, "accuracy": each, "drop": None if each is None else round(reference - each, 6)}
        for row, each in zip(found, points, strict=True)
    ]
    result.sort(key=lambda row: (row["drop"] is None, -(row["drop"] or 0), -row["gain"]))
    return [{**row, "rank": rank} for rank, row in enumerate(result, 1)]


def measured(found: list[dict[str, Any]]) -> bool:
    """True if there is anything to rank by."""
    return any(row["gain"] or row.get("drop") is not None for row in found)


def table(found: list[dict[str, Any]], report: dict[str, Any], worst: int) -> str:
    """The worst rows as lines of text, and what they leave out."""
    lines = []
    if measured(found):
        key = "drop" if "drop" in found[0] else "gain"
        column = f" {'drop':>6}" if key == "drop" else ""
        lines.append(f"{'rank':>4}{column} {'gain':>9} {'MACs':>6}  {'layers':<{WIDTH}}  kept in")
        for row in found[:worst]:
            names = shortened(row["layers"])
            if key == "drop":
                column = f" {'-':>6}" if row["drop"] is None else f" {row['drop']:>6.2f}"
            lines.append(
                f"{row['rank']:>4}{column} {row['gain']:>9.2g} {row['macs']:>6.2%}  {names:<{WIDTH}}  {row['kept']}"
            )
        if len(found) > worst:
            more = "costs more" if key == "drop" else "gains as much"
            lines.append(f"{len(found) - worst} more groups of layers, none of which {more} (--worst N)")
    if not any(row["gain"] for row in found):
        lines.append(
            f"all {len(found)} groups of layers together do {report['damage']:.2g} of damage in INT8, which is "
            "bearable, so what each does was not measured and their gains are 0"
        )
    never = Counter(report["float_layers"].values())
    tried = {report["float_layers"].get(name) for row in found for name in row["layers"]}
    lines += [f"{count} layers in 16 bit by rule: {why}" for why, count in never.items() if why not in tried]
    return "\n".join(lines)


def shortened(names: list[str]) -> str:
    """As many of the names as fit.

    >>> shortened(["head_1", "head_2"])
    'head_1, head_2'
    """
    text = ", ".join(names)
    if len(text) <= WIDTH:
        return text
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return names[0][: WIDTH - len(more)] + more


def plot(found: list[dict[str, Any]], path: Path) -> None:
    """Draw the drops as bars into a picture, or the gains without them; UserError as `effedge.deploy.common.plot.figure_at`."""
    key = "drop" if "drop" in found[0] else "gain"
    with figure_at(path, 10, 1.2 + 0.28 * len(found)) as figure:
        axes = figure.subplots()
        for label, colour in ((INT8, "tab:blue"), ("16 bit", "tab:orange")):
            mine = [row for row in found if row["kept"].startswith(label) and row[key] is not None]
            if mine:
                axes.barh([row["rank"] for row in mine], [row[key] for row in mine], color=colour, label=label)
        axes.set_yticks([row["rank"] for row in found], [shortened(row["layers"]) for row in found], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("points lost by itself in INT8" if key == "drop" else "share of the damage to the outputs")
        axes.legend(loc="lower right")
