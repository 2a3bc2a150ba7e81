"""Ranks the layers of an INT8 ONNX by their output error in INT8, largest first.

    effedge sensitivity INT8.onnx [--json FILE] [--plot FILE]

The figures are read from the report that calibration left in the INT8 ONNX. A row is a group of layers whose inputs
share one scale. Its gain is its share of the output error (calibration/output_error/), by the error of the
group alone in INT8. Layers that a placement rule keeps in 16 bit, such as squeeze-and-excite, were never tried.
effedge layer-accuracy measures, on labelled images, the cost of each group in points of AP or top-1.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict

from effedge.calibration.report import read_report
from effedge.deploy.common.cli import Parser, UserError
from effedge.deploy.common.contracts import CalibrationReport
from effedge.deploy.common.files import write_json
from effedge.deploy.common.paths import json_file, output_file
from effedge.deploy.common.plot import check_plot_path, figure_at

WORST = 20
INT8 = "INT8"
MOST_NAMES = 4  # of a group's layers, in the plot
WIDTH = 60  # of the layers' names, in the table


class _RankedGroup(TypedDict):
    rank: int
    layers: list[str]
    gain: float
    macs: float
    kept: str


class RankedRow(_RankedGroup, total=False):
    """A group of layers: its rank, its gain, its share of multiply-accumulates (of 1), and where it is kept: INT8, or
    the reason why it is in 16 bit. With labelled images also its accuracy and its drop in points, None where the group
    was not measured."""

    accuracy: float | None
    drop: float | None


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("model", type=Path, metavar="INT8.onnx", help="such as build/d0-digits/int8.onnx")
    add_outputs(parser)
    arguments = parser.parse_args()
    check_outputs(arguments)
    report = read_report(arguments.model)[1]
    rows = rank_groups(report)
    print(format_table(rows, report, arguments.worst))
    write_outputs(rows, {"output_error": report["output_error"]}, arguments)


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Adds the options for the number of rows, and for the files that they are written to."""
    parser.add_argument("--worst", type=int, default=WORST, metavar="N", help="rows of table and plot (%(default)s)")
    parser.add_argument("--json", type=json_file, metavar="FILE", help="write all rows to this file")
    parser.add_argument(
        "--plot", type=output_file, metavar="FILE.png", help="draw the worst as bars (needs matplotlib)"
    )


def check_outputs(arguments: argparse.Namespace) -> None:
    """Raises UserError for values of `add_outputs` that are wrong, as far as that can be known before the work."""
    if arguments.worst < 1:
        raise UserError(f"--worst {arguments.worst}: expected 1 or more")
    if arguments.plot is not None:
        check_plot_path(arguments.plot)


def write_outputs(rows: Sequence[RankedRow], header: Mapping[str, object], arguments: argparse.Namespace) -> None:
    """Writes the JSON and the plot that `add_outputs` asks for; `header` is the content of the JSON before its rows."""
    if arguments.json is not None:
        write_json(arguments.json, {**header, "rows": rows})
        print(f"json: {arguments.json}")
    if arguments.plot is not None:
        if not has_figures(rows):
            raise UserError(f"there is nothing to draw in '{arguments.plot}': no group's gain was measured (see above)")
        draw(rows[: arguments.worst], arguments.plot)
        print(f"plot: {arguments.plot}")


def rank_groups(report: CalibrationReport) -> list[RankedRow]:
    """Returns the report's groups, largest gain first."""
    rows: list[RankedRow] = []
    for rank, group in enumerate(report["sensitivity"], 1):
        kept = INT8
        if not set(group["tensors"]) & set(report["thresholds"]):
            reasons = [report["float_layers"][name] for name in group["layers"] if name in report["float_layers"]]
            kept = f"16 bit: {reasons[0]}" if reasons else "16 bit: so are the layers beside it"
        rows.append(
            {"rank": rank, "layers": group["layers"], "gain": group["gain"], "macs": group["macs"], "kept": kept}
        )
    return rows


def add_drops(rows: Sequence[RankedRow], points: Sequence[float | None], reference: float) -> list[RankedRow]:
    """Returns the rows with accuracy and drop, largest drop first; of equal drops, as many are, the larger gain first.

    Args:
        points: the accuracy of each row; None for a group that was not measured, which comes last.
        reference: the float model's accuracy.
    """
    measured: list[RankedRow] = [
        {**row, "accuracy": accuracy, "drop": None if accuracy is None else round(reference - accuracy, 6)}
        for row, accuracy in zip(rows, points, strict=True)
    ]
    measured.sort(key=lambda row: (row["drop"] is None, -(row["drop"] or 0), -row["gain"]))
    for rank, row in enumerate(measured, 1):
        row["rank"] = rank
    return measured


