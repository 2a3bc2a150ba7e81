"""What each layer costs in INT8, worst first: python -m calibration.sensitivity INT8.onnx [--json FILE] [--plot FILE]

It is read from the report that calibration left in the INT8 ONNX. A row is a group of layers whose inputs share one
scale. Its gain is its share of the damage to the outputs (calibration/damage.py), by what the group does in INT8 alone.
Layers that a placement rule keeps in 16 bit, such as squeeze-and-excite, were never tried.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from calibration.report import read_report
from deploy.cli import Parser, UserError, run
from deploy.files import whole_file
from deploy.plot import figure_at

WORST = 20
INT8 = "INT8"
WIDTH = 60  # of the layers' names, in the table


def main() -> None:
    parser = Parser(prog="python -m calibration.sensitivity", description=__doc__)
    parser.add_argument("model", type=Path, metavar="INT8.onnx", help="such as build/d0-digits/int8.onnx")
    parser.add_argument("--worst", type=int, default=WORST, metavar="N", help="rows of table and plot (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the worst as bars (needs matplotlib)")
    given = parser.parse_args()
    if given.worst < 1:
        raise UserError(f"--worst {given.worst}: expected 1 or more")
    report = read_report(given.model)[1]
    found = rows(report)
    print(table(found, report, given.worst))
    if given.json is not None:
        with whole_file(given.json) as temporary:
            temporary.write_text(json.dumps({"damage": report["damage"], "rows": found}, indent=1) + "\n")
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


def measured(found: list[dict[str, Any]]) -> bool:
    return any(row["gain"] for row in found)


def table(found: list[dict[str, Any]], report: dict[str, Any], worst: int) -> str:
    """The worst rows as lines of text, and what they leave out."""
    lines = []
    if measured(found):
        lines.append(f"{'rank':>4} {'gain':>9} {'MACs':>6}  {'layers':<{WIDTH}}  kept in")
        for row in found[:worst]:
            names = shortened(row["layers"])
            lines.append(f"{row['rank']:>4} {row['gain']:>9.2g} {row['macs']:>6.2%}  {names:<{WIDTH}}  {row['kept']}")
        if len(found) > worst:
            lines.append(f"{len(found) - worst} more groups of layers, none of which gains as much (--worst N)")
    else:
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
    """Draw the gains as bars into a picture; UserError as `deploy.plot.figure_at`."""
    with figure_at(path, 10, 1.2 + 0.28 * len(found)) as figure:
        axes = figure.subplots()
        for label, colour in ((INT8, "tab:blue"), ("16 bit", "tab:orange")):
            mine = [row for row in found if row["kept"].startswith(label)]
            axes.barh([row["rank"] for row in mine], [row["gain"] for row in mine], color=colour, label=label)
        axes.set_yticks([row["rank"] for row in found], [shortened(row["layers"]) for row in found], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("share of the damage to the outputs")
        axes.legend(loc="lower right")


if __name__ == "__main__":
    run(main)
