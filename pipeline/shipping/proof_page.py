"""Writes the report of a proof as one HTML page without scripts, fonts or files from elsewhere.

The charts are SVG in the page: matplotlib is an extra of effedge, and a page of text keeps its lines selectable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from markupsafe import Markup

from effedge.deploy.timing.board_notes import board_lines
from effedge.pipeline.reports.report.render import render
from effedge.pipeline.shipping.proof_report import HEADER, Report, Row, cells, readme_row

# Beside the style of every page (pipeline/reports/report/style.css).
STYLE = """
td:nth-child(n+3):nth-child(-n+6) { text-align: right; } td:nth-last-child(-n+2) { min-width: 14rem; }
figure { margin: 1rem 0; overflow-x: auto; } figure svg { min-width: 44rem; } tr.failed td { color: var(--worse); }
pre { overflow-x: auto; background: var(--plate); padding: .6rem; }
.bar { fill: var(--c0); } .tail { fill: var(--c0); opacity: .35; }
.p50, .p99, .hot { fill: none; stroke-width: 1.5; } .p50 { stroke: var(--c0); }
.p99 { stroke: var(--c0); opacity: .5; } .hot { stroke: var(--c1); }
"""
WIDTH, BAR, LABELS = 760, 22, 190  # of the charts, in pixels
CHART, MARGIN = 200, 44


def page(report: Report) -> str:
    """Writes the page."""
    name = (report["machine"] or {}).get("name") or report["host"]
    parts = [
        f"<h1>{escape(str(name))}</h1>",
        facts(report),
        "<h2>Engines</h2>",
        "<p>Milliseconds of a run of the engine, by percentile, and of a run from the image to the result. "
        "“against” is the ratio of these medians, “race” the ratio when both run in turns. “as on the CPU”: the "
        "results in the bundle’s images, and those of the same ONNX on ONNX Runtime.</p>",
        table(report["rows"]),
        bars(report["rows"]),
        *(soak_section(row) for row in report["rows"] if (row["proof"] or {}).get("soak")),
        "<h2>The row for the README</h2>",
        f"<pre>{escape(readme_row(report))}</pre>",
    ]
    return render("page.html", {"title": f"effedge on {name}", "style": Markup(STYLE), "body": Markup(join(parts))})


def join(parts: Sequence[str]) -> str:
    return "\n".join(part for part in parts if part)


def facts(report: Report) -> str:
    """Writes the facts of the board."""
    machine, board = report["machine"] or {}, report["board"]
    lines = [
        f"target {report['target']} ({report['device']}), {report['backend'] or 'no backend'}, {report['date']}, "
        f"effedge {report['effedge']}",
        f"Jetson Linux {report['l4t']}" if report["l4t"] else "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_mib']} MiB; {machine['system']}"
        if machine
        else "",
        *(board_lines(board["before"], board["after"]) if board else []),
    ]
    return "<p>" + "<br>".join(escape(line) for line in lines if line) + "</p>"


def table(rows: Sequence[Row]) -> str:
    """Writes a line for each row; those that were not installed or do not agree are set apart."""
    head = "".join(f"<th>{escape(name)}" for name in HEADER)
    lines = []
    for row in rows:
        kind = ' class="failed"' if row["reason"] else ""
        lines.append(f"<tr{kind}>" + "".join(f"<td>{escape(cell)}" for cell in cells(row, rows)))
    return f'<div class="wide"><table>\n<tr>{head}\n{join(lines)}\n</table></div>'


def bars(rows: Sequence[Row]) -> str:
    """Draws the engines' medians, and up to p99 in a lighter colour."""
    timed = [(row, row["latency"]["steps"]["engine"]) for row in rows if row["latency"]]
    if not timed:
        return ""
    longest = max(steps["p99"] for _, steps in timed)
    lines = []
    for number, (row, steps) in enumerate(timed):
        top, scale = number * BAR, (WIDTH - LABELS - 60) / longest
        lines.append(f'<text x="0" y="{top + 15}">{escape(row["label"])}</text>')
        for name, kind in (("p99", "tail"), ("p50", "bar")):
            width = f"{steps[name] * scale:.1f}"
            lines.append(f'<rect class="{kind}" x="{LABELS}" y="{top + 3}" width="{width}" height="{BAR - 6}"/>')
        lines.append(f'<text x="{LABELS + steps["p99"] * scale + 6:.1f}" y="{top + 15}">{steps["p50"]:.2f}</text>')
    caption = "<figcaption>Medians of the engines in ms, and up to the 99th percentile.</figcaption>"
    return f"<figure>{svg(len(timed) * BAR, lines)}{caption}</figure>"