def has_figures(rows: Sequence[RankedRow]) -> bool:
    """Returns True if there is a gain or a drop to rank by."""
    return any(row["gain"] or row.get("drop") is not None for row in rows)


def ranking_key(rows: Sequence[RankedRow]) -> Literal["drop", "gain"]:
    """Returns the figure that the rows are ranked by."""
    return "drop" if "drop" in rows[0] else "gain"


def format_table(rows: Sequence[RankedRow], report: CalibrationReport, worst: int) -> str:
    """Returns the worst rows as lines of text, and lines about the other rows."""
    lines = []
    if has_figures(rows):
        key = ranking_key(rows)
        column = f" {'drop':>6}" if key == "drop" else ""
        lines.append(f"{'rank':>4}{column} {'gain':>9} {'MACs':>6}  {'layers':<{WIDTH}}  kept in")
        for row in rows[:worst]:
            names = shorten_names(row["layers"])
            if key == "drop":
                column = f" {'-':>6}" if row["drop"] is None else f" {row['drop']:>6.2f}"
            lines.append(
                f"{row['rank']:>4}{column} {row['gain']:>9.2g} {row['macs']:>6.2%}  {names:<{WIDTH}}  {row['kept']}"
            )
        if len(rows) > worst:
            more = "costs more" if key == "drop" else "gains as much"
            lines.append(f"{len(rows) - worst} more groups of layers, none of which {more} (--worst N)")
    if not any(row["gain"] for row in rows):
        lines.append(
            f"all {len(rows)} groups of layers together make an output error of {report['output_error']:.2g} in INT8, "
            "which is acceptable, so the error of each was not measured and their gains are 0"
        )
    never = Counter(report["float_layers"].values())
    tried = {report["float_layers"].get(name) for row in rows for name in row["layers"]}
    lines += [f"{count} layers in 16 bit by rule: {why}" for why, count in never.items() if why not in tried]
    return "\n".join(lines)


def shorten_names(names: list[str]) -> str:
    """Returns as many of the names as fit into the table.

    >>> shorten_names(["head_1", "head_2"])
    'head_1, head_2'
    """
    text = ", ".join(names)
    if len(text) <= WIDTH:
        return text
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return names[0][: WIDTH - len(more)] + more


def layer_names(names: Sequence[str]) -> str:
    """Writes the names of a group's layers for a plot: what all of them begin with only once, and MOST_NAMES of them.

    >>> layer_names(["/backbone/blocks.0/conv_dw", "/backbone/blocks.0/conv_pw"])
    'backbone.blocks.0: conv_dw, conv_pw'
    >>> layer_names(["/head/Conv"])
    'head.Conv'
    """
    parts = [name.strip("/").replace("/", ".").split(".") for name in names]
    if len(parts) == 1:
        return ".".join(parts[0])
    common = 0
    while all(len(each) > common + 1 for each in parts) and len({each[common] for each in parts}) == 1:
        common += 1
    own = [".".join(each[common:]) for each in parts]
    if len(own) > MOST_NAMES:
        own = [*own[: MOST_NAMES - 1], f"{len(own) - MOST_NAMES + 1} more"]
    head = ".".join(parts[0][:common])
    return f"{head}: {', '.join(own)}" if head else ", ".join(own)


def draw(rows: Sequence[RankedRow], path: Path) -> None:
    """Draws the drops, or without them the gains on a logarithmic axis, as bars into an image; UserError as
    `effedge.deploy.common.plot.figure_at`."""
    key = ranking_key(rows)
    with figure_at(path, 10, 1.5 + 0.28 * len(rows)) as figure:
        axes = figure.subplots()
        for label, colour in ((INT8, "tab:blue"), ("16 bit", "tab:orange")):
            labelled = [row for row in rows if row["kept"].startswith(label) and row[key] is not None]
            if labelled:
                axes.barh([row["rank"] for row in labelled], [row[key] for row in labelled], color=colour, label=label)
        axes.set_yticks([row["rank"] for row in rows], [layer_names(row["layers"]) for row in rows], fontsize=8)
        axes.set_ylim(rows[-1]["rank"] + 0.7, rows[0]["rank"] - 0.7)  # the rows without a bar too; the worst on top
        axes.set(title="Layers by their cost in INT8, worst first", ylabel="layers that share a scale")
        if key == "drop":
            axes.set_xlabel("points of accuracy lost by this group alone in INT8")
        else:
            # The gains span decades: on a linear axis the first bar hides the rest.
            axes.set_xscale("log")
            axes.set_xlabel("share of the output error by this group alone in INT8, of 1 (logarithmic)")
        axes.grid(axis="x", alpha=0.3)
        axes.legend(title="kept in", loc="lower right")