def svg(height: float, lines: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img">{join(lines)}</svg>'


def soak_section(row: Row) -> str:
    """Writes the soak of an engine, with its chart."""
    soak = (row["proof"] or {})["soak"]
    readings = soak["readings"]
    memory = [reading["memory_mib"] for reading in readings if reading["memory_mib"] is not None]
    lines = [
        f"{soak['runs']} runs in {soak['seconds']:.0f} s: p50 {soak['p50']:.2f} ms, p99 {soak['p99']:.2f} ms; "
        f"at its end a run takes {soak['drift']:.3f} times as long as at its start",
        f"memory of the process: {memory[0]} to {memory[-1]} MiB" if memory else "",
        *board_lines(soak["before"], soak["after"]),
        *soak["notes"],
    ]
    text = "<br>".join(escape(line) for line in lines if line)
    return f"<h2>Soak: {escape(row['label'])}</h2>\n<p>{text}</p>\n{soak_chart(readings)}"


def soak_chart(readings: Sequence[dict[str, Any]]) -> str:
    """Draws p50, p99 and the hottest sensor over time."""
    seconds = [reading["second"] for reading in readings]
    lines = []
    curves = [("p50", "p50", "p50 (ms)"), ("p99", "p99", "p99 (ms)")]
    top = nice(max(reading["p99"] for reading in readings))
    for share in (0, 0.5, 1):
        y = place(share, 1)
        lines.append(f'<line class="grid" x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y}" y2="{y}"/>')
        lines.append(f'<text x="0" y="{y + 4}">{share * top:g} ms</text>')
    tops = dict.fromkeys(("p50", "p99"), top)
    if all(reading["temperature_c"] is not None for reading in readings):
        tops["temperature_c"] = 100.0
        curves.append(("temperature_c", "hot", "hottest sensor (degrees)"))
        lines += [
            f'<text x="{WIDTH - MARGIN + 6}" y="{place(share, 1) + 4}">{100 * share:g}°</text>' for share in (0, 0.5, 1)
        ]
    for name, kind, label in curves:
        across = (WIDTH - 2 * MARGIN) / max(seconds)
        points = (f"{MARGIN + r['second'] * across:.1f},{place(r[name], tops[name]):.1f}" for r in readings)
        lines.append(f'<polyline class="{kind}" points="{" ".join(points)}"><title>{label}</title></polyline>')
    lines.append(f'<text x="{WIDTH - MARGIN - 30}" y="{CHART + 32}">{max(seconds):.0f} s</text>')
    names = ", ".join(label for _, _, label in curves)
    return f"<figure>{svg(CHART + 40, lines)}<figcaption>{names}; from the start to the end.</figcaption></figure>"


def place(value: float, top: float) -> float:
    """The y of a value in a chart whose highest value is `top`."""
    return round(10 + CHART * (1 - value / top), 1)


def nice(value: float) -> float:
    """Rounds up to one, two or five times a power of ten.

    >>> nice(1.7), nice(23), nice(0.4)
    (2.0, 50.0, 0.5)
    """
    power = 10.0 ** math.floor(math.log10(value))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= value))
